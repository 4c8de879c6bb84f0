"""Two servers with proofs: the sum of those who prove their norm, and everybody else by name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fedlearn.core.errors import ProtocolError
from fedlearn.core.ring import Ring, RingVector, unpack
from fedlearn.crypto.keystream import add_masks
from fedlearn.secagg import proven
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.messages import Params
from fedlearn.secagg.proofs import statement
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.proofs.statement import TooLongError
from fedlearn.secagg.proven import ProvingHelper, ProvingServer, _proved_in
from fedlearn.secagg.proven_messages import (
    UNPROVED,
    ProvenContribution,
    SignedShare,
    Statements,
    Verdicts,
)
from fedlearn.secagg.two_server import mask_key, sealed_seed
from fedlearn.secagg.two_server_messages import UNOPENED
from tests.fedlearn.secagg.federation import RUN_ID, federation, identity
from tests.fedlearn.secagg.proofs.test_statement import best_bits

BITS, LENGTH = 20, 31
BOUND = NormBound(bits=BITS, values=LENGTH - 1, counters=1, norm=3000)
RING = Ring(bits=BITS)
FED = federation(5, bits=BITS, length=LENGTH)
A, B, C, D, E = FED.names
HELPER = ProvingHelper(RUN_ID, FED.sites)


def params(round_number: int = 1, cohort: Iterable[str] | None = None) -> Params:
    return replace(FED.params(round_number, cohort), bits=BITS)


PARAMS = params()


def numbers(name: str) -> np.ndarray:
    drawn = np.random.default_rng(FED.names.index(name)).integers(-500, 500, LENGTH)
    drawn[-1] = 1
    return drawn


def ring(whole: np.ndarray) -> RingVector:
    return RING.reduce(whole.astype(np.int64).astype(RING.dtype))


def message(
    name: str, whole: np.ndarray | None = None, weight: int = 1, of: Params = PARAMS
) -> bytes:
    vector = ring(numbers(name) if whole is None else whole)
    return proven.contribute(identity(name), name, of, vector, weight, BOUND, HELPER.public)


@cache
def honest(name: str) -> bytes:
    return message(name)


def lie(monkeypatch: pytest.MonkeyPatch, name: str, whole: np.ndarray) -> bytes:
    """The contribution of somebody with a program of its own, that has done its best."""
    with monkeypatch.context() as patched:
        patched.setattr(statement, "shared_bits", best_bits)
        return message(name, whole)


def first_server(messages: dict[str, bytes]) -> ProvingServer:
    first = ProvingServer(PARAMS, FED.sites, BOUND)
    for name, data in messages.items():
        first.receive(name, data)
    return first


def helper() -> ProvingHelper:
    """That of all contributions here, at the start of a run."""
    HELPER._round, HELPER._summed = -1, frozenset()
    return HELPER


def test_sum__is_that_of_all_vectors_times_their_weights() -> None:
    first, weights = ProvingServer(PARAMS, FED.sites, BOUND), {A: 1, B: 7, C: 0, D: 3}
    for name, weight in weights.items():
        first.receive(name, message(name, weight=weight), range(10))
    outcome = first.finish(helper().judge(PARAMS, first.request()))
    expected = sum(weight * numbers(name) for name, weight in weights.items())
    assert np.array_equal(RING.centred(outcome.total), expected)
    assert outcome.taken == (A, B, C, D)
    assert (outcome.weight, outcome.refused) == (11, {})


@pytest.mark.parametrize("how", ["too long", "a counter of two", "the largest values"])
def test_liar__is_in_no_sum_and_is_named_and_the_others_are_summed(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = numbers(B)
    if how == "too long":
        whole[0] = 3001
    elif how == "a counter of two":
        whole[-1] = 2
    else:
        whole[:-1] = 2 ** (BITS - 1) - 1
    first = first_server({n: honest(n) for n in (A, C, D)} | {B: lie(monkeypatch, B, whole)})
    outcome = first.finish(helper().judge(PARAMS, first.request()))
    assert outcome.taken == (A, C, D)
    assert list(outcome.refused) == [B]
    assert "its proof does not hold" in outcome.refused[B]
    assert np.array_equal(RING.centred(outcome.total), sum(map(numbers, (A, C, D))))


def test_liars__that_leave_too_few_leave_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.full(LENGTH, 4000)
    messages = {n: honest(n) for n in (A, B)} | {n: lie(monkeypatch, n, long) for n in (C, D)}
    first = first_server(messages)
    reply = helper().judge(PARAMS, first.request())
    assert decode(Verdicts, reply, PARAMS.context()).packed == b""
    outcome = first.finish(reply)
    assert (outcome.total, outcome.taken) == (None, (A, B))
    assert outcome.refused == {C: UNPROVED, D: UNPROVED}


def test_client__does_not_send_what_it_could_not_prove() -> None:
    with pytest.raises(TooLongError, match="longer than the rule"):
        message(A, np.full(LENGTH, 4000))
    with pytest.raises(ValueError, match="not of this round"):
        proven.contribute(identity(A), A, PARAMS, RING.zeros(LENGTH + 1), 1, BOUND, HELPER.public)


def altered(name: str, at: str) -> bytes:
    """An honest contribution with one byte of a field turned round."""
    one = decode(ProvenContribution, honest(name), PARAMS.context())
    proof = bytearray(one.proof)
    packed = bytearray(one.packed)
    share, blind = one.share, one.blind
    if at == "vector":
        packed[0] ^= 1
    elif at == "bits":
        proof[0] ^= 1
    elif at == "proof":
        proof[8 * BOUND.inputs] ^= 1
    elif at == "blind":
        blind = bytes(32)
    elif at == "weight":
        share = replace(share, weight=2)
    elif at == "canonical":
        proof[-8:] = b"\xff" * 8
    elif at == "short":
        del proof[-8:]
    elif at == "long":
        packed += b"\0"
    return encode(
        ProvenContribution(
            share=share, blind=blind, packed=memoryview(packed), proof=memoryview(proof)
        ),
        PARAMS.context(),
    )


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ("vector", "signature is wrong"),
        ("bits", "signature is wrong"),
        ("blind", "signature is wrong"),
        ("weight", "signature is wrong"),
        ("canonical", "not canonical"),
        ("short", "are not"),
        ("long", "packed"),
    ],
)
def test_malformed_contribution__is_refused_as_it_comes(at: str, reason: str) -> None:
    first = ProvingServer(PARAMS, FED.sites, BOUND)
    with pytest.raises(ProtocolError, match=reason) as caught:
        first.receive(A, altered(A, at))
    assert caught.value.peer == A
    first.receive(A, honest(A))


def test_altered_proof__is_refused_when_both_have_looked() -> None:
    first = first_server({A: altered(A, "proof")} | {n: honest(n) for n in (B, C, D)})
    outcome = first.finish(helper().judge(PARAMS, first.request()))
    assert list(outcome.refused) == [A]


def test_contribution__of_another_round_site_or_weight_is_refused() -> None:
    first = ProvingServer(PARAMS, FED.sites, BOUND)
    for name, data in ((B, honest(A)), (A, message(A, of=params(2))), ("x", honest(A))):
        with pytest.raises(ProtocolError):
            first.receive(name, data)
    with pytest.raises(ProtocolError, match="not that of its records"):
        first.receive(A, message(A, weight=3))
    first.receive(A, message(A, weight=3), (3,))
    with pytest.raises(ProtocolError, match="came before"):
        first.receive(A, honest(A))
    other = replace(PARAMS, plan_hash=b"q" * 32)  # other terms
    with pytest.raises(ProtocolError, match="another round"):
        first.receive(B, message(B, of=other))


def test_seed_that_is_none__leaves_its_site_out() -> None:
    """The helper names it, and both servers sum the others."""
    context = _proved_in(PARAMS, BOUND)
    one = decode(ProvenContribution, honest(A), PARAMS.context())
    stranger = ProvingHelper(RUN_ID, FED.sites)
    share = replace(one.share, sealed=sealed_seed(bytes(32), stranger.public, context, A))
    bad = encode(replace(one, share=share.signed_by(identity(A), A, context)), PARAMS.context())
    first = first_server({A: bad} | {n: honest(n) for n in (B, C, D)})
    outcome = first.finish(helper().judge(PARAMS, first.request()))
    assert outcome.refused == {A: UNOPENED}
    assert np.array_equal(RING.centred(outcome.total), sum(map(numbers, (B, C, D))))


# --- the servers, of which one may be curious ----------------------------------------


def test_helper__answers_once_a_round_for_enough_and_for_those_alone_who_signed() -> None:
    first = first_server({n: honest(n) for n in (A, B, C)})
    request, other = first.request(), ProvingHelper(RUN_ID, FED.sites, min_cohort=4)
    with pytest.raises(ProtocolError, match="3 clients; needed: 4"):
        other.judge(PARAMS, request)
    with pytest.raises(ProtocolError, match="another run"):
        helper().judge(replace(PARAMS, run_id=b"x" * 16), request)
    table = dict(decode(Statements, request, PARAMS.context()).table)
    asked = decode(Statements, request, PARAMS.context())
    swapped = replace(asked, table={**table, A: table[B]})
    with pytest.raises(ProtocolError, match="did not sign"):
        helper().judge(PARAMS, encode(swapped, PARAMS.context()))
    heavy = replace(table[A][0], weight=1000), table[A][1]
    again = encode(replace(asked, table={**table, A: heavy}), PARAMS.context())
    with pytest.raises(ProtocolError, match="did not sign"):
        helper().judge(PARAMS, again)
    helper().judge(PARAMS, request)
    for params_ in (PARAMS, params(0)):
        with pytest.raises(ProtocolError, match="a round again"):
            HELPER.judge(params_, request)


def test_helper__refuses_strangers_other_forms_and_elements_that_are_none() -> None:
    first = first_server({n: honest(n) for n in (A, B, C)})
    context = PARAMS.context()
    asked = decode(Statements, first.request(), context)
    share, seen = asked.table[A]
    bounds = [
        replace(BOUND, bits=BITS + 1),
        replace(BOUND, values=BOUND.values + 1),
        replace(BOUND, counters=0),
    ]
    for bound in bounds:
        rows = {n: (one, bytes(bound.seen_bytes)) for n, (one, _) in asked.table.items()}
        with pytest.raises(ProtocolError, match="of another form"):
            helper().judge(PARAMS, encode(replace(asked, bound=bound, table=rows), context))
    bad = replace(asked, table={**asked.table, A: (share, b"\xff" * len(seen))})
    with pytest.raises(ProtocolError, match="not canonical"):
        helper().judge(PARAMS, encode(bad, context))
    invented = replace(asked, table={**asked.table, "stranger": (share, seen)})
    with pytest.raises(ProtocolError, match="not on the roster"):
        helper().judge(PARAMS, encode(invented, context))


@pytest.mark.parametrize(
    "change",
    [
        {"values": BOUND.values - 1, "counters": BOUND.counters + 1}, {"norm": BOUND.norm - 1},
        {"values": 0, "counters": BOUND.values + BOUND.counters, "norm": 1},
        {"values": BOUND.values + BOUND.counters, "counters": 0},
    ],
)  # fmt: skip
def test_helper__says_nothing_of_another_statement_than_the_one_that_was_proved(
    change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random elements hide what it says of that one alone: the rest would be the update."""
    first = first_server({n: honest(n) for n in (A, B, C)})
    asked = decode(Statements, first.request(), PARAMS.context())
    other = replace(BOUND, **change)
    rows = {n: (share, bytes(other.seen_bytes)) for n, (share, _) in asked.table.items()}
    lie = encode(replace(asked, bound=other, table=rows), PARAMS.context())
    with pytest.raises(ProtocolError, match="did not sign"):
        helper().judge(PARAMS, lie)
    # Nor would it where signatures were not looked at: no seed opens.
    monkeypatch.setattr(SignedShare, "is_signed", lambda *given: True)
    assert decode(Verdicts, helper().judge(PARAMS, lie), PARAMS.context()).table == {}


def test_helper__sums_for_no_cohort_beyond_its_list() -> None:
    """By how many are on it, it has counted how many a sum needs."""
    shorter = ProvingHelper(RUN_ID, {n: FED.sites[n] for n in (A, B, C)})
    first = first_server({n: honest(n) for n in (A, B, C)})
    with pytest.raises(ProtocolError, match="not on the roster"):
        shorter.judge(PARAMS, first.request())


def test_first_server__takes_no_verdict_on_others_and_no_half_sum() -> None:
    first = first_server({n: honest(n) for n in (A, B, C)})
    with pytest.raises(RuntimeError, match="not asked"):
        first.finish(b"")
    reply = helper().judge(PARAMS, first.request())
    with pytest.raises(RuntimeError, match="closed"):
        first.receive(D, honest(D))
    context = PARAMS.context()
    verdicts = decode(Verdicts, reply, context)
    others = replace(verdicts, table={**verdicts.table, D: verdicts.table[A]})
    short = replace(verdicts, packed=verdicts.packed[:-1])
    for bad in (encode(others, context), encode(short, context), reply[:-1], reply + b"\0"):
        with pytest.raises(ProtocolError):
            first.finish(bad)
    assert first.finish(reply).taken == (A, B, C)


def test_helper__cannot_test_a_guess_of_the_vector_by_its_hash() -> None:
    """It knows the mask; a number that it does not know is in the hash."""
    context = _proved_in(PARAMS, BOUND)
    one = decode(ProvenContribution, honest(A), PARAMS.context())
    seed = HELPER._unsealed(A, one.share.sealed, context)
    assert seed is not None
    masked = ring(numbers(A)).copy()
    add_masks(masked, plus=[mask_key(seed, context, A)])
    assert np.array_equal(RING.reduce(masked), unpack(one.packed, LENGTH, RING))
    asked = SignedShare.from_bytes(one.share.to_bytes())
    assert one.blind not in asked.to_bytes()
    assert decode(ProvenContribution, message(A), PARAMS.context()).blind != one.blind


def test_first_server__alone_sees_uniform_bytes() -> None:
    """Of a vector of zeros. Chi-square over bytes, 255 degrees of freedom."""
    data = b""
    for _ in range(40):
        one = decode(ProvenContribution, message(A, np.zeros(LENGTH)), PARAMS.context())
        data += bytes(one.packed[:70])
        # The highest four bytes of an element are uniform but for one part in 2^32.
        data += np.frombuffer(one.proof, "<u4")[1::2].tobytes()
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    assert ((counts - len(data) / 256) ** 2 / (len(data) / 256)).sum() < 420


def test_points__are_drawn_anew_in_every_round_and_told_to_no_client() -> None:
    one, other = (first_server({n: honest(n) for n in (A, B, C)}) for _ in range(2))
    asked = [decode(Statements, first.request(), PARAMS.context()) for first in (one, other)]
    assert asked[0].points != asked[1].points
    assert asked[0].table[A][1] != asked[1].table[A][1]
    assert asked[0].points not in honest(A)
    assert "points" not in repr(one)


def test_messages__are_canonical() -> None:
    first = first_server({n: honest(n) for n in (A, B, C)})
    context = PARAMS.context()
    request = first.request()
    reply = helper().judge(PARAMS, request)
    for kind, data in ((ProvenContribution, honest(A)), (Statements, request), (Verdicts, reply)):
        assert encode(decode(kind, data, context), context) == data
        with pytest.raises(ValueError, match="trailing"):
            decode(kind, data + b"\0", context)
        with pytest.raises(ValueError, match="another round"):
            decode(kind, data, os.urandom(32))
    nothing = encode(Verdicts(table={}, packed=memoryview(b"")), context)
    assert encode(decode(Verdicts, nothing, context), context) == nothing
    at = len(nothing) - 8 - 4 - 4  # a length of nothing, no rows, and their width
    with pytest.raises(ValueError, match="none of them"):
        decode(Verdicts, nothing[:at] + b"\0\0\0\x05" + nothing[at + 4 :], context)
