"""A coordinator's status for people, for programs, and for Prometheus."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedlearn.config import to_tree
from fedlearn.core.files import write_atomically
from fedlearn.results.folder import finite
from server.status import STATES, Status, status_of

_PLAIN: Final[Mapping[str, str]] = {}
"""The labels of a sample that stands for the coordinator as a whole."""

PUBLISH_SECONDS: Final = 15.0
"""Between two looks of a coordinator at itself."""

WORDS: Final = {
    "nothing": "has not served a run yet",
    "starting": "starts a run",
    "waiting": "waits",
    "training": "trains",
    "finished": "has finished the run",
    "ended": "has ended the run before it was finished",
    "gone": "has given no sign of itself since then: killed, or its machine is off",
}
"""What a coordinator does, after its name."""


def as_text(status: Status) -> str:
    """Sentences, the most important first."""
    since = f" since {status.since}" if status.since else ""
    lines = [f"the coordinator {WORDS[status.state]}{since}"]
    if status.out:
        lines.append(f"run: {status.out}, {status.round} of {status.rounds} rounds are done")
    if status.awaited:
        left = status.seconds_left
        most = f", {left:g} seconds at most from then on" if left is not None else ""
        named = [
            f"{one} ({status.why[one]})" if one in status.why else one for one in status.awaited
        ]
        lines.append(f"awaited: {', '.join(named)}{most}")
    if status.exit_code:
        lines.append(f"exit code: {status.exit_code}")
    if status.last_error:
        error = status.last_error
        reason = "; ".join(error.reason.splitlines())
        lines.append(f"last error: {error.event} at {error.time}: {reason}")
    if status.cut_offs:
        lines.append(f"rounds that were cut off: {status.cut_offs}")
    lines += [f"site {one.site}: {one.state} since {one.since}" for one in status.sites]
    lines += [
        f"study {one.number}: {one.state} since {one.since}, {one.out}"
        for one in status.queue
        if one.state in ("queued", "running")
    ]
    return "\n".join([*lines, *_cost_lines(status)])


def _cost_lines(status: Status) -> Iterator[str]:
    cost = status.cost
    if cost is None:
        return
    yield f"time: {cost.seconds:.0f} seconds"
    of = "" if cost.promised is None else f" of {cost.promised:g}"
    for site, epsilon in sorted(cost.epsilon.items()):
        spent = "without limit" if epsilon is None else f"{epsilon:.4g}"
        yield (
            f"epsilon of {site}: {spent}{of} at delta {cost.delta:g}"
            if cost.delta
            else (f"epsilon of {site}: {spent}{of}")
        )


def as_json(status: Status) -> str:
    """One object, schema `fedlearn/status/v1`; null stands for what is not finite."""
    return json.dumps(finite(to_tree(status)), indent=2, allow_nan=False, ensure_ascii=False)


def as_metrics(status: Status) -> str:
    """Gauges in the text format of Prometheus, which its `node_exporter` reads from a file.

    Source: Prometheus, "Exposition formats", text format 0.0.4.
    """
    return "".join(f"{line}\n" for line in _metric_lines(status))


def _metric_lines(status: Status) -> Iterator[str]:
    yield from _gauge("state", "1 for what the coordinator does.", *(
        ({"state": state}, float(state == status.state)) for state in STATES
    ))  # fmt: skip
    yield from _gauge("rounds_done", "Rounds of the run that are finished.", (_PLAIN, status.round))
    yield from _gauge("rounds_planned", "Rounds that the run will have.", (_PLAIN, status.rounds))
    awaited = len(status.awaited)
    yield from _gauge("sites_awaited", "Sites that the run waits for.", (_PLAIN, awaited))
    cut_off = (_PLAIN, status.cut_offs)
    yield from _gauge("rounds_cut_off", "Rounds of the run that were cut off.", cut_off)
    yield from _gauge("site_online", "1 where a site is there.", *(
        ({"site": one.site}, float(one.state == "online")) for one in status.sites
    ))  # fmt: skip
    yield from _gauge("studies", "Studies of the queue by how they stand.", *(
        ({"state": state}, float(sum(one.state == state for one in status.queue)))
        for state in sorted({one.state for one in status.queue})
    ))  # fmt: skip
    seen = _seconds(status.as_of)
    if seen is not None:
        yield from _gauge("last_sign_seconds", "When it was last seen, since 1970.", (_PLAIN, seen))
    if status.last_error and (failed := _seconds(status.last_error.time)) is not None:
        label = {"event": status.last_error.event}
        yield from _gauge("last_error_seconds", "When something went wrong.", (label, failed))
    yield from _cost_metrics(status)


def _cost_metrics(status: Status) -> Iterator[str]:
    cost = status.cost
    if cost is None:
        return
    yield from _gauge(
        "run_seconds", "Seconds of the run over all its parts.", (_PLAIN, cost.seconds)
    )
    yield from _gauge("epsilon_spent", "Epsilon that a site has spent in the run.", *(
        ({"site": site}, float("inf") if epsilon is None else epsilon)
        for site, epsilon in sorted(cost.epsilon.items())
    ))  # fmt: skip
    if cost.promised is not None:
        promised = (_PLAIN, cost.promised)
        yield from _gauge("epsilon_promised", "Epsilon that the run may spend.", promised)


def _gauge(name: str, text: str, *samples: tuple[Mapping[str, str], float]) -> Iterator[str]:
    """One metric with its samples; without any there is no metric."""
    if not samples:
        return
    yield f"# HELP fedlearn_{name} {text}"
    yield f"# TYPE fedlearn_{name} gauge"
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(one)}"' for key, one in labels.items())
        number = "+Inf" if value == float("inf") else repr(float(value))
        yield f"fedlearn_{name}{f'{{{inside}}}' if inside else ''} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _seconds(time: str) -> float | None:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None


@contextmanager
def published(state: Path, metrics: Path | None) -> Iterator[None]:
    """While this lasts the metrics of the coordinator that writes into `state` are in a file; at
    its end they say how it has ended."""
    if metrics is None:
        yield
        return
    over = threading.Event()

    def publish() -> None:
        with suppress(OSError):  # a full disk, or a folder that is not there: the next time
            write_atomically(metrics, as_metrics(status_of(state, datetime.now(UTC))).encode())

    def watch() -> None:
        while not over.wait(PUBLISH_SECONDS):
            publish()

    publish()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        publish()
