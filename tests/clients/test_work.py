"""What a site does in a round: no more than was paid for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fedlearn as fl
from clients import work


def test_train_privately__makes_no_step_that_the_plan_has_not_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = work.SiteRound.train_privately

    def of_other_plan(here: work.SiteRound, plan: Any) -> Any:
        return train(here, replace(plan, steps_per_round=plan.steps_per_round + 1))

    monkeypatch.setattr(work.SiteRound, "train_privately", of_other_plan)
    with pytest.raises(fl.FedlearnError, match=r"local_steps=1.*pays for 2 steps"):
        fl.simulate("experiment=medical_heart", "rounds=1", "secagg=off", out=tmp_path / "run")
