"""Study randomness: named, independent streams derived from the seed of a run.

A stream is a function of (seed, name) alone, so a run repeats bit for bit and
adding a stream never shifts another one. Nothing secret is drawn from here:
keys, masks, sampling under privacy and privacy noise come from a
cryptographic generator (`fedlearn.privacy.noise`, `fedlearn.crypto`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """The streams of one run; `get` returns a fresh generator at the start of a stream."""

    seed: int

    def key(self, *name: str | int) -> int:
        """The 128-bit number of a stream: SHA-256 over the seed and the parts of its name."""
        text = "\x1f".join(["fedlearn/rng/v1", str(self.seed), *map(str, name)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")

    def get(self, *name: str | int) -> np.random.Generator:
        """A generator for the stream called `name`, for example `get("partition")`."""
        return np.random.Generator(np.random.PCG64(self.key(*name)))

    def torch_seed(self, *name: str | int) -> int:
        """A 63-bit seed for a `torch.Generator` of the stream called `name`."""
        return self.key(*name) & (2**63 - 1)
