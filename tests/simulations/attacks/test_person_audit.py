"""An audit of persons: an honest run passes, and what counts records for persons is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clients.evaluation
import clients.screening
from clients.owner import owner_of
from clients.site import Site, open_site
from clients.units import pieces_of
from fedlearn.cli import main
from fedlearn.config import load
from fedlearn.report.export import read_model
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from fedlearn.training import persons
from fedlearn.training.parts import BatchPart
from fedlearn.training.persons import People
from simulations.attacks.measure import plan_in
from simulations.attacks.whole_update.bench import Bench
from simulations.attacks.whole_update.counting import Counting
from simulations.attacks.whole_update.evaluations import checks_of_evaluation
from simulations.attacks.whole_update.sums import sums_agree
from simulations.attacks.whole_update.tables import checks_of_screening
from tests.simulations.attacks.audited import Sabotage
from tests.simulations.visits import visits

pytestmark = pytest.mark.slow


def audited(folder: Path, *words: str) -> ResultFile:
    """A run on visits with canaries; its audit is part of it."""
    run = folder / "run"
    assert main(["simulate", *visits(folder), "audit=slots", *words, f"out={run}"]) in (0, 6)
    return read_result(run)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    return audited(
        tmp_path_factory.mktemp("honest"),
        "privacy=record", "privacy.epsilon=8", "training.sample_rate=0.5",
        "training.local_steps=2", "evaluation=private", "screening=sums", "audit.canaries=40",
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(honest: ResultFile) -> Site:
    config = load(honest.config)
    return open_site(owner_of(config, "north"), config)


def holds(honest: ResultFile) -> None:
    assert honest.audit
    assert honest.audit.verdict == "consistent with the promise"
    assert [check for check in honest.audit.checks if not check.holds] == []
    assert honest.privacy.unit == "person"


def test_checks__of_honest_persons_hold(honest: ResultFile) -> None:
    holds(honest)


def test_checks__hold_for_persons_whose_noise_comes_in_shares(tmp_path: Path) -> None:
    holds(audited(tmp_path, "privacy=distributed", "privacy.epsilon=8", "audit.canaries=20"))


def every_record_a_person(patch: pytest.MonkeyPatch) -> None:
    def of(keys: np.ndarray, most: int) -> People:
        rows = tuple(np.arange(len(keys))[:, None])
        return People(keys=tuple(map(str, range(len(keys)))), rows=rows, most=most)

    patch.setattr(People, "of", of)


def every_record_clipped_by_itself(patch: pytest.MonkeyPatch) -> None:
    honest = People.parts

    def parts(self: People, *arguments: Any) -> Iterator[BatchPart]:
        for part in honest(self, *arguments):
            counts, *records = part.inputs
            for place in range(counts.shape[1]):
                there = counts[:, place] > 0
                own = tuple(values[there, place : place + 1] for values in records)
                if there.any():
                    yield replace(part, inputs=(torch.ones(int(there.sum()), 1), *own))

    patch.setattr(People, "parts", parts)


def losses_of_persons_added(patch: pytest.MonkeyPatch) -> None:
    honest = persons.losses_of_persons

    def losses(run: Callable[..., Tensor], counts: Tensor, *records: Tensor) -> Tensor:
        return honest(run, (counts > 0).float(), *records)

    patch.setattr(persons, "losses_of_persons", losses)


def the_first_record_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(persons, "losses_of_persons", lambda run, counts, *r: run(*(v[:, 0] for v in r)))


OF_STEPS: tuple[Sabotage, ...] = (
    every_record_a_person,
    every_record_clipped_by_itself,
    losses_of_persons_added,
    the_first_record_alone,
)


@pytest.mark.parametrize("sabotage", OF_STEPS)
def test_checks__catch_steps_that_are_not_on_persons(
    sabotage: Sabotage, honest: ResultFile, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(site.config, honest)
    assert plan
    model = read_model(Path(site.config.out), honest)
    coins = np.random.default_rng(0)

    def agree() -> bool:
        bench = Bench.of(site, plan, model)
        return sums_agree(bench, Counting.beside(bench), coins)[0]

    if sabotage is OF_STEPS[0]:
        assert agree()
    sabotage(monkeypatch)
    assert not agree()


@pytest.mark.parametrize("module", [clients.evaluation, clients.screening])
def test_checks__catch_sums_that_are_by_record(
    module: ModuleType, honest: ResultFile, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(site.config, honest)
    assert plan
    by_record = lambda records, unit, size: pieces_of(records, "record", size)  # noqa: E731
    monkeypatch.setattr(module, "pieces_of", by_record)
    coins = np.random.default_rng(0)
    if module is clients.screening:
        assert plan.screening
        found = checks_of_screening(site, plan.screening, coins)
    else:
        assert plan.evaluation
        model = read_model(Path(site.config.out), honest)
        found = checks_of_evaluation(site, plan.evaluation, model, coins)
    assert {check.name for check in found if not check.holds} & {"sums_of_tests", "sums_of_tables"}
