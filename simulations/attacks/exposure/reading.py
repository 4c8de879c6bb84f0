"""How likely a language model makes every candidate after a prompt.

Candidates share beginnings: a tree of their tokens has one place for each, and one pass of the
model over a place gives the chances of all tokens that follow. So 10,000 numbers of four digits
take 1,111 texts, each no longer than what has to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.core.vector import Vector, load_vector
from fedlearn.models import Learner
from fedlearn.tasks.tokens import logits_at
from fedlearn.training.device import home

_ROWS: Final = 256
"""Texts at a time: their logits over 50,000 tokens take 50 MB."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Beginnings:
    """Beginnings of one length: `prefixes: int64[m, length]`.

    Of the candidates `who: int64[k]`, all that go on from here, `row: int64[k]` says from which
    beginning, and `token: int64[k]` with what.
    """

    prefixes: Integers
    who: Integers
    row: Integers
    token: Integers


def tree_of(candidates: Sequence[Sequence[int]]) -> list[Beginnings]:
    """The beginnings of `candidates`, each once, by their lengths from 0 on."""
    found = list[Beginnings]()
    for length in range(max(map(len, candidates), default=0)):
        who = [i for i, one in enumerate(candidates) if len(one) > length]
        places: dict[tuple[int, ...], int] = {}
        row = [places.setdefault(tuple(candidates[i][:length]), len(places)) for i in who]
        found.append(
            Beginnings(
                prefixes=np.array(list(places), np.int64).reshape(len(places), length),
                who=np.array(who, np.int64),
                row=np.array(row, np.int64),
                token=np.array([candidates[i][length] for i in who], np.int64),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Likely:
    """`nats: float64[n]`, minus the logarithms of the chances of all candidates.

    `greedy: bool[n]`: whether each is what a model writes that takes the likeliest token at every
    place.
    """

    nats: Floats
    greedy: NDArray[np.bool_]


def likely(
    learner: Learner,
    models: Mapping[str, Vector],
    prompt: Sequence[int],
    tree: Sequence[Beginnings],
    *,
    length: int = 0,
    pad: int = 0,
) -> dict[str, Likely]:
    """How likely each of `models`, by its trained weights, makes the candidates of `tree`.

    Args:
        prompt: the ids before a candidate, at least one.
        length: to which texts are filled up with `pad`; 0: not at all.

    What the frozen part makes of a text is computed once for all models.
    """
    count = 1 + max(int(level.who.max(initial=-1)) for level in tree)
    nats = {name: np.zeros(count) for name in models}
    greedy = {name: np.ones(count, np.bool_) for name in models}
    for level in tree:
        start = np.tile(np.array(prompt, np.int64), (len(level.prefixes), 1))
        texts = np.concatenate([start, level.prefixes], axis=1)
        last = texts.shape[1] - 1
        texts = np.pad(texts, ((0, 0), (0, max(0, length - last - 1))), constant_values=pad)
        for first in range(0, len(texts), _ROWS):
            hidden = _frozen(learner, torch.from_numpy(texts[first : first + _ROWS]))
            mine = (level.row >= first) & (level.row < first + _ROWS)
            who, row, token = level.who[mine], level.row[mine] - first, level.token[mine]
            for name, vector in models.items():
                load_vector(learner.model, vector)
                logits = _logits(learner.model, hidden, last)
                nats[name][who] += _nats(logits, row, token)
                greedy[name][who] &= logits.argmax(-1).numpy()[row] == token
    return {name: Likely(nats=nats[name], greedy=greedy[name]) for name in models}


@torch.no_grad()
def _frozen(learner: Learner, texts: Tensor) -> Tensor:
    if learner.frozen is None:
        return texts
    found: Tensor = learner.frozen(texts.to(home(learner.frozen)))
    return found


@torch.no_grad()
def _logits(model: nn.Module, hidden: Tensor, last: int) -> Tensor:
    """Of what follows the place `last` of every text: `float32[n, vocabulary]`."""
    model.eval()
    return logits_at(model(hidden.to(home(model))), last).float().cpu()


def _nats(logits: Tensor, row: Integers, token: Integers) -> Floats:
    rows, tokens = torch.from_numpy(row), torch.from_numpy(token)
    total = logits.double().logsumexp(-1)
    return np.asarray((total[rows] - logits[rows, tokens].double()).numpy())
