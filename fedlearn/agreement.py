"""What both ends of a run compute for themselves and compare by hash.

Nobody takes the form of a contribution, its size, or what is done to it from
the other side: site and server derive it from the config each holds, and a
difference shows as a refused round, never as a wrong sum.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.config import RunConfig, encode, plan_of
from fedlearn.metrics import EvaluationSums, score_bins
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.settings import SecAggSum

Part = Literal["train", "evaluate"]
"""What of a round is summed: the sites' models, or their test metrics."""

LOSS_UNIT = 2.0**-20
"""A summed loss travels as a whole number of these, in nats."""


def protocol_round(part: Part, number: int) -> int:
    """The number of the protocol run for one part of a round: it grows and never repeats."""
    return 2 * number + (part == "evaluate")


def part_of(protocol_number: int) -> tuple[Part, int]:
    """The part and the round that a protocol run is for: the inverse of `protocol_round`."""
    return ("evaluate" if protocol_number % 2 else "train"), protocol_number // 2


def train_payload(config: RunConfig, settings: SecAggSum, sites: int, size: int) -> Payload:
    """The form of a site's change of the model: `size` values and its weight.

    Raises:
        ConfigError: the ring is too small for `sites` sites.
    """
    return Payload.plan(_weighted(config, settings), num_clients=sites, num_values=size)


def evaluate_payload(settings: SecAggSum, sites: int, classes: int) -> Payload:
    """The form of a site's test sums: no values, and counters.

    The counters are the count, the loss in `LOSS_UNIT`s, the confusion matrix
    by rows, and the score histograms by rows.
    """
    counters = 2 + classes * classes + 2 * score_bins(classes)
    return Payload.plan(settings, num_clients=sites, num_values=0, num_counters=counters)


def counters_of(sums: EvaluationSums) -> list[int]:
    """Test sums as counters, in the order of `evaluate_payload`."""
    tables = (sums.confusion.reshape(-1), sums.scores.reshape(-1))
    return [sums.count, round(sums.loss / LOSS_UNIT), *np.concatenate(tables).tolist()]


def sums_of(counters: NDArray[np.int64], classes: int) -> EvaluationSums:
    """The inverse of `counters_of`, for one site or for a sum over sites."""
    split = 2 + classes * classes
    return EvaluationSums(
        count=int(counters[0]),
        loss=float(counters[1]) * LOSS_UNIT,
        confusion=counters[2:split].reshape(classes, classes),
        scores=counters[split:].reshape(2, -1),
    )


def plan_digest(config: RunConfig, payload: Payload, part: Part) -> bytes:
    """SHA-256 of what happens to records before they are summed, and of the form of the sum."""
    digest = hashlib.sha256(b"fedlearn/agreement/v1\n" + part.encode() + b"\n" + payload.hash())
    for piece in (plan_of(config), config.training, config.model):
        digest.update(encode(piece).encode() + b"\n")
    return digest.digest()


def _weighted(config: RunConfig, settings: SecAggSum) -> SecAggSum:
    """Under privacy every site weighs 1, so no bits are spent on weights."""
    if plan_of(config) is None:
        return settings
    return dataclasses.replace(settings, max_weight=1)
