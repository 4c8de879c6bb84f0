"""A site's canaries in an audited run: their secret coins, and what left the site about them.

The coins come from the cryptographic generator, are drawn once per run, and lie
beside the site's ledger, readable by its user alone. Nothing of the file leaves
the site; an auditor whom the site trusts reads it when the run is over.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.owner import Owner
from clients.records import simulated_sites
from clients.site import Site
from fedlearn.auditing import MislabelledAudit, NoAudit, SlotAudit
from fedlearn.core.errors import DataError
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.core.vector import Vector, layout_of, short_floats
from fedlearn.models.slots import no_canaries, slot_values
from fedlearn.privacy import NoiseSource
from fedlearn.privacy.noise import noise_of
from fedlearn.rounds import TrainRequest
from fedlearn.training.persons import People

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coins:
    """The fate of a site's canaries; `numbers: int64[k]` are theirs among all of the run.

    Of mislabelled canaries `rows: int64[k]` are the training records that they
    replace, and `labels: [k, ...]` what they are said to be; empty for slots.
    """

    numbers: Integers
    inside: NDArray[np.bool_]
    rows: Integers
    labels: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """What the site has kept: the coins, and by round the change of its own slots."""

    coins: Coins
    changes: dict[int, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSet:
    """What a site trains on in an audited run: records, and the slots of canaries that are in.

    `people` is whose they are, where persons are protected: a canary is then a person as well.
    """

    features: Tensor
    labels: Tensor
    slots: Tensor
    people: People | None = None


def training_set(site: Site, run_id: str) -> TrainingSet:
    """The records of `site`, with the canaries whose coins put them in."""
    features, labels = site.train_tensors
    match site.config.audit:
        case NoAudit():
            slots, people = no_canaries(), site.people
            return TrainingSet(features=features, labels=labels, slots=slots, people=people)
        case SlotAudit():
            coins, people = _coins(site, run_id), site.people
            slots = torch.from_numpy(coins.numbers[coins.inside])
            return TrainingSet(features=features, labels=labels, slots=slots, people=people)
        case MislabelledAudit():
            coins = _coins(site, run_id)
            left = torch.from_numpy(np.setdiff1d(np.arange(len(labels)), coins.rows))
            back = torch.from_numpy(coins.rows[coins.inside])
            wrong = torch.from_numpy(coins.labels[coins.inside]).to(labels.dtype)
            return TrainingSet(
                features=torch.cat([features[left], features[back]]),
                labels=torch.cat([labels[left], wrong.to(labels.device)]),
                slots=no_canaries(),
            )
        case _:
            assert_never(site.config.audit)


def nobody() -> TrainingSet:
    """No record and no canary."""
    nothing = torch.zeros(0)
    return TrainingSet(features=nothing, labels=nothing, slots=no_canaries())


def note_change(site: Site, request: TrainRequest, model: Vector) -> None:
    """Keep what an update says in the site's own slots, as it is before any mask."""
    if not isinstance(site.config.audit, SlotAudit):
        return
    layout, numbers = layout_of(site.model), _coins(site, request.run_id).numbers
    change = slot_values(layout, model) - slot_values(layout, request.model)
    line = {"round": request.round, "change": short_floats(change[numbers])}
    with canary_file(site.owner, request.run_id).open("a") as file:
        file.write(json.dumps(line) + "\n")


def canary_file(owner: Owner, run_id: str) -> Path:
    """Where a site keeps the canaries of a run."""
    return owner.ledger.parent / f"canaries-{run_id}.jsonl"


def read_canaries(path: Path) -> Kept:
    """What a site has kept; of a round that was repeated, the last.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        changes = {line["round"]: np.array(line["change"], np.float32) for line in lines}
        return Kept(coins=_coins_in(head), changes=changes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the canaries of a site: {error}") from None


def _coins(site: Site, run_id: str) -> Coins:
    path = canary_file(site.owner, run_id)
    if not path.exists():
        _create(path, _draw(site))
        _tossed.cache_clear()
    return _tossed(path)


@lru_cache(maxsize=256)
def _tossed(path: Path) -> Coins:
    # Tossed once: the first line of such a file never changes.
    with path.open(encoding="utf-8") as file:
        return _coins_in(json.loads(file.readline()))


def _coins_in(head: dict[str, Any]) -> Coins:
    numbers, rows = (np.array(head[key], np.int64) for key in ("numbers", "rows"))
    labels = np.array(head["labels"]) if head["labels"] else np.zeros(0, np.int64)
    inside = np.array(head["inside"], np.bool_)
    return Coins(numbers=numbers, inside=inside, rows=rows, labels=labels)


def _create(path: Path, coins: Coins) -> None:
    """Write the coins; whole, or not at all."""
    tree = {key: getattr(coins, key).tolist() for key in ("numbers", "inside", "rows", "labels")}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{json.dumps(tree)}\n".encode(), PRIVATE)


def _draw(site: Site) -> Coins:
    """Fresh coins: canary number i is at site i modulo the number of sites."""
    sites, audit = list(simulated_sites(site.config)), site.config.audit
    assert not isinstance(audit, NoAudit)  # noqa: S101  (the caller's case)
    numbers = np.arange(sites.index(site.name), audit.canaries, len(sites))
    noise = noise_of(os.environ, site.name, "canaries")
    inside, nothing = noise.bernoulli(len(numbers), 0.5), np.zeros(0, np.int64)
    if isinstance(audit, SlotAudit):
        return Coins(numbers=numbers, inside=inside, rows=nothing, labels=nothing)
    truth = site.data.train.labels
    rows = np.argsort(_words(noise, len(truth)), kind="stable")[: len(numbers)]
    labels = site.task.mislabelled(truth[rows], _words(noise, len(rows)))
    return Coins(numbers=numbers, inside=inside, rows=rows, labels=labels)


def _words(noise: NoiseSource, count: int) -> NDArray[np.uint64]:
    """`uint64[count]`, uniform and secret."""
    stream, most = noise.stream(), 1 << 15
    parts = [stream.words(min(most, count - at)).copy() for at in range(0, count, most)]
    return np.concatenate([np.zeros(0, np.uint64), *parts])
