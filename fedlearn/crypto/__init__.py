"""Keys, sharing, keystreams and sealed messages: thin layers over pyca/cryptography.

Each is made hard to misuse.
Nothing here knows what is learned, and nothing here reads a clock or a network.
Every key is derived for one use; every secret comes from the operating system.
"""
