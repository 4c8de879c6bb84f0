"""Kills at random places: processes of every kind of a deployed run, until the run is over.

    python -m tests.deployment.kills --minutes 15 [--rounds 30] [--spare 40] [--pause 8] [--seed 0]

A coordinator and four sites on loopback train with masks and with noise that repeats. A site, the
coordinator, its gateway or its SuperLink is killed (SIGKILL) after a time that is drawn anew, and
what a service manager would start again is started again. All four sites have to be in every round,
so that the model must be that of a run that nobody has disturbed, bit for bit. When a run is over
another one begins, until the time is up; then the last one is left to end. Says in JSON what was
killed and what broke, and ends with 1 where anything did.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from clients.ledger.report import verify
from fedlearn.cli import main as command
from fedlearn.privacy.events import GaussianEvent
from fedlearn.privacy.noise import TEST_NOISE

from .processes import QUICK, Stage, children, staged
from .world import World, make_world

Kind = Literal["site", "coordinator", "gateway", "superlink"]
KINDS: Final[tuple[Kind, ...]] = ("site", "coordinator", "gateway", "superlink")
NOISE: Final = "7"
PROMISED: Final = 4.0
"""Epsilon of a run, spare rounds included."""

_AGAIN: Final = frozenset({-signal.SIGKILL, 3, 4})
"""Exit codes after which an operator, or systemd, starts the same command again."""

_MOST_IN_VAIN: Final = 12
"""Starts in a row that bring no round: then the run has broken."""


@dataclass
class Killer:
    """One run that is killed at; `kills` and `codes` count what was killed, and how the coordinator
    has ended, and `broke` says in sentences what should not have happened."""

    stage: Stage
    out: str
    rounds: int
    spare: int
    draw: np.random.Generator
    pause: float
    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    broke: list[str] = field(default_factory=list)

    @property
    def words(self) -> tuple[str, ...]:
        """The run, as for its coordinator and, but for `out`, for a simulation of it."""
        return (f"rounds={self.rounds}", f"spare_rounds={self.spare}", "strategy.min_sites=4",
                f"privacy.epsilon={PROMISED}", "reply_timeout=60.0")  # fmt: skip

    def over(self, until: float = math.inf, most: int = sys.maxsize) -> None:
        """Carry the run out, killing until a time (of `time.monotonic`), so often at most."""
        server = self.stage.server(*self.words, f"out={self.out}")
        in_vain, seen, due = 0, 0, self._next()
        while True:
            time.sleep(0.02)
            self._keep_sites()
            code = server.poll()
            if code is not None:
                self.codes[code] += 1
                in_vain = 0 if self.done() > seen else in_vain + 1
                seen = self.done()
                if code == 0:
                    return
                if code not in _AGAIN or in_vain > _MOST_IN_VAIN:
                    said = " ".join(self.stage.said_by_coordinator().split())[-600:]
                    self.broke.append(f"exit code {code} after {seen} rounds: {said}")
                    return
                server = self.stage.server(*self.words, f"out={self.out}")
            elif due <= time.monotonic() < until and self.kills.total() < most:
                self._kill(server.pid)
                due = self._next()

    def check(self, sha256: str) -> dict[str, Any]:
        """What is left of it, beside the hash of the model of an undisturbed run."""
        path = self.stage.world.coordinator / self.out / "result.json"
        found = json.loads(path.read_text()) if path.exists() else {"status": "none"}
        if found["status"] != "finished":
            self.broke.append(f"the run is {found['status']}")
            return {"status": found["status"], "rounds": self.done()}
        if found["model"]["sha256"] != sha256:
            self.broke.append("the model is another than that of the undisturbed run")
        if [one["round"] for one in found["rounds"]] != list(range(1, self.rounds + 1)):
            self.broke.append("rounds are missing, or there twice")
        paid = {name: self._paid(name, found["run_id"]) for name in self.stage.world.sites}
        for name, steps in paid.items():
            if not self.rounds <= steps <= self.rounds + self.spare:
                self.broke.append(f"{name}: has paid for {steps} rounds")
        return {"status": "finished", "rounds": self.done(), "paid": paid}

    def done(self) -> int:
        """How many rounds are finished."""
        path = self.stage.world.coordinator / self.out / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def _paid(self, name: str, run_id: str) -> int:
        report = verify(self.stage.world.ledger(name))
        if report.torn:
            self.broke.append(f"{name}: the end of its ledger is torn")
        events = report.by_run.get(run_id, ())
        return sum(one.steps for one in events if isinstance(one, GaussianEvent))

    def _next(self) -> float:
        return time.monotonic() + self.draw.exponential(self.pause)

    def _kill(self, server: int) -> None:
        kind = str(self.draw.choice(KINDS))
        name = str(self.draw.choice(self.stage.world.sites))
        if kind == "site":
            pid = self.stage.sites[name].pid
        else:
            there = {"coordinator": server}
            with suppress(OSError):  # it ends while it is looked at
                there |= children(server)
            if kind not in there:
                return
            pid = there[kind]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[kind] += 1

    def _keep_sites(self) -> None:
        for name, process in self.stage.sites.items():
            code = process.poll()
            if code is None:
                continue
            if code != -signal.SIGKILL:
                self.broke.append(f"{name}: ended with {code}: {self.stage.log(name)[-600:]}")
            self.stage.site(name)


def undisturbed(words: tuple[str, ...], folder: Path) -> str:
    """The hash of the model of the same run in one process, at which nobody kills anything."""
    with redirect_stdout(sys.stderr):
        done = command(["simulate", *QUICK, *words, "evaluation=private", f"out={folder}"])
    if done:
        raise SystemExit(f"the undisturbed run ended with {done}")
    return str(json.loads((folder / "result.json").read_text())["model"]["sha256"])


def killed(
    stage: Stage, draw: np.random.Generator, until: float, *, rounds: int, spare: int, pause: float
) -> Iterator[dict[str, Any]]:
    """Run after run until a time, with what was killed and what broke in each."""
    sha256 = ""
    for number in range(1, sys.maxsize):
        one = Killer(stage, f"runs/{number}", rounds, spare, draw, pause)
        sha256 = sha256 or undisturbed(one.words, stage.world.root / "undisturbed")
        began = time.monotonic()
        one.over(until)
        left = one.check(sha256)
        seconds = round(time.monotonic() - began, 1)
        counts = {"kills": dict(one.kills), "exit_codes": dict(one.codes)}
        yield {"run": number, "seconds": seconds, **counts, **left, "broke": one.broke}
        if time.monotonic() > until:
            return


def wealthy_world(folder: Path) -> World:
    """A federation whose sites' budgets are of many runs."""
    with redirect_stdout(sys.stderr):
        world = make_world(folder)
    for name in world.sites:
        path = world.site_file(name)
        path.write_text(path.read_text().replace("epsilon_total: 20.0", "epsilon_total: 1000.0"))
    return world


def main() -> int:
    """Kill for as long as is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--spare", type=int, default=40, help="rounds that may be lost in a run")
    parser.add_argument(
        "--pause", type=float, default=8.0, help="seconds between kills, in the mean"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is killed when")
    options = parser.parse_args()
    os.environ[TEST_NOISE] = NOISE
    draw, until = np.random.default_rng(options.seed), time.monotonic() + 60 * options.minutes
    broke = False
    with (
        tempfile.TemporaryDirectory() as folder,
        staged(wealthy_world(Path(folder)), NOISE) as stage,
    ):
        for name in stage.world.sites:
            stage.site(name)
        how = {"rounds": options.rounds, "spare": options.spare, "pause": options.pause}
        for found in killed(stage, draw, until, **how):
            print(json.dumps(found), flush=True)
            broke = broke or bool(found["broke"])
    return int(broke)


if __name__ == "__main__":
    raise SystemExit(main())
