import os
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.core.errors import ProtocolError
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.two_server import (
    FirstServer,
    Helper,
    MaskedContribution,
    MaskSum,
    Seeds,
    contribute,
)
from tests.fedlearn.secagg.federation import RUN_ID, Federation, federation, identity

FED = federation(5, bits=20, length=300)
A, B, C, D, E = FED.names


def send(fed: Federation, helper: Helper, *names: str) -> FirstServer:
    first = FirstServer(fed.params(), fed.sites)
    for name in names:
        vector = fed.vector(name)
        message = contribute(identity(name), name, fed.params(), vector, helper.public)
        assert np.array_equal(vector, fed.vector(name))
        first.receive(name, message)
    return first


@pytest.mark.parametrize("bits", [16, 20, 32, 47])
@pytest.mark.parametrize("count", [3, 4, 5])
def test_two_servers__give_the_exact_sum_of_whoever_sent(bits: int, count: int) -> None:
    fed = federation(5, bits=bits)
    helper = Helper(RUN_ID, fed.sites)
    first = send(fed, helper, *fed.names[:count])
    reply = helper.sum_masks(fed.params(), first.request())
    assert np.array_equal(first.finish(reply), fed.sum_of(fed.names[:count]))


def test_helper__refuses_one_or_two_clients() -> None:
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, A, B)
    with pytest.raises(ProtocolError, match="2 clients; needed: 3"):
        helper.sum_masks(FED.params(), first.request())


def test_helper__answers_once_per_round_and_run() -> None:
    helper = Helper(RUN_ID, FED.sites)
    first = send(FED, helper, *FED.names)
    helper.sum_masks(FED.params(), first.request())
    fewer = send(FED, helper, A, B, C, D)
    for params in (FED.params(), replace(FED.params(), run_id=b"x" * 16)):
        with pytest.raises(ProtocolError, match="a round again"):
            helper.sum_masks(params, fewer.request())


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


def test_helper__refuses_a_seed_that_it_cannot_open() -> None:
    helper, other = Helper(RUN_ID, FED.sites), Helper(RUN_ID, FED.sites)
    params, table = FED.params(), {}
    for name in (A, B, C):
        key = other.public if name == B else helper.public
        message = contribute(identity(name), name, params, FED.vector(name), key)
        table[name] = decode(MaskedContribution, message, params.context()).seed
    with pytest.raises(ProtocolError, match="could not be opened") as caught:
        helper.sum_masks(params, encode(Seeds(table=table), params.context()))
    assert caught.value.peer == B


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
    assert np.array_equal(first.finish(reply), FED.sum_of((A, B, C, D)))


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
    data = encode(MaskSum(packed=memoryview(b"abc")), context)
    assert decode(MaskSum, data, context).packed == b"abc"
    with pytest.raises(ValueError, match="trailing"):
        decode(MaskSum, data + b"\0", context)
