"""Groups of people: who is in which, and which of them must not be shown."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.metrics.fairness import (
    OTHERS,
    GroupFairness,
    SiteFairness,
    column_problems,
    group_of,
    group_sums,
    problems,
    shown,
    withheld,
)
from fedlearn.metrics.sums import Sums
from tests.fedlearn.metrics.test_sums import evaluation_sums

SEX = GroupFairness(column="sex", values=("female", "male"))
AGE = GroupFairness(column="age", edges=(40.0, 60.0))


def sums_of(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> Callable[[NDArray[np.bool_]], Sums]:
    return lambda who: evaluation_sums(probabilities[who], labels[who])


counts = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 40), max_size=6)


def test_groups__of_texts_are_the_values_and_the_rest() -> None:
    assert SEX.names == ("female", "male", OTHERS)
    found = group_of(SEX, np.array(["male", "", "female", "Male"]))
    assert [SEX.names[i] for i in found] == ["male", OTHERS, "female", OTHERS]


def test_groups__of_numbers_hold_their_lower_edge_and_unknown_numbers_are_the_rest() -> None:
    assert AGE.names == ("below 40", "40 to below 60", "60 and above", OTHERS)
    found = group_of(AGE, np.array([39.9, 40.0, 59.9, 60.0, math.nan, -math.inf]))
    assert found.tolist() == [0, 1, 1, 2, 3, 0]


@given(st.lists(st.sampled_from(["female", "male", "?"]), max_size=30))
def test_groups__add_up_to_all_records(texts: list[str]) -> None:
    probabilities = np.linspace(0, 1, len(texts))
    labels = np.arange(len(texts)) % 2
    both = np.stack([1 - probabilities, probabilities], 1)
    sums = group_sums(SEX, np.array(texts, np.str_), sums_of(both, labels))
    assert {name: one.count for name, one in sums.items()} == {
        "female": texts.count("female"),
        "male": texts.count("male"),
        OTHERS: texts.count("?"),
    }


@given(counts, st.integers(1, 20))
def test_withheld__cannot_be_found_by_subtraction(counts: dict[str, int], smallest: int) -> None:
    hidden = withheld(counts, smallest)
    seen = [n for name, n in counts.items() if name not in hidden and n]
    assert all(n >= smallest for n in seen)
    difference = sum(counts.values()) - sum(seen)
    # What the total leaves over is nobody, enough people, or everyone.
    assert difference == 0 or difference >= smallest or not seen


@given(counts, st.integers(1, 20))
def test_withheld__holds_back_no_more_than_it_must(counts: dict[str, int], smallest: int) -> None:
    hidden = withheld(counts, smallest)
    large = [counts[name] for name in hidden if counts[name] >= smallest]
    small = sum(counts[name] for name in hidden if counts[name] < smallest)
    # One large group hides any number of small ones, and is only needed where they are few.
    assert len(large) <= (0 < small < smallest)


def test_withheld__takes_the_smaller_group_to_hide_another_behind() -> None:
    assert withheld({"a": 3, "b": 50, "c": 20, "d": 0}, 10) == ("a", "c")
    assert withheld({"a": 6, "b": 5, "c": 20}, 10) == ("a", "b")
    assert withheld({"a": 12, "d": 0}, 10) == ()
    assert withheld({"a": 3}, 10) == ("a",)


def test_shown__leaves_out_empty_groups_and_names_only_the_hidden_ones() -> None:
    both = np.full((25, 2), 0.5)
    sums = group_sums(
        SEX, np.array(["female"] * 20 + ["?"] * 5), sums_of(both, np.zeros(25, np.int64))
    )
    seen, hidden = shown(sums, 10)
    assert (list(seen), hidden) == ([], ("female", OTHERS))
    assert list(shown(sums, 5)[0]) == ["female", OTHERS]


def test_settings__say_what_is_wrong_with_them() -> None:
    assert problems(SiteFairness()) == problems(SEX) == problems(AGE) == []
    for settings, said in (
        (GroupFairness(column="sex"), "give fairness.values"),
        (GroupFairness(column="sex", values=("a",), edges=(1.0,)), "give fairness.values"),
        (GroupFairness(column="age", edges=(60.0, 40.0)), "must be growing"),
        (GroupFairness(column="sex", values=("a", "a")), "must be different"),
        (GroupFairness(column="sex", values=("a", OTHERS)), "must be different"),
    ):
        (problem,) = problems(settings)
        assert said in problem


def test_settings__are_checked_with_the_config() -> None:
    with pytest.raises(ConfigError, match=r"fairness\.edges=\[2\.0, 1\.0\]: must be growing"):
        compose(["fairness=groups", "fairness.column=age", "fairness.edges=[2.0,1.0]"])
    with pytest.raises(ConfigError, match=r"fairness\.column: must be given"):
        compose(["fairness=groups"])
    with pytest.raises(ConfigError, match=r"fairness\.smallest=0: must be > 0"):
        compose(["fairness=groups", "fairness.column=a", "fairness.values=[b]",
                 "fairness.smallest=0"])  # fmt: skip


def test_column__that_records_do_not_have_or_that_holds_something_else_is_refused() -> None:
    attributes = {"sex": np.array(["female"]), "age": np.array([50.0])}
    assert column_problems(SEX, attributes) == column_problems(AGE, attributes) == []
    assert column_problems(SiteFairness(), {}) == []
    (problem,) = column_problems(GroupFairness(column="race", values=("a",)), attributes)
    assert problem == "fairness.column=race: records can be grouped by: sex, age"
    (problem,) = column_problems(GroupFairness(column="age", values=("50",)), attributes)
    assert "holds numbers; give fairness.edges" in problem
    (problem,) = column_problems(GroupFairness(column="sex", edges=(1.0,)), attributes)
    assert "holds texts; give fairness.values" in problem
