"""What stands beside a plain run, as parsers: a second server, proofs, groups."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from flwr.app import Message, RecordDict

from fedlearn.core.errors import FedlearnError
from fedlearn.crypto.common import seed_of
from fedlearn.crypto.roster import Roster
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.messages import read_refusal
from fedlearn.flower.records import model_of
from fedlearn.secagg.proven import ProvingServer
from fedlearn.secagg.two_server import FirstServer, Helper
from server import evaluation
from server import helper as second
from tests.attacks.asked import CLEAR, UNREADABLE, Recorded, Runs, copied, recorded, to_site
from tests.attacks.fuzzing import Parser
from tests.attacks.lab import SITES
from tests.attacks.test_groups import NINE
from tests.attacks.test_second_server import POLICY, Helped
from tests.fedlearn.secagg import test_proven as proofs
from tests.fedlearn.secagg import test_two_server as two

# --- A second server of another organisation ----------------------------------------------


@dataclass
class HelpedRun:
    """What a second server was asked in a run, what it was before, and what it answered."""

    lab: Helped
    asked: dict[str, bytes] = field(default_factory=dict)
    before: dict[str, RecordDict] = field(default_factory=dict)
    answered: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> HelpedRun:
        """A round of sites that prove their norm."""
        words = ("transport=plain", "rounds=1")
        found = cls(Helped.of(folder, *words, policy=POLICY.replace("sealed", "null")))
        found.lab.between = found._between
        found.lab.federate().run_round(1)
        found.lab.between = lambda message: message
        kinds = ("hello", "join", "help")
        for kind, content in zip(kinds, found.lab.helper_says, strict=True):
            found.answered[kind] = private.content_to_bytes(content)
        return found

    def _between(self, message: Message) -> Message:
        kind = message.metadata.message_type.removeprefix("query.")
        self.asked[kind] = private.content_to_bytes(message.content)
        self.before[kind] = copied(self.lab.helper_state)
        return message

    def ask(self, kind: str, data: bytes) -> RecordDict:
        """What it answers to a message of that kind, as it was then."""
        content = private.content_from_bytes(data)
        self.lab.helper_state = copied(self.before[kind])
        self.lab.helper_says.clear()
        message = Message(content, dst_node_id=999, message_type=f"query.{kind}")
        reply = self.lab.helped(private.set_message_id(message, "m")).content
        refusal = read_refusal(reply)
        if refusal is not None and "its app failed" in refusal.reason:
            raise AssertionError(refusal.reason)
        return reply


_HELPED: dict[Path, HelpedRun] = {}


def _helped(folder: Path) -> HelpedRun:
    root = folder.parent / "helped"
    if root not in _HELPED:
        _HELPED[root] = HelpedRun.of(root)
    return _HELPED[root]


def _to_helper(kind: str) -> Parser:
    return Parser(
        f"second server {kind}", lambda folder: _helped(folder).asked[kind],
        lambda data, folder: _helped(folder).ask(kind, data), (ValueError,),
    )  # fmt: skip


def _from_helper(kind: str, read: Callable[[RecordDict], object]) -> Parser:
    return Parser(
        f"second server's answer {kind}", lambda folder: _helped(folder).answered[kind],
        lambda data, _: read(private.content_from_bytes(data)), UNREADABLE,
    )  # fmt: skip


# --- Sums over two servers, with proofs and without ---------------------------------------


def _first_proved() -> ProvingServer:
    return ProvingServer(proofs.PARAMS, proofs.FED.sites, proofs.BOUND)


@cache
def _judged() -> tuple[ProvingServer, bytes, bytes]:
    """A first server that has asked the second, what it asked, and the answer."""
    first = proofs.first_server({name: proofs.honest(name) for name in proofs.FED.names})
    request = first.request()
    return first, request, proofs.helper().judge(proofs.PARAMS, request)


def _masked(data: bytes, _: Path) -> None:
    FirstServer(two.FED.params(), two.FED.sites).receive(two.A, data)


@cache
def _summed() -> tuple[Helper, FirstServer, bytes, bytes]:
    helper = Helper(two.RUN_ID, two.FED.sites)
    first = two.send(two.FED, helper, *two.FED.names)
    request = first.request()
    return helper, first, request, copy.copy(helper).sum_masks(two.FED.params(), request)


@cache
def _share_of_sum() -> bytes:
    vector = two.FED.vector(two.A)
    key = _summed()[0].public
    return two.contribute(two.identity(two.A), two.A, two.FED.params(), vector, key)


def _verdicts(data: bytes, _: Path) -> object:
    """What the first server makes of an answer of the second."""
    return copy.copy(_judged()[0]).finish(data)


# --- Groups ------------------------------------------------------------------------------


def grouped(root: Path) -> Recorded:
    """A run of nine sites in groups of three."""
    return Recorded.of(root, "robust=groups", "evaluation=none", sites=NINE)


def proved(root: Path) -> Recorded:
    """A run over two servers at one place, with proofs."""
    words = ("secagg=two_server", "robust=proofs", "evaluation=none")
    return Recorded.of(root, *words, policy=POLICY.replace("sealed", "null"))


def ring(root: Path) -> Recorded:
    """A run whose sums nothing protects."""
    return Recorded.of(root, "secagg=ring", policy=_IN_CLEAR)


def screened(root: Path) -> Recorded:
    """A run in which sites compare their tables before they train."""
    return Recorded.of(root, "screening=sums", "training.local_steps=1", "evaluation=none")


def clear(root: Path) -> Recorded:
    """A run without secure aggregation, whose test sums have noise."""
    return Recorded.of(root, "secagg=off", policy=_IN_CLEAR)


def exact(root: Path) -> Recorded:
    """The same with test sums as they are."""
    policy = f"{_IN_CLEAR}  evaluation: [per_site]\n"
    return Recorded.of(root, "secagg=off", "evaluation=per_site", policy=policy)


_IN_CLEAR: Final = CLEAR.replace("require_secagg: masked", "require_secagg: null")


def _trained(content: RecordDict, run: Recorded) -> None:
    asked = private.content_from_bytes(run.asked["train"])
    flower.check_train_reply(content, len(model_of(asked)))


def _noised(content: RecordDict, run: Recorded) -> object:
    federation = run.federation
    plan, fairness = federation.mechanism.evaluation, run.lab.config.fairness
    assert plan is not None
    return evaluation.noised_reply(content, federation.enrolment.task, fairness, plan, 1)


def _exact(content: RecordDict, run: Recorded) -> None:
    evaluation.check_sums(content, run.federation.enrolment.task, run.lab.config.fairness)


def _from_site(kind: str, runs: Runs, read: Callable[[RecordDict, Recorded], object]) -> Parser:
    return Parser(
        f"answer {kind} of {runs.__name__}",
        lambda folder: recorded(folder, runs).answered[kind],
        lambda data, folder: read(private.content_from_bytes(data), recorded(folder, runs)),
        UNREADABLE,
    )  # fmt: skip


def _shares(data: bytes, folder: Path) -> bytes:
    """What a coordinator makes of the share in a site's answer, beside those of the others."""
    opening = flower.read_opening(private.content_from_bytes(data))
    asked = recorded(folder, grouped)
    openings = flower.read_openings(_message(asked.asked["draw"], "draw"))
    invitation = flower.read_invitation(_message(asked.asked["join"], "join"))
    shares = {**openings.shares, SITES[0]: opening}
    sites = Roster.from_json(invitation.roster).sites()
    return seed_of(shares, bytes.fromhex(invitation.run_id), invitation.commitments, sites)


def _message(data: bytes, kind: str) -> Message:
    content = private.content_from_bytes(data)
    return Message(content, dst_node_id=1, message_type=f"query.{kind}")


_WRONG = (FedlearnError,)

BESIDES = [
    *map(_to_helper, ("hello", "join", "help")),
    _from_helper("hello", flower.read_hello),
    _from_helper("join", second._joined),
    _from_helper("help", second._answer),
    Parser(
        "first server", lambda _: _share_of_sum(), _masked, _WRONG,
    ),
    Parser(
        "keystreams asked for", lambda _: _summed()[2],
        lambda data, _: copy.copy(_summed()[0]).sum_masks(two.FED.params(), data), _WRONG,
    ),
    Parser(
        "keystreams", lambda _: _summed()[3],
        lambda data, _: copy.copy(_summed()[1]).finish(data), _WRONG,
    ),
    Parser(
        "proved vector", lambda _: proofs.honest(proofs.A),
        lambda data, _: _first_proved().receive(proofs.A, data), _WRONG,
    ),
    Parser(
        "statements of proofs", lambda _: _judged()[1],
        lambda data, _: proofs.helper().judge(proofs.PARAMS, data), _WRONG,
    ),
    Parser("verdicts on proofs", lambda _: _judged()[2], _verdicts, _WRONG),
    *(to_site(kind, grouped) for kind in ("hello", "join", "open", "draw", "train")),
    Parser(
        "share of randomness", lambda folder: recorded(folder, grouped).answered["open"], _shares,
        UNREADABLE,
    ),
    *(to_site(kind, screened) for kind in ("screen", "compare")),
    *(to_site(kind, proved) for kind in ("join", "train")),
    to_site("train", ring),
    to_site("train", clear), to_site("evaluate", clear), to_site("evaluate", exact),
    _from_site("train", clear, _trained),
    _from_site("evaluate", clear, _noised),
    _from_site("evaluate", exact, _exact),
]  # fmt: skip
