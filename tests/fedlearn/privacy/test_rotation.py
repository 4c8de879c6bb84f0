from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.privacy.rotation import block_of, padded, rotation
from tests.effort import examples


@settings(max_examples=examples(40), deadline=None)
@given(dimension=st.integers(1, 9000), seed=st.integers(0, 2**32))
def test_rotation__keeps_distances_and_is_undone(dimension: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, dimension)) * 10 ** rng.uniform(-3, 3)
    turn = rotation(dimension, seed.to_bytes(8, "big"))
    assert turn.forward(one).shape == (padded(dimension),)
    assert np.allclose(
        np.linalg.norm(turn.forward(one) - turn.forward(other)),
        np.linalg.norm(one - other),
        rtol=1e-12,
    )
    assert np.allclose(turn.inverse(turn.forward(one)), one, rtol=0, atol=1e-12 * abs(one).max())


def test_rotation__is_the_hadamard_matrix_of_its_blocks() -> None:
    """Against the matrix built by its definition (-1)^(bits that i and j share)."""
    turn = rotation(8, b"matrix")
    signs = [[(-1) ** bin(i & j).count("1") for j in range(8)] for i in range(8)]
    matrix = np.array(signs) / np.sqrt(8)
    vector = np.arange(1.0, 9.0)
    assert np.allclose(turn.forward(vector), matrix @ (vector * turn.signs)[turn.order])


def test_rotation__spreads_a_single_spike_over_its_block() -> None:
    spike = np.zeros(10_000)
    spike[17] = 1.0
    spread = np.abs(rotation(10_000, b"spike").forward(spike))
    assert np.allclose(spread[spread > 0], 1 / 64)
    assert (spread > 0).sum() == 4096


def test_rotation__keeps_every_coordinate_sub_gaussian() -> None:
    """Of 245,760 coordinates one beyond 7.5 deviations: a chance below 1e-6."""
    vector = np.repeat([1.0, 100.0, 0.01], 4096)
    bound = np.linalg.norm(vector) / np.sqrt(4096)
    for number in range(20):
        turned = rotation(len(vector), bytes([number])).forward(vector)
        assert np.abs(turned).max() < 7.5 * bound


def test_rotation__is_a_function_of_its_context_alone() -> None:
    vector = np.arange(5.0)
    same = rotation(5, b"run 1, round 2").forward(vector)
    assert np.array_equal(same, rotation(5, b"run 1, round 2").forward(vector))
    assert not np.array_equal(same, rotation(5, b"run 1, round 3").forward(vector))


def test_rotation__pads_less_than_a_block() -> None:
    assert [padded(d) for d in (1, 2, 3, 30, 4096, 4097, 100_000)] == [
        1, 2, 4, 32, 4096, 8192, 102_400,
    ]  # fmt: skip
    assert block_of(5000) == 4096


def test_rotation__refuses_wrong_lengths() -> None:
    turn = rotation(5, b"x")
    with pytest.raises(ValueError, match="dimension 5"):
        turn.forward(np.zeros(6))
    with pytest.raises(ValueError, match="expected"):
        turn.inverse(np.zeros(5))
    with pytest.raises(ValueError, match="dimension=0"):
        rotation(0, b"x")
