"""The financial experiments on their real tables, one round each, and what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlearn.config import compose
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.effort import slow_but


@pytest.mark.slow
@pytest.mark.usefixtures("credit_cache")
@pytest.mark.parametrize(
    ("experiment", "sites", "records"),
    [
        ("financial_credit", 31, 39_988),
        ("financial_income", 31, 39_988),
        ("financial_risk", 10, 150_000),
    ],
)
def test_experiment__runs_a_round_on_its_real_data(
    tmp_path: Path, experiment: str, sites: int, records: int
) -> None:
    overrides = [f"experiment={experiment}", f"out={tmp_path / 'run'}", "rounds=1"]
    simulate(compose(overrides), Silent(), Stop())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    dealt = result["data"]["sites"].values()
    assert len(dealt) == sites
    assert sum(site["train"] + site["test"] for site in dealt) == records
    assert result["privacy"]["delta"] < 1 / records
    assert result["protection"]["secagg"] == "masked"
    # Of an untrained model: log 2 = .693; of incomes, that all are in the middle of the range.
    assert result["final"]["evaluate"]["loss"] < (0.25 if "income" in experiment else 0.69)


@pytest.mark.parametrize(
    "privacy", slow_but(lambda kind: kind == "distributed", ["none", "record", "distributed"])
)
def test_experiment__is_chosen_with_every_kind_of_privacy(privacy: str) -> None:
    for experiment in ("financial_credit", "financial_income", "financial_risk"):
        for strategy in ("fedadam", "fedavg"):
            config = compose([f"experiment={experiment}", f"privacy={privacy}",
                              f"strategy={strategy}"])  # fmt: skip
            assert config.privacy.kind == privacy
