import copy
import os
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, UnauthenticatedError
from fedlearn.crypto import handshake
from fedlearn.crypto.codec import Writer
from fedlearn.crypto.handshake import CLASSICAL, Link, ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.sealed import HEADER_BYTES, WINDOW, Channel, ReplayWindow, sealed_size
from tests.effort import every, examples

CHUNK = 16 * 1024
RUN = bytes(range(16))
TERMS = bytes(range(32))
LINK = Link(run_id=RUN, terms=TERMS, client="cleveland", server="coordinator")
SERVER, CLIENT = Identity.new(), Identity.new()


@dataclass(frozen=True)
class Ends:
    client: Channel
    server: Channel


def connect() -> Ends:
    offer = ServerOffer(SERVER, RUN, TERMS, "coordinator")
    client, answer = accept_offer(CLIENT, LINK, SERVER.public, offer.message)
    return Ends(client, offer.finish("cleveland", CLIENT.public, answer))


def refused(channel: Channel, kind: int, message: bytes, **options: int) -> bool:
    try:
        channel.open(kind, message, **options)
    except UnauthenticatedError as error:
        return str(error) == "message could not be authenticated"
    return False


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 2**20, 2**20 + 5, 2 * 2**20 + CHUNK]


@pytest.mark.parametrize("size", SIZES)
def test_sealed__opens_to_what_was_sealed_in_both_directions(size: int) -> None:
    ends, data = connect(), os.urandom(size)
    for sender, receiver in ((ends.client, ends.server), (ends.server, ends.client)):
        message = sender.seal(7, 1, data)
        assert len(message) == sealed_size(size)
        opened = receiver.open(7, message)
        assert (opened.kind, opened.round, opened.data) == (7, 1, data)


def test_sealed__same_plaintext_never_gives_the_same_bytes() -> None:
    client = connect().client
    assert bytes(client.seal(1, 0, b"same"))[HEADER_BYTES:] not in bytes(client.seal(1, 0, b"same"))


def test_sealed__overhead_is_one_part_in_a_thousand() -> None:
    assert sealed_size(2_500_000) - 2_500_000 < 2_600


def test_sealed__refuses_every_single_bit_flip_of_a_short_message() -> None:
    ends = connect()
    message = bytes(ends.client.seal(1, 0, b"weights"))
    for bit in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refused(ends.server, 1, bytes(flipped)), f"bit {bit} was accepted"
    assert ends.server.open(1, message).data == b"weights"


def test_sealed__refuses_bit_flips_all_over_a_long_message() -> None:
    ends = connect()
    message = bytearray(ends.client.seal(1, 0, os.urandom(5 * CHUNK)))
    for bit in range(0, 8 * len(message), 1009):  # a prime: all positions within bytes and chunks
        message[bit // 8] ^= 1 << bit % 8
        assert refused(ends.server, 1, bytes(message)), f"bit {bit} was accepted"
        message[bit // 8] ^= 1 << bit % 8
    ends.server.open(1, message)


def test_sealed__refuses_truncation_at_every_chunk_border() -> None:
    ends = connect()
    message = bytes(ends.client.seal(1, 0, bytes(4 * CHUNK)))
    prefix = HEADER_BYTES + 56
    for chunks in range(5):
        cut = message[: prefix + chunks * (CHUNK + 16)]
        assert refused(ends.server, 1, cut)
        # Even with a header that declares what is left, which the context then contradicts.
        declared = cut[: HEADER_BYTES - 8] + (chunks * CHUNK).to_bytes(8, "big")
        assert refused(ends.server, 1, declared + cut[HEADER_BYTES:])
    for extra in (b"\0", bytes(16), bytes(CHUNK + 16)):
        assert refused(ends.server, 1, message + extra)


def test_sealed__refuses_swapped_chunks() -> None:
    ends = connect()
    message = bytes(ends.client.seal(1, 0, os.urandom(3 * CHUNK)))
    prefix, size = HEADER_BYTES + 56, CHUNK + 16
    one, two = message[prefix : prefix + size], message[prefix + size : prefix + 2 * size]
    assert refused(ends.server, 1, message[:prefix] + two + one + message[prefix + 2 * size :])


def test_sealed__refuses_replay_but_not_a_late_number() -> None:
    ends = connect()
    first, second = ends.client.seal(1, 0, b"first"), ends.client.seal(1, 0, b"second")
    assert ends.server.open(1, second).data == b"second"
    assert ends.server.open(1, first).data == b"first"
    assert refused(ends.server, 1, first)
    assert refused(ends.server, 1, second)


def test_sealed__refuses_another_kind_round_direction_and_channel() -> None:
    ends, others = connect(), connect()
    message = ends.client.seal(1, 3, b"data")
    assert refused(ends.server, 2, message)
    assert refused(ends.server, 1, message, round_number=4)
    assert refused(ends.client, 1, message)
    assert refused(others.server, 1, message)
    assert ends.server.open(1, message, round_number=3).data == b"data"


def pair(
    root: bytes, sender: tuple[str, str, bool], receiver: tuple[str, str, bool]
) -> tuple[Channel, Channel]:
    """Two ends of one root: who each is, whom it talks to, and whether it is the client."""
    ends = (
        Channel.start(root, RUN, me=me, peer=peer, is_client=is_client)
        for me, peer, is_client in (sender, receiver)
    )
    return next(ends), next(ends)


def test_sealed__has_other_keys_in_either_direction_and_other_addresses() -> None:
    """Each of the two is enough to refuse a message, so each is held without the other."""
    root = bytes(range(32))
    site, server = ("cleveland", "server", True), ("server", "cleveland", False)
    one, other = pair(root, site, server)
    assert other.open(1, one.seal(1, 0, b"data")).data == b"data"
    for wrong in (("server", "budapest", False), ("helper", "cleveland", False)):
        one, other = pair(root, site, wrong)
        assert refused(other, 1, one.seal(1, 0, b"data")), "the addresses are others"
    one, other = pair(root, site, ("server", "cleveland", True))
    assert refused(other, 1, one.seal(1, 0, b"data")), "it went the other way"
    client, server_end = pair(root, site, server)
    keys = [end._key(root, outgoing) for end in (client, server_end) for outgoing in (True, False)]
    assert keys[0] == keys[3] != keys[1] == keys[2]


def test_sealed__numbers_start_over_in_every_round() -> None:
    ends = connect()
    for number in (0, 1, 2, 5):
        messages = [ends.client.seal(1, number, b"a"), ends.client.seal(1, number, b"b")]
        assert [bytes(ends.server.open(1, message).data) for message in messages] == [b"a", b"b"]
        assert refused(ends.server, 1, messages[0])


def test_sealed__refuses_the_number_after_which_none_would_fit() -> None:
    ends = connect()
    ends.client._sequence = 2**64 - 2
    assert ends.server.open(1, ends.client.seal(1, 0, b"last")).data == b"last"
    assert refused(ends.server, 1, ends.client.seal(1, 0, b"beyond"))
    Channel.from_bytes(ends.server.to_bytes())


def test_sealed__forged_round_does_not_move_the_ratchet() -> None:
    ends = connect()
    message = bytes(ends.client.seal(1, 0, b"data"))
    at = 4 + 1 + 1 + 2 + 16
    for later in (1, 9_999, 2**32 - 1):
        assert refused(ends.server, 1, message[:at] + later.to_bytes(4, "big") + message[at + 4 :])
    assert ends.server.open(1, message).data == b"data"


def test_sealed__forgets_the_keys_of_earlier_rounds() -> None:
    ends = connect()
    old = ends.client.seal(1, 1, b"old")
    stolen_before = ends.server.to_bytes()
    assert ends.server.open(1, ends.client.seal(1, 2, b"new")).data == b"new"
    assert refused(ends.server, 1, old)
    assert refused(Channel.from_bytes(ends.server.to_bytes()), 1, old)
    assert Channel.from_bytes(stolen_before).open(1, old).data == b"old"
    with pytest.raises(RuntimeError, match="is over"):
        ends.client.seal(1, 1, b"late")


def test_sealed__caps_the_declared_length_before_it_makes_a_buffer() -> None:
    ends = connect()
    message = bytes(ends.client.seal(1, 0, bytes(1000)))
    assert refused(ends.server, 1, message, max_bytes=999)
    huge = message[: HEADER_BYTES - 8] + (2**63).to_bytes(8, "big") + message[HEADER_BYTES:]
    assert refused(ends.server, 1, huge, max_bytes=2**64)  # would be an exabyte
    assert ends.server.open(1, message, max_bytes=1000).data == bytes(1000)


@settings(max_examples=examples(100), deadline=None)
@given(junk=st.binary(max_size=400))
def test_sealed__junk_is_one_opaque_error(junk: bytes) -> None:
    assert refused(connect_once().server, 1, junk)


_ENDS: list[Ends] = []


def connect_once() -> Ends:
    if not _ENDS:
        _ENDS.append(connect())
    return _ENDS[0]


def test_channel__survives_as_bytes_and_hides_its_root() -> None:
    ends = connect()
    first = ends.client.seal(1, 2, b"one")
    ends.server.open(1, first)
    server = Channel.from_bytes(ends.server.to_bytes())
    client = Channel.from_bytes(ends.client.to_bytes())
    assert refused(server, 1, first)
    assert server.open(1, client.seal(1, 2, b"two")).data == b"two"
    assert ends.client._root.hex() not in repr(ends.client)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(ends.client)
    with pytest.raises(ValueError, match=r"not a channel|shorter"):
        Channel.from_bytes(b"junk" * 20)
    with pytest.raises(ValueError, match="not a channel"):
        Channel.from_bytes(ends.client.to_bytes().replace(b"/channel", b"/kanalxx"))


# --- Set-up ---------------------------------------------------------------------


def test_setup__refuses_an_offer_of_somebody_else_or_for_another_run_or_other_terms() -> None:
    offer = ServerOffer(SERVER, RUN, TERMS, "coordinator")
    other_run = replace(LINK, run_id=bytes(16))
    other_terms = replace(LINK, terms=bytes(32))
    for link, key in (
        (LINK, CLIENT.public),
        (other_run, SERVER.public),
        (other_terms, SERVER.public),
    ):
        with pytest.raises(UnauthenticatedError):
            accept_offer(CLIENT, link, key, offer.message)


def test_setup__refuses_every_flipped_byte_of_both_messages() -> None:
    offer = ServerOffer(SERVER, RUN, TERMS, "coordinator")
    _, answer = accept_offer(CLIENT, LINK, SERVER.public, offer.message)
    for at in range(0, len(offer.message), every(5)):
        bad = bytearray(offer.message)
        bad[at] ^= 1
        with pytest.raises(UnauthenticatedError):
            accept_offer(CLIENT, LINK, SERVER.public, bytes(bad))
    for at in range(0, len(answer), every(5)):
        bad = bytearray(answer)
        bad[at] ^= 1
        with pytest.raises(UnauthenticatedError):
            offer.finish("cleveland", CLIENT.public, bytes(bad))
    for longer in (b"\0", b"more"):  # or one answer would open a second channel, under one root
        with pytest.raises(UnauthenticatedError):
            accept_offer(CLIENT, LINK, SERVER.public, offer.message + longer)
        with pytest.raises(UnauthenticatedError):
            offer.finish("cleveland", CLIENT.public, answer + longer)
    offer.finish("cleveland", CLIENT.public, answer)


def test_setup__refuses_messages_that_are_cut_and_ciphertexts_of_nothing() -> None:
    """The last with a signature that is good: a client can sign whatever it likes."""
    offer = ServerOffer(SERVER, RUN, TERMS, "coordinator")
    _, answer = accept_offer(CLIENT, LINK, SERVER.public, offer.message)
    for cut in (0, 3, 5, 6, 50, 200):
        with pytest.raises(UnauthenticatedError):
            accept_offer(CLIENT, LINK, SERVER.public, offer.message[:cut])
        with pytest.raises(UnauthenticatedError):
            offer.finish("cleveland", CLIENT.public, answer[:cut])
    suite = offer.message[5]
    public = offer.message[6 : 6 + handshake._PUBLIC_BYTES[suite]]
    info, junk = handshake._info(suite, LINK, public), os.urandom(1184)
    signed = CLIENT.sign("seal/accept", info, junk)
    with pytest.raises(UnauthenticatedError):
        offer.finish("cleveland", CLIENT.public, b"FLSC\x02" + signed + Writer().blob(junk).done())


@pytest.mark.parametrize(("run_id", "terms"), [(RUN[:15], TERMS), (RUN, TERMS + b"x")])
def test_setup__needs_a_run_and_terms_of_their_length(run_id: bytes, terms: bytes) -> None:
    with pytest.raises(ValueError, match="needed: 16 and 32"):
        ServerOffer(SERVER, run_id, terms, "coordinator")


def test_setup__refuses_a_replayed_acceptance_and_one_of_another_client() -> None:
    offer = ServerOffer(SERVER, RUN, TERMS, "coordinator")
    _, answer = accept_offer(CLIENT, LINK, SERVER.public, offer.message)
    with pytest.raises(UnauthenticatedError):
        offer.finish("budapest", CLIENT.public, answer)
    offer.finish("cleveland", CLIENT.public, answer)
    with pytest.raises(UnauthenticatedError):
        offer.finish("cleveland", CLIENT.public, answer)


def test_setup__falls_back_to_x25519_only_where_the_policy_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "has_hybrid", lambda: False)
    with pytest.raises(ConfigError, match="allow_classical"):
        ServerOffer(SERVER, RUN, TERMS, "coordinator")
    offer = ServerOffer(SERVER, RUN, TERMS, "coordinator", allow_classical=True)
    assert offer.message[5] == CLASSICAL
    with pytest.raises(UnauthenticatedError):
        accept_offer(CLIENT, LINK, SERVER.public, offer.message)
    client, answer = accept_offer(CLIENT, LINK, SERVER.public, offer.message, allow_classical=True)
    server = offer.finish("cleveland", CLIENT.public, answer)
    assert server.open(1, client.seal(1, 0, b"x")).data == b"x"


# --- Replay window --------------------------------------------------------------


@given(numbers=st.lists(st.integers(0, 3 * WINDOW), max_size=60))
def test_replay_window__accepts_each_number_once_and_nothing_too_old(numbers: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for number in numbers:
        expected = number not in seen and number > max(seen, default=-1) - WINDOW
        assert window.is_new(number) == expected
        if expected:
            window.accept(number)
            seen.add(number)
        else:
            with pytest.raises(RuntimeError, match="accepted before"):
                window.accept(number)


def test_replay_window__refuses_the_first_number_that_it_cannot_remember() -> None:
    window = ReplayWindow()
    for number in (0, 1, WINDOW):  # which leaves room for 1 and not for 0
        window.accept(number)
    assert [window.is_new(number) for number in (0, 1, 2, WINDOW, WINDOW + 1)] == [
        False, False, True, False, True,
    ]  # fmt: skip


def test_replay_window__takes_the_largest_number_without_a_huge_integer() -> None:
    window = ReplayWindow()
    window.accept(5)
    window.accept(2**64 - 2)
    assert not window.is_new(5)
    assert len(window.to_bytes()) == 136
