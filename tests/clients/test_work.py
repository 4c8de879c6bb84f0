"""What a site does in a round: no more than was paid for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedlearn as fl
from clients import work
from tests.effort import slow_but


def test_train_privately__makes_no_step_that_the_plan_has_not_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = work.SiteRound.train_privately

    def of_other_plan(here: work.SiteRound, plan: Any, norm: float | None) -> Any:
        return train(here, replace(plan, steps_per_round=plan.steps_per_round + 1), norm)

    monkeypatch.setattr(work.SiteRound, "train_privately", of_other_plan)
    with pytest.raises(fl.FedlearnError, match=r"local_steps=1.*pays for 2 steps"):
        fl.simulate("experiment=medical_heart", "rounds=1", "secagg=off", out=tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "privacy",
    slow_but(
        lambda overrides: "privacy=record" in overrides,
        [
            ("privacy=client", "privacy.epsilon=4", "secagg=off"),
            ("privacy=record", "secagg=off"),
            ("privacy=distributed", "privacy.unit=client", "privacy.epsilon=4"),
        ],
    ),
    ids=lambda overrides: overrides[0],
)
def test_training__that_diverges_under_privacy_is_an_update_like_any_other(
    privacy: tuple[str, ...], tmp_path: Path
) -> None:
    """Who diverges may be one client's, or one record's, doing: the coordinator learns nothing."""
    result = fl.simulate(
        "experiment=medical_heart", "rounds=1", *privacy, "training.learning_rate=1e38",
        "training.local_steps=3" if "client" in " ".join(privacy) else "training.local_steps=1",
        out=tmp_path / "run",
    )  # fmt: skip
    assert result.status == "finished"
    assert not result.rounds[0].clients.dropped
