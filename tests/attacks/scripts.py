"""What is done to sites whose neighbours are compared: honest runs, lies, faults and refusals.

Nothing of a script depends on the records of the site that is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from clients import evaluation, work
from clients.ledger.ledger import Ledger
from clients.secagg import SecAggClient
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import model_of
from fedlearn.training import private as training
from tests.attacks.lab import SITES
from tests.attacks.neighbours import VICTIM, Script, Talk


@contextmanager
def pinned_updates() -> Iterator[None]:
    """The noise over whole clients is the coordinator's: what such a site gives is pinned."""

    def trained(here: work.SiteRound) -> object:
        honest_update(here)
        return here.base

    honest_update = work.SiteRound.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.SiteRound, "train", trained)
        yield


def honest(talk: Talk) -> None:
    talk.federate()
    talk.screen()
    for number in (1, 2):
        talk.round(number)
    talk.receipt()


def meddling(kind: str, way: str) -> Script:
    """Messages of one kind to the victim that come twice, not at all, late, or altered."""

    def request(talk: Talk, asked: str, site: str, message: Message) -> Message | None:
        if (asked, site) != (kind, VICTIM):
            return message
        if way == "missing":
            return None
        if way == "twice":
            talk.ask(message)
            return message
        return altered(message, way)

    def script(talk: Talk) -> None:
        talk.lab.on_request = partial(request, talk)
        if way == "lost":
            talk.lab.on_reply = lambda asked, site, reply: (
                None if (asked, site) == (kind, VICTIM) else reply
            )
        honest(talk)

    return script


def altered(message: Message, way: str) -> Message:
    """The message with weights or a note of the coordinator's own making, where it is in clear."""
    content = RecordDict({name: record.copy() for name, record in message.content.items()})
    if "arrays" in content and way in ("nan", "huge", "planted"):
        vector = model_of(content).copy()
        coins = np.random.default_rng(0)
        match way:
            case "nan":
                vector[-1] = np.nan
            case "huge":
                vector = np.full_like(vector, 1e38)
            case _:
                vector = coins.normal(0, 1e4, len(vector)).astype(np.float32)
        content["arrays"] = ArrayRecord({"model": Array(vector)})
    if "opened" in content and way in ("nan", "huge", "planted"):
        opened = content["opened"]
        length = len(opened["sums"])  # type: ignore[index,arg-type]
        coins = np.random.default_rng(len(way))
        opened["sums"] = coins.integers(-(2**40), 2**40, length).tolist()  # type: ignore[index]
    if "config" in content and way in ("terms", "norm", "round", "cohort", "run"):
        note = content["config"]
        key, value = {
            "terms": ("terms", "00" * 32),
            "norm": ("clip-norm", 1e9),
            "round": ("server-round", 77),
            "cohort": ("cohort", 10**9),
            "run": ("run-id", "x" * 100_000),
        }[way]
        note[key] = value  # type: ignore[index]
    return private.with_content(message, content)


def lying(talk: Talk) -> None:
    """Questions that no run has, before, between and after its rounds."""
    asked: list[tuple[str, RecordDict]] = []

    def keep(kind: str, site: str, message: Message) -> Message:
        if site == VICTIM:
            name = kind if kind in ("train", "evaluate") else f"query.{kind}"
            asked.append((name, message.content))
        return message

    talk.lab.on_request = keep

    def lie() -> None:
        kinds = [f"query.{kind}" for kind in ("hello", "other", *KINDS)]
        kinds += ["train", "evaluate", "train.default"]
        huge = RecordDict({"config": ConfigRecord({"terms": "0" * 10_000, "cohort": -1})})
        for name in kinds:
            talk.ask(Message(RecordDict(), dst_node_id=1, message_type=name))
            talk.ask(Message(huge, dst_node_id=1, message_type=name))
        for name, content in asked[-8:]:
            for other in (name, "evaluate", "train", "query.describe"):
                talk.ask(Message(content, dst_node_id=1, message_type=other))
            for way in ("terms", "norm", "round", "planted"):
                message = Message(content, dst_node_id=1, message_type=name)
                talk.ask(altered(message, way))

    lie()
    talk.federate()
    lie()
    talk.screen()
    lie()
    talk.round(1)
    lie()
    _other_form(talk)


def _other_form(talk: Talk) -> None:
    """The same sites, asked for their records in another form."""
    before = talk.lab.config
    columns = hasattr(before.scenario, "numeric")
    other: dict[str, Any] = {"numeric": ("age",)} if columns else {"classes": ("1", "0")}
    scenario = replace(before.scenario, **other)  # type: ignore[type-var]
    talk.lab.config = replace(before, scenario=scenario)
    for context in talk.lab.contexts.values():
        context.run_config.update(flower.run_config_of(talk.lab.config))
        context.state = RecordDict()
    talk.federate()


@contextmanager
def broken(what: str) -> Iterator[None]:
    """Something fails at the victim: by its disk, or by what is in its records."""
    calls = [0]

    def hated(rows: Any) -> bool:
        return bool((rows.flatten(1)[:, 0] > 0.2).any())

    def disk(ledger: Ledger, *_: object, **__: object) -> None:
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise OSError("no space left on device")
        reserve(ledger, *_, **__)  # type: ignore[arg-type]

    def losses(*of: object) -> object:
        if hated(of[4]):
            raise ValueError(f"labels {of[3]}")
        return of_records(*of)  # type: ignore[arg-type]

    def grade(*of: object, **options: object) -> object:
        if hated(of[2]):
            raise IndexError(f"records {of[2]}")
        return graded(*of, **options)  # type: ignore[arg-type]

    reserve, of_records, graded = Ledger.reserve, training.losses_of, evaluation.grade
    with pytest.MonkeyPatch.context() as patch:
        match what:
            case "disk":
                patch.setattr(Ledger, "reserve", disk)
            case "model":
                patch.setattr(training, "losses_of", losses)
            case "grade":
                patch.setattr(evaluation, "grade", grade)
        yield


def broken_script(what: str) -> Script:
    def script(talk: Talk) -> None:
        with broken(what):
            honest(talk)

    return script


WAYS = ("missing", "lost", "twice", "nan", "huge", "planted", "terms", "norm", "round", "cohort",
        "run")  # fmt: skip
KINDS = ("join", "describe", "screen", "compare", "afford", "train", "evaluate", "secagg_share",
         "secagg_unmask")  # fmt: skip


def poisoned(talk: Talk) -> None:
    """The sum of the first round is none that honest sites can make: it is refused."""

    def encoded(client: SecAggClient[Any], payload: Any, mine: Any) -> Any:
        vector = honestly(client, payload, mine)
        if (client.site.name, client.part, client.number) == (SITES[2], "train", 1):
            most = 1 << (payload.lane_bits - 2)
            vector[: payload.lane_length] = payload._packing.join(np.full(mine.values.shape, most))
        return payload.ring.reduce(vector)

    honestly = SecAggClient._encoded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SecAggClient, "_encoded", encoded)
        honest(talk)


def silent(kind: str, sites: Sequence[str]) -> Script:
    """Others do not answer one step of the first round: it fails, or is that of fewer."""

    def script(talk: Talk) -> None:
        asked = dict.fromkeys(sites, 0)

        def reply(step: str, site: str, message: Message) -> Message | None:
            if step != kind or site not in asked:
                return message
            asked[site] += 1
            return None if asked[site] == 1 else message

        talk.lab.on_reply = reply
        honest(talk)

    return script


STEPS = ("screen", "afford", "train", "secagg_advertise", "secagg_share", "secagg_agree",
         "secagg_unmask", "evaluate")  # fmt: skip


def drawn_script(rng: np.random.Generator) -> Script:
    others = [str(one) for one in rng.permutation(SITES[1:])]
    scripts: list[Callable[[], Script]] = [
        lambda: honest,
        lambda: poisoned,
        lambda: silent(str(rng.choice(STEPS)), others[: int(rng.integers(1, 4))]),
        lambda: lying,
        lambda: meddling(str(rng.choice(KINDS)), str(rng.choice(WAYS))),
        lambda: meddling("train", str(rng.choice(WAYS))),
        lambda: meddling("compare", str(rng.choice(WAYS))),
        lambda: broken_script(str(rng.choice(["disk", "model", "grade"]))),
    ]
    return scripts[int(rng.integers(len(scripts)))]()
