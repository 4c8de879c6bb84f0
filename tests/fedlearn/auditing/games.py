"""Games whose truth is known: one score for each canary, from two normal distributions."""

from __future__ import annotations

import numpy as np

from fedlearn.auditing.game import Game
from fedlearn.auditing.gaussian import mu_of

DELTA = 1e-5


def gaussian_game(epsilon: float, canaries: int, seed: int) -> Game:
    """What an ideal attacker sees of a mechanism that spends all of `epsilon` at `DELTA`."""
    rng = np.random.default_rng(seed)
    mu = mu_of(epsilon, DELTA) if epsilon else 0.0
    inside = rng.random(canaries) < 0.5
    seen = rng.normal(size=canaries) + mu * inside
    return Game(scores=(mu * seen - mu**2 / 2 if mu else seen), inside=inside, threshold=0.0)
