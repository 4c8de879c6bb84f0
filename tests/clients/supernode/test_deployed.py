"""A site on a machine of its own: what it checks first, and what it takes from others."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from clients import sitefile
from clients.owner import deployed_owner
from clients.site import open_site
from clients.sitefile import Machine
from clients.supernode.checkup import check
from clients.supernode.deployed import check_pinned, commitment
from clients.supernode.memory import Memory
from fedlearn.cli import main
from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.logs import log_json
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.crypto.roster import Participant, Roster
from fedlearn.data import Csv
from fedlearn.data.tables.scaling import Ranges
from tests.deployment.world import World, make_world
from tests.far import CUDA, far_device

NOW = datetime.now(UTC)
SITES = ("cleveland", "hungary", "switzerland")

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, heart_archive: Path) -> World:
    return make_world(tmp_path_factory.mktemp("world"), SITES)


# --- Before it starts ---------------------------------------------------------------


def problems(path: Path, now: datetime) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        check(path, now)
    return caught.value.problems


def test_check__says_what_it_found_where_all_is_well(world: World, capsys: Output) -> None:
    assert main(["client", str(world.site_file("cleveland")), "--check"]) == 0
    said = capsys.readouterr().out
    assert "199 training and 104 test records" in said
    assert "3 sites, signature as pinned" in said
    assert f"127.0.0.1:{world.port}" in said
    assert not world.ledger("cleveland").exists(), "a check changes nothing"


def test_check__lists_all_problems_at_once(tmp_path: Path, capsys: Output) -> None:
    world = make_world(tmp_path, ("a", "b", "c"))
    folder = tmp_path / "a"
    (folder / "keys" / "a.tls").chmod(0o640)
    (folder / "ca.crt").write_text("no certificate")
    (folder / "roster.json.pin").unlink()
    path = world.site_file("a")
    path.write_text(
        path.read_text().replace("{kind: heart}", "{kind: csv, path: no.csv, label: x}")
    )
    assert main(["client", str(path), "--check"]) == 2
    said = capsys.readouterr().err
    for problem in (
        "a.tls: mode 0640 lets others in",
        "ca.crt: not a certificate",
        "nobody's signature is pinned",
        "no.csv: there is no such file",
    ):
        assert problem in said
    assert main(["client", str(path)]) == 2, "and nothing starts"


def test_check__asks_for_the_coordinator_and_for_valid_certificates(world: World) -> None:
    path = world.site_file("hungary")
    text = path.read_text()
    try:
        path.write_text("\n".join(line for line in text.splitlines() if "server:" not in line))
        assert any("server: must be given" in line for line in problems(path, NOW))
    finally:
        path.write_text(text)
    expired = problems(path, NOW + timedelta(days=826))
    assert any("hungary.tls: its certificate expired" in line for line in expired)
    early = problems(path, NOW - timedelta(hours=1))
    assert any("clock behind" in line for line in early)


@pytest.mark.parametrize("address", ["fed.example.org", "fed.example.org:", "http://fed:1", ":1"])
def test_sitefile__refuses_an_address_without_host_or_port(
    world: World, tmp_path: Path, address: str
) -> None:
    text = world.site_file("hungary").read_text().replace(f"127.0.0.1:{world.port}", address)
    (tmp_path / "site.yaml").write_text(text)
    assert any("must be host:port" in one for one in problems(tmp_path / "site.yaml", NOW))


# --- Rosters ------------------------------------------------------------------------


def test_roster_of_a_run__must_be_borne_out_by_the_pinned_one(world: World) -> None:
    site = sitefile.load(world.site_file("cleveland"))
    authority = Identity.load(world.coordinator / "keys" / "coordinator")
    keys = load_pinned(site.roster).sites()
    ours = [Participant(name=name, role="site", public=key) for name, key in keys.items()]
    server = Participant(name="server", role="server", public=authority.public)
    check_pinned(site.roster, Roster.sign("run", (*ours[:2], server), authority))
    with pytest.raises(ProtocolError, match="not signed by the coordinator of the pinned"):
        check_pinned(site.roster, Roster.sign("run", (*ours, server), Identity.new()))
    stranger = Participant(name="zebra", role="site", public=Identity.new().public)
    with pytest.raises(ProtocolError, match="does not have zebra"):
        check_pinned(site.roster, Roster.sign("run", (*ours, stranger, server), authority))
    swapped = replace(ours[1], public=Identity.new().public)
    with pytest.raises(ProtocolError, match=f"does not have {ours[1].name}"):
        check_pinned(site.roster, Roster.sign("run", (ours[0], swapped, server), authority))


def test_commitment__is_the_same_for_the_same_records_and_cannot_be_guessed() -> None:
    mine, other, data = Identity.new(), Identity.new(), "ab" * 32
    assert commitment(mine, data) == commitment(mine, data)
    assert len({commitment(mine, data), commitment(other, data), commitment(mine, "cd" * 32)}) == 3


# --- Records ------------------------------------------------------------------------


def test_site__trains_on_its_own_records_whatever_the_run_says(world: World) -> None:
    site = sitefile.load(world.site_file("switzerland"))
    config = compose(["experiment=medical_heart", "partition=iid", "seed=5"])
    opened = open_site(deployed_owner(site), config)
    assert (len(opened.data.train), len(opened.data.test)) == (30, 16)
    again = open_site(deployed_owner(site), replace(config, seed=6))
    assert again.digest == opened.digest, "the ledger is of these records, in every run"


def test_agreed__numbers_are_the_runs_and_places_the_sites() -> None:
    own = Csv(path="mine.csv", label="ill", separator="semicolon", categories={"a": ("x",)})
    of_run = Csv(
        path="none", label="y", numeric=("age",), categories={"b": ("u", "v")},
        scaling=Ranges(columns={"age": (0.0, 99.0)}),
    )  # fmt: skip
    found = own.agreed(of_run)
    assert isinstance(found, Csv)
    assert (found.path, found.label, found.separator) == ("mine.csv", "ill", "semicolon")
    assert (found.scaling, found.numeric) == (of_run.scaling, ("age",))
    assert found.categories == {"a": ("x",), "b": ("u", "v")}


def test_agreed__a_record_is_the_same_at_a_site_and_in_the_promise() -> None:
    of_run = Csv(path="none", label="y", record="patient", time="hour")
    mine = Csv(path="mine.csv", label="y", record="patient", time="at")
    found = mine.agreed(of_run)
    assert isinstance(found, Csv)
    assert (found.record, found.time) == ("patient", "at")
    for other in ("visit", ""):
        with pytest.raises(ConfigError, match="privacy is promised to one record"):
            replace(mine, record=other).agreed(of_run)


def test_machine__bounds_the_batch_and_no_promise(world: World) -> None:
    site = sitefile.load(world.site_file("cleveland"))
    config = compose(["experiment=medical_heart"])
    small = open_site(deployed_owner(replace(site, machine=Machine(max_batch=3))), config)
    large = open_site(deployed_owner(replace(site, machine=Machine(max_batch=10**6))), config)
    assert small.training == replace(config.training, max_batch=3)
    assert large.training == config.training
    assert small.plan(3) == large.plan(3)


def test_machine__says_where_a_site_computes_whatever_the_run_says(world: World) -> None:
    site = sitefile.load(world.site_file("cleveland"))
    config = compose(["experiment=medical_heart", "training.device=cuda"])
    own = replace(site, machine=Machine(device="cpu"))
    with far_device():
        assert open_site(deployed_owner(site), config).device == CUDA
        assert open_site(deployed_owner(own), config).device.type == "cpu"
    with far_device(count=0):
        open_site(deployed_owner(own), config)
        with pytest.raises(ConfigError, match=r"training\.device=cuda.*machine: \{device: cpu\}"):
            open_site(deployed_owner(site), config)


# --- Memory -------------------------------------------------------------------------


def test_memory__survives_the_process_and_lets_nobody_read(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "runtime")
    assert memory.node() is None
    assert memory.open_message() is None
    state = RecordDict({"joined": ConfigRecord({"channel": b"\x00secret"})})
    memory.set_node(2**63 + 5)
    memory.set_state(7, state)
    memory.set_open(b"head")
    later = Memory(tmp_path / "runtime")
    assert (later.node(), later.open_message()) == (2**63 + 5, b"head")
    assert later.state(7).config_records["joined"]["channel"] == b"\x00secret"
    assert list(later.state(8)) == []
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "runtime").iterdir()} == {0o600}
    later.clear_open()
    later.set_state(8, RecordDict())
    later.forget_others(8)
    assert {p.name for p in (tmp_path / "runtime").iterdir()} == {"node", "run-8"}


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "cp": shutil.copyfile,  # into the same file, with a time of now
    "cp -p": shutil.copy2,
    "mv": lambda backup, path: backup.replace(path),
    "tar": lambda backup, path: (path.unlink(), shutil.copy2(backup, path)),
}


@pytest.mark.parametrize("way", WAYS)
def test_state_of_a_run__that_was_put_back_from_a_copy_is_not_gone_on_from(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With it a site signs a second list of survivors, and a second server sums a round again."""
    monkeypatch.setattr("clients.supernode.memory.MOST_SECONDS", 0.05)
    memory, path = Memory(tmp_path / "runtime"), tmp_path / "runtime" / "run-1"
    memory.set_state(1, RecordDict({"round": ConfigRecord({"n": 1})}))
    backup = Path(shutil.copy2(path, tmp_path / "backup"))
    memory.set_state(1, RecordDict({"round": ConfigRecord({"n": 2})}))
    time.sleep(0.1)
    assert memory.state(1).config_records["round"]["n"] == 2
    WAYS[way](backup, path)
    assert list(memory.state(1)) == []
    assert "counts as lost" in caplog.text
    memory.set_state(1, RecordDict({"round": ConfigRecord({"n": 3})}))
    assert memory.state(1).config_records["round"]["n"] == 3


def test_state_of_a_run__is_gone_on_from_whatever_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path)
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setattr("time.time_ns", lambda: 0)
    memory.set_state(1, RecordDict({"round": ConfigRecord({"n": 1})}))
    assert memory.state(1).config_records["round"]["n"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["run-1"]


def test_memory__keeps_the_old_state_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path)
    memory.set_state(1, RecordDict({"a": ConfigRecord({"n": 1})}))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        memory.set_state(1, RecordDict({"a": ConfigRecord({"n": 2})}))
    assert memory.state(1).config_records["a"]["n"] == 1


# --- Logs ---------------------------------------------------------------------------


def test_logs__are_one_json_object_a_line_with_fields() -> None:
    stream, root = StringIO(), logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        log_json(stream, role="client")
        fields = {"seconds": 1.5, "array": np.float32(2)}
        logging.getLogger("clients.supernode.node").info("answered", extra={"fields": fields})
        try:
            raise ValueError("a\nb")
        except ValueError:
            logging.getLogger("clients.app").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["role"], first["seconds"]) == ("answered", "client", 1.5)
    assert second["level"] == "error"
    assert "ValueError" in second["traceback"]
