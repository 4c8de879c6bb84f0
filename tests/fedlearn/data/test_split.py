from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.data.split import stratified


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_split__keeps_a_training_record_of_every_class_at_every_site(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    sites = np.array([f"s{site}" for site, _ in rows])
    labels = np.array([label for _, label in rows])
    is_train = stratified(labels, sites, fraction, rng(seed))
    np.testing.assert_array_equal(is_train, stratified(labels, sites, fraction, rng(seed)))
    for group in set(rows):
        members = np.array([row == group for row in rows])
        size, tested = members.sum(), (members & ~is_train).sum()
        assert tested < size
        assert tested in (np.floor(fraction * size), np.ceil(fraction * size), size - 1)


def test_split__tests_the_wanted_fraction_even_of_small_groups() -> None:
    labels = np.zeros(6000, dtype=np.int64)
    sites = np.array([f"s{i % 2000}" for i in range(6000)])
    tested = (~stratified(labels, sites, 0.25, rng())).mean()
    # 2,000 groups of 3, each with 0 or 1 test record: deviation .0024, six of them.
    assert tested == pytest.approx(0.25, abs=0.0145)
