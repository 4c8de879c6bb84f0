"""A model that learns from another: the distance between two answers, and steps by a stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax
from torch import nn

from fedlearn import models
from fedlearn.core.rng import Streams
from fedlearn.core.vector import to_vector
from fedlearn.models import Learner
from fedlearn.models.finetune import stages
from fedlearn.models.tabular import Tabular
from fedlearn.models.validate import made_up_records
from fedlearn.tasks import TableInput, TaskForm, TextInput
from fedlearn.tasks.classification import ClassificationTask, divergence
from fedlearn.tasks.language import Language
from fedlearn.tasks.regression import Regression
from fedlearn.tasks.tokens import TokenLogits
from fedlearn.training.distillation import Distillation, distil, outputs_of

LOGITS = hnp.arrays(np.float64, (2, 4, 5), elements=st.floats(-20, 20))


def by_hand(outputs: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """The definition, in float64: the sum over classes of p log (p / q)."""
    q, p = (log_softmax(x / temperature, axis=-1) for x in (outputs, teacher))
    return (np.exp(p) * (p - q)).sum(-1) * temperature**2


@given(LOGITS, st.floats(0.5, 8))
def test_divergence__is_that_of_the_definition(pair: np.ndarray, temperature: float) -> None:
    found = divergence(*map(torch.from_numpy, pair), temperature).numpy()
    np.testing.assert_allclose(found, by_hand(*pair, temperature), rtol=1e-9, atol=1e-12)
    assert (found > -1e-12).all()


@given(LOGITS)
def test_divergence__tends_to_half_the_variance_of_the_difference(pair: np.ndarray) -> None:
    """Hinton et al. 2015, section 2.1: at a high temperature it matches logits themselves."""
    one, other = pair
    hot = 3000.0
    found = divergence(torch.from_numpy(one), torch.from_numpy(other), hot).numpy()
    rounding = 4 * hot**2 * np.finfo(np.float64).eps  # of a divergence of nearly nothing
    np.testing.assert_allclose(found, (one - other).var(-1) / 2, rtol=0.02, atol=rounding)


def test_divergence__has_no_gradient_to_the_teacher() -> None:
    one, other = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    divergence(one, other, 2.0).sum().backward()
    assert one.grad is not None
    assert other.grad is None


def test_imitation__of_a_language_model_is_the_mean_over_answer_tokens() -> None:
    coins = np.random.default_rng(0)
    hidden, weight = coins.normal(size=(2, 3, 6, 4)), coins.normal(size=(2, 9, 4))
    there = coins.random((3, 6)) < 0.5
    there[2] = False
    targets = torch.from_numpy(np.where(there, 1, -1))
    task = Language().of(TaskForm(input=TextInput(vocabulary=9, max_length=6, pad_id=0)))
    one, other = (
        TokenLogits(torch.from_numpy(h).float(), torch.from_numpy(w).float())
        for h, w in zip(hidden, weight, strict=True)
    )
    found = task.imitation(one, other, targets, 1.5)
    all_of_them = by_hand(*(h @ w.T for h, w in zip(hidden, weight, strict=True)), 1.5)
    wanted = [all_of_them[i][there[i]].mean() if there[i].any() else 0.0 for i in range(3)]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)
    written = task.imitation(one.written_out(), other.written_out(), targets, 1.5)
    torch.testing.assert_close(written, found)


def test_imitation__of_numbers_is_their_square_distance() -> None:
    task = Regression(low=0, high=10).of(TaskForm(input=TableInput(numeric=1)))
    one, other = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [-1.0]])
    assert task.imitation(one, other, torch.zeros(2), 2.0).tolist() == [0.25, 16.0]


# --- steps ----------------------------------------------------------------------------------

TASK = ClassificationTask(input=TableInput(numeric=3), classes=("x", "y", "z"))


def student(dropout: float = 0.0) -> Learner:
    shape = Tabular(architecture="mlp", width=12, depth=1, heads=1, norm="layer", dropout=dropout)
    return models.build(shape, TASK, Streams(3))


def taught(how: Distillation, learner: Learner, seed: int = 0) -> tuple[float, float]:
    records = made_up_records(TASK, 100, torch.Generator().manual_seed(1))
    teacher = torch.stack([records[:, 0], records[:, 1] * 2, -records[:, 2]], dim=1)
    nothing = torch.zeros(100, dtype=torch.int64)
    return distil(
        learner, TASK, records, teacher, nothing, how, Streams(seed).get("distill")
    )  # fmt: skip


def test_distil__comes_near_to_its_teacher() -> None:
    before, after = taught(Distillation(steps=200, learning_rate=0.02), student())
    assert after < before / 20


def test_distil__of_the_same_seed_is_the_same_and_reads_no_global_generator() -> None:
    how, found = Distillation(steps=5), []
    for seed in (0, 0, 1):
        state, learner = torch.get_rng_state(), student(dropout=0.3)
        taught(how, learner, seed)
        assert torch.equal(state, torch.get_rng_state())
        found.append(to_vector(learner.model))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_distil__leaves_what_is_frozen_as_it_was() -> None:
    frozen, head = stages(a=nn.Linear(3, 4), b=nn.ReLU()), stages(head=nn.Linear(4, 3))
    frozen.requires_grad_(False)
    before = {name: one.clone() for name, one in frozen.state_dict().items()}
    first, last = taught(Distillation(steps=50), Learner(frozen=frozen.eval(), model=head))
    assert last < first
    assert all(torch.equal(one, before[name]) for name, one in frozen.state_dict().items())


@pytest.mark.parametrize("size", [1, 7, 100])
def test_outputs_of__are_the_same_in_parts(size: int) -> None:
    network, records = student().whole(), made_up_records(TASK, 20, torch.Generator())
    with torch.no_grad():
        wanted = network.eval()(records)
    torch.testing.assert_close(outputs_of(network, records, size), wanted)
