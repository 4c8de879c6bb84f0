"""An audit of private evaluation: honest test sums pass, and every sabotage of them is caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedlearn.auditing.findings import CheckName
from fedlearn.cli import main
from fedlearn.config import load
from fedlearn.results.result import ResultFile
from simulations.attacks.measure import plan_in
from simulations.attacks.whole_update import checks_of_run
from tests.simulations.attacks.audited import FIVE, Sabotage, broken, simulated
from tests.simulations.attacks.sabotages.evaluations import OF_TESTS, one_sum_without_noise

pytestmark = pytest.mark.slow

NAMES = {"noise_of_tests", "sums_of_tests", "source_of_tests"}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    folder = tmp_path_factory.mktemp("honest")
    return simulated(folder, "evaluation=private", "evaluate_every=1", "rounds=3", "audit=none")


def test_checks__of_honest_test_sums_hold(honest: ResultFile) -> None:
    found = checks_of_run(load(honest.config), honest)
    assert {check.name for check in found} > NAMES
    assert [check for check in found if not check.holds] == []
    for _ in range(3):
        assert broken(honest) == {}


@pytest.mark.parametrize(
    "words",
    [
        ["privacy=client", "privacy.epsilon=8"],
        ["privacy=distributed", "privacy.unit=client", "privacy.epsilon=8", "secagg=masked"],
        ["privacy=distributed", "privacy.epsilon=8", "training.local_steps=1", "secagg=masked"],
        ["fairness=groups", "fairness.column=smoker", "fairness.values=[yes,no]"],
    ],
)
def test_checks__hold_under_every_mechanism_and_for_groups(
    tmp_path: Path, words: list[str]
) -> None:
    result = simulated(tmp_path, "evaluation=private", "audit=none", *words, sites=FIVE)
    found = checks_of_run(load(result.config), result)
    assert {check.name for check in found} > NAMES
    assert [check for check in found if not check.holds] == []


def test_checks__are_not_made_where_no_evaluation_is_private(tmp_path: Path) -> None:
    result = simulated(tmp_path, "audit=none")
    assert not NAMES & {check.name for check in checks_of_run(load(result.config), result)}


@pytest.mark.parametrize(("sabotage", "seen"), OF_TESTS.items())
def test_checks__catch(
    sabotage: Sabotage, seen: CheckName, honest: ResultFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert seen in broken(honest)


def test_checks__catch_an_epsilon_that_knows_of_training_alone(tmp_path: Path) -> None:
    result = simulated(tmp_path, "evaluation=private", "evaluation_share=0.5", "audit=none")
    plan = plan_in(load(result.config), result)
    assert plan is not None
    alone = replace(plan, evaluation=None).epsilon  # type: ignore[type-var]
    privacy = replace(result.privacy, epsilon=alone)
    assert set(broken(replace(result, privacy=privacy))) == {"accounting"}


def test_audit__of_sabotaged_test_sums_ends_with_six(
    honest: ResultFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_sum_without_noise(monkeypatch)
    folder = Path(honest.config["out"])
    assert main(["audit", str(folder), "references=2"]) == 6
    assert "DOES NOT HOLD" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["audit", str(folder), "references=2"]) == 0
