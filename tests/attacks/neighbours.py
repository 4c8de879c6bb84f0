"""Two sites that differ in one record, asked the same: what leaves them, message for message.

Outputs of mechanisms are pinned: where a sum is about to get its noise, it is written down and a
vector that is the same whatever the records are goes on in its place. Then all that leaves must be
equal, byte for byte, and the sums that were written down must be as near as was paid for.

Not compared: times, how long a reply takes, what is logged at home, the bytes of a sealed message
(what is sealed, and how long it is, are), those of a seed that is encrypted for a second server,
and the salted hash that a receipt signs.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from clients import evaluation, records, screening, site, statistics
from clients.ledger.report import verify
from fedlearn.core.errors import FedlearnError
from fedlearn.crypto import shamir
from fedlearn.crypto.sealed import Channel
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import read_large_bytes, read_small_bytes
from fedlearn.privacy.events import to_json
from fedlearn.privacy.noise import Keystream
from fedlearn.secagg.framing import MAGIC, VERSION
from fedlearn.secagg.two_server import MaskedContribution, SignedSeed
from fedlearn.training import private as training
from server.federation import Federation
from server.screening import screen
from server.statistics import gather
from simulations.engines.local import FIRST_NODE
from tests.attacks.lab import SITES, Lab

VICTIM = SITES[0]

Table = Sequence[Sequence[str]]
Records = Any
"""All of a site, as whatever puts them into its folder takes them."""
Put = Callable[[Path, Records], None]
Script = Callable[["Talk"], None]
"""What a coordinator does with the sites; nothing of it depends on their records."""


@dataclass
class Seen:
    """All that has left the sites of a run, in order, and what their mechanisms were given."""

    left: list[tuple[str, str, object]] = field(default_factory=list)
    sums: list[tuple[str, str, NDArray[np.float64], float]] = field(default_factory=list)
    """(site, mechanism, sum without noise, how far one record may move it)."""
    booked: list[object] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    """Rounds of which the coordinator refused the sum."""


class PinnedNoise:
    """Every record is in every batch, and what would be noise is zero: the sum is what matters."""

    name = "aes-256-ctr, fresh system key per draw"
    is_private = True

    def normal(self, size: int, stddev: float) -> NDArray[np.float32]:
        """Zeros."""
        return np.zeros(size, np.float32)

    def bernoulli(self, size: int, probability: float) -> NDArray[np.bool_]:
        """All of them."""
        return np.ones(size, np.bool_)

    def stream(self) -> Keystream:
        """One that is known."""
        return Keystream(bytes(32))


@dataclass
class Talk:
    """A coordinator's hands: an honest federation, and messages of its own making."""

    lab: Lab
    seen: Seen
    federation: Federation | None = None

    def federate(self) -> None:
        """Enrol, join, describe."""
        self._attempt(lambda: setattr(self, "federation", self.lab.federate()))

    def screen(self) -> None:
        """Have the sites compare their tables, where the run says so."""
        if self.federation is not None:
            self._attempt(lambda: screen(self.federation))  # type: ignore[arg-type]

    def tables(self) -> None:
        """Have the sites give the sums of their tables, where the run makes figures of them."""
        if self.federation is not None:
            self._attempt(lambda: gather(self.federation))  # type: ignore[arg-type]

    def round(self, number: int) -> None:
        """One honest round, with its evaluation."""
        if self.federation is not None:
            self._attempt(lambda: self._round(number))

    def _round(self, number: int) -> None:
        entry = self.federation.run_round(number)  # type: ignore[union-attr]
        self.seen.refused += [number] if entry.refused else []

    def receipt(self) -> None:
        """Have the victim sign its ledger."""
        if self.federation is not None:
            content = flower.receipt_content("")
            self.federation.grid.ask(flower.RECEIPT, content, [VICTIM])

    def ask(self, message: Message) -> None:
        """Anything, of the victim."""
        node = FIRST_NODE + SITES.index(VICTIM)
        private.new_run(run_id=1)
        self.lab._answer(private.set_message_id(
            Message(message.content, dst_node_id=node, message_type=message.metadata.message_type),
            f"message-{next(self.lab._ids)}",
        ))  # fmt: skip

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except FedlearnError as error:
            self.seen.left.append(("coordinator", type(error).__name__, str(error)))


def as_table(folder: Path, table: Table) -> None:
    """The table of a site that has one."""
    write(folder / "table.csv", table)


def watched(lab: Lab, mine: Records, script: Script, put: Put = as_table) -> Seen:
    """What leaves when the victim has these records; keys and files are those of `lab`."""
    for name in SITES:
        shutil.rmtree(lab.world.ledger(name).parent, ignore_errors=True)
    put(lab.world.root / VICTIM, mine)
    records.forget()
    lab, seen = lab.again(), Seen()
    with _pinned(lab, seen) as talk:
        script(talk)
    for name in SITES:
        path = lab.world.ledger(name)
        report = verify(path) if path.exists() else None
        seen.booked.append(report and [to_json(event) for event in report.spent])
    return seen


def write(path: Path, table: Table) -> None:
    """A table with its header in the first row."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows(table)


@contextmanager
def _pinned(lab: Lab, seen: Seen) -> Iterator[Talk]:
    """Noise, keys and nonces that are the same every time; for this test alone."""
    now, drawn, answered = [""], itertools.count(), lab._answer

    def urandom(size: int) -> bytes:
        return hashlib.shake_256(b"%d" % next(drawn)).digest(size)

    def answer(message: Message) -> Message:
        now[0] = SITES[message.metadata.dst_node_id - FIRST_NODE]
        reply = answered(message)
        seen.left.append((now[0], message.metadata.message_type, _content(reply)))
        return reply

    def add_noise(optimizer: Any) -> None:
        total = torch.cat([p.summed_grad.reshape(-1).double() for p in optimizer.params])
        seen.sums.append((now[0], "record", total.numpy().copy(), optimizer.max_grad_norm))
        for parameter in optimizer.params:
            coins = torch.Generator().manual_seed(next(drawn))
            parameter.grad = torch.randn(parameter.shape, generator=coins)

    def common_step(*of: Any, **options: Any) -> NDArray[np.float64]:
        total = summed(*of, **options)
        seen.sums.append((now[0], "distributed", total, of[4].clip_norm))
        return np.linspace(-1, 1, len(total)) * of[4].clip_norm

    def noisy(total: NDArray[np.int64], plan: Any, number: int, stream: Keystream) -> Any:
        seen.sums.append((now[0], "evaluation", total.astype(np.float64), plan.l2_sensitivity))
        return np.arange(len(total), dtype=np.int64)

    def screened(total: NDArray[np.int64], plan: Any, number: int, stream: Keystream) -> Any:
        seen.sums.append((now[0], "screening", total.astype(np.float64), plan.l2_sensitivity))
        pinned = np.full(len(total), -3_000)  # of ten thousand records in each of two classes
        pinned[:: len(total) // 2] = 10_000
        return pinned * plan.steps[0]

    def figured(total: NDArray[np.int64], plan: Any, number: int, stream: Keystream) -> Any:
        seen.sums.append((now[0], "statistics", total.astype(np.float64), plan.l2_sensitivity))
        return np.arange(len(total), dtype=np.int64) * plan.steps[0]

    def seal(channel: Channel, kind: int, round_number: int, data: Any) -> Any:
        plain = _content_of(private.content_from_bytes(data))
        seen.left.append(("sealed", str(kind), plain))
        return sealed(channel, kind, round_number, data)

    summed, sealed = training.clipped_gradient_sum, Channel.seal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", urandom)
        patch.setattr(shamir.split, "__defaults__", (urandom,))
        patch.setattr(site, "noise_of", lambda *_: PinnedNoise())
        patch.setattr(training.PrivateOptimizer, "add_noise", add_noise)
        patch.setattr(training, "clipped_gradient_sum", common_step)
        patch.setattr(evaluation, "noisy", noisy)
        patch.setattr(screening, "noisy", screened)
        patch.setattr(statistics, "noisy", figured)
        patch.setattr(Channel, "seal", seal)
        patch.setattr(lab, "_answer", answer)
        yield Talk(lab, seen)


def _content(reply: Message) -> object:
    if reply.has_error():
        return reply.error.code, reply.error.reason
    return _content_of(reply.content)


def _content_of(content: RecordDict) -> object:
    if "sealed" in content:
        return len(private.content_to_bytes(content))
    if "accepted" in content:  # what a channel is made of is OpenSSL's, which has its coins
        return len(read_small_bytes(content, "accepted") or b"")
    if "receipt" in content and flower.read_receipt(content):
        signed = json.loads(flower.read_receipt(content))
        # A hash over 256 secret bits of the line, and a signature over that.
        return {**signed, "head": len(signed["head"]), "signature": len(signed["signature"])}
    if contribution := read_large_bytes(content, "contribution"):
        return _contribution(contribution), private.content_to_bytes(
            RecordDict({"site": content["site"]})
        )
    return private.content_to_bytes(content)


def _contribution(data: bytes) -> bytes:
    """What goes into a sum; without a seed for the second server, which OpenSSL's coins are in."""
    kind, frame, digest = data[:6], 38, 32
    if kind != MAGIC + bytes([VERSION, MaskedContribution.KIND]):
        return data
    return data[: frame + digest] + data[frame + SignedSeed.SIZE :]


def check(one: Seen, other: Seen, records_moved: int) -> None:
    """Nothing but sums may differ, and they by no more than was paid for so many records."""
    for (mine, theirs), number in zip(
        itertools.zip_longest(one.left, other.left), itertools.count()
    ):
        assert mine == theirs, f"message {number}: {_short(mine)} or {_short(theirs)}"
    assert json.dumps(one.booked) == json.dumps(other.booked), "the ledgers differ"
    assert [s[:2] for s in one.sums] == [s[:2] for s in other.sums]
    for (who, what, mine, norm), (_, _, theirs, _) in zip(one.sums, other.sums, strict=True):
        assert np.isfinite(mine).all()
        far = float(np.linalg.norm(mine - theirs))
        most = records_moved * norm if who == VICTIM else 0.0
        assert far <= most * (1 + 1e-3), f"{what} at {who} moved by {far:g}, paid for {most:g}"


def _short(what: object) -> str:
    text = repr(what)
    return text if len(text) < 600 else f"{text[:300]} ... {text[-300:]}"
