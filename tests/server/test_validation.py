"""Which round's model is kept, and when a run has learned enough, by what validation shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.tasks import Metric
from server.validation import Validation
from tests.effort import examples

ACCURACY = Metric(name="accuracy", title="accuracy", meaning="")
ERROR = Metric(name="error", title="error", meaning="", higher_is_better=False)

Shown = list[tuple[float, float]]
"""The leading metric and the loss of every round; few values, so that many are equal."""
SHOWN = st.lists(
    st.tuples(st.sampled_from([0.2, 0.5, 0.7, math.nan]), st.sampled_from([0.1, 0.4, math.nan])),
    min_size=1,
    max_size=12,
)


def look(validation: Validation, shown: Shown, metric: Metric = ACCURACY) -> list[bool]:
    """Whether it was enough after every round; the model of round n holds n."""
    enough = []
    for number, (value, loss) in enumerate(shown, start=1):
        found = {metric.name: value, "loss": loss}
        validation.look(number, metric, found, np.full(2, number, np.float32))
        enough.append(validation.enough)
    return enough


@given(SHOWN)
@settings(max_examples=examples(100))
def test_best__is_the_first_of_the_best_by_metric_and_then_by_loss(shown: Shown) -> None:
    validation = Validation("best", 0)
    assert not any(look(validation, shown))
    known = [(n, v, loss) for n, (v, loss) in enumerate(shown, 1) if not math.isnan(v)]
    if not known:
        assert validation.best is None
        assert validation.model is None
        return
    ranked = sorted(known, key=lambda one: (-one[1], math.inf if math.isnan(one[2]) else one[2]))
    assert validation.best is not None
    assert validation.best.round == ranked[0][0]
    assert validation.model is not None
    assert validation.model.tolist() == [ranked[0][0]] * 2


@given(SHOWN, st.integers(1, 4))
@settings(max_examples=examples(100))
def test_patience__ends_a_run_once_so_many_in_a_row_found_nothing_better(
    shown: Shown, patience: int
) -> None:
    enough = look(Validation("best", patience), shown)
    for rounds in range(1, len(shown) + 1):
        if any(enough[: rounds - 1]):
            break
        best = Validation("best", 0)
        look(best, shown[:rounds])
        waited = best.best is not None and rounds - best.best.round >= patience
        assert enough[rounds - 1] == waited


def test_smaller__is_better_where_the_metric_says_so() -> None:
    validation = Validation("best", 0)
    look(validation, [(0.7, 0.1), (0.2, 0.4), (0.5, 0.1)], ERROR)
    assert validation.best is not None
    assert (validation.best.round, validation.best.since) == (2, 1)


def test_last__keeps_no_model_and_still_waits() -> None:
    validation = Validation("last", 1)
    assert look(validation, [(0.7, 0.1), (0.2, 0.1)]) == [False, True]
    assert validation.model is None


def test_model__that_is_kept_is_its_own() -> None:
    validation, model = Validation("best", 0), np.zeros(2, np.float32)
    validation.look(1, ACCURACY, {"accuracy": 0.5}, model)
    model += 1
    assert validation.model is not None
    assert not validation.model.any()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_forget__leaves_nothing_of_what_was_taken_back(keep: str) -> None:
    validation = Validation(keep, 1)  # type: ignore[arg-type]
    look(validation, [(0.7, 0.1), (0.2, 0.1)])
    validation.forget()
    assert not validation.enough
    look(validation, [(0.2, 0.1)])
    assert validation.best is not None
    assert validation.best.value == 0.2
