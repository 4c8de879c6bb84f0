"""Secure aggregation: the server learns the sum of the survivors' vectors and nothing else.

Pure state machines: bytes in, bytes out, no network, no clock. `memory` runs all
parties in one loop and is the executable specification; `docs/protocol.md` gives
the bytes.
"""
