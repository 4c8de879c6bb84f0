import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.secagg.proofs import field
from fedlearn.secagg.proofs.field import MODULUS as P
from tests.fedlearn.secagg.proofs import slow

EDGES = (0, 1, 2, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63, P - 2**32, P - 2, P - 1)
values = st.one_of(st.sampled_from(EDGES), st.integers(0, P - 1))
lists = st.lists(st.tuples(values, values), min_size=1, max_size=40)


def array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.uint64)


@given(lists)
def test_field__is_that_of_whole_numbers_modulo_p(pairs: list[tuple[int, int]]) -> None:
    pairs = pairs + [(a, b) for a in EDGES for b in EDGES]
    a, b = (array([pair[i] for pair in pairs]) for i in (0, 1))
    assert field.add(a, b).tolist() == [(x + y) % P for x, y in pairs]
    assert field.sub(a, b).tolist() == [(x - y) % P for x, y in pairs]
    assert field.mul(a, b).tolist() == [x * y % P for x, y in pairs]
    assert int(field.total(a)) == sum(x for x, _ in pairs) % P
    assert int(field.dot(a, b)) == sum(x * y for x, y in pairs) % P


@given(st.lists(values, min_size=1, max_size=20), st.integers(0, 2**40))
def test_power_and_inverse__are_those_of_python(numbers: list[int], exponent: int) -> None:
    assert field.power(array(numbers), exponent).tolist() == [pow(x, exponent, P) for x in numbers]
    inverses = [pow(x, -1, P) if x else 0 for x in numbers]
    assert field.inverse(array(numbers)).tolist() == inverses


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_elements__stand_for_integers_of_either_sign(numbers: list[int]) -> None:
    assert field.elements_of(np.array(numbers, np.int64)).tolist() == [x % P for x in numbers]
    words = [x % 2**64 for x in numbers]
    assert field.elements_of(array(words)).tolist() == [x % P for x in words]
    assert [int(field.element(x)) for x in numbers] == [x % P for x in numbers]


def test_field__is_field64_of_the_vdaf_draft() -> None:
    """Modulus, generator and its order, as the draft has them in its table of parameters."""
    assert P == 18446744069414584321 == 2**32 * 4294967295 + 1
    assert field.GENERATOR == pow(7, 4294967295, P) == 1753635133440165772
    assert pow(field.GENERATOR, 2**31, P) == P - 1


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_transform__evaluates_at_the_roots_and_back(size: int) -> None:
    rng = np.random.default_rng(size)
    coefficients = rng.integers(0, P, (3, size), dtype=np.uint64)
    found = field.transformed(coefficients)
    for row, own in zip(coefficients.tolist(), found.tolist(), strict=True):
        powers = ([pow(x, i, P) for i in range(size)] for x in slow.roots(size))
        assert own == [sum(c * p for c, p in zip(row, each, strict=True)) % P for each in powers]
    assert np.array_equal(field.interpolated(found), coefficients)


@given(st.lists(values, min_size=8, max_size=8), st.integers(2, P - 1))
def test_lagrange__gives_the_polynomials_value_between_the_roots(
    numbers: list[int], point: int
) -> None:
    if pow(point, 8, P) != 1:
        weights = field.lagrange(8, point)
        assert int(field.dot(array(numbers), weights)) == slow.at(numbers, point)


def test_drawn__are_the_words_of_the_stream_that_are_below_p() -> None:
    key = bytes(range(32))
    assert field.drawn(key, 500).tolist() == slow.drawn(key, 500)
    assert field.drawn(key, 0).size == 0


def test_drawn__leaves_out_words_from_p_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes as many that come after them, no more."""
    words = iter([5, P, 7, 2**64 - 1, P - 1, 9, 11, 13])

    class Stream:
        def __init__(self, key: bytes) -> None: ...

        def words(self, dtype: type, count: int) -> np.ndarray:
            return array(list(itertools.islice(words, count)))

    monkeypatch.setattr(field, "SecureWords", Stream)
    assert field.drawn(b"", 4).tolist() == [5, 7, P - 1, 9]


@given(st.lists(values))
def test_bytes__are_eight_an_element_and_canonical(numbers: list[int]) -> None:
    data = field.to_bytes(array(numbers))
    assert data == b"".join(x.to_bytes(8, "little") for x in numbers)
    assert field.from_bytes(data, len(numbers)).tolist() == numbers
    with pytest.raises(ValueError, match="are not"):
        field.from_bytes(data + b"\0", len(numbers))
    with pytest.raises(ValueError, match="not canonical"):
        field.from_bytes(data + P.to_bytes(8, "little"), len(numbers) + 1)
