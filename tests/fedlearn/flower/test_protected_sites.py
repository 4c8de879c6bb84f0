"""What a protected site does when a server, a network or a budget is not as it should be."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, Krum

from clients.app_owner import load
from clients.ledger.report import LedgerReport, verify
from fedlearn.core.errors import ConfigError, DataError, PrivacyError, ProtocolError
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import new_identity, pin_roster, public_path, sign_roster
from fedlearn.flower import Protection, private, protect, secure, spend
from fedlearn.flower.apps import sealing
from fedlearn.flower.apps.grid import SecureGrid
from fedlearn.flower.apps.mod import ProtectedSite, SiteMod
from fedlearn.flower.apps.owner import owner_of
from fedlearn.flower.grid import Replies
from fedlearn.flower.messages import read_refusal
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import ClientGaussianEvent, GaussianEvent
from fedlearn.secagg.server import ServerSession
from tests.fedlearn.flower.small_apps import START, Seen, TappedGrid, make_client, record, run

STEP = GaussianEvent(noise_multiplier=2.0, sample_rate=0.1, steps=10)


def answer(tapped: TappedGrid, node: int, message: Message) -> Message:
    """What the app of one node says to a message."""
    return tapped.app(message, tapped.contexts[node])


def sealed_to(tapped: TappedGrid, node: int) -> list[Message]:
    """The sealed messages that one node got, in order."""
    return [
        message
        for message in tapped.ear.sent
        if message.metadata.dst_node_id == node and "sealed" in message.content
    ]


# --- Copies, and other people's messages -------------------------------------------


def test_copy_of_a_message__is_refused_and_the_app_not_called_again() -> None:
    seen = Seen()
    tapped = TappedGrid(make_client(protect(), seen=seen), 5)
    run(tapped, protection=Protection())
    trained = list(seen.trained)
    for message in sealed_to(tapped, 1000):
        refusal = read_refusal(answer(tapped, 1000, message).content)
        assert refusal is not None
        assert refusal.reason == "message could not be authenticated"
    assert seen.trained == trained


def test_message_of_another_site_or_type__is_refused() -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    secured = secure(tapped, FedAvg())
    list(secured.send_and_receive([_question(1000, "train"), _question(1001, "train"),
                                   _question(1002, "train")]))  # fmt: skip
    message = sealed_to(tapped, 1000)[-1]
    assert read_refusal(answer(tapped, 1001, message).content) is not None
    other = Message(message.content, dst_node_id=1000, message_type="evaluate")
    assert read_refusal(answer(tapped, 1000, other).content) is not None


def _question(node: int, kind: str) -> Message:
    return Message(RecordDict({"arrays": record(START)}), dst_node_id=node, message_type=kind)


class ReplayingGrid(TappedGrid):
    """On the way of site 0 somebody answers with what the site said one message earlier."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in super().pull_messages(message_ids):
            mine = reply.metadata.src_node_id == next(iter(self.contexts))
            old = [
                m for m in self.ear.came[:-1] if m.metadata.src_node_id == 1000 and m is not reply
            ]
            sealed = [m for m in old if m.has_content() and "sealed" in m.content]
            if mine and sealed and "sealed" in reply.content:
                yield Message(sealed[-1].content, reply_to=self._asked(reply))
            else:
                yield reply

    def _asked(self, reply: Message) -> Message:
        number = reply.metadata.reply_to_message_id
        return next(m for m in self.ear.sent if m.metadata.message_id == number)


def test_replayed_reply__counts_as_a_site_that_vanished() -> None:
    told = list[str]()

    class Watching(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            taken = list(replies)
            told.extend(reply.error.reason for reply in taken if reply.has_error())
            return super().aggregate_train(server_round, taken)

    run(ReplayingGrid(make_client(protect()), 5), Watching(), Protection(), averages=True)
    assert told == ["message could not be authenticated"]


def test_second_invitation__is_refused() -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    run(tapped, protection=Protection())
    with pytest.raises(ProtocolError, match="a second invitation, and not the same one"):
        run(tapped, protection=Protection())


@pytest.mark.parametrize("data", [b"\xff", b"{", b'"run_id": "x"', b'"offer": "x"'])
def test_invitation__that_cannot_be_read_is_refused(data: bytes) -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    run(tapped, protection=Protection())
    sent = [m for m in tapped.ear.sent if sealing.read_clear(m.content) == sealing.INVITE]
    invitation = json.loads(sealing.clear_bytes(sent[0].content))
    if b":" in data:
        data = json.dumps(invitation | json.loads(b"{%s}" % data)).encode()
    site = ProtectedSite(
        SiteMod(protection=Protection(), site=None, spends=None, purpose="p"),
        replace(tapped.contexts[1000], state=RecordDict()),
        owner_of(tapped.contexts[1000], None),
    )
    with pytest.raises((ConfigError, ProtocolError)):
        site.accept(sealing.clear(sealing.INVITE, data))


def test_message__without_a_step_is_none_of_the_protocol() -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    content = RecordDict({"fedlearn": ConfigRecord({"3tep": "greet"})})
    message = private.set_message_id(Message(content, 1000, "train"), "m")
    assert "protected messages alone" in answer(tapped, 1000, message).error.reason


def test_new_run_of_flowers__starts_afresh_where_state_is_kept() -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    run(tapped, protection=Protection())
    for context in tapped.contexts.values():
        context.run_id = 2
    assert run(tapped, protection=Protection()).arrays


# --- A server that breaks the rules ---------------------------------------------------


class LyingGrid(SecureGrid):
    """A server that sends the sites something else than it has announced, at one step."""

    def __init__(self, honest: SecureGrid, step: str, lie: Callable[[str, Any], Any]) -> None:
        self.__dict__.update(honest.__dict__)
        self._step, self._lie = step, lie

    def _exchange(self, kind: str, step: Any, asked: Any, *rest: Any, **more: Any) -> Replies:
        if step == self._step:
            asked = {site: self._lie(site, one) for site, one in asked.items()}
        return super()._exchange(kind, step, asked, *rest, **more)


def lying(step: str, lie: Callable[[str, Any], Any], seen: Seen | None = None) -> Any:
    tapped = TappedGrid(make_client(protect(), seen=seen), 5)
    honest = secure(tapped, FedAvg(), step_seconds=0.5)
    return run(LyingGrid(honest, step, lie))


def test_site__trains_on_no_other_model_than_all_were_announced() -> None:
    seen = Seen()

    def another_for_one(site: str, one: tuple[RecordDict, bytes]) -> tuple[RecordDict, bytes]:
        content, request = one
        other = RecordDict({**content, "arrays": record({**START, "bias": START["bias"] + 1})})
        return (other, request) if site == "node-1002" else one

    assert lying("mask", another_for_one, seen).arrays
    assert 2 not in seen.trained
    with pytest.raises(ProtocolError, match="the model is not the one that was announced"):
        lying("mask", lambda _, one: another_for_one("node-1002", one))


def test_site__gives_no_update_without_a_mask_to_a_server_that_asks_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Protection, "sums", lambda self, kind: False)
    seen = Seen()
    tapped = TappedGrid(make_client(protect(), seen=seen), 5)
    secured = secure(tapped, FedAvg())
    secured._parties.enrol("train")
    monkeypatch.undo()
    secured._round = 1
    requests = {"node-1000": (RecordDict({"arrays": record(START)}), b"")}
    answers = secured._exchange("train", "ask", requests, 5.0)
    assert answers.reasons()["node-1000"] == "ask: server: wants a reply to train without a mask"
    assert seen.trained == []


@pytest.mark.parametrize("step", ["share", "mask", "agree", "unmask"])
def test_site__answers_no_step_out_of_order(step: str) -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    secured = secure(tapped, FedAvg())
    secured._parties.enrol("train")
    requests = {"node-1000": (RecordDict({"arrays": record(START)}), b"x")}
    answers = secured._exchange("train", sealing.step_of(step), requests, 5.0)
    assert "out of order: nothing was advertised" in answers.reasons()["node-1000"]


def test_round__that_was_cut_off_leaves_sites_that_take_part_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tapped = TappedGrid(make_client(protect()), 5)
    secured = secure(tapped, FedAvg())
    messages = [_question(node, "train") for node in tapped.contexts]

    def cut_off(self: ServerSession) -> None:
        raise KeyboardInterrupt

    for step in ("advertise", "mask", "unmask"):
        with monkeypatch.context() as patched:
            close = ServerSession.close_step

            def closing(self: ServerSession, step: str = step, close: Any = close) -> None:
                if self.step == step:
                    cut_off(self)
                close(self)

            patched.setattr(ServerSession, "close_step", closing)
            with pytest.raises(KeyboardInterrupt):
                list(secured.send_and_receive(messages, timeout=5))
    (mean,) = secured.send_and_receive(messages, timeout=5)
    assert mean.has_content()


def test_secure_grid__serves_a_second_strategy_of_the_same_run() -> None:
    secured = secure(TappedGrid(make_client(protect()), 5), FedAvg())
    for strategy in (FedAvg(), FedAdam()):
        again = secure(secured, strategy)
        assert again is secured
        assert run(again, strategy).arrays
    with pytest.raises(ConfigError, match=r"Krum: .*\nprotection: clip: 2.0 and 16.0"):
        secure(secured, Krum(), Protection(clip=2.0))


def test_enrolment__with_fewer_sites_than_the_strategy_waits_for_is_an_error_and_no_wait(
    tmp_path: Path,
) -> None:
    federation(tmp_path, NAMES)
    (tmp_path / "3.yaml").write_text("name: va\n")
    app = make_client(protect(site=str(tmp_path / "{partition-id}.yaml")))
    with pytest.raises(ProtocolError, match=r"3 sites can take part; needed: 4; node 1003: .*data"):
        run(
            TappedGrid(app, 4),
            FedAvg(min_available_nodes=4),
            Protection(),
            keys=tmp_path / "keys" / "server",
            roster=tmp_path / "roster.json",
        )


def test_secure_grid__sends_in_no_other_way() -> None:
    secured = secure(TappedGrid(make_client(protect()), 5), FedAvg())
    with pytest.raises(ConfigError, match="sends by send_and_receive alone"):
        secured.push_messages([])
    with pytest.raises(ConfigError, match="receives by send_and_receive alone"):
        secured.pull_messages([])
    other = _question(1004, "train")
    other.content["arrays"] = record({**START, "bias": START["bias"] + 1})
    messages = [_question(n, "train") for n in (1000, 1001, 1002, 1003)]
    with pytest.raises(ConfigError, match="the sites get different models"):
        list(secured.send_and_receive([*messages, other]))
    with pytest.raises(ConfigError, match="two messages to one node"):
        list(secured.send_and_receive([*messages, messages[0]]))
    with pytest.raises(ProtocolError, match="none of the nodes that were asked is enrolled"):
        list(secured.send_and_receive([_question(7, "train")]))
    with pytest.raises(ConfigError, match="messages of types"):
        list(secured.send_and_receive([*messages, _question(1004, "evaluate")]))


# --- Ledger and policy ------------------------------------------------------------------


def site_files(folder: Path, **policy: Any) -> str:
    """A file for each of five sites; the template that finds them."""
    for i in range(5):
        text = {
            "name": f"site-{i}",
            "data": f"records {i}",
            "ledger": f"state/{i}.jsonl",
            "policy": policy,
        }
        (folder / f"{i}.yaml").write_text(json.dumps(text))
    return str(folder / "{partition-id}.yaml")


def spent(folder: Path, site: int) -> LedgerReport:
    return verify(folder / "state" / f"{site}.jsonl")


def with_files(folder: Path, mod: SiteMod, *, rounds: int = 1, **more: Any) -> Any:
    app = make_client(mod, **more)
    return run(TappedGrid(app, 5), protection=mod.protection, rounds=rounds)


def test_ledger__is_charged_before_the_app_runs_and_settled_after_its_reply_left(
    tmp_path: Path,
) -> None:
    charged = list[int]()

    def look(content: RecordDict, context: Context) -> RecordDict:
        site = int(str(context.node_config["partition-id"]))
        charged.append(len(spent(tmp_path, site).pending))
        return content

    mod = protect(site=site_files(tmp_path, epsilon_total=50.0), spends=STEP, purpose="digits")
    with_files(tmp_path, mod, rounds=2, train=look)
    assert charged == [1] * 10
    report = spent(tmp_path, 3)
    assert report.site == "site-3"
    assert report.spent == (replace(STEP, steps=20),)
    assert not report.pending
    assert len(report.by_run) == 1


def test_budget__that_is_used_up_refuses_before_anything_is_trained(tmp_path: Path) -> None:
    seen, once = Seen(), GaussianEvent(noise_multiplier=1.0, sample_rate=1.0, steps=1)
    mod = protect(site=site_files(tmp_path, epsilon_total=6.0), spends=once)
    with pytest.raises(PrivacyError, match=r"site-0: refused .* the budget of this data is 6"):
        with_files(tmp_path, mod, rounds=5, seen=seen)
    rounds = len(seen.trained) // 5
    assert 1 <= rounds < 5
    assert spent(tmp_path, 0).spent == (replace(once, steps=rounds),)
    assert epsilon(spent(tmp_path, 0).spent, 1e-5) <= 6.0
    # What was spent stays: a new run finds the same ledger.
    with pytest.raises(PrivacyError, match="budget"):
        with_files(tmp_path, mod, seen=seen)
    assert len(seen.trained) == rounds * 5


def test_spend__within_the_app_holds_even_where_the_app_looks_away(tmp_path: Path) -> None:
    def spends(content: RecordDict, context: Context) -> RecordDict:
        spend(STEP)
        return content

    def looks_away(content: RecordDict, context: Context) -> RecordDict:
        with contextlib.suppress(PrivacyError):
            spend(GaussianEvent(noise_multiplier=0.1, sample_rate=1.0, steps=10))
        return content

    mod = protect(site=site_files(tmp_path, epsilon_total=8.0))
    assert with_files(tmp_path, mod, train=spends).arrays
    assert spent(tmp_path, 2).spent == (STEP,)
    with pytest.raises(PrivacyError, match="budget of this data is 8"):
        with_files(tmp_path, mod, train=looks_away)
    assert spent(tmp_path, 2).spent == (STEP,)


def test_policy__that_demands_privacy_lets_nothing_out_that_was_not_paid_for(
    tmp_path: Path,
) -> None:
    mod = protect(site=site_files(tmp_path))
    with pytest.raises(PrivacyError, match="the app has spent nothing"):
        with_files(tmp_path, mod)


def test_app__that_fails_on_a_record_tells_the_server_nothing_of_it(tmp_path: Path) -> None:
    def fails(content: RecordDict, context: Context) -> RecordDict:
        raise DataError("line 17: Ada Lovelace has no diagnosis")

    tapped_app = make_client(protect(site=site_files(tmp_path), spends=STEP), train=fails)
    with pytest.raises(ProtocolError, match=r"its app failed \(DataError\)") as caught:
        run(TappedGrid(tapped_app, 5), protection=Protection())
    assert "Lovelace" not in str(caught.value)
    assert spent(tmp_path, 2).spent == (STEP,)


@pytest.mark.parametrize(
    ("policy", "protection", "reason"),
    [
        ({"unit": "none", "min_cohort": 6}, Protection(), "policy.min_cohort=6"),
        (
            {"unit": "none", "require_secagg": "masked"},
            Protection(masked=False),
            "policy.require_secagg=masked: the run uses 'off'",
        ),
        ({"unit": "none", "allow_models": ["cnn"]}, Protection(), "trains 'flower'"),
        ({"unit": "none", "approved_code": ["ab"]}, Protection(), "policy.approved_code"),
    ],
)
def test_policy__is_asked_before_the_app_sees_the_message(
    tmp_path: Path, policy: dict[str, Any], protection: Protection, reason: str
) -> None:
    seen = Seen()
    mod = protect(protection, site=site_files(tmp_path, **policy))
    try:
        with_files(tmp_path, mod, seen=seen)
    except PrivacyError as error:
        assert reason in str(error)  # noqa: PT017  (without masks no error is raised)
    declined = spent_or_declined(tmp_path)
    assert reason in declined
    assert seen.trained == []


def spent_or_declined(folder: Path) -> str:
    return " ".join(one.reason for one in verify(folder / "state" / "0.jsonl").declined)


def test_policy__for_records_takes_no_epsilon_of_clients(tmp_path: Path) -> None:
    event = ClientGaussianEvent(noise_multiplier=2.0, sample_rate=1.0, steps=1)
    mod = protect(site=site_files(tmp_path), spends=event)
    with pytest.raises(PrivacyError, match=r"policy.unit=record: the app spends for the unit"):
        with_files(tmp_path, mod)


def test_site_file__names_all_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("name: a\ndata: b\nledger: c\npolicy: {delta: 2}\nkey: d\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == 2
    path.write_text("name: a\ndata: b\nledger: c\npolicy: {}\nkeys: d\n")
    with pytest.raises(ConfigError, match="keys and roster"):
        load(path)
    path.write_text("name: a\ndata: b\nledger: c\npolicy: {approval: ask}\n")
    with pytest.raises(ConfigError, match=r"policy\.approval=ask: an app of Flower's has no terms"):
        load(path)
    app = make_client(protect(site=str(tmp_path / "{hospital}.yaml")))
    with pytest.raises(ProtocolError, match="this node's config has partition-id, num-partitions"):
        run(TappedGrid(app, 5), protection=Protection())
    app = make_client(protect(site=str(tmp_path / "none.yaml")))
    with pytest.raises(ProtocolError, match=r"none.yaml: cannot be read"):
        run(TappedGrid(app, 5), protection=Protection())


def test_file_of_the_users__with_the_name_of_a_package_of_ours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ModuleType("clients")
    theirs.__file__ = "/home/me/app/clients.py"
    monkeypatch.setitem(sys.modules, "clients", theirs)
    monkeypatch.delitem(sys.modules, "clients.app_owner")
    with pytest.raises(ProtocolError, match=r"app/clients.py: has the name of a package"):
        with_files(tmp_path, protect(site=site_files(tmp_path)))


def test_spend__outside_of_a_protected_app_is_an_error() -> None:
    with pytest.raises(ConfigError, match="outside of a protected ClientApp"):
        spend(STEP)


# --- A deployment: pinned rosters ---------------------------------------------------------


def federation(folder: Path, names: Iterable[str]) -> Path:
    """Keys of a server and of sites, and a roster that all of them have pinned."""
    now = datetime.now(UTC)
    new_identity(folder / "keys", "server", "server", now)
    for name in names:
        new_identity(folder / "keys", name, "site", now)
    server = Identity.load(folder / "keys" / "server")
    introductions = [public_path(folder / "keys" / name) for name in ("server", *names)]
    roster = folder / "roster.json"
    sign_roster(roster, "hearts", introductions, server)
    pin_roster(roster, server.fingerprint)
    for i, name in enumerate(names):
        text = {
            "name": name,
            "data": name,
            "ledger": f"state/{i}.jsonl",
            "policy": {"unit": "none"},
            "keys": f"keys/{name}",
            "roster": "roster.json",
        }
        (folder / f"{i}.yaml").write_text(json.dumps(text))
    return roster


NAMES = ("cleveland", "hungary", "switzerland", "va")


def test_deployment__runs_under_long_lived_keys_and_a_pinned_roster(tmp_path: Path) -> None:
    roster = federation(tmp_path, NAMES)
    mod = protect(site=str(tmp_path / "{partition-id}.yaml"))
    result = run(
        TappedGrid(make_client(mod), 4),
        protection=Protection(),
        keys=tmp_path / "keys" / "server",
        roster=roster,
    )
    assert result.arrays


@pytest.mark.parametrize("liar", [0, 4])
def test_node__that_says_it_is_a_site_of_the_roster_takes_nobodys_place(
    tmp_path: Path, liar: int
) -> None:
    """It knows the name and the public key of the site, as everybody does."""
    roster = federation(tmp_path, NAMES)
    victim = 1
    claimed = Identity.load(tmp_path / "keys" / NAMES[victim]).public.hex()
    places = [i for i in range(5) if i != liar]
    for place, own in reversed([*zip(places, range(4), strict=True)]):
        (tmp_path / f"{own}.yaml").rename(tmp_path / f"{place}.yaml")
    text = {"name": NAMES[victim], "data": "x", "ledger": "state/9.jsonl"}
    (tmp_path / f"{liar}.yaml").write_text(json.dumps({**text, "policy": {"unit": "none"}}))
    tapped = TappedGrid(make_client(protect(site=str(tmp_path / "{partition-id}.yaml"))), 5)

    def greets(site: ProtectedSite) -> bytes:
        told = json.loads(honest(site))
        if site.context.node_config["partition-id"] == liar:
            told["public_key"] = claimed
        return json.dumps(told).encode()

    honest, seen = ProtectedSite.greeting, list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProtectedSite, "greeting", greets)
        secured = secure(
            tapped, FedAvg(), keys=tmp_path / "keys" / "server", roster=roster, nodes=5
        )
        questions = [_question(node, "train") for node in tapped.contexts]
        for reply in secured.send_and_receive(questions):
            seen += [] if reply.has_error() else [1]
    assert seen == [1], "the mean"
    assert sorted(secured._parties.node_of) == sorted(NAMES)
    assert [*tapped.contexts][liar] not in secured._parties.node_of.values()


def test_site__refuses_a_server_that_is_not_the_one_it_has_pinned(tmp_path: Path) -> None:
    federation(tmp_path, NAMES)
    app = make_client(protect(site=str(tmp_path / "{partition-id}.yaml")))
    with pytest.raises(ProtocolError, match="not signed by the coordinator of the pinned"):
        run(TappedGrid(app, 4), protection=Protection())


def test_server__leaves_out_a_site_that_is_not_on_its_roster(tmp_path: Path) -> None:
    roster = federation(tmp_path, NAMES)
    stranger = {"name": "nowhere", "data": "x", "ledger": "state/4.jsonl", "policy": {}}
    (tmp_path / "4.yaml").write_text(json.dumps(stranger))
    told = list[str]()

    class Watching(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            taken = list(replies)
            told.extend(reply.error.reason for reply in taken if reply.has_error())
            return super().aggregate_train(server_round, taken)

    run(
        TappedGrid(make_client(protect(site=str(tmp_path / "{partition-id}.yaml"))), 5),
        Watching(),
        Protection(),
        keys=tmp_path / "keys" / "server",
        roster=roster,
        nodes=5,
        averages=True,
    )
    assert told == ["the roster has no site nowhere"]


def test_greeting__tells_no_more_than_who_the_site_is_and_what_it_runs() -> None:
    tapped = TappedGrid(make_client(protect()), 3)
    context = tapped.contexts[1000]
    mod = protect()
    told = json.loads(ProtectedSite(mod, context, owner_of(context, None)).greeting())
    assert set(told) == {"site", "public_key", "version", "code", "protection"}
