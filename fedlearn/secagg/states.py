"""What a client remembers between two steps of a round, and its form as bytes.

One dataclass per step, so that a secret that a step no longer needs has no place
to stay. The bytes are secret: whoever holds them can answer in the client's name
and knows its masks. They never go into a log, a message or a shared store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.secagg.framing import HASH_BYTES, read_names, read_table, write_names, write_table
from fedlearn.secagg.messages import Params, RoundKeys, Survivors

POINTED_SHARES = 1 + 64
"""A share as its receiver keeps it: point, self-seed share, mask-key share."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Fresh:
    """Nothing was asked yet."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Advertised:
    """The round's private keys exist and their public halves were sent."""

    params: Params
    cipher_private: bytes
    mask_private: bytes


@dataclass(frozen=True, kw_only=True, repr=False)
class Shared:
    """Shares of the secrets were sent.

    `context` is that of the round with its roll in it, from here to the end.
    `points` says where on each peer's polynomial we sit, `inbox_keys` opens what
    it seals for us; the cipher key itself is not needed any more.
    """

    params: Params
    context: bytes
    listed: tuple[str, ...]
    mask_private: bytes
    self_seed: bytes
    peers: Mapping[str, RoundKeys]
    points: Mapping[str, int]
    inbox_keys: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, repr=False)
class MaskedState:
    """The masked vector was sent; only the neighbours' shares are left of the secrets."""

    params: Params
    context: bytes
    listed: tuple[str, ...]
    neighbours: tuple[str, ...]
    shares: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, repr=False)
class Agreed:
    """One survivor list was signed, and no other will be."""

    params: Params
    context: bytes
    neighbours: tuple[str, ...]
    shares: Mapping[str, bytes]
    survivors: Survivors


@dataclass(frozen=True, kw_only=True, repr=False)
class Closed:
    """The round is over or was given up; no secret of it is left."""


State = Fresh | Advertised | Shared | MaskedState | Agreed | Closed


def write_state(writer: Writer, state: State) -> None:
    """Appends a state: one byte for which, then its fields."""
    match state:
        case Fresh():
            writer.uint(0, 1)
        case Advertised():
            writer.uint(1, 1).blob(state.params.encode())
            writer.raw(state.cipher_private).raw(state.mask_private)
        case Shared():
            writer.uint(2, 1).blob(state.params.encode()).raw(state.context)
            write_names(writer, state.listed)
            writer.raw(state.mask_private).raw(state.self_seed)
            write_table(writer, {name: keys.to_bytes() for name, keys in state.peers.items()})
            write_table(writer, {name: bytes([at]) for name, at in state.points.items()})
            write_table(writer, state.inbox_keys)
        case MaskedState():
            writer.uint(3, 1).blob(state.params.encode()).raw(state.context)
            write_names(writer, state.listed)
            write_names(writer, state.neighbours)
            write_table(writer, state.shares)
        case Agreed():
            writer.uint(4, 1).blob(state.params.encode()).raw(state.context)
            write_names(writer, state.neighbours)
            write_table(writer, state.shares)
            write_names(writer, state.survivors.names)
        case Closed():
            writer.uint(5, 1)


def read_state(reader: Reader) -> State:
    """The state that `write_state` wrote; `ValueError` for anything else."""
    tag = reader.uint(1)
    if tag == 0:
        return Fresh()
    if tag == 5:
        return Closed()
    params = Params.decode(reader.blob())
    if tag == 1:
        return Advertised(params=params, cipher_private=reader.raw(32), mask_private=reader.raw(32))
    if tag == 2:
        return Shared(
            params=params,
            context=reader.raw(HASH_BYTES),
            listed=read_names(reader),
            mask_private=reader.raw(32),
            self_seed=reader.raw(32),
            peers={
                name: RoundKeys.from_bytes(data)
                for name, data in read_table(reader, RoundKeys.SIZE).items()
            },
            points={name: data[0] for name, data in read_table(reader, 1).items()},
            inbox_keys=read_table(reader, 32),
        )
    if tag == 3:
        return MaskedState(
            params=params,
            context=reader.raw(HASH_BYTES),
            listed=read_names(reader),
            neighbours=read_names(reader),
            shares=read_table(reader, POINTED_SHARES),
        )
    if tag == 4:
        return Agreed(
            params=params,
            context=reader.raw(HASH_BYTES),
            neighbours=read_names(reader),
            shares=read_table(reader, POINTED_SHARES),
            survivors=Survivors(names=read_names(reader)),
        )
    raise ValueError(f"unknown session state {tag}")
