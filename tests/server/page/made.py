"""The folder of a coordinator that has served runs, made in a moment: for pages to show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from server import serverfile
from server.admission import SIMULATED
from server.queue import Queue
from server.run import Silent, run
from server.serverfile import ServerFile
from server.status import HEALTH, LOG
from server.stop import Stop
from tests.server.parties import NAMES, Parties, make_config

SERVER = 'listen: "127.0.0.1:8443"\nkeys: k\nroster: r\nintroductions: i\ntls: t\n'
NASTY = "<script>alert(1)</script>\u202egnp.exe\x1b[31m </style>&amp;"
WORDS = ("model.architecture=linear", "rounds=4", "privacy=none", "secagg=off")


def coordinator(folder: Path) -> ServerFile:
    """One that has done nothing yet."""
    (folder / "server.yaml").write_text(SERVER)
    return serverfile.load(folder / "server.yaml")


def trained(out: Path) -> None:
    """A run that is carried out over scripted sites."""
    config = replace(make_config("rounds=4"), out=str(out))
    run(Parties(config).grid(), config, Silent(), Stop(), SIMULATED)
    (out / "report.html").write_text("<!doctype html><title>r</title><h1>A report</h1>")


def busy(folder: Path) -> ServerFile:
    """One that waits in the middle of a run, and has studies of every kind in its queue."""
    file = coordinator(folder)
    out = folder / "runs" / "heart"
    trained(out)
    queue = Queue(file.state)
    for name in ("heart", "second", "third", "fourth", "fifth"):
        queue.add(WORDS, folder / "runs" / name)
    queue.begin_next()
    queue.end(1, "finished")
    queue.begin_next()
    queue.end(2, "failed", f"alpha: its policy refuses: {NASTY}")
    queue.begin_next()
    queue.stop(5)
    events = (
        {"event": "started", "out": str(out), "rounds": 9},
        *({"event": "round", "round": number} for number in range(1, 5)),
        {"event": "cut_off", "round": 5, "reason": f"round 5: {NASTY}"},
        {"event": "waiting", "for": ["bravo", "delta"], "seconds_left": 590,
         "why": {"delta": "awaiting its owner's approval"}},
    )  # fmt: skip
    lines = [
        json.dumps({"time": f"2026-03-01T12:00:{i:02}+00:00"} | e) for i, e in enumerate(events)
    ]
    (file.state / LOG).write_text("\n".join(lines) + "\n")
    when = "2026-03-01T11:40:00+00:00"
    seen = {name: "offline" if name == "bravo" else "online" for name in NAMES}
    health = [{"site": k, "state": v, "since": when, "as_of": when} for k, v in seen.items()]
    (file.state / HEALTH).write_text(json.dumps(health))
    return file
