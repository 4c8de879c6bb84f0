"""The peers that tables compare with, how they are installed, and why one is left out.

Opacus and flwr's SecAgg+ come with fedlearn and are always there; these are not.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A package that is not needed, but compared with where it is."""

    module: str
    table: str
    """The table that it joins; empty: no program compares with it yet."""
    install: str
    python: tuple[int, int] = (3, 11)
    """The oldest Python that it has a release for."""


PEERS: Mapping[str, Peer] = {
    "Ray": Peer(module="ray", table="ray", install="pip install 'fedlearn[ray]'"),
    "pfl": Peer(
        module="pfl",
        table="engine",
        # Its 0.6 asks for an older dp-accounting than fedlearn does.
        install="pip install --no-deps --target PEERS pfl multiprocess dill prv_accountant, "
        "and PEERS at the end of PYTHONPATH",
    ),
    "blazefl": Peer(module="blazefl", table="", install="pip install blazefl", python=(3, 12)),
}


def missing(name: str) -> str | None:
    """Why `name` cannot be compared with here; None if it can."""
    peer = PEERS[name]
    if sys.version_info < peer.python:
        oldest = ".".join(map(str, peer.python))
        return f"{name} needs Python {oldest} or newer; this is {sys.version.split()[0]}"
    if not peer.table:
        return f"no program here runs {name} yet"
    if importlib.util.find_spec(peer.module) is None:
        return f"{name} is not installed ({peer.install})"
    return None


def skipped(table: str) -> list[str]:
    """A sentence for every peer that `table` goes without."""
    names = [name for name, peer in PEERS.items() if peer.table in (table, "")]
    return [f"without {name}: {reason}" for name in names if (reason := missing(name))]
