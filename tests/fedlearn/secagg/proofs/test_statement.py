"""Proofs against an independent implementation in whole numbers, and against liars."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.ring import Ring, RingVector
from fedlearn.secagg.proofs import field, statement
from fedlearn.secagg.proofs.field import Elements
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.proofs.statement import Numbers, TooLongError
from tests.effort import examples, slow_but
from tests.fedlearn.secagg.proofs import slow
from tests.vectors import HERE
from tests.vectors.freeze_proofs import FORMS, keys_of, vectors_of

SMALL = NormBound(bits=20, values=30, counters=1, norm=3000)
Lie = Callable[[NormBound, Numbers, Numbers], Elements]
honest_bits = statement.shared_bits


def shares(bound: NormBound, numbers: Sequence[int]) -> tuple[RingVector, RingVector]:
    """A vector, masked, and its mask."""
    ring = Ring(bits=bound.bits)
    whole = np.array([n % 2**bound.bits for n in numbers], np.uint64).astype(ring.dtype)
    random = np.frombuffer(os.urandom(8 * whole.size), np.uint64).astype(ring.dtype)
    mask = ring.reduce(random)
    return ring.reduce(whole + mask), mask


def best_bits(bound: NormBound, first: Numbers, helper: Numbers) -> Elements:
    """Those of a liar whose vector is too long: right, but for what is left below the limit."""
    around = first.squares < helper.squares
    kept = [(part.squares >> np.uint64(bound.cut)).astype(np.int64) for part in (first, helper)]
    y = kept[0] - kept[1] + (around.astype(np.int64) << bound.kept) - (1 << (bound.kept - 1))
    left = (bound.limit - sum(int(one) ** 2 for one in y)) % 2**bound.spare
    spare = np.array([left >> i & 1 for i in range(bound.spare)], bool)
    return np.concatenate([around, first.counters < helper.counters, spare]).astype(np.uint64)


def contributed(
    bound: NormBound, vectors: tuple[RingVector, RingVector], keys: dict[str, bytes], lie: Lie
) -> tuple[Elements, Elements]:
    """What both servers hold of bits and proofs."""
    first, helper = (
        statement.numbers_of(bound, server, vector, keys["signs"])
        for server, vector in zip(("first", "helper"), vectors, strict=True)
    )
    theirs = statement.helper_share(bound, keys["seed"])
    hidden = theirs[: bound.inputs]
    given_ = field.sub(lie(bound, first, helper), hidden)
    terms = [
        statement.terms_of(bound, "first", first, given_, random)
        + statement.terms_of(bound, "helper", helper, hidden, random)
        for random in statement.coefficients(bound, keys["coefficients"])
    ]
    proofs = field.sub(statement.prove(bound, terms, keys["random"]), theirs[bound.inputs :])
    return np.concatenate([given_, proofs]), theirs


def queried(
    bound: NormBound,
    vectors: tuple[RingVector, RingVector],
    held: tuple[Elements, Elements],
    keys: dict[str, bytes],
) -> list[Elements]:
    pair = keys["coefficients"], keys["points"]
    return [
        statement.query(
            bound, server, statement.numbers_of(bound, server, vector, keys["signs"]), share, pair
        )
        for server, vector, share in zip(("first", "helper"), vectors, held, strict=True)
    ]


def fresh() -> dict[str, bytes]:
    names = ("signs", "seed", "coefficients", "points", "random")
    return {name: os.urandom(32) for name in names}


def believed(bound: NormBound, numbers: Sequence[int], lie: Lie = honest_bits) -> bool:
    vectors, keys = shares(bound, numbers), fresh()
    held = contributed(bound, vectors, keys, lie)
    return statement.holds(bound, *queried(bound, vectors, held, keys))


# --- the independent implementation and the frozen vectors ---------------------------


@pytest.mark.parametrize("name", FORMS)
def test_proof__is_that_of_whole_numbers_in_python(name: str) -> None:
    form, keys = FORMS[name], keys_of(name)
    numbers = vectors_of(form)
    bound = NormBound(bits=form.bits, values=form.values, counters=form.counters, norm=form.norm)
    assert (bound.limit, bound.inputs, bound.products.size) == (form.limit, form.inputs, form.size)
    vectors = tuple(np.array(one, np.uint64).astype(Ring(bits=form.bits).dtype) for one in numbers)
    held = contributed(bound, vectors, keys, honest_bits)  # type: ignore[arg-type]
    expected = slow.contribution(form, numbers, keys)
    assert [one.tolist() for one in held] == list(expected)
    seen = queried(bound, vectors, held, keys)  # type: ignore[arg-type]
    slowly = [
        slow.query(form, vector, share, keys, first=first)
        for vector, share, first in zip(numbers, expected, (True, False), strict=True)
    ]
    assert [one.tolist() for one in seen] == slowly
    assert slow.holds(form, *slowly)
    assert statement.holds(bound, *seen)


@pytest.mark.slow
def test_frozen_vectors__are_what_this_release_makes() -> None:
    frozen = json.loads((HERE / "norm_proofs_v1.json").read_text())
    assert sorted(frozen) == sorted(FORMS)
    for name, case in frozen.items():
        bound = NormBound(**case["bound"])
        keys = {key: bytes.fromhex(value) for key, value in case["keys"].items()}
        dtype = Ring(bits=bound.bits).dtype
        vectors = tuple(np.array(case[one], np.uint64).astype(dtype) for one in ("masked", "mask"))
        held = contributed(bound, vectors, keys, honest_bits)  # type: ignore[arg-type]
        assert field.to_bytes(held[0]).hex() == case["first_share"], name
        seen = queried(bound, vectors, held, keys)  # type: ignore[arg-type]
        shown = [field.to_bytes(one).hex() for one in seen]
        assert shown == [case["first_seen"], case["helper_seen"]], name
        assert statement.holds(bound, *seen)
        for at in case["bad_elements"]:
            bad = held[0].copy()
            bad[at] = field.add(bad[at : at + 1], np.uint64(1))[0]
            altered = queried(bound, vectors, (bad, held[1]), keys)  # type: ignore[arg-type]
            assert not statement.holds(bound, *altered), (name, at)


# --- honest clients ----------------------------------------------------------------


@settings(max_examples=examples(15, few=4), deadline=None)
@given(st.lists(st.integers(-500, 500), min_size=30, max_size=30), st.integers(0, 1))
def test_vector_within_the_norm__is_believed(numbers: list[int], counter: int) -> None:
    assert believed(SMALL, [*numbers, counter])


@pytest.mark.parametrize("bits", [17, 25, 30, 33, 62])
def test_vector_of_exactly_the_norm__is_believed_in_every_ring(bits: int) -> None:
    bound = NormBound(bits=bits, values=3, counters=2, norm=50_000)
    assert believed(bound, [30_000, -40_000, 0, 1, 0])
    assert believed(bound, [0, 0, -50_000, 0, 1])


@pytest.mark.parametrize("bits", slow_but(lambda bits: bits == 20, [20, 27]))
def test_long_vector__is_believed_by_its_images(bits: int) -> None:
    values = 6000
    bound = NormBound(bits=bits, values=values, counters=0, norm=60_000)
    rng = np.random.default_rng(bits)
    for drawn in (rng.standard_normal(values), np.eye(1, values)[0]):
        assert believed(
            bound, np.trunc(drawn * 60_000 / np.linalg.norm(drawn)).astype(int).tolist()
        )


# --- liars -------------------------------------------------------------------------


def test_client__is_stopped_by_its_own_program() -> None:
    for numbers in ([3001, *[0] * 30], [*[600] * 30, 1], [*[0] * 30, 2], [*[0] * 30, -1]):
        with pytest.raises(TooLongError):
            believed(SMALL, numbers)


@pytest.mark.parametrize(
    "numbers",
    [
        [3001, *[0] * 30],
        [*[2**19 - 1] * 30, 0],
        [-(2**19), *[0] * 30],
        [*[0] * 30, 2],
        [*[0] * 30, -1],
        [*[0] * 30, 2**19],
    ],
)
def test_liar__is_not_believed_whatever_is_left_below_the_limit(numbers: list[int]) -> None:
    assert not believed(SMALL, numbers, best_bits)


@pytest.mark.parametrize(
    "shape",
    slow_but(
        ("a little longer", "wrapped images").__contains__,
        ["a little longer", "one value", "half of the ring", "everywhere", "wrapped images"],
    ),
)
def test_liar__with_a_long_vector_is_not_believed_by_its_images(shape: str) -> None:
    bound = NormBound(bits=20, values=5000, counters=0, norm=50_000)
    rng = np.random.default_rng(1)
    flat = rng.standard_normal(5000)
    vector = {
        "a little longer": flat * bound.reach / np.linalg.norm(flat),
        "one value": np.eye(1, 5000)[0] * bound.reach,
        "half of the ring": np.eye(1, 5000)[0] * 2**19,
        "everywhere": rng.integers(-(2**19), 2**19, 5000),
        "wrapped images": np.full(5000, 2**18),
    }[shape]
    assert not believed(bound, np.trunc(vector).astype(int).tolist(), best_bits)


def test_liar__gets_no_smaller_square_by_bits_that_are_not_those_of_the_vector() -> None:
    """Each bit turned round: another number that is the same modulo 2^bits, and a larger one."""
    for at in (0, 29, 30, 31, SMALL.inputs - 1):

        def turned(bound: NormBound, first: Numbers, helper: Numbers, at: int = at) -> Elements:
            bits = honest_bits(bound, first, helper)
            bits[at] = 1 - bits[at]
            return bits

        assert not believed(SMALL, [*[100] * 30, 1], turned)


@pytest.mark.parametrize("value", [2, field.MODULUS - 1, 2**32])
def test_liar__whose_bits_are_no_bits_is_not_believed(value: int) -> None:
    """Though squares and what is left add up."""

    def wide(bound: NormBound, first: Numbers, helper: Numbers) -> Elements:
        bits = honest_bits(bound, first, helper)
        spare = bits[-bound.spare :]
        low = int(spare[0]) - value
        spare[0] = np.uint64(value % field.MODULUS)
        half = pow(2, -1, field.MODULUS)
        spare[1] = np.uint64((int(spare[1]) + low * half) % field.MODULUS)
        return bits

    assert not believed(SMALL, [*[100] * 30, 1], wide)


@pytest.mark.parametrize("other", slow_but("seed".__eq__, ["signs", "seed", "coefficients"]))
def test_proof__is_of_its_own_signs_seeds_and_coefficients(other: str) -> None:
    bound = NormBound(bits=20, values=4100, counters=1, norm=3000)
    vectors, keys = shares(bound, [*[10] * 4100, 1]), fresh()
    held = contributed(bound, vectors, keys, honest_bits)
    assert statement.holds(bound, *queried(bound, vectors, held, keys))
    changed = keys | {other: os.urandom(32)}
    if other == "seed":
        held = held[0], statement.helper_share(bound, changed["seed"])
    assert not statement.holds(bound, *queried(bound, vectors, held, changed))


def test_servers__hold_uniform_elements_each() -> None:
    """Of a vector of zeros: chi-square over the highest bytes, 255 degrees of freedom."""
    vectors, keys = shares(SMALL, [0] * 31), fresh()
    first = np.concatenate(
        [
            contributed(SMALL, vectors, keys | {"seed": os.urandom(32)}, honest_bits)[0]
            for _ in range(40)
        ]
    )
    counts = np.bincount((first >> np.uint64(56)).astype(int), minlength=256)
    assert ((counts - first.size / 256) ** 2 / (first.size / 256)).sum() < 420


def test_points__are_never_roots_and_differ_between_keys() -> None:
    found = [statement.points(SMALL, os.urandom(32)) for _ in range(20)]
    flat = [point for points in found for point in points]
    assert len(set(flat)) == 60
    assert all(SMALL.products.takes(point) for point in flat)


def test_points__that_would_tell_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a root a server would see a row of the statement itself; chance gives one in 2^57."""
    roots = field.roots(2 * SMALL.products.size)
    given_ = np.concatenate([roots[[1, 0, -1]], np.array([5, 7], np.uint64)])
    monkeypatch.setattr(field, "drawn", lambda key, count: given_)
    assert statement.points(SMALL, bytes(32)) == [5, 5, 5]
