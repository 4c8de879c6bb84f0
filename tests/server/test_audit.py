"""What the coordinator keeps of audit slots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fedlearn.core.errors import DataError
from fedlearn.core.vector import layout_of
from fedlearn.models.finetune import stages
from fedlearn.models.slots import attach
from server.audit import FILE, append_seen, read_seen, seen_in_slots

MODEL = stages(head=nn.Linear(2, 1))
attach(MODEL, 3)
LAYOUT = layout_of(MODEL)  # two weights, a bias, three slots


def test_seen__is_the_change_of_the_mean_and_the_model_after_the_strategy() -> None:
    before, after = np.arange(6, dtype=np.float32), np.full(6, 7, np.float32)
    mean = np.array([9, 9, 9, 6, 4, 2], np.float32)
    seen = seen_in_slots(LAYOUT, 2, 2, before, mean, after)
    assert seen is not None
    assert seen.change.tolist() == [3.0, 0.0, -3.0]
    assert seen.model.tolist() == [7.0] * 3
    plain = layout_of(stages(head=nn.Linear(2, 1)))
    assert seen_in_slots(plain, 1, 1, before[:3], mean[:3], after[:3]) is None


def test_seen__survives_the_file_bit_for_bit_and_repeated_rounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in (1, 2, 2):
        change = rng.normal(0, 1e-6, 3).astype(np.float32)
        before = np.concatenate([np.zeros(3, np.float32), -change])
        seen = seen_in_slots(LAYOUT, number, 4, before, np.zeros(6, np.float32), before)
        assert seen is not None
        append_seen(tmp_path, seen)
    first, last = read_seen(tmp_path)
    assert (first.round, last.round, last.sites) == (1, 2, 4)
    assert np.array_equal(last.change, seen.change)
    assert np.array_equal(last.model, seen.model)


@pytest.mark.parametrize("text", ["no json\n", '{"round": 1}\n'])
def test_seen__that_is_no_such_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match="not what a run has seen"):
        read_seen(tmp_path)
