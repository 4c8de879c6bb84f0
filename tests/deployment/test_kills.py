"""Kills at random places cost spare rounds, and change no model: a short run of `kills`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedlearn.privacy.noise import TEST_NOISE

from .kills import NOISE, Killer, undisturbed, wealthy_world
from .processes import staged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


def test_kills__of_every_kind_leave_the_model_as_it_would_have_been(
    tmp_path: Path, heart_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEST_NOISE, NOISE)
    world = wealthy_world(tmp_path)
    with staged(world, NOISE) as stage:
        for name in world.sites:
            stage.site(name)
        one = Killer(stage, "runs/1", 6, 40, np.random.default_rng(5), 5.0)
        one.over(most=8)
    left = one.check(undisturbed(one.words, tmp_path / "undisturbed"))
    assert one.broke == []
    assert (left["status"], left["rounds"]) == ("finished", 6)
    assert Counter(one.kills).total() > 0
