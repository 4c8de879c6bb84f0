"""What a client remembers between two steps of a round, and its form as bytes.

One dataclass per step, so that a secret that a step no longer needs has no place
to stay. The bytes are secret: whoever holds them can answer in the client's name
and knows its masks. They never go into a log, a message or a shared store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.secagg.framing import (
    Fields,
    Hash,
    Names,
    Wire,
    raw,
    read_table,
    records,
    table,
    write_table,
)
from fedlearn.secagg.messages import Params, RoundKeys, Survivors

POINTED_SHARES = 1 + 64
"""A share as its receiver keeps it: point, self-seed share, mask-key share."""

Key = Annotated[bytes, raw(32)]


def _write_points(writer: Writer, points: Mapping[str, int]) -> None:
    write_table(writer, {name: bytes([at]) for name, at in points.items()})


def _read_points(reader: Reader) -> dict[str, int]:
    return {name: data[0] for name, data in read_table(reader, 1).items()}


Points = Annotated[Mapping[str, int], Wire(_write_points, _read_points)]

OfRound = Annotated[
    Params,
    Wire(
        lambda writer, params: writer.blob(params.encode()),
        lambda reader: Params.decode(reader.blob()),
    ),
]


@dataclass(frozen=True, kw_only=True, repr=False)
class Fresh(Fields):
    """Nothing was asked yet."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Advertised(Fields):
    """The round's private keys exist and their public halves were sent."""

    params: OfRound
    cipher_private: Key
    mask_private: Key


@dataclass(frozen=True, kw_only=True, repr=False)
class Shared(Fields):
    """Shares of the secrets were sent.

    `context` is that of the round with its roll in it, from here to the end.
    `points` says where on each peer's polynomial we sit, `inbox_keys` opens what
    it seals for us; the cipher key itself is not needed any more.
    """

    params: OfRound
    context: Hash
    listed: Names
    mask_private: Key
    self_seed: Key
    peers: Annotated[Mapping[str, RoundKeys], records(RoundKeys)]
    points: Points
    inbox_keys: Annotated[Mapping[str, bytes], table(32)]


@dataclass(frozen=True, kw_only=True, repr=False)
class MaskedState(Fields):
    """The masked vector was sent; only the neighbours' shares are left of the secrets."""

    params: OfRound
    context: Hash
    listed: Names
    neighbours: Names
    shares: Annotated[Mapping[str, bytes], table(POINTED_SHARES)]


@dataclass(frozen=True, kw_only=True, repr=False)
class Agreed(Fields):
    """One survivor list was signed, and no other will be."""

    params: OfRound
    context: Hash
    neighbours: Names
    shares: Annotated[Mapping[str, bytes], table(POINTED_SHARES)]
    survivors: Annotated[Survivors, Wire(lambda writer, one: one.write(writer), Survivors.read)]


@dataclass(frozen=True, kw_only=True, repr=False)
class Closed(Fields):
    """The round is over or was given up; no secret of it is left."""


State = Fresh | Advertised | Shared | MaskedState | Agreed | Closed


_STATES: Final[tuple[type[State], ...]] = (
    Fresh,
    Advertised,
    Shared,
    MaskedState,
    Agreed,
    Closed,
)
"""At its place each stands for itself in bytes."""


def write_state(writer: Writer, state: State) -> None:
    """Appends a state: one byte for which, then its fields."""
    writer.uint(_STATES.index(type(state)), 1)
    state.write(writer)


def read_state(reader: Reader) -> State:
    """The state that `write_state` wrote; `ValueError` for anything else."""
    tag = reader.uint(1)
    if tag >= len(_STATES):
        raise ValueError(f"unknown session state {tag}")
    return _STATES[tag].read(reader)
