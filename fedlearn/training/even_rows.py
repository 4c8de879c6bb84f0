"""How many rows the parts of an evaluation may have: whether a record's answer is its own in them.

As `fedlearn.training.trials` for training: with records that nobody has, among ordinary ones and
strange ones, in other places.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedlearn.tasks import Outputs
from fedlearn.training.made_up import KINDS, ORDINARY, SPREADS, as_before, doubled, draw, say_slow
from fedlearn.training.parts import Records, same_bits

log = logging.getLogger(__name__)

_ALONE: Final = 1

Graded = Callable[[Outputs, Tensor], Tensor]
"""Outputs of a model, and targets, to what is kept of every record: `[n, ...]`."""
_Answer = Callable[[Tensor, Tensor], Tensor]
"""Records, and which of them, to what is kept of these."""

_even: WeakKeyDictionary[nn.Module, dict[int, int]] = WeakKeyDictionary()
"""By how many rows parts may have: how many they have, that answers are the same in all places."""


def even_rows(
    model: nn.Module, records: Records, most: int, graded: Graded = lambda outputs, _: outputs
) -> int:
    """How many rows parts may have in which a record's answer, as it is `graded`, is its own.

    `most`, or 1 where it depends on its place or on the others. Leaves the model as it was.
    """
    known = _even.setdefault(model, {})
    if most not in known:
        features, targets = records(most)
        order = torch.randperm(most, generator=torch.Generator().manual_seed(1))
        order = order.to(features.device)
        known[most] = _ALONE

        def answer(values: Tensor, rows: Tensor) -> Tensor:
            return graded(model(values[rows]), targets[rows])

        with as_before(model), torch.no_grad():
            model.eval()
            for spread in SPREADS:
                draw(model, spread)
                answers = answer(features, order.sort().values)
                if answers.isfinite().all():
                    ways = (_same_halves, _same_beside_strange)
                    if all(all(way(answer, features, answers, order)) for way in ways):
                        known[most] = most
                    break
        if known[most] < most:
            say_slow("test records are graded")
    return known[most]


def _same_halves(
    answer: _Answer, features: Tensor, answers: Tensor, order: Tensor
) -> Iterator[bool]:
    for half in range(min(2, len(order))):
        yield same_bits(answers[order[half::2]], answer(features, doubled(order, half))[half::2])


def _same_beside_strange(
    answer: _Answer, features: Tensor, answers: Tensor, order: Tensor
) -> Iterator[bool]:
    """Ordinary records beside those of a strange kind, and these beside ordinary ones."""
    own, rest = order[::2], order[1::2]
    for kind in KINDS[ORDINARY:]:
        strange = features.clone()
        strange[own] = kind(features)[own]
        try:
            found = answer(strange, order.sort().values)
            alone = answer(strange, doubled(order, 0))
        except Exception as error:  # noqa: BLE001  (numbers that somebody's code need not take)
            log.info("made-up records of a kind could not be graded: %s", error)
            continue
        yield same_bits(answers[rest], found[rest]) and same_bits(found[own], alone[::2])
