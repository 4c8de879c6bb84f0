from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.scaling import (
    Ranges,
    StandardisePerSite,
    Unscaled,
    reads_records,
    scale,
    squash,
    standardise,
)

NUMBERS = st.floats(-1e12, 1e12)


def test_ranges__map_low_to_minus_one_high_to_one_and_clip() -> None:
    values = np.array([[20.0], [55.0], [90.0], [10.0], [1e9], [np.nan]])
    scaled = scale(Ranges(columns={"age": (20.0, 90.0)}), ["age"], values)
    np.testing.assert_array_equal(scaled[:, 0], np.array([-1, 0, 1, -1, 1, np.nan], np.float32))


@given(st.lists(NUMBERS, min_size=1), NUMBERS)
def test_ranges__scale_a_record_the_same_whoever_else_is_in_the_data(
    others: list[float], value: float
) -> None:
    config = Ranges(columns={"a": (-5.0, 5.0)})
    alone = scale(config, ["a", "b"], np.array([[value, value]]))
    among = scale(config, ["a", "b"], np.array([[value, value], *([x, x] for x in others)]))
    np.testing.assert_array_equal(alone[0], among[0])


def test_ranges__list_every_problem() -> None:
    columns = {"a": (1.0, 1.0), "gone": (0.0, 1.0), "b": (3.0, 2.0)}
    with pytest.raises(ConfigError) as caught:
        scale(Ranges(columns=columns, unlisted="refuse"), ["a", "b", "c"], np.zeros((1, 3)))
    assert [problem.split(":")[0].split("=")[0] for problem in caught.value.problems] == [
        "scenario.scaling.columns.gone",
        "scenario.scaling.columns.a",
        "scenario.scaling.columns.b",
        "scenario.scaling.columns.c",
    ]


@given(NUMBERS, NUMBERS)
def test_squash__is_odd_and_rises(a: float, b: float) -> None:
    x, y, minus = squash(np.array([a, b, -a]))
    assert minus == -x
    assert (x <= y) == (a <= b) or x == y


def test_squash__is_one_at_a_thousand() -> None:
    np.testing.assert_allclose(squash(np.array([0.0, 1000.0])), [0, 1])


def test_standardise__uses_the_training_part_only_and_fills_gaps_with_the_mean() -> None:
    train = np.array([[1, 7, 5, 0], [3, 7, 5, 9], [np.nan, 7, 5, 9]], np.float32)
    test = np.array([[4, 8, 6, 3], [np.nan, np.nan, np.nan, 3]], np.float32)
    train[:, 2] = np.nan
    scaled_train, scaled_test = standardise(train, test, numeric=3)
    np.testing.assert_allclose(scaled_train[:, 0], [-1, 1, 0])
    np.testing.assert_array_equal(scaled_train[:, 1:3], 0)
    np.testing.assert_allclose(scaled_test[0], [2, 1, 6, 3])
    np.testing.assert_array_equal(scaled_test[1], [0, 0, 0, 3])
    np.testing.assert_array_equal(scaled_train[:, 3], [0, 9, 9])


def test_reads_records__tells_private_scalings_from_others() -> None:
    assert reads_records(StandardisePerSite())
    assert not reads_records(Ranges())
    assert not reads_records(Unscaled())
