"""What a coordinator is doing, from the files that it writes: events, health, result.

Read by another process, at any time: `fedlearn status`, a monitor, or the coordinator itself for
its own metrics. Of a run it says how far it is, whom it waits for and what it has cost in privacy;
no figure of a model or of records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from fedlearn.core.errors import DataError
from fedlearn.core.names import printable
from server.health import SiteHealth
from server.queue import Queue, QueuedStudy

SCHEMA: Final = "fedlearn/status/v1"
LOG: Final = "server.jsonl"
HEALTH: Final = "health.json"

SILENT_SECONDS: Final = 60.0
"""After so long without a sign a coordinator that has not said that it ends is gone."""

_MOST: Final = 400
"""Characters of a reason."""
_MOST_WHOLE: Final = 2**53
"""No number of rounds, seconds or an exit code is as large."""

State = Literal["nothing", "starting", "waiting", "training", "finished", "ended", "gone"]
STATES: Final[tuple[State, ...]] = (
    "nothing", "starting", "waiting", "training", "finished", "ended", "gone",
)  # fmt: skip
_GOING_ON: Final = frozenset({"starting", "waiting", "training"})

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """The last thing that went wrong: the event, when (ISO, UTC), and why."""

    event: str
    time: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunSpending:
    """What a run has spent: epsilon by site at `delta`, of the `promised`; None without privacy."""

    epsilon: Mapping[str, float | None]
    promised: float | None
    delta: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Status:
    """A coordinator as of `as_of`, the last sign of it (ISO, UTC; empty: there never was one).

    `since` is when it came to be in its `state`; `round` the last finished round of `rounds`;
    `awaited` whom it waits for, `seconds_left` at most from `since` on; `why` of those that are
    there and await their owner's decision.
    """

    schema: str = SCHEMA
    state: State = "nothing"
    since: str = ""
    as_of: str = ""
    out: str = ""
    round: int = 0
    rounds: int = 0
    awaited: tuple[str, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    seconds_left: float | None = None
    exit_code: int | None = None
    cut_offs: int = 0
    last_error: Trouble | None = None
    sites: tuple[SiteHealth, ...] = ()
    cost: RunSpending | None = None
    queue: tuple[QueuedStudy, ...] = ()
    """The studies that are served one after another, where a coordinator stays."""

    def after(self, event: Event) -> Status:
        """The same once an event has come; one that is none of ours changes nothing."""
        name, time = str(event.get("event", "")), str(event.get("time", ""))
        seen = replace(self, as_of=max(self.as_of, time))
        change = _CHANGES.get(name)
        found = seen if change is None else change(seen, event)
        if name in _TROUBLES:
            reason = _plain(event.get("reason") or _TROUBLES[name].format_map(_Given(event)))
            found = replace(found, last_error=Trouble(event=name, time=time, reason=reason))
        return found if found.state == self.state else replace(found, since=time)


class _Given(dict[str, Any]):
    """The fields of an event in a sentence; of one that lacks them a dash."""

    def __missing__(self, key: str) -> str:
        return "-"


_TROUBLES: Final[Mapping[str, str]] = {
    "cut_off": "a round was cut off",
    "ended": "the run ended",
    "absent": "goes on without {sites}",
    "clock": "{site}: its clock is {seconds_ahead} seconds ahead",
    "copied": "{site}: two processes are online under its key",
    "certificate": "a certificate",
    "restarted": "{program}: was started anew",
    "no_health": "nobody can see whether sites are there",
    "alert_failed": "an alert was not delivered",
}
"""Events that say what goes wrong, and in which words where they give no reason."""


def _started(status: Status, event: Event) -> Status:
    out, rounds = _plain(event.get("out", "")), _whole(event.get("rounds"))
    if out == status.out:  # the same run, which was cut off or is resumed
        kept = replace(status, state="starting", rounds=rounds, exit_code=None)
        return replace(kept, awaited=(), why={}, seconds_left=None)
    return Status(state="starting", since=status.since, as_of=status.as_of, out=out, rounds=rounds)


def _waits(status: Status, event: Event) -> Status:
    names = event.get("for")
    awaited = tuple(_plain(name) for name in names) if isinstance(names, list) else ()
    why = event.get("why")
    known = {_plain(k): _plain(v) for k, v in why.items()} if isinstance(why, dict) else {}
    left = _seconds_left(event)
    return replace(status, state="waiting", awaited=awaited, why=known, seconds_left=left)


def _is_decided(status: Status, event: Event) -> Status:
    state: State = "training" if _whole(event.get("round")) else "starting"
    return replace(status, state=state, awaited=(), why={}, seconds_left=None)


def _seconds_left(event: Event) -> float | None:
    left = event.get("seconds_left")
    # A number may be a bound that nobody has set, or larger than any float.
    return float(left) if isinstance(left, int | float) and 0 <= left < _MOST_WHOLE else None


def _trains(status: Status, event: Event) -> Status:
    before = max(0, _whole(event.get("round")) - 1)
    return replace(status, state="training", round=before, awaited=(), why={}, seconds_left=None)


def _has_made_a_round(status: Status, event: Event) -> Status:
    return replace(status, state="training", round=_whole(event.get("round")))


def _is_cut_off(status: Status, event: Event) -> Status:
    return replace(status, state="waiting", cut_offs=status.cut_offs + 1)


def _finishes(status: Status, event: Event) -> Status:
    return replace(status, state="finished", awaited=(), why={}, seconds_left=None, exit_code=0)


def _ends(status: Status, event: Event) -> Status:
    code = _whole(event.get("exit_code"))
    return replace(status, state="ended", awaited=(), why={}, seconds_left=None, exit_code=code)


_CHANGES: Final = {
    "started": _started,
    "waiting": _waits,
    "training": _trains,
    "round": _has_made_a_round,
    "cut_off": _is_cut_off,
    "decided": _is_decided,
    "finished": _finishes,
    "ended": _ends,
}


def status_of(state: Path, now: datetime) -> Status:
    """The status of the coordinator whose programs write into the folder `state`."""
    found = Status()
    for event in _events(state):
        found = found.after(event)
    sites = _health(state / HEALTH)
    signs = [found.as_of, *(one.as_of for one in sites)]
    found = replace(found, sites=sites, as_of=max(signs), cost=_spending_of(found))
    with suppress(DataError):
        found = replace(found, queue=tuple(Queue(state).studies()))
    if found.state in _GOING_ON and _seconds_since(found.as_of, now) > SILENT_SECONDS:
        return replace(found, state="gone", since=found.as_of)
    return found


def _events(state: Path) -> Iterator[Event]:
    """All events that are kept, the oldest first; what cannot be read is none."""
    kept = sorted(state.glob(f"{LOG}.*"), key=lambda path: -_whole_text(path.suffix[1:]))
    for path in (*kept, state / LOG):
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as lines:
            yield from _objects(lines)


def _objects(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def _health(path: Path) -> tuple[SiteHealth, ...]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = ("site", "state", "since", "as_of")
        return tuple(SiteHealth(**{name: _plain(one[name]) for name in names}) for one in found)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _spending_of(status: Status) -> RunSpending | None:
    """What the run has cost, from its own result; None where it has none yet."""
    try:
        result = json.loads((Path(status.out) / "result.json").read_text(encoding="utf-8"))
        privacy, config = result["privacy"], result["config"]["privacy"]
        sites = {_plain(site): one["epsilon"] for site, one in privacy["per_site"].items()}
        return RunSpending(
            epsilon=sites,
            promised=config.get("epsilon"),
            delta=config.get("delta"),
            seconds=float(result["seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _seconds_since(time: str, now: datetime) -> float:
    try:
        then = datetime.fromisoformat(time)
    except ValueError:
        return float("inf")
    return (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()


def _plain(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text[:_MOST])


def _whole(value: object) -> int:
    return value if isinstance(value, int) and abs(value) < _MOST_WHOLE else 0


def _whole_text(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
