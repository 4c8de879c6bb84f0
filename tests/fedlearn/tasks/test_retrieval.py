"""The task of retrieval: a loss and a rank of one record alone, and what they add up to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.metrics.sums import Sums
from fedlearn.tasks import Retrieval, RetrievalTask, TableInput, TaskForm, TextInput

NEGATIVES, CANDIDATES = 5, 14
SETTINGS = Retrieval(query_tokens=4, negatives=NEGATIVES, candidates=CANDIDATES, temperature=0.2)
TASK = RetrievalTask(input=TextInput(vocabulary=50, max_length=12), settings=SETTINGS)


def some(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.uniform(-1, 1, (n, TASK.num_outputs)))
    targets = torch.from_numpy(
        np.stack([rng.integers(0, 2, n) * 3, rng.integers(1, CANDIDATES + 1, n)], axis=1)
    )
    return outputs, targets


def test_loss__is_the_cross_entropy_among_public_documents_of_training_alone() -> None:
    outputs, targets = some(6)
    found = TASK.loss(outputs, targets)
    for row, wanted, loss in zip(outputs.tolist(), targets.tolist(), found.tolist(), strict=True):
        known = [value / 0.2 for value in row[: 1 + NEGATIVES]]
        total = math.log(math.fsum(map(math.exp, known)))
        assert loss == pytest.approx(total - known[wanted[0]])
    outputs[:, 1 + NEGATIVES :] = 9.0
    assert torch.equal(TASK.loss(outputs, targets), found)


def test_grade__counts_who_is_as_near_before_and_finds_nothing_of_no_number() -> None:
    outputs, targets = some(4)
    outputs[0] = 0.5  # tells nothing apart
    outputs[1, 0] = float("nan")
    outputs[2, 0] = 2.0
    places = TASK.graded(outputs, targets)[:, 1].tolist()
    assert places[:3] == [CANDIDATES, CANDIDATES, 1]
    others = outputs[3, 1 + NEGATIVES :].tolist()
    assert places[3] == 1 + sum(other >= float(outputs[3, 0]) for other in others)


def graded(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    outputs, targets = some(n, seed)
    return TASK.graded(outputs, targets).numpy(), targets.numpy()


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_metrics__are_those_of_the_list_of_places(n: int, seed: int) -> None:
    grades, targets = graded(n, seed)
    found = TASK.score(grades, targets)
    for name, places in (("", grades[:, 1]), ("bm25_", targets[:, 1])):
        assert found[f"{name}mrr"] == pytest.approx(np.mean([1 / place for place in places]))
        assert found[f"{name}recall_at_10"] == np.mean([place <= 10 for place in places])
    assert found["recall_at_1"] == np.mean(grades[:, 1] == 1)
    assert found["loss"] == pytest.approx(grades[:, 0].mean())
    baseline = TASK.known_baseline(targets)
    assert baseline is not None
    assert baseline[1]["mrr"] == pytest.approx(found["bm25_mrr"])
    assert set(found) == {metric.name for metric in TASK.metrics_known}


def test_sums__add_up_over_sites_and_survive_the_way_as_whole_numbers() -> None:
    (one, a), (other, b) = graded(9, 1), graded(5, 2)
    both = TASK.added([TASK.sums(one, a), TASK.sums(other, b)])
    together = TASK.score(np.concatenate([one, other]), np.concatenate([a, b]))
    assert TASK.metrics(both) == pytest.approx(together)
    back = Sums.of_counters(TASK.sum_layout, np.array(both.counters()))
    assert TASK.metrics(back) == pytest.approx(together, rel=1e-5)
    TASK.check_sums(back)
    assert TASK.metrics(TASK.sums(one[:0], a[:0])) == {}


def test_sums__of_more_places_than_queries_are_refused() -> None:
    sums = TASK.sums(*graded(3))
    false = {**sums.arrays, "places": sums["places"] + 1}
    with pytest.raises(ValueError, match="do not add up"):
        TASK.check_sums(Sums(layout=sums.layout, count=3, arrays=false))


@given(st.integers(1, 30), st.integers(0, 10**6))
def test_contributions__are_bounded_and_a_record_decides_its_own_alone(n: int, seed: int) -> None:
    grades, targets = graded(n, seed)
    rows = TASK.contributions(grades, targets)
    at = 0
    for spec in TASK.noised_layout:
        norms = np.linalg.norm(rows[:, at : at + spec.size], axis=1)
        assert (norms <= spec.bound * (1 + 1e-12)).all()
        at += spec.size
    assert rows.shape[1] == at
    changed, others = grades.copy(), slice(1, None)
    changed[0] = [3.0, 7.0]
    assert np.array_equal(TASK.contributions(changed, targets)[others], rows[others])
    arrays, at = {}, 0
    for spec in TASK.noised_layout:
        arrays[spec.name] = rows[:, at : at + spec.size].sum(0).reshape(spec.shape)
        at += spec.size
    found = TASK.metrics(TASK.noised(arrays, dict.fromkeys(arrays, 1e-09)))
    exact = TASK.score(grades, targets)
    assert {n: found[n] for n in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10")} == (
        pytest.approx({n: exact[n] for n in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10")})
    )


def test_intervals__cover_as_often_as_they_say() -> None:
    rng, inside = np.random.default_rng(0), 0
    truth = np.minimum(rng.geometric(0.2, 50_000), CANDIDATES)
    for _ in range(120):
        places = rng.choice(truth, 80)
        grades = np.stack([np.ones(80), places], axis=1)
        sums = TASK.sums(grades, np.zeros((80, 2), np.int64))
        low, high = np.quantile(TASK.resampled(sums, rng)["mrr"], (0.025, 0.975))
        inside += low <= np.mean(1 / truth) <= high
    assert 0.88 <= inside / 120 <= 0.99


def test_canaries__are_answered_by_a_public_document_and_never_by_their_own() -> None:
    targets = np.zeros((400, 2), np.int64)
    words = np.random.default_rng(0).integers(0, 2**63, 400).astype(np.uint64)
    found = TASK.mislabelled(targets, words)
    assert set(found[:, 0].tolist()) == set(range(1, 1 + NEGATIVES))
    TASK.check(found)


@pytest.mark.parametrize(
    "targets",
    [
        np.zeros(3, np.int64),
        np.zeros((3, 2), np.float32),
        np.array([[NEGATIVES + 1, 0]]),
        np.array([[0, CANDIDATES + 1]]),
        np.array([[-1, 0]]),
    ],
)
def test_targets__that_are_no_places_are_refused(targets: np.ndarray) -> None:
    with pytest.raises(ValueError, match="targets are"):
        TASK.check(targets)


def test_warning__says_that_shared_words_find_more() -> None:
    assert "BM25" in TASK.warning({"recall_at_10": 0.3, "bm25_recall_at_10": 0.4})
    assert not TASK.warning({"recall_at_10": 0.5, "bm25_recall_at_10": 0.4})
    assert not TASK.warning({"recall_at_10": 0.5})


def test_records__without_room_for_a_document_or_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        SETTINGS.of(TaskForm(input=TextInput(vocabulary=5, max_length=5)))
    with pytest.raises(ValueError, match="searches texts"):
        SETTINGS.of(TaskForm(input=TableInput(numeric=1)))
