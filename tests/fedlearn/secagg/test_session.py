"""What a client session promises its own side: retries, survival as bytes, no leaks of secrets."""

import copy

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.crypto.identity import Identity
from fedlearn.secagg.client import ClientSession
from tests.fedlearn.secagg.federation import MODEL, answer, federation, identity, run_until

FED = federation(4)
A = FED.names[0]
STEPS = ("advertise", "share", "mask", "agree", "unmask")


@pytest.mark.parametrize("step", STEPS)
def test_session__repeats_the_stored_reply_to_the_same_request(step: str) -> None:
    clients, server = FED.clients(), FED.server()
    request = run_until(FED, step, clients, server)[A]
    assert clients[A].answered(request) is None
    first = answer(FED, step, clients[A], request, A)
    assert clients[A].answered(request) == first
    assert answer(FED, step, clients[A], request, A) == first


def test_session__masks_one_vector_only_even_when_asked_again() -> None:
    clients, server = FED.clients(), FED.server()
    request = run_until(FED, "mask", clients, server)[A]
    first = clients[A].mask(request, FED.vector(A), MODEL)
    again = clients[A].mask(request, FED.vector(A) + FED.ring.dtype.type(1), MODEL)
    assert first == again


def test_session__does_not_change_the_vector() -> None:
    clients, server = FED.clients(), FED.server()
    request = run_until(FED, "mask", clients, server)[A]
    vector = FED.vector(A)
    clients[A].mask(request, vector, MODEL)
    assert np.array_equal(vector, FED.vector(A))


def test_session__survives_as_bytes_between_any_two_steps() -> None:
    server = FED.server()
    stored = {name: FED.client(name).to_bytes() for name in FED.names}
    while server.step != "done":
        for name, request in server.requests().items():
            session = ClientSession.from_bytes(stored[name], identity(name), FED.policy(name))
            reply = answer(FED, server.step, session, request, name)
            stored[name] = session.to_bytes()
            reborn = ClientSession.from_bytes(stored[name], identity(name), FED.policy(name))
            assert reborn.answered(request) == reply
            assert reborn.step == session.step
            server.receive(name, reply)
        server.close_step()
    assert np.array_equal(server.total(), FED.sum_of(FED.names))


def test_session__forgets_its_keys_after_the_last_step_and_on_abort() -> None:
    clients, server = FED.clients(), FED.server()
    requests = run_until(FED, "share", clients, server)
    secrets = clients[A]._state.mask_private  # type: ignore[union-attr]
    assert secrets in clients[A].to_bytes()
    clients[A].abort()
    assert secrets not in clients[A].to_bytes()
    with pytest.raises(ProtocolError, match="expects 'closed'"):
        clients[A].share(requests[A])

    clients, server = FED.clients(), FED.server()
    run_until(FED, "mask", clients, server)
    state = clients[A]._state
    seed, key = state.self_seed, state.mask_private  # type: ignore[union-attr]
    run_until(FED, "agree", clients, server)
    assert seed not in clients[A].to_bytes()
    assert key not in clients[A].to_bytes()
    run_until(FED, "done", clients, server)
    assert clients[A].step == "closed"


def test_session__shows_no_secret_and_is_not_copied() -> None:
    clients, server = FED.clients(), FED.server()
    run_until(FED, "mask", clients, server)
    shown = repr(clients[A]) + repr(clients[A]._state) + repr(server)
    for secret in (clients[A]._state.self_seed, clients[A]._state.mask_private):  # type: ignore[union-attr]
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(clients[A])


def test_session__refuses_an_identity_that_the_roster_does_not_list() -> None:
    with pytest.raises(ConfigError, match="does not list"):
        ClientSession(Identity.new(), FED.policy(A))


def test_session__refuses_bytes_that_are_none() -> None:
    good = FED.client(A).to_bytes()
    begun = FED.clients()
    run_until(FED, "unmask", begun, FED.server())
    known, tag = begun[A].to_bytes(), 8 + len(b"fedlearn/secagg/v1/session")
    assert (good[tag], known[tag]) == (0, 4)
    later = [one[:tag] + b"\6" + one[tag + 1 :] for one in (good, known)]
    for bad in (b"", good[:-1], good + b"\0", good.replace(b"v1", b"v2"), *later):
        with pytest.raises(ValueError, match=r"session|message"):
            ClientSession.from_bytes(bad, identity(A), FED.policy(A))


def test_session__refuses_a_vector_of_another_length_or_word() -> None:
    clients, server = FED.clients(), FED.server()
    request = run_until(FED, "mask", clients, server)[A]
    for bad in (FED.vector(A)[:-1], FED.vector(A).astype("<u2")):
        with pytest.raises(ValueError, match="the round sums"):
            clients[A].mask(request, bad, MODEL)
    assert clients[A].step == "mask"  # our own mistake; the round can still go on
