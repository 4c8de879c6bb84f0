"""Membership inference: was this record in the training set? Scores, and how well they do.

The attacker has the final model, and for the sharper attacks reference models
that were trained on other draws of the same records. Sources: Yeom et al. 2018
(`loss`); Zarifzadeh, Liu and Shokri 2024, "Low-Cost High-Power Membership
Inference Attacks" (`rmia`); Carlini et al. 2022, "Membership Inference Attacks
From First Principles" (`lira`).

Chances are of the true label: `target: float64[n]` under the model that is
attacked, `references: float64[k, n]` under the others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SMALLEST = 1e-12


def rmia(target: Floats, references: Floats, others: NDArray[np.int64]) -> Floats:
    """How much likelier the model made each record than it made those known to be outside.

    `float64[n]`: the share of the records `others` over whose likelihood ratio
    that of the record lies; every record is compared with all others but itself.
    """
    ratio = target / np.maximum(references.mean(0), _SMALLEST)
    rivals = np.sort(ratio[others])
    beaten = np.searchsorted(rivals, ratio, side="right").astype(np.float64)
    beaten[others] -= 1  # a record does not compete with itself
    size = np.full(len(ratio), len(rivals), np.float64)
    size[others] -= 1
    return np.asarray(beaten / np.maximum(size, 1))


def lira(target: Floats, references: Floats, inside: Bools) -> Floats:
    """Log likelihood ratio of a record's logit, in against out, under normal distributions.

    `inside: bool[k, n]` says which references have trained on which record: at
    least one has and one has not. With few references one variance per side
    serves all records.
    """
    seen, of_references = _logit(target), _logit(references)
    ratios = []
    for side in (inside, ~inside):
        count = side.sum(0)
        mean = np.where(side, of_references, 0).sum(0) / count
        squares = np.where(side, np.square(of_references - mean), 0).sum()
        deviation = max(math.sqrt(squares / side.sum()), _SMALLEST)
        ratios.append(-np.square((seen - mean) / deviation) / 2 - math.log(deviation))
    return np.asarray(ratios[0] - ratios[1])


def _logit(chance: Floats) -> Floats:
    kept = np.clip(chance, _SMALLEST, 1 - 1e-9)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def found_at(scores: Floats, member: Bools, false_alarms: float) -> float:
    """The largest rate of members found at a rate of false alarms of at most `false_alarms`.

    The threshold lies between scores, so equal scores are found together or not at all.
    """
    others = np.sort(scores[~member])[::-1]
    allowed = math.floor(false_alarms * len(others) + 1e-9)
    threshold = others[allowed] if allowed < len(others) else -math.inf
    return float(np.mean(scores[member] > threshold))
