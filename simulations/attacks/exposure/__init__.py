"""What a language model repeats: secrets that a site was given, looked for in the models of a run.

`fedlearn audit demo=exposure` gives a site records with secret numbers, each so many times, tunes
the model with the study's privacy and without, and ranks every secret among all others.
"""
