"""A sum that is open is the only one of its round: two of them differ by what one site gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import PrivacyError

from . import lab as laboratory
from .lab import SITES, Lab

ANY = """\
  unit: none
  min_cohort: 2
  require_transport: sealed
  require_secagg: masked
"""
FIVE = (*SITES, "elder")


def lost(kind: str, *sites: str) -> Callable[[str, str, Any], Any]:
    """Answers of this kind do not arrive from these sites."""
    return lambda k, site, message: None if k.startswith(kind) and site in sites else message


@pytest.fixture(autouse=True)
def _study_without_privacy(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (word for word in laboratory.STUDY if not word.startswith("privacy"))
    monkeypatch.setattr(laboratory, "STUDY", (*kept, "privacy=none"))


def plain(root: Path, *words: str) -> Lab:
    words = ("evaluation=pooled", "reply_timeout=0.2", *words)
    return Lab.make(root, *words, policy=ANY, sites=FIVE, rows=40)


def test_round__whose_test_figures_fail_is_not_made_again_with_other_sites(tmp_path: Path) -> None:
    lab = plain(tmp_path)
    federation = lab.federate()
    before = federation.progress.model.copy()
    lab.on_reply = lost("evaluate", *FIVE)
    entry = federation.run_round(1)  # before, it failed, and began anew from the same model
    assert not entry.evaluate
    assert not np.array_equal(federation.progress.model, before)
    assert len(federation.progress.rounds) == 1


def test_round__of_too_few_for_its_strategy_whose_sum_is_open_ends_the_run(tmp_path: Path) -> None:
    lab = plain(tmp_path, "strategy.min_sites=5")
    federation = lab.federate()
    lab.on_reply = lost("train", "elder")
    # An outage is gone on from without asking anybody; this is none.
    with pytest.raises(PrivacyError, match="the update of a single site"):
        federation.run_round(1)
    assert federation.progress.rounds == []
