"""The ledger of a site: what it refuses, what it survives, what it notices."""

from __future__ import annotations

import json
import math
import os
import random  # noqa: TID251 - moments of a kill, not data
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.ledger import hash_chain, state
from clients.ledger.ledger import Budget, Ledger, load
from clients.ledger.report import verify
from clients.ledger.state import Cost, Reservation
from fedlearn.core.errors import DataError, PrivacyError
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import GaussianEvent, PersonGaussianEvent
from tests.effort import every

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUND = GaussianEvent(noise_multiplier=4.0, sample_rate=0.1, steps=10)
BUDGET = Budget(epsilon=8.0, delta=1e-5)


def open_ledger(path: Path, **changes: object) -> Ledger:
    arguments = {"site": "cleveland", "data": "ab" * 32, "budget": BUDGET, "now": NOW}
    return Ledger(path, **{**arguments, **changes})  # type: ignore[arg-type]


def spend(ledger: Ledger, event: GaussianEvent = ROUND, *, number: int = 1) -> Reservation:
    return ledger.reserve(cost(event, "run-1", number), now=NOW)


def cost(event: GaussianEvent = ROUND, run: str = "r", number: int = 1) -> Cost:
    return Cost(event=event, run_id=run, round_number=number, purpose="training")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.jsonl"


def three_rounds(path: Path, **of: object) -> None:
    with open_ledger(path, **of) as ledger:
        for number in (1, 2, 3):
            ledger.commit(spend(ledger, number=number), now=NOW)


def test_ledger__keeps_what_was_spent_over_runs(path: Path) -> None:
    three_rounds(path)
    with open_ledger(path, now=NOW + timedelta(days=300)) as ledger:
        assert ledger.spent() == (GaussianEvent(noise_multiplier=4.0, sample_rate=0.1, steps=30),)
        assert epsilon(ledger.spent(), 1e-5) == epsilon([ROUND] * 3, 1e-5) > epsilon([ROUND], 1e-5)


def test_ledger__counts_as_spent_what_was_reserved_and_never_committed(path: Path) -> None:
    with open_ledger(path) as ledger:
        reservation = spend(ledger)
    report = verify(path)
    assert report.spent == (ROUND,)
    assert [*report.pending.values()] == [reservation]


def test_ledger__has_the_reservation_on_the_disk_before_reserve_returns(path: Path) -> None:
    with open_ledger(path) as ledger:
        reservation = spend(ledger)
        assert [*verify(path).pending.values()] == [reservation]


def test_ledger__waits_for_the_disk_before_it_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line, head and folder: three things to sync for one entry, in this order."""
    synced: list[str] = []
    with open_ledger(path) as ledger:
        monkeypatch.setattr(os, "fsync", lambda f: synced.append(_name_of(f)))
        spend(ledger)
    assert synced == ["ledger.jsonl", f".ledger.jsonl.head.{os.getpid()}", "state"]


def _name_of(file: int) -> str:
    return Path(f"/proc/self/fd/{file}").readlink().name


def test_ledger__refuses_what_exceeds_the_budget_and_writes_it_down(path: Path) -> None:
    budget = Budget(epsilon=1.05 * epsilon([ROUND] * 3, 1e-5), delta=1e-5)
    three_rounds(path)
    with open_ledger(path, budget=budget) as ledger:
        with pytest.raises(
            PrivacyError, match=r"site cleveland: refused training.*is left"
        ) as caught:
            spend(ledger, number=4)
        assert caught.value.exit_code == 3
        small = GaussianEvent(noise_multiplier=400.0, sample_rate=0.1, steps=1)
        ledger.commit(spend(ledger, small, number=5), now=NOW)
        assert epsilon(ledger.spent(), 1e-5) <= budget.epsilon
    report = verify(path)
    assert [(r.event, r.round_number) for r in report.refusals] == [(ROUND, 4)]
    assert report.spent == (
        GaussianEvent(noise_multiplier=4.0, sample_rate=0.1, steps=30),
        small,
    )


def test_ledger__says_why_releases_for_a_smaller_unit_cannot_be_paid(path: Path) -> None:
    """A record's noise promises a person nothing, however little epsilon it has for a record."""
    three_rounds(path)
    budget = Budget(epsilon=100.0, delta=1e-5, unit="person")
    event = PersonGaussianEvent(noise_multiplier=400.0, sample_rate=0.1, steps=1)
    with open_ledger(path, budget=budget) as ledger, pytest.raises(PrivacyError) as caught:
        spend(ledger, event, number=4)
    said = str(caught.value)
    assert "holds releases for every record alone, which promise a person nothing" in said
    assert "Set scenario.person" in said
    assert "inf;" not in said


def test_ledger__pays_for_a_run_exactly_up_to_its_budget(path: Path) -> None:
    budget = Budget(epsilon=epsilon([ROUND] * 3, 1e-5), delta=1e-5)
    with open_ledger(path, budget=budget) as ledger:
        for number in (1, 2, 3):
            spend(ledger, number=number)
        with pytest.raises(PrivacyError):
            spend(ledger, number=4)


def test_ledger__refuses_a_release_without_noise_unless_there_is_no_limit(path: Path) -> None:
    clear = GaussianEvent(noise_multiplier=0.0, sample_rate=1.0, steps=1)
    with open_ledger(path) as ledger, pytest.raises(PrivacyError, match="epsilon inf"):
        spend(ledger, clear)
    with open_ledger(path, budget=Budget(epsilon=math.inf, delta=1e-5)) as ledger:
        spend(ledger, clear)
        assert epsilon(ledger.spent(), 1e-5) == math.inf


def test_ledger__is_open_to_one_run_at_a_time(path: Path) -> None:
    with open_ledger(path) as ledger:
        with pytest.raises(PrivacyError, match="in use by another run"):
            open_ledger(path)
        spend(ledger)
    with open_ledger(path) as ledger:
        assert ledger.spent() == (ROUND,)


@pytest.mark.parametrize("foreign", [{"data": "cd" * 32}, {"site": "hungary"}])
def test_ledger__refuses_another_data_set(path: Path, foreign: dict[str, object]) -> None:
    three_rounds(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="belongs to data"):
        open_ledger(path, **foreign)
    assert path.read_bytes() == before
    open_ledger(path).close()


def test_ledger__of_a_named_data_set_goes_on_when_its_records_change(path: Path) -> None:
    three_rounds(path, data="registry", records="ab" * 32)
    with open_ledger(path, data="registry", records="cd" * 32) as ledger:
        assert ledger.spent() == (replace(ROUND, steps=30),)
    assert path.read_text().count('"records"') == 2
    open_ledger(path, data="registry", records="cd" * 32).close()
    assert path.read_text().count('"records"') == 2
    assert verify(path).changes == 1


def test_ledger__from_before_data_sets_had_names_is_that_of_its_owners_data_set(path: Path) -> None:
    three_rounds(path)
    with open_ledger(path, data="registry") as ledger:
        assert ledger.spent() == (replace(ROUND, steps=30),)
    with pytest.raises(DataError, match="belongs to data"):
        open_ledger(path, data="registry", site="hungary")


def _edit_noise(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"noise_multiplier":4.0', b'"noise_multiplier":9.0') for line in lines]


def _forge_last(lines: list[bytes]) -> list[bytes]:
    """An edit by somebody who also mends the hash of the line."""
    last = json.loads(lines[-1])
    last["entry"]["time"] = "2027-01-01T00:00:00+00:00"
    return [*lines[:-1], hash_chain._line(last["entry"], last["previous"])[0]]


TAMPERING: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": _edit_noise,
    "forged": _forge_last,
    "taken out": lambda lines: lines[:2] + lines[3:],
    "reordered": lambda lines: [*lines[:1], *lines[3:5], *lines[1:3], *lines[5:]],
    "repeated": lambda lines: [*lines, lines[-1]],
    "cut by a line": lambda lines: lines[:-1],
    "cut to the header": lambda lines: lines[:1],
    "emptied": lambda lines: [],
    "cut inside a line": lambda lines: [*lines[:-1], lines[-1][:-40]],
    "blank line": lambda lines: [*lines, b"\n"],
    "space": lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
}


@pytest.mark.parametrize("how", TAMPERING)
def test_ledger__finds_that_its_file_was(path: Path, how: str) -> None:
    three_rounds(path)
    tampered = TAMPERING[how](path.read_bytes().splitlines(keepends=True))
    path.write_bytes(b"".join(tampered))
    with pytest.raises(DataError):
        verify(path)
    with pytest.raises(DataError):
        open_ledger(path)
    assert path.read_bytes() == b"".join(tampered), "the evidence must stay"


@pytest.mark.parametrize("seed", range(30))
def test_ledger__that_was_read_before_is_judged_as_one_that_was_not(path: Path, seed: int) -> None:
    """What a process remembers of a file changes nothing of what it finds, whatever was done."""
    draw = random.Random(seed)
    three_rounds(path)
    older, head = path.read_bytes(), path.with_name(path.name + ".head")
    older_head = head.read_bytes()
    with open_ledger(path) as ledger:
        spend(ledger, number=4)
    content, place = bytearray(path.read_bytes()), draw.randrange(len(older) + 50)
    done = draw.choice(["flip", "cut", "old", "old with its head", "add", "nothing"])
    if done == "flip":
        content[place] ^= 1 << draw.randrange(8)
    elif done == "cut":
        del content[place:]
    elif done == "add":
        content += draw.choice([b'{"entry":', b"{}\n", bytes(content).splitlines(True)[-1]])
    path.write_bytes(older if done.startswith("old") else bytes(content))
    if done == "old with its head":
        head.write_bytes(older_head)
    warm = found(path)
    hash_chain._known.clear()
    state.known.clear()
    assert warm == found(path)


def found(path: Path) -> object:
    """What a ledger holds, or why it is refused."""
    try:
        return load(path)
    except DataError as error:
        return str(error)


def test_ledger__finds_that_it_was_deleted_or_its_head_was(path: Path) -> None:
    three_rounds(path)
    head = path.with_name("ledger.jsonl.head")
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match="cut off"):
        open_ledger(path)
    path.write_bytes(kept)
    head.unlink()
    with pytest.raises(DataError, match="is missing"):
        open_ledger(path)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash is played by cutting the file, so the disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.mark.usefixtures("no_fsync")
def test_ledger__survives_a_crash_at_every_byte_of_an_append(path: Path) -> None:
    """Between two appends the file may end anywhere and the head may lag by one line."""
    with open_ledger(path) as ledger:
        spend(ledger)
    head_path = path.with_name("ledger.jsonl.head")
    head, before = head_path.read_bytes(), path.read_bytes()
    with open_ledger(path) as ledger:
        spend(ledger, number=2)
    after = path.read_bytes()
    ends = range(len(before), len(after) + 1)
    for length in sorted({*ends[:: every(9)], *ends[:2], *ends[-3:]}):
        path.write_bytes(after[:length])
        head_path.write_bytes(head)
        whole = length >= len(after) - 1  # all but perhaps the line end
        with open_ledger(path) as ledger:
            steps = ledger.spent()[0].steps
            assert steps == (20 if whole else 10)
            spend(ledger, number=3)
        report = verify(path)
        assert report.spent[0].steps == steps + 10
        assert report.repairs == (0 if whole or length == len(before) else 1)


@pytest.mark.usefixtures("no_fsync")
def test_ledger__survives_a_crash_while_it_is_created(path: Path) -> None:
    open_ledger(path).close()
    first = path.read_bytes()
    head_path = path.with_name("ledger.jsonl.head")
    for length in sorted({*range(0, len(first) + 1, every(7)), len(first)}):
        path.write_bytes(first[:length])
        head_path.unlink(missing_ok=True)
        open_ledger(path).close()
        assert verify(path).site == "cleveland"


def test_ledger__refuses_a_clock_that_went_back_and_bears_a_small_step(path: Path) -> None:
    three_rounds(path)
    with open_ledger(path) as ledger:
        for behind in (timedelta(minutes=6), timedelta(days=4000)):
            with pytest.raises(PrivacyError, match="Set the clock right"):
                ledger.reserve(cost(), now=NOW - behind)
        ledger.reserve(cost(), now=NOW - timedelta(minutes=1))
    assert verify(path).last == NOW


def test_ledger__refuses_a_time_without_a_zone(path: Path) -> None:
    three_rounds(path)
    with open_ledger(path) as ledger, pytest.raises(ValueError, match="time zone"):
        ledger.reserve(cost(), now=NOW.replace(tzinfo=None))


def test_ledger__commits_only_what_is_pending(path: Path) -> None:
    with open_ledger(path) as ledger:
        reservation = spend(ledger)
        ledger.commit(reservation, now=NOW)
        with pytest.raises(RuntimeError, match="not pending"):
            ledger.commit(reservation, now=NOW)
    assert not verify(path).pending


def test_ledger__is_whole_again_after_a_full_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(path) as ledger:
        spend(ledger)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _half_then_full(os.write))
            with pytest.raises(OSError, match="No space"):
                spend(ledger, number=2)
        with pytest.raises(RuntimeError, match="closed"):
            spend(ledger, number=3)
    assert verify(path).torn
    with open_ledger(path) as ledger:
        spend(ledger, number=3)
    assert verify(path).repairs == 1
    assert verify(path).spent[0].steps == 20


def _half_then_full(write: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    calls = iter([0])

    def stand_in(file: int, data: bytes) -> int:
        if next(calls, None) is None:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2])

    return stand_in


def test_ledger__is_readable_by_its_owner_only(path: Path) -> None:
    three_rounds(path)
    assert path.stat().st_mode & 0o077 == 0
    assert path.with_name("ledger.jsonl.head").stat().st_mode & 0o077 == 0


def test_verify__says_that_there_is_no_ledger(path: Path) -> None:
    with pytest.raises(DataError, match="no ledger"):
        verify(path)
    assert not path.exists()


CLIENT = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.state import Cost
from fedlearn.privacy.events import GaussianEvent, PersonGaussianEvent

def spend_for_ever():
    event = GaussianEvent(noise_multiplier=50.0, sample_rate=1.0, steps=1)
    cost = Cost(event=event, run_id="r", round_number=1, purpose="training")
    now = datetime(2026, 3, 1, tzinfo=UTC)
    released = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    budget = Budget(epsilon=float("inf"), delta=1e-5)
    with Ledger(Path(sys.argv[1]), site="s", data="d", budget=budget, now=now) as ledger:
        while True:
            held = ledger.reserve(cost, now=now)
            os.write(released, b"x")
            ledger.commit(held, now=now)

# One child at a time, each on a line of input: importing once keeps the test short.
for _ in sys.stdin:
    if (child := os.fork()) == 0:
        spend_for_ever()
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.mark.slow
def test_ledger__never_shows_less_than_was_released_after_100_kills(tmp_path: Path) -> None:
    path, released = tmp_path / "ledger.jsonl", tmp_path / "released"
    moments = random.Random(4)
    kills, count = 100, 0
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(path), str(released)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for _ in range(kills):
            print(file=client.stdin, flush=True)
            child = int(client.stdout.readline())
            time.sleep(moments.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            assert client.stdout.readline() == "gone\n"
            if not path.exists() or path.stat().st_size == 0:
                continue
            count = released.stat().st_size if released.exists() else 0
            spent = sum(event.steps for event in verify(path).spent)
            assert count <= spent <= count + kills, "each kill may cost one reservation too many"
        client.stdin.close()
    assert count > 30, "too slow a disk: nearly nothing was released, so nothing was shown"


BOTH = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.state import Cost
from fedlearn.core.errors import PrivacyError
from fedlearn.privacy.events import GaussianEvent, PersonGaussianEvent

def spend_until_nothing_is_left(run):
    event = GaussianEvent(noise_multiplier=20.0, sample_rate=1.0, steps=1)
    cost = Cost(event=event, run_id=run, round_number=1, purpose="training")
    released = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    budget = Budget(epsilon=1.2, delta=1e-5)
    os.write(ready, b"r")
    os.read(go, 1)
    while True:
        now = datetime.now(UTC)
        try:
            with Ledger(Path(sys.argv[1]), site="s", data="d", budget=budget, now=now) as ledger:
                ledger.reserve(cost, now=now)
                os.write(released, run.encode())
        except PrivacyError as error:
            if "in use" not in str(error):
                os._exit(0)

# Neither begins before both are there.
(there, ready), (go, started) = os.pipe(), os.pipe()
children = []
for run in "ab":
    if (child := os.fork()) == 0:
        spend_until_nothing_is_left(run)
    children.append(child)
for _ in children:
    os.read(there, 1)
os.write(started, b"gg")
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_ledger__of_two_processes_at_once_is_spent_to_its_end_and_no_further(
    tmp_path: Path,
) -> None:
    path, released = tmp_path / "ledger.jsonl", tmp_path / "released"
    subprocess.run([sys.executable, "-c", BOTH, str(path), str(released)], check=True, timeout=300)
    report, runs = verify(path), released.read_text()
    assert sum(event.steps for event in report.spent) == len(runs)
    assert set(runs) == {"a", "b"}
    (spent,) = report.spent
    one_more = replace(spent, steps=spent.steps + 1)
    assert epsilon([spent], 1e-5) <= 1.2 < epsilon([one_more], 1e-5)
