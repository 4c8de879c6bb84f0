"""Proofs on shares: that a vector which two servers hold in parts is no longer than it may be.

    field         the prime field that proofs are in, on arrays
    products      a proof that a sum of products of shared numbers is what it should be
    projections   short random images of a long vector, of each share by itself
    norm          what is proved, what a liar may still do, and with what chance
    statement     the proof itself: made by a client, checked by each server on its share

Sources: Boneh, Boyle, Corrigan-Gibbs, Gilboa, Ishai 2019 (CRYPTO, ia.cr/2019/188), fully linear
proofs; Rothblum, Omri, Chen, Talwar 2023 (PINE, arXiv 2311.10237), projections by -1, 0 and 1;
draft-irtf-cfrg-vdaf, the field, the repetitions and what is hashed.
"""
