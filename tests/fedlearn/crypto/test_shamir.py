import itertools
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.crypto.shamir import combine, split


def slow_product(left: int, right: int) -> int:
    """Multiplication in GF(256), bit by bit."""
    result = 0
    while right:
        if right & 1:
            result ^= left
        left = (left << 1) ^ (0x11B if left & 0x80 else 0)
        right >>= 1
    return result


def slow_share(secret: int, coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = slow_product(value, x) ^ coefficient
    return slow_product(value, x) ^ secret


@given(data=st.data(), secret=st.binary(min_size=1, max_size=40))
def test_shares__any_threshold_of_them_recover_the_secret(
    data: st.DataObject, secret: bytes
) -> None:
    total = data.draw(st.integers(1, 40))
    threshold = data.draw(st.integers(1, total))
    rows = split(secret, threshold, total)
    chosen = np.array(data.draw(st.permutations(range(total)))[:threshold])
    points = (chosen + 1).astype(np.uint8)[None]
    assert combine(points, rows[chosen][None])[0].tobytes() == secret


def test_shares__equal_a_bitwise_evaluation() -> None:
    coefficients = bytes([17, 200, 3])
    rows = split(b"\x5a", 4, 255, random=lambda count: coefficients[:count])
    expected = [slow_share(0x5A, list(coefficients), x) for x in range(1, 256)]
    assert rows[:, 0].tolist() == expected


def test_shares__one_too_few_leave_every_secret_possible() -> None:
    """For each byte, exactly one value of the missing share gives it: nothing is learned."""
    rows = split(b"\x42", 3, 3)
    candidates = np.arange(256, dtype=np.uint8)
    guesses = np.repeat(rows[None], 256, axis=0)
    guesses[:, 2, 0] = candidates
    points = np.tile(np.array([1, 2, 3], np.uint8), (256, 1))
    assert sorted(combine(points, guesses)[:, 0].tolist()) == list(range(256))


def test_combine__reopens_many_owners_at_once_from_different_points() -> None:
    secrets = [os.urandom(32) for _ in range(6)]
    choices = list(itertools.combinations(range(4), 2))
    rows = [split(secret, 2, 4) for secret in secrets]
    points = np.array([[a + 1, b + 1] for a, b in choices], np.uint8)
    shares = np.stack([row[list(choice)] for row, choice in zip(rows, choices, strict=True)])
    assert [secret.tobytes() for secret in combine(points, shares)] == secrets


@pytest.mark.parametrize("points", [[0, 1], [5, 5], [1, 5, 5], [5, 7, 5]])
def test_combine__refuses_zero_and_repeated_points(points: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct and not zero"):
        combine(np.array([points], np.uint8), np.zeros((1, len(points), 4), np.uint8))


@pytest.mark.parametrize(("threshold", "shares"), [(0, 3), (4, 3), (2, 256)])
def test_split__refuses_impossible_thresholds(threshold: int, shares: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(b"secret", threshold, shares)
