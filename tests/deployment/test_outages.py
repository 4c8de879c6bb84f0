"""Sites that are not what they should be, or not there: one run over good ones and bad ones.

Three sites are well. Of the others one has another key than the roster gives it, one a
certificate that has expired, one a clock that is an hour ahead; one runs out of disk and one
loses its network in the middle of the run, and both come back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.ledger.report import verify
from fedlearn.crypto.certificates import site_credential
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import introduce
from fedlearn.privacy.events import GaussianEvent

from .cable import Cable
from .processes import PATIENCE, Stage, staged, wait_for
from .world import World, command, make_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk, preloads a clock"),
]

WELL = ("a", "b", "c")
BAD = ("clock", "expired", "wrongkey")
COMING_BACK = ("cable", "disk")
HOUR = 3600
Fill = Callable[[], None]
OPTIONS = (
    "scenario=csv", "scenario.path=unused", "scenario.label=ill", "model=tabular",
    "scenario.numeric=[u,v,w]", "scenario.gaps=[]", "scenario.classes=['0','1']",
    "training.nominal_records=60", "training.dp_engine=fast", "strategy.min_sites=3",
)  # fmt: skip
ROUNDS = 100
"""More than are run: how many pass until all sites are back depends on the machine."""

ALL = WELL + COMING_BACK


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("outages"), (*WELL, *BAD, *COMING_BACK), wait=25.0)
    for number, name in enumerate(made.sites):
        write_records(made.root / name / "records.csv", number)
        path = made.site_file(name)
        path.write_text(
            path.read_text().replace("{kind: heart}", "{kind: csv, path: records.csv, label: ill}")
        )
    return made


def write_records(path: Path, number: int) -> None:
    draw = np.random.default_rng(number)
    rows = draw.normal(size=(80, 3))
    ill = (rows.sum(axis=1) + draw.normal(size=80) > 0).astype(int)
    lines = [
        ",".join([*(f"{x:.4f}" for x in row), str(y)]) for row, y in zip(rows, ill, strict=True)
    ]
    path.write_text("\n".join(["u,v,w,ill", *lines]) + "\n")


def give_another_key(world: World, name: str) -> None:
    """The site has lost its key and made a new one, and has told nobody."""
    keys = world.root / name / "keys"
    shutil.rmtree(keys)
    command(["keys", "new", name, "--folder", str(keys)])


def let_expire(world: World, name: str) -> None:
    """The site was enrolled with a certificate that has run out since."""
    keys = world.root / name / "keys"
    old = site_credential(name, datetime.now(UTC) - timedelta(days=900), days=800)
    (keys / f"{name}.tls").write_bytes(old.pem())
    identity = Identity.load(keys / name)
    sent = introduce(identity, name, "site", old.certificate_pem().decode())
    (world.coordinator / "keys" / f"{name}.pub").write_text(sent)


@contextmanager
def small_disk(folder: Path) -> Iterator[Fill]:
    """A disk of a few pages under `folder`; the call fills it, and `full` in it can be removed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a small disk here")

    def fill() -> None:
        with suppress(OSError), (folder / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What to put into the environment of a process whose clock is to be an hour ahead."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to put a clock wrong")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).parent / "clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(HOUR)}


@pytest.fixture(scope="module")
def running(world: World, wrong_clock: dict[str, str]) -> Iterator[tuple[Stage, Cable, Fill]]:
    give_another_key(world, "wrongkey")
    let_expire(world, "expired")
    cable = Cable(world.port)
    path = world.site_file("cable")
    path.write_text(path.read_text().replace(f":{world.port}", f":{cable.port}"))
    with small_disk(world.root / "disk" / "state") as fill, staged(world, None, OPTIONS) as stage:
        for name in (*WELL, *COMING_BACK):
            stage.site(name)
        # Their own look at their files would refuse two of them: here the coordinator does.
        for name in ("expired", "wrongkey"):
            stage.faulty_site(name)
        stage.faulty_site("clock", **wrong_clock)
        yield stage, cable, fill
    cable.close()


def result(stage: Stage) -> dict[str, Any]:
    path = stage.world.coordinator / "runs" / "outages" / "result.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_outages__cost_the_rounds_in_which_they_happen_and_no_more(
    running: tuple[Stage, Cable, Fill],
) -> None:
    stage, cable, fill = running
    server = stage.server(f"rounds={ROUNDS}", "out=runs/outages", "reply_timeout=40.0")
    rounds = stage.world.coordinator / "runs" / "outages" / "metrics.jsonl"

    def replied() -> list[int]:
        text = rounds.read_text() if rounds.exists() else ""
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line)["clients"]["replied"] for line in whole]

    wait_for("the first round", replied, unless=server)
    fill()
    cable.cut()
    before = len(replied())
    wait_for("a round without them", lambda: len(replied()) >= before + 2, unless=server)
    (stage.world.root / "disk" / "state" / "full").unlink()
    cable.mend()
    wait_for("a round with all again", lambda: replied()[-1] == len(ALL), unless=server)
    os.killpg(server.pid, signal.SIGINT)  # as a terminal does
    assert server.wait(PATIENCE) == 130
    found = result(stage)
    check_rounds(found["rounds"])
    check_accounts(stage, found)
    check_bad_sites(stage)


def check_rounds(rounds: list[dict[str, Any]]) -> None:
    """All five at first and at last; in between without the two, and never without the others."""
    clients = [one["clients"] for one in rounds]
    assert {one["invited"] for one in clients} == {len(ALL)}
    assert (clients[0]["replied"], clients[-1]["replied"]) == (5, 5)
    assert (clients[0]["dropped"], clients[-1]["dropped"]) == ({}, {})
    assert {"cable": "it is offline", "disk": "its node reports an error"} in [
        one["dropped"] for one in clients
    ]
    assert {name for one in clients for name in one["dropped"]} == set(COMING_BACK)


def check_accounts(stage: Stage, found: dict[str, Any]) -> None:
    """Ledgers are whole; what a site has paid is what it gave, and the coordinator knows of it."""
    for name in ALL:
        report = verify(stage.world.ledger(name))
        events = report.by_run[found["run_id"]]
        paid = sum(event.steps for event in events if isinstance(event, GaussianEvent))
        gave = sum(name not in one["clients"]["dropped"] for one in found["rounds"])
        known = found["privacy"]["per_site"][name]["steps"]
        # A cut may come after it has trained and before that is known.
        assert gave <= paid <= known <= gave + (name in COMING_BACK), name
        assert not report.torn


def check_bad_sites(stage: Stage) -> None:
    """They have read no record, and know why they take no part."""
    for name in BAD:
        assert not stage.world.ledger(name).exists()
    assert stage.sites["clock"].wait(PATIENCE) == 4
    assert re.search(r"this machine's clock is 3[56]\d\d seconds ahead", stage.log("clock"))
    for name in ("expired", "wrongkey"):
        assert "does not accept this site's certificate" in stage.log(name)
        assert stage.sites[name].poll() is None, "it goes on trying, as it may be put right"
    said = (stage.world.coordinator / "state" / "server.jsonl").read_text()
    assert "expired.pub: its certificate expired at" in said
