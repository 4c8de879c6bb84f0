import os
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ProtocolError
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.messages import Params
from fedlearn.secagg.two_server import FirstServer, Helper, contribute
from fedlearn.secagg.two_server_messages import UNOPENED, MaskedContribution, MaskSum, Seeds
from tests.effort import examples
from tests.fedlearn.secagg.federation import RUN_ID, Federation, federation, identity

FED = federation(5, bits=20, length=300)
A, B, C, D, E = FED.names
MANY = federation(9, bits=20, length=8)


def send(
    fed: Federation, helper: Helper, *names: str, garbage: Collection[str] = ()
) -> FirstServer:
    """What the first server has got; seeds of `garbage` are sealed to somebody else's key."""
    first = FirstServer(fed.params(), fed.sites)
    for name in names:
        vector = fed.vector(name)
        key = Helper(RUN_ID, fed.sites).public if name in garbage else helper.public
        message = contribute(identity(name), name, fed.params(), vector, key)
        assert np.array_equal(vector, fed.vector(name))
        first.receive(name, message)
    return first


@pytest.mark.parametrize("bits", [16, 20, 32, 47])
@pytest.mark.parametrize("count", [3, 4, 5])
def test_two_servers__give_the_exact_sum_of_whoever_sent(bits: int, count: int) -> None:
    fed = federation(5, bits=bits)
    helper = Helper(RUN_ID, fed.sites)
    first = send(fed, helper, *fed.names[:count])
    opened = first.finish(helper.sum_masks(fed.params(), first.request()))
    assert np.array_equal(opened.total, fed.sum_of(fed.names[:count]))
    assert (opened.taken, opened.refused) == (fed.names[:count], {})


def test_helper__refuses_one_or_two_clients() -> None:
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, A, B)
    with pytest.raises(ProtocolError, match="2 clients; needed: 3"):
        helper.sum_masks(FED.params(), first.request())


subsets = st.sets(st.sampled_from(FED.names))


@settings(max_examples=examples(40, few=10), deadline=None)
@given(left=subsets, least=st.integers(3, 5))
def test_first_server__opens_no_sum_without_most_of_the_cohort_whatever_the_helper_says(
    left: set[str], least: int
) -> None:
    """It says that it could open these alone, and gives the sum of just their keystreams."""
    helper = Lying(RUN_ID, FED.sites, min_cohort=0)
    helper.opens, params = left, FED.params()
    first = FirstServer(params, FED.sites, least)
    for name in FED.names:
        message = contribute(identity(name), name, params, FED.vector(name), helper.public)
        first.receive(name, message)
    opened = first.finish(helper.sum_masks(params, first.request()))
    assert (set(opened.taken), opened.asked) == (left, 5)
    if 2 * len(left) > 5 and len(left) >= least:
        assert np.array_equal(opened.total, FED.sum_of(sorted(left)))
    else:
        assert opened.total is None
        assert opened.needed == max(least, 3)


class Lying(Helper):
    """A second server that opens the seeds of some, and does not ask how few they are."""

    opens: Collection[str] = ()

    def _unsealed(self, name: str, sealed: bytes, context: bytes) -> bytes | None:
        return super()._unsealed(name, sealed, context) if name in self.opens else None

    def _needed(self, params: Params) -> int:
        return 0


@settings(max_examples=examples(20, few=4), deadline=None)
@given(cohort=st.integers(3, 9), sent=st.integers(3, 9), bad=st.integers(0, 6))
def test_helper__sums_for_no_half_of_the_cohort_whatever_the_first_server_holds_back(
    cohort: int, sent: int, bad: int
) -> None:
    helper, params = Helper(RUN_ID, MANY.sites), MANY.params(1, MANY.names[:cohort])
    first = FirstServer(params, MANY.sites)
    for at, name in enumerate(params.cohort[:sent]):
        key = helper.public if at >= bad else Helper(RUN_ID, MANY.sites).public
        first.receive(name, contribute(identity(name), name, params, MANY.vector(name), key))
    there = min(sent, cohort)
    if 2 * there <= cohort:
        before = helper.secrets()
        with pytest.raises(ProtocolError, match=f"{there} clients; needed: {cohort // 2 + 1}"):
            helper.sum_masks(params, first.request())
        assert helper.secrets() == before, "no seed was looked at"
        return
    answer = decode(MaskSum, helper.sum_masks(params, first.request()), params.context())
    opened = max(0, there - bad)
    assert (len(answer.opened), bool(answer.packed)) == (
        opened,
        opened >= 3 and 2 * opened > cohort,
    )


def test_helper__answers_once_per_round_and_run() -> None:
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, *FED.names)
    helper.sum_masks(FED.params(), first.request())
    fewer = send(FED, helper, A, B, C, D)
    for params in (FED.params(), replace(FED.params(), run_id=b"x" * 16)):
        with pytest.raises(ProtocolError, match="a round again"):
            helper.sum_masks(params, fewer.request())


cohorts = st.lists(st.sampled_from(MANY.names), min_size=3, max_size=4, unique=True)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), cohorts), min_size=1, max_size=6))
def test_helper__sums_for_a_site_once_a_round_and_for_no_round_that_is_over(
    asked: list[tuple[int, list[str]]],
) -> None:
    """Two sums of one round that share some of their sites would tell a single one apart."""
    helper, answered = Helper(RUN_ID, MANY.sites), list[tuple[int, set[str]]]()
    for number, names in asked:
        params = MANY.params(number, sorted(names))
        first = FirstServer(params, MANY.sites)
        for name in params.cohort:
            vector = MANY.vector(name)
            first.receive(name, contribute(identity(name), name, params, vector, helper.public))
        over = any(number < before for before, _ in answered)
        if over or any(number == at and of & set(names) for at, of in answered):
            with pytest.raises(ProtocolError, match="a round again"):
                helper.sum_masks(params, first.request())
        else:
            opened = first.finish(helper.sum_masks(params, first.request()))
            assert np.array_equal(opened.total, MANY.sum_of(names))
            answered.append((number, set(names)))


def test_helper__sums_for_every_group_of_a_round_and_in_the_next_for_all_of_them_again() -> None:
    helper, names = Helper(RUN_ID, MANY.sites), MANY.names
    groups = [(1, names[:3]), (1, names[3:6]), (1, names[6:]), (2, names[4:8])]
    for number, group in groups:
        params = MANY.params(number, group)
        messages = {
            name: contribute(identity(name), name, params, MANY.vector(name), helper.public)
            for name in group
        }
        first = FirstServer(params, MANY.sites)
        for name, message in messages.items():
            first.receive(name, message)
        assert first.finish(helper.sum_masks(params, first.request())).taken == group
        if (number, group) == groups[1]:  # one of the first group, which is not the last one
            mixed = MANY.params(1, (names[0], *names[6:]))
            with pytest.raises(ProtocolError, match="a round again"):
                helper.sum_masks(mixed, first.request())


def test_helper__refuses_clients_that_the_first_server_invented() -> None:
    """Two sybils beside one victim would tell the victim's vector."""
    helper = Helper(RUN_ID, FED.sites)
    table = {}
    for name in (A, B, C):
        signer = identity(A) if name == A else identity("sybil")
        message = contribute(signer, name, FED.params(), FED.vector(name), helper.public)
        table[name] = decode(MaskedContribution, message, FED.params().context()).seed
    request = encode(Seeds(table=table), FED.params().context())
    with pytest.raises(ProtocolError, match="did not sign") as caught:
        helper.sum_masks(FED.params(), request)
    assert caught.value.peer == B


def test_helper__refuses_strangers_and_sites_of_another_cohort() -> None:
    """Each with a signature of its own that is good."""
    params = FED.params(cohort=(A, B, C, D))
    sites = {name: key for name, key in FED.sites.items() if name != D}
    helper = Helper(RUN_ID, sites)
    for name in (D, E):  # one that the helper does not know, one that was not invited
        table = {}
        for sender in (A, B, C, name):
            vector = FED.vector(sender)
            message = contribute(identity(sender), sender, params, vector, helper.public)
            table[sender] = decode(MaskedContribution, message, params.context()).seed
        request = encode(Seeds(table=table), params.context())
        with pytest.raises(ProtocolError, match="not on the roster or not in the cohort") as caught:
            helper.sum_masks(params, request)
        assert caught.value.peer == name


@settings(max_examples=examples(40), deadline=None)
@given(garbage=st.sets(st.sampled_from(FED.names)), least=st.integers(3, 5))
def test_seeds_that_are_none__leave_their_sites_out_and_no_second_sum_is_to_be_had(
    garbage: set[str], least: int
) -> None:
    """Which submissions are in is decided once: whoever is asked for then, the round is spent."""
    helper = Helper(RUN_ID, FED.sites, min_cohort=least)
    first = send(FED, helper, *FED.names, garbage=garbage)
    opened = first.finish(helper.sum_masks(FED.params(), first.request()))
    honest = tuple(name for name in FED.names if name not in garbage)
    assert (opened.taken, opened.refused) == (honest, dict.fromkeys(garbage, UNOPENED))
    if len(honest) < least:
        assert opened.total is None
    else:
        assert np.array_equal(opened.total, FED.sum_of(honest))
    context = FED.params().context()
    table = decode(Seeds, first.request(), context).table
    restarted = Helper(RUN_ID, FED.sites, min_cohort=3, kept=helper.secrets())
    for again in (FED.names, honest, FED.names[1:]):
        fewer = encode(Seeds(table={name: table[name] for name in again}), context)
        for one in (helper, restarted):
            with pytest.raises(ProtocolError, match="a round again"):
                one.sum_masks(FED.params(), fewer)


def test_helper__that_refused_a_request_has_looked_at_no_seed() -> None:
    """So what is asked once more, with signatures that are good, is the first that it answers."""
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, *FED.names, garbage=[B])
    good = decode(Seeds, first.request(), FED.params().context()).table
    bad = {**good, C: replace(good[C], vector_hash=bytes(32))}
    before = helper.secrets()
    with pytest.raises(ProtocolError, match="did not sign"):
        helper.sum_masks(FED.params(), encode(Seeds(table=bad), FED.params().context()))
    assert helper.secrets() == before
    assert first.finish(helper.sum_masks(FED.params(), first.request())).taken == (A, C, D, E)


def test_first_server__takes_no_word_on_a_site_that_sent_nothing() -> None:
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, A, B, C)
    answer = decode(
        MaskSum, helper.sum_masks(FED.params(), first.request()), FED.params().context()
    )
    invented = replace(answer, opened=(A, B, C, D))
    with pytest.raises(ProtocolError, match="sent none"):
        first.finish(encode(invented, FED.params().context()))


def test_helper__refuses_a_seed_of_another_round_or_client() -> None:
    helper = Helper(RUN_ID, FED.sites)
    context = FED.params().context()
    table = {}
    for name in (A, B, C):
        message = contribute(identity(name), name, FED.params(), FED.vector(name), helper.public)
        table[name] = decode(MaskedContribution, message, context).seed
    swapped = {**table, A: table[B]}
    with pytest.raises(ProtocolError, match="did not sign"):
        helper.sum_masks(FED.params(), encode(Seeds(table=swapped), context))
    later = FED.params(round_number=2)
    with pytest.raises(ProtocolError, match="did not sign"):
        helper.sum_masks(later, encode(Seeds(table=table), later.context()))
    with pytest.raises(ProtocolError, match="another round"):
        helper.sum_masks(later, encode(Seeds(table=table), context))


def test_first_server__refuses_repeats_strangers_and_altered_vectors() -> None:
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, A, B, C)
    message = contribute(identity(D), D, FED.params(), FED.vector(D), helper.public)
    altered = bytearray(message)
    altered[-1] ^= 1
    for name, data in ((A, message), ("stranger", message), (E, message), (D, bytes(altered))):
        with pytest.raises(ProtocolError):
            first.receive(name, data)
    first.receive(D, message)
    with pytest.raises(RuntimeError, match="not asked"):
        first.finish(b"")
    reply = helper.sum_masks(FED.params(), first.request())
    with pytest.raises(RuntimeError, match="closed"):
        first.receive(E, message)
    with pytest.raises(ProtocolError, match="helper"):
        first.finish(reply[:-1])
    assert np.array_equal(first.finish(reply).total, FED.sum_of((A, B, C, D)))


def test_first_server__takes_one_vector_of_a_site_and_counts_none_twice() -> None:
    """Neither the same message again nor another one that the site has signed as well."""
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, A, B, C)
    again = contribute(identity(A), A, FED.params(), FED.vector(A), helper.public)
    with pytest.raises(ProtocolError, match="came before"):
        first.receive(A, again)
    reply = helper.sum_masks(FED.params(), first.request())
    assert np.array_equal(first.finish(reply).total, FED.sum_of((A, B, C)))


def test_first_server__gives_the_same_sum_as_often_as_it_is_asked() -> None:
    """Though vectors whose seeds do not open are taken away from it."""
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, *FED.names, garbage=[B])
    reply = helper.sum_masks(FED.params(), first.request())
    for _ in range(2):
        assert np.array_equal(first.finish(reply).total, FED.sum_of((A, C, D, E)))


def test_first_server__alone_sees_uniform_bytes() -> None:
    # Chi-square over bytes, 255 degrees of freedom, bound 420: false alarms below 1e-9.
    fed = federation(3, bits=64, length=50_000)
    helper = Helper(RUN_ID, fed.sites)
    zeros = fed.ring.zeros(50_000)
    message = contribute(identity(fed.names[0]), fed.names[0], fed.params(), zeros, helper.public)
    data = np.frombuffer(
        decode(MaskedContribution, message, fed.params().context()).packed, np.uint8
    )
    counts = np.bincount(data, minlength=256)
    assert ((counts - data.size / 256) ** 2 / (data.size / 256)).sum() < 420


def test_contribution__is_of_the_length_and_the_word_of_the_round() -> None:
    for wrong in (FED.ring.zeros(FED.length + 1), np.zeros(FED.length, np.int64)):
        with pytest.raises(ValueError, match="not of this round"):
            contribute(identity(A), A, FED.params(), wrong, Helper(RUN_ID, FED.sites).public)


def test_messages__of_two_servers_are_canonical() -> None:
    context = os.urandom(32)
    data = encode(MaskSum(opened=("a", "b"), packed=memoryview(b"abc")), context)
    assert decode(MaskSum, data, context) == MaskSum(opened=("a", "b"), packed=memoryview(b"abc"))
    with pytest.raises(ValueError, match="trailing"):
        decode(MaskSum, data + b"\0", context)
