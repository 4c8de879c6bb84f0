"""A malicious server, or somebody on the way, against honest clients. Every attack is refused."""

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.ring import unpack
from fedlearn.crypto.keystream import add_masks
from fedlearn.crypto.shamir import combine, split
from fedlearn.secagg import keys
from fedlearn.secagg.client import ClientSession, _agree
from fedlearn.secagg.framing import decode, encode
from fedlearn.secagg.messages import (
    Advertisement,
    Endorsements,
    Inbox,
    Masked,
    Opening,
    Params,
    Roll,
    RoundKeys,
    Shares,
    Survivors,
)
from fedlearn.secagg.server import ServerSession, reopen
from fedlearn.secagg.states import MaskedState, Shared
from tests.fedlearn.secagg.federation import (
    MODEL,
    Federation,
    answer,
    federation,
    identity,
    run_until,
)

FED = federation(5)
A, B, C, D, E = FED.names


def at_step(
    step: str, fed: Federation = FED
) -> tuple[dict[str, ClientSession], ServerSession, dict[str, bytes]]:
    clients, server = fed.clients(), fed.server()
    return clients, server, run_until(fed, step, clients, server)


def refuse(reason: str | None, call: Callable[[], object]) -> ProtocolError:
    with pytest.raises(ProtocolError, match=reason) as caught:
        call()
    return caught.value


# --- The proposal -----------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1, 2, 4])
def test_client__refuses_a_threshold_chosen_by_the_server(threshold: int) -> None:
    params = replace(FED.params(), threshold=threshold)
    refuse("not this client's rule", lambda: FED.client(A).advertise(params.encode()))


def test_client__refuses_a_thinner_graph() -> None:
    params = replace(FED.params(), neighbours=2, threshold=2)
    refuse("not this client's rule", lambda: FED.client(A).advertise(params.encode()))


@pytest.mark.parametrize("cohort", [(A,), (A, B)])
def test_client__refuses_a_cohort_of_one_or_two(cohort: tuple[str, ...]) -> None:
    params = replace(FED.params(), cohort=cohort)
    refuse("fewer than 3", lambda: FED.client(A).advertise(params.encode()))
    with pytest.raises(ConfigError, match="at least 3"):
        FED.params(cohort=cohort)


def test_client__refuses_a_sum_of_fewer_than_its_owner_wants_to_be_among() -> None:
    policy = replace(FED.policy(A), min_cohort=5)
    four = FED.params(cohort=(A, B, C, D))
    refuse("fewer than 5", lambda: ClientSession(identity(A), policy).advertise(four.encode()))
    clients, server, _ = at_step("agree")
    request = encode(Survivors(names=(A, B, C, D)), server.context)
    strict = ClientSession.from_bytes(clients[A].to_bytes(), identity(A), policy)
    refuse("a sum over 4", lambda: strict.agree(request))
    assert clients[A].agree(request)


def test_client__takes_part_in_no_graph_whose_parts_are_smaller_than_its_owner_wants() -> None:
    """In a complete one there are no parts, and its own number is no matter."""
    large = federation(70)
    names, params = large.names, large.params()
    part = 1 + 2 * params.threshold - params.neighbours
    assert 3 < part < params.neighbours < 69
    for wanted, given in ((part, large), (5, FED)):
        policy = replace(given.policy(names[0]), min_cohort=wanted)
        assert ClientSession(identity(names[0]), policy).advertise(given.params().encode())
    policy = replace(large.policy(names[0]), min_cohort=part + 1)
    session = ClientSession(identity(names[0]), policy)
    refuse(f"parts of {part} could be opened", lambda: session.advertise(params.encode()))


def test_client__refuses_a_cohort_that_no_masks_are_safe_for() -> None:
    params = replace(FED.params(), cohort=(A, B, C))
    policy = replace(FED.policy(A), settings=replace(FED.settings, corrupt_sites=2))
    session = ClientSession(identity(A), policy)
    refuse("no masks of 3 sites withstand 2", lambda: session.advertise(params.encode()))


def test_client__refuses_strangers_in_the_cohort() -> None:
    params = FED.params(cohort=[*FED.names, "sybil-1", "sybil-2"])
    refuse("not on the roster: sybil-1, sybil-2", lambda: FED.client(A).advertise(params.encode()))


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 32},
        {"length": 12},
        {"layout_hash": b"x" * 32},
        {"plan_hash": b"x" * 32},
        {"run_id": b"x" * 16},
        {"round": 0},
        {"cohort": (B, C, D, E)},
    ],
)
def test_client__refuses_values_that_are_not_its_own(change: dict[str, object]) -> None:
    params = replace(FED.params(), **change)  # type: ignore[arg-type]
    refuse("advertise", lambda: FED.client(A).advertise(params.encode()))


def test_client__refuses_two_cohorts_in_one_round() -> None:
    client = FED.client(A)
    client.advertise(FED.params().encode())
    other = FED.params(cohort=(A, B, C, D))
    refuse("second, different", lambda: client.advertise(other.encode()))
    after = ClientSession(identity(A), FED.policy(A, after_round=1))
    refuse("round 1 again", lambda: after.advertise(FED.params().encode()))


# --- Substituted keys ---------------------------------------------------------------


def forge(roll: Roll, name: str, forged: RoundKeys) -> Roll:
    return Roll(keys={**roll.keys, name: forged})


def test_client__refuses_substituted_keys() -> None:
    for part in ("cipher_key", "mask_key", "signature"):
        clients, server, requests = at_step("share")
        context = server.params.context()
        roll = decode(Roll, requests[A], context)
        size = 64 if part == "signature" else 32
        forged = replace(roll.keys[C], **{part: os.urandom(size)})
        request = encode(forge(roll, C, forged), context)
        error = refuse("signature on its keys", lambda: clients[A].share(request))  # noqa: B023
        assert error.peer == C


def test_client__refuses_keys_signed_by_another_site_or_in_another_round() -> None:
    clients, server, requests = at_step("share")
    context = server.params.context()
    roll = decode(Roll, requests[A], context)
    request = encode(
        forge(roll, C, replace(roll.keys[C], signature=roll.keys[D].signature)), context
    )
    refuse("signature on its keys", lambda: clients[A].share(request))

    earlier = FED.params(round_number=7)
    old = FED.client(C).advertise(earlier.encode())
    stale = decode(Advertisement, old, earlier.context()).keys
    clients, server, requests = at_step("share")
    roll = decode(Roll, requests[A], server.params.context())
    request = encode(forge(roll, C, stale), server.params.context())
    refuse("signature on its keys", lambda: clients[A].share(request))


def signed_by(name: str, params: Params, cipher_key: bytes, mask_key: bytes) -> RoundKeys:
    """Keys that a site of the roster has chosen and signed, as it should not."""
    fields = params.context(), name.encode(), cipher_key, mask_key
    signature = identity(name).sign("secagg/keys", *fields)
    return RoundKeys(cipher_key=cipher_key, mask_key=mask_key, signature=signature)


def test_client__refuses_keys_of_a_site_that_is_not_in_the_cohort() -> None:
    """It stands on the roster and has signed them for this very round."""
    four = FED.params(cohort=(A, B, C, D))
    clients, server = {name: FED.client(name) for name in (A, B, C, D)}, FED.server(four)
    requests = run_until(FED, "share", clients, server)
    roll = decode(Roll, requests[A], four.context())
    more = forge(roll, E, signed_by(E, four, os.urandom(32), os.urandom(32)))
    error = refuse("not in the cohort", lambda: clients[A].share(encode(more, four.context())))
    assert error.peer == E


def test_keys__that_are_signed_twice_are_refused_by_clients_and_server() -> None:
    clients, server, requests = at_step("share")
    params = server.params
    roll = decode(Roll, requests[A], params.context())
    copies = [
        (roll.keys[D].cipher_key, roll.keys[C].mask_key),
        (roll.keys[C].cipher_key, roll.keys[D].mask_key),
        (roll.keys[C].cipher_key, roll.keys[C].cipher_key),
    ]
    for copy in copies:
        keys_of_c = signed_by(C, params, *copy)
        request = encode(forge(roll, C, keys_of_c), params.context())
        fresh = ClientSession.from_bytes(clients[A].to_bytes(), identity(A), FED.policy(A))
        refuse("a key appears twice", lambda: fresh.share(request))  # noqa: B023
        other = FED.server()
        for name in (A, B, D):
            message = Advertisement(keys=roll.keys[name])
            other.receive(name, encode(message, params.context()))
        twice = encode(Advertisement(keys=keys_of_c), params.context())
        refuse("a key appears twice", lambda: other.receive(C, twice))  # noqa: B023


@pytest.mark.parametrize("kind", ["cipher", "mask"])
def test_client__refuses_keys_of_small_order_that_their_site_has_signed(kind: str) -> None:
    """The shared key would be the same for everybody, and known to all. It is found before a vector
    is made, and paid for."""
    clients, server, requests = at_step("share")
    params = server.params
    roll = decode(Roll, requests[A], params.context())
    good = roll.keys[C]
    one = (bytes(32), good.mask_key) if kind == "cipher" else (good.cipher_key, bytes(32))
    request = encode(forge(roll, C, signed_by(C, params, *one)), params.context())
    assert refuse("of small order", lambda: clients[A].share(request)).peer == C


def test_client__refuses_its_own_keys_replaced_or_missing() -> None:
    for replacement in (True, False):
        clients, server, requests = at_step("share")
        context = server.params.context()
        table = dict(decode(Roll, requests[A], context).keys)
        own = table.pop(A)
        if replacement:
            table[A] = replace(own, mask_key=os.urandom(32))
        request = encode(Roll(keys=table), context)
        refuse("own keys", lambda: clients[A].share(request))  # noqa: B023


def test_client__refuses_a_roll_of_two() -> None:
    clients, server, requests = at_step("share")
    roll = decode(Roll, requests[A], server.params.context())
    few = Roll(keys={name: roll.keys[name] for name in (A, B)})
    refuse("only 2", lambda: clients[A].share(encode(few, server.params.context())))


def test_pair_keys__refuse_points_of_small_order() -> None:
    with pytest.raises(ValueError, match="shared key"):
        keys.pair_mask_key(keys.load_private(os.urandom(32)), bytes(32), bytes(32), A, B)


# --- Shares and vectors ---------------------------------------------------------------


def test_client__refuses_tampered_or_swapped_shares() -> None:
    for attack in ("flip", "swap"):
        clients, server, requests = at_step("mask")
        context = server.context
        sealed = dict(decode(Inbox, requests[A], context).sealed)
        if attack == "flip":
            sealed[B] = bytes([sealed[B][0] ^ 1]) + sealed[B][1:]
        else:
            sealed[B], sealed[C] = sealed[C], sealed[B]
        request = encode(Inbox(sealed=sealed), context)
        refuse("could not be opened", lambda: clients[A].mask(request, FED.vector(A), MODEL))  # noqa: B023


def test_client__refuses_another_model_than_was_announced() -> None:
    clients, _, requests = at_step("mask")
    refuse("not the one", lambda: clients[A].mask(requests[A], FED.vector(A), b"x" * 32))


def test_models__that_differ_between_clients_give_no_usable_keys() -> None:
    """Announcing each client its own model puts each in its own context: signatures fail."""
    clients, server = FED.clients(), FED.server()
    other = replace(server.params, request_hash=b"x" * 32)
    replies = {name: clients[name].advertise(server.params.encode()) for name in FED.names[1:]}
    replies[A] = clients[A].advertise(other.encode())
    table = {
        name: decode(
            Advertisement, data, other.context() if name == A else server.params.context()
        ).keys
        for name, data in replies.items()
    }
    request = encode(Roll(keys=table), other.context())
    refuse("signature on its keys", lambda: clients[A].share(request))


def test_client__refuses_an_inbox_below_the_threshold_or_with_strangers() -> None:
    clients, server, requests = at_step("mask")
    context = server.context
    sealed = dict(decode(Inbox, requests[A], context).sealed)
    few = encode(Inbox(sealed={B: sealed[B]}), context)
    refuse("too few neighbours", lambda: clients[A].mask(few, FED.vector(A), MODEL))
    strange = encode(Inbox(sealed={**sealed, A: sealed[B]}), context)
    refuse("strangers", lambda: clients[B].mask(strange, FED.vector(B), MODEL))


@pytest.mark.parametrize("wrong", ["model", "few", "strange", "cut"])
def test_client__looks_at_a_request_for_a_vector_before_it_has_one(wrong: str) -> None:
    """What it would refuse with one it refuses without, and is closed then."""
    clients, server, requests = at_step("mask")
    sealed = dict(decode(Inbox, requests[A], server.context).sealed)
    asked = {
        "model": requests[A],
        "few": encode(Inbox(sealed={B: sealed[B]}), server.context),
        "strange": encode(Inbox(sealed={**sealed, A: sealed[B]}), server.context),
        "cut": requests[A][:-1],
    }
    model = b"x" * 32 if wrong == "model" else MODEL
    with pytest.raises(ProtocolError):
        clients[A].check_mask(asked[wrong], model)
    assert clients[A].step == "closed"
    refuse("out of order", lambda: clients[A].mask(requests[A], FED.vector(A), MODEL))
    clients[B].check_mask(requests[B], MODEL)
    reply = clients[B].mask(requests[B], FED.vector(B), MODEL)
    assert clients[B].answered(requests[B]) == reply
    with pytest.raises(ProtocolError, match="out of order"):
        clients[B].check_mask(requests[B], MODEL)


def test_masked_vector__is_uniform_whatever_the_update() -> None:
    # Chi-square over bytes, 255 degrees of freedom, bound 420: false alarms below 1e-9.
    fed = federation(3, length=50_000)
    clients, server, requests = at_step("mask", fed)
    context = server.context
    reply = clients[fed.names[0]].mask(requests[fed.names[0]], fed.ring.zeros(50_000), MODEL)
    data = np.frombuffer(decode(Masked, reply, context).packed, np.uint8)
    counts = np.bincount(data, minlength=256)
    assert ((counts - data.size / 256) ** 2 / (data.size / 256)).sum() < 420


def test_masked_vector__is_hidden_by_its_own_mask_and_by_that_of_every_neighbour() -> None:
    """Without all of them it is the vector, and with any one of them left it is not."""
    clients, _, requests = at_step("mask")
    state = clients[C]._state
    assert isinstance(state, Shared)
    private = keys.load_private(state.mask_private)
    added, taken = [keys.self_mask_key(state.self_seed, state.context, C)], list[bytes]()
    for peer, public in state.peers.items():
        key = keys.pair_mask_key(private, public.mask_key, state.context, C, peer)
        (added if peer < C else taken).append(key)
    assert (len(added), len(taken)) == (3, 2)
    reply = clients[C].mask(requests[C], FED.vector(C), MODEL)
    sent = unpack(decode(Masked, reply, state.context).packed, FED.length, FED.ring)

    def without(plus: list[bytes], minus: list[bytes]) -> bool:
        vector = sent.copy()
        add_masks(vector, plus, minus)
        return np.array_equal(FED.ring.reduce(vector), FED.vector(C))

    assert without(taken, added)
    for left in range(3):
        assert not without(taken, added[:left] + added[left + 1 :])
    for left in range(2):
        assert not without(taken[:left] + taken[left + 1 :], added)


@pytest.mark.parametrize("less", [0, 1])
def test_client__counts_exactly_to_the_threshold_in_every_step(less: int) -> None:
    few = FED.params().threshold - less

    def answers(reason: str, call: Callable[[], object]) -> None:
        if less:
            refuse(reason, call)
        else:
            assert call()

    clients, server, requests = at_step("mask")
    sealed = list(decode(Inbox, requests[A], server.context).sealed.items())
    inbox = encode(Inbox(sealed=dict(sealed[:few])), server.context)
    answers("too few neighbours", lambda: clients[A].mask(inbox, FED.vector(A), MODEL))

    clients, server, requests = at_step("agree")
    survivors = encode(Survivors(names=FED.names[: 1 + few]), server.context)
    answers("fewer surviving neighbours", lambda: clients[A].agree(survivors))

    clients, server, requests = at_step("agree")
    signed = {name: clients[name].agree(requests[name])[-64:] for name in FED.names}
    some = encode(
        Endorsements(signatures={name: signed[name] for name in FED.names[1 : 1 + few]}),
        server.context,
    )
    answers("too few signatures", lambda: clients[A].unmask(some))


@pytest.mark.parametrize("listed", [100, 90])
def test_client__signs_no_list_that_could_leave_the_rest_in_two_parts(listed: int) -> None:
    """Of 100 clients on a ring of 26 neighbours 5 may be corrupt: 20 more do not cut it, 21 may."""
    fed = federation(100, corrupt_fraction=0.05, dropout_fraction=0.1)
    own, names = fed.names[0], fed.names[:listed]
    neighbours = names[1:27]
    state = MaskedState(
        params=fed.params(), context=b"c" * 32, listed=names, neighbours=neighbours,
        shares={name: bytes(65) for name in neighbours},
    )  # fmt: skip
    assert state.params.neighbours == 26

    def agree(missing: int) -> object:
        survivors = encode(Survivors(names=names[: listed - missing]), state.context)
        return _agree(state, survivors, identity(own), fed.policy(own))

    assert agree(20)
    refuse("more than 20 are missing", lambda: agree(21))


# --- Survivors and shares -------------------------------------------------------------


def test_client__signs_one_survivor_list_only() -> None:
    clients, server, requests = at_step("agree")
    clients[A].agree(requests[A])
    second = encode(Survivors(names=(A, B, C, D)), server.context)
    refuse("second, different", lambda: clients[A].agree(second))
    assert clients[A].step == "unmask"  # the first list still stands


def test_client__does_not_unmask_for_two_survivor_lists() -> None:
    """The server tells some that C survived and others that it did not."""
    clients, server, requests = at_step("agree")
    context = server.context
    without = encode(Survivors(names=(A, B, D, E)), context)
    one = {name: clients[name].agree(requests[name]) for name in (A, B, C)}
    two = {name: clients[name].agree(without) for name in (D, E)}
    signed = {name: reply[-64:] for name, reply in (one | two).items()}
    for name in (A, B):
        peers = {peer: signed[peer] for peer in FED.names if peer != name}
        request = encode(Endorsements(signatures=peers), context)
        refuse("same survivor list", lambda: clients[name].unmask(request))  # noqa: B023
    for name in (D, E):
        honest = {peer: signed[peer] for peer in (D, E) if peer != name}
        request = encode(Endorsements(signatures=honest), context)
        refuse("too few signatures", lambda: clients[name].unmask(request))  # noqa: B023


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((B, C, D, E), "lacks this client"),
        ((A, B), "too telling"),
        ((A, B, C, "stranger"), "strangers"),
    ],
)
def test_client__refuses_a_wrong_survivor_list(names: tuple[str, ...], reason: str) -> None:
    clients, server, _ = at_step("agree")
    request = encode(Survivors(names=names), server.context)
    refuse(reason, lambda: clients[A].agree(request))


def test_client__refuses_a_survivor_whose_shares_were_held_back() -> None:
    clients, server, requests = at_step("mask")
    context = server.context
    sealed = dict(decode(Inbox, requests[A], context).sealed)
    del sealed[E]
    clients[A].mask(encode(Inbox(sealed=sealed), context), FED.vector(A), MODEL)
    request = encode(Survivors(names=FED.names), context)
    refuse("held back", lambda: clients[A].agree(request))


def test_client__counts_no_signature_of_who_is_no_surviving_neighbour() -> None:
    """E fell silent, and signs the list of the others all the same; so does a stranger."""
    clients, server = FED.clients(), FED.server()
    requests = run_until(FED, "unmask", clients, server, {"mask": [E]})
    context = server.context
    signed = dict(decode(Endorsements, requests[A], context).signatures)
    survivors = Survivors(names=(A, B, C, D))
    for name in (E, "stranger"):
        late = identity(name).sign("secagg/survivors", context, survivors.hash())
        request = encode(Endorsements(signatures=signed | {name: late}), context)
        fresh = ClientSession.from_bytes(clients[A].to_bytes(), identity(A), FED.policy(A))
        error = refuse("no surviving neighbour", lambda: fresh.unmask(request))  # noqa: B023
        assert error.peer == name


def test_client__refuses_a_share_at_another_point_than_its_own() -> None:
    """Two shares at one point would leave the secret closed, to whom it was shared with."""
    clients, server, requests = at_step("mask")
    state = clients[A]._state
    assert isinstance(state, Shared)
    sealed = dict(decode(Inbox, requests[A], server.context).sealed)
    good = keys.open_share(state.inbox_keys[B], sealed[B], server.context)
    assert good[0] == state.points[B]
    sealed[B] = keys.seal_share(state.inbox_keys[B], bytes([good[0] ^ 1]) + good[1:], state.context)
    request = encode(Inbox(sealed=sealed), server.context)
    error = refuse("at another point", lambda: clients[A].mask(request, FED.vector(A), MODEL))
    assert error.peer == B


def test_client__never_releases_both_shares_of_one_client() -> None:
    clients, server = FED.clients(), FED.server()
    requests = run_until(FED, "unmask", clients, server, {"mask": [E]})
    opening = decode(Opening, clients[A].unmask(requests[A]), server.context)
    assert set(opening.self_shares) == {B, C, D}
    assert set(opening.key_shares) == {E}
    refuse("out of order|second", lambda: clients[A].unmask(requests[A] + b"\0"))


def test_opening__with_both_shares_of_one_client_is_not_a_message() -> None:
    share = bytes(33)
    data = encode(Opening(self_shares={B: share}, key_shares={B: share}), bytes(32))
    with pytest.raises(ValueError, match="both shares"):
        decode(Opening, data, bytes(32))


def test_coalition__below_the_threshold_reopens_no_secret() -> None:
    """What the server and `threshold - 1` share holders see is consistent with every secret."""
    clients, server = FED.clients(), FED.server()
    run_until(FED, "mask", clients, server)
    threshold = server.params.threshold
    shared = clients[A]._state
    seed = shared.self_seed  # type: ignore[union-attr]
    held = []
    for receiver in [name for name in FED.names if name != A][: threshold - 1]:
        answer(FED, "mask", clients[receiver], server.requests()[receiver], receiver)
        held.append(clients[receiver]._state.shares[A])  # type: ignore[union-attr]
    # One invented share more makes the coalition's guess any value at all.
    firsts = set[int]()
    for guess in range(256):
        rows = [share[1:33] for share in held] + [bytes([guess]) * 32]
        points = [share[0] for share in held] + [threshold + 1]
        values = np.frombuffer(b"".join(rows), np.uint8).reshape(1, threshold, 32)
        firsts.add(int(combine(np.array([points], np.uint8), values)[0, 0]))
    assert firsts == set(range(256))
    assert len(seed) == 32


# --- Order, replay, junk --------------------------------------------------------------


def test_client__refuses_steps_out_of_order() -> None:
    for step in ("share", "agree", "unmask"):
        client = FED.client(A)
        refuse("expects 'advertise'", lambda: getattr(client, step)(b"x"))  # noqa: B023
    clients, _, requests = at_step("mask")
    refuse("expects 'mask'", lambda: clients[A].agree(requests[A]))


@pytest.mark.parametrize("step", ["share", "mask", "agree", "unmask"])
def test_client__refuses_requests_of_another_round(step: str) -> None:
    clients, _, requests = at_step(step)
    other = FED.clients()
    server = FED.server(FED.params(round_number=2))
    run_until(FED, step, other, server)
    refuse("another round", lambda: answer(FED, step, other[A], requests[A], A))


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "agree", "unmask"])
def test_client__refuses_every_truncation_and_every_flipped_byte(step: str) -> None:
    clients, _, requests = at_step(step)
    good, secret = requests[A], clients[A].to_bytes()

    def fresh() -> ClientSession:
        return ClientSession.from_bytes(secret, identity(A), FED.policy(A))

    for cut in range(0, len(good), 7):
        refuse(None, lambda: answer(FED, step, fresh(), good[:cut], A))  # noqa: B023
    refuse(None, lambda: answer(FED, step, fresh(), good + b"\0", A))
    # The model hash and the order of a round are checked later than the first step.
    checked = len(good) - 32 if step == "advertise" else len(good)
    for at in range(0, checked, 3):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        if step == "advertise" and at in range(22, 26):
            continue  # a later round number is a legitimate round
        refuse(None, lambda: answer(FED, step, fresh(), bytes(bad), A))  # noqa: B023
    assert answer(FED, step, fresh(), good, A)


def test_session__drops_its_keys_when_the_protocol_is_broken() -> None:
    clients, server, requests = at_step("agree")
    refuse(
        "too telling",
        lambda: clients[A].agree(encode(Survivors(names=(A, B)), server.context)),
    )
    assert clients[A].step == "closed"
    assert len(clients[A].to_bytes()) < 100
    refuse("expects 'closed'", lambda: clients[A].agree(requests[A]))


# --- The server against broken clients ------------------------------------------------


def test_server__excludes_who_breaks_the_protocol_and_goes_on() -> None:
    clients, server = FED.clients(), FED.server()
    while server.step != "done":
        for name, request in server.requests().items():
            if name == E:
                error = refuse(None, lambda: server.receive(E, b"junk"))
                assert error.peer == E
            else:
                server.receive(name, answer(FED, server.step, clients[name], request, name))
        server.close_step()
    assert server.survivors == (A, B, C, D)
    assert np.array_equal(server.total(), FED.sum_of((A, B, C, D)))


def test_server__takes_one_reply_per_client_and_step() -> None:
    clients, server, requests = at_step("mask")
    reply = clients[A].mask(requests[A], FED.vector(A), MODEL)
    server.receive(A, reply)
    refuse("twice", lambda: server.receive(A, reply))
    refuse("not asked", lambda: server.receive("stranger", reply))
    for name in FED.names[1:]:
        server.receive(name, answer(FED, "mask", clients[name], requests[name], name))
    server.close_step()
    refuse("kind", lambda: server.receive(A, reply))


def test_server__refuses_forged_advertisements_and_signatures() -> None:
    clients, server, requests = at_step("advertise")
    reply = clients[A].advertise(requests[A])
    refuse("signature on its keys", lambda: server.receive(B, reply))
    clients, server, requests = at_step("agree")
    reply = clients[A].agree(requests[A])
    refuse("did not sign", lambda: server.receive(B, reply))


def test_server__refuses_vectors_of_another_length() -> None:
    clients, server, requests = at_step("mask")
    reply = clients[A].mask(requests[A], FED.vector(A), MODEL)
    packed = decode(Masked, reply, server.context).packed
    short = encode(Masked(packed=packed[:-4]), server.context)
    refuse("packed vector has", lambda: server.receive(A, short))
    server.receive(A, reply)


def test_server__one_false_share_does_not_end_the_round() -> None:
    clients, server, requests = at_step("unmask")
    context = server.context
    for name in FED.names:
        reply = clients[name].unmask(requests[name])
        if name == B:
            opening = decode(Opening, reply, context)
            lies = {peer: data[:1] + os.urandom(32) for peer, data in opening.self_shares.items()}
            reply = encode(Opening(self_shares=lies, key_shares={}), context)
        server.receive(name, reply)
    server.close_step()
    assert np.array_equal(server.total(), FED.sum_of(FED.names))


def test_server__takes_the_shares_that_it_asked_for_and_no_others() -> None:
    """Of survivors the seed, of the dropped the mask key, each where its owner had put it."""
    clients, server = FED.clients(), FED.server()
    requests = run_until(FED, "unmask", clients, server, {"mask": [E]})
    context = server.context
    good = decode(Opening, clients[A].unmask(requests[A]), context)
    seeds, masks = dict(good.self_shares), dict(good.key_shares)
    assert (set(seeds), set(masks)) == ({B, C, D}, {E})
    moved = bytes([seeds[B][0] ^ 7]) + seeds[B][1:]
    for self_shares, key_shares, reason in (
        (seeds | {E: masks[E]}, {}, "not those that were asked for"),
        (seeds, {}, "not those that were asked for"),
        ({B: seeds[B]}, masks, "not those that were asked for"),
        (seeds | {B: moved}, masks, "lies at another point"),
        (seeds, {E: bytes([masks[E][0] ^ 7]) + masks[E][1:]}, "lies at another point"),
    ):
        message = encode(Opening(self_shares=self_shares, key_shares=key_shares), context)
        refuse(reason, lambda: server.receive(A, message))  # noqa: B023
    server.receive(A, encode(good, context))


def test_server__takes_away_the_masks_of_neighbours_alone() -> None:
    """E fell silent after it had masks with A and B, as where a graph is not complete."""
    clients, server = FED.clients(), FED.server()
    for name, request in run_until(FED, "unmask", clients, server, {"mask": [E]}).items():
        server.receive(name, clients[name].unmask(request))
    server.close_step()
    assert [len(found) for found in server._correction()] == [4, 4]  # pairs, seeds
    server._graph[E] = (A, B)
    assert [len(found) for found in server._correction()] == [2, 4]


@pytest.mark.parametrize(("min_cohort", "came", "needed"), [(5, 4, 5), (3, 3, 4)])
def test_server__ends_a_round_in_which_clients_would_not_answer(
    min_cohort: int, came: int, needed: int
) -> None:
    """Fewer than the smallest cohort, or than the threshold and the client itself."""
    clients = FED.clients()
    server = ServerSession(FED.params(), FED.sites, min_cohort=min_cohort)
    for name, request in list(server.requests().items())[:came]:
        server.receive(name, clients[name].advertise(request))
    refuse(f"{came} of 5 clients replied; needed: {needed}", server.close_step)


def test_server__false_shares_without_spare_ones_release_nothing() -> None:
    clients, server, requests = at_step("unmask")
    context = server.context
    for name in FED.names:
        opening = decode(Opening, clients[name].unmask(requests[name]), context)
        lies = {peer: data[:1] + os.urandom(32) for peer, data in opening.self_shares.items()}
        server.receive(name, encode(Opening(self_shares=lies, key_shares={}), context))
    server.close_step()
    refuse("do not give its secret", server.total)
    with pytest.raises(RuntimeError, match="no sum to take"):
        server.total()


def test_server__false_mask_key_of_a_dropped_client_is_noticed() -> None:
    clients, server = FED.clients(), FED.server()
    requests = run_until(FED, "unmask", clients, server, {"mask": [E]})
    context = server.context
    for name in (A, B, C, D):
        opening = decode(Opening, clients[name].unmask(requests[name]), context)
        lies = {peer: data[:1] + os.urandom(32) for peer, data in opening.key_shares.items()}
        message = Opening(self_shares=opening.self_shares, key_shares=lies)
        server.receive(name, encode(message, context))
    server.close_step()
    assert refuse("do not give its secret", server.total).peer == E


@pytest.mark.parametrize("count", [0, 1, 2])
def test_reopen__needs_as_many_shares_as_the_threshold(count: int) -> None:
    rows = [(point, row.tobytes()) for point, row in enumerate(split(bytes(32), 3, 4), start=1)]
    held = {A: rows[:3], B: rows[:count]}
    error = refuse(f"{count} shares of its secret, 3 needed", lambda: reopen(held, 3, _any))
    assert error.peer == B
    assert reopen(held | {B: rows[1:]}, 3, _any) == {A: bytes(32), B: bytes(32)}


def _any(_: str, secret: bytes) -> bool:
    return len(secret) == 32


def test_server__refuses_shares_that_are_not_for_the_neighbours() -> None:
    clients, server, requests = at_step("share")
    context = server.context
    shares = decode(Shares, clients[A].share(requests[A]), context)
    less = {name: data for name, data in shares.sealed.items() if name != B}
    short = encode(Shares(commitment=shares.commitment, sealed=less), context)
    refuse("not for its neighbours", lambda: server.receive(A, short))


def test_server__called_out_of_order_is_our_own_mistake() -> None:
    clients, server, _ = at_step("mask")
    for step in ("mask", "agree", "unmask"):  # from `agree` on there is a masked sum
        run_until(FED, step, clients, server)
        with pytest.raises(RuntimeError, match="no sum to take"):
            server.total()
    run_until(FED, "done", clients, server)
    with pytest.raises(RuntimeError, match="done"):
        server.close_step()
    with pytest.raises(RuntimeError, match="done"):
        server.receive(A, b"")


def test_params__bind_every_field_into_the_context() -> None:
    params = FED.params()
    changes: list[dict[str, object]] = [
        {"run_id": b"x" * 16},
        {"round": 2},
        {"cohort": (A, B, C, D)},
        {"neighbours": 3},
        {"threshold": 4},
        {"bits": 63},
        {"length": 10},
        {"layout_hash": b"x" * 32},
        {"plan_hash": b"x" * 32},
        {"request_hash": b"x" * 32},
    ]
    contexts = {replace(params, **change).context() for change in changes}  # type: ignore[arg-type]
    assert len(contexts | {params.context()}) == len(changes) + 1
    assert Params.decode(params.encode()) == params
