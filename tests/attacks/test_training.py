"""What a lying coordinator gets from private training beside its noise: no failure, no silence.

The replies are those of deployed sites. Which record is there decides nothing but what the
noise covers: not whether a site answers, and not with what kind of answer.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from fedlearn.core.vector import Vector
from fedlearn.flower.records import vector_of
from fedlearn.rounds import Refusal
from server.federation import Federation
from tests.attacks.lab import SITES, STRICT, Lab

VICTIM = SITES[0]
CLEAR = STRICT.replace("require_secagg: masked", "require_secagg: null")
"""Updates come one by one, each with all of its noise."""
STUDY = (
    "secagg=off",
    "rounds=6",
    "evaluation=none",
    "model.architecture=mlp",
    "model.norm=none",
    "training.sample_rate=1.0",
    "training.local_steps=1",
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.make(tmp_path, *STUDY, policy=CLEAR)


def trained(federation: Federation, number: int, model: Vector) -> Vector | Refusal:
    """What the victim makes of weights that a coordinator has planted."""
    federation.grid.sealing.round += 1  # type: ignore[union-attr]
    note = federation.note(number, len(SITES))
    replies = federation.grid.exchange(federation.messages("train", note, model, [VICTIM]))
    if replies.refusals:
        return replies.refusals[0]
    return vector_of(replies.answers[VICTIM].content.array_records["arrays"])


def test_planted_weights__make_no_site_fail_whatever_they_do_to_its_records(lab: Lab) -> None:
    """Weights of which a gradient, or a loss, overflows for some records or for all."""
    federation = lab.federate()
    coins = np.random.default_rng(0)
    size = federation.progress.model.size
    for number, power in enumerate((3, 15, 19, 25, 38), start=1):
        planted = np.clip(coins.normal(size=size) * 10.0**power, -3e38, 3e38).astype(np.float32)
        answer = trained(federation, number, planted)
        assert not isinstance(answer, Refusal), answer
        assert np.isfinite(answer).all()
    assert lab.refused == []


def test_planted_weights__that_are_not_finite_are_refused_before_a_record_is_seen(
    lab: Lab,
) -> None:
    federation = lab.federate()
    planted = federation.progress.model.copy()
    planted[0] = np.inf
    assert isinstance(trained(federation, 1, planted), Refusal)
    assert lab.spent_at(VICTIM) == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError, IndexError])
def test_failure__in_paid_training_is_noise_alone_to_the_coordinator(
    lab: Lab,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    federation = lab.federate()
    model = federation.progress.model
    honest = trained(federation, 1, model)

    def fails(*_: object, **__: object) -> None:
        raise error("record 17 of ward 4")

    monkeypatch.setattr("fedlearn.training.private.views", fails)
    lab.carried.clear()
    with caplog.at_level(logging.ERROR):
        answer = trained(federation, 2, model)
    assert not isinstance(answer, Refusal), answer
    assert "ward 4" in caplog.text
    assert not any(b"ward 4" in sent for sent in lab.carried)
    assert not isinstance(honest, Refusal)
    assert answer.shape == honest.shape
    assert np.isfinite(answer).all()
    # All coordinates have moved: an update without noise would tell that training has failed.
    assert (answer != model).all()
    assert lab.spent_at(VICTIM) == 2
