"""A listener that passes on what it is told, and shows it in a tracker."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, assert_never

from fedlearn.config import RunConfig, to_tree
from fedlearn.config.tracking import MlflowTracking, NoTracking, TensorboardTracking
from fedlearn.core.errors import ConfigError
from fedlearn.report.facts import public_settings
from fedlearn.results.result import ResultFile, RoundResult

if TYPE_CHECKING:  # `server.run` calls this module
    from server.federation import Federation
    from server.run import Listener

log = logging.getLogger(__name__)

_NEEDS: Final = {"mlflow": ("mlflow", "sqlalchemy"), "tensorboard": ("tensorboard",)}
_UNSAFE: Final = re.compile(r"[^\w./ -]", re.ASCII)


class Tracker(Protocol):
    """What MLflow and TensorBoard have in common."""

    def begin(self, settings: Mapping[str, str]) -> None:
        """Note the settings of the run: dotted key -> value."""

    def measure(self, values: Mapping[str, float], step: int) -> None:
        """Add what was measured after a round."""

    def end(self, finished: bool) -> None:
        """Close the run; not `finished` when it failed or was stopped."""


def check_tracking(config: RunConfig) -> None:
    """Refuse a tracker whose packages are not installed.

    Raises:
        ConfigError: with the command that installs them.
    """
    kind = config.tracking.kind
    missing = [name for name in _NEEDS.get(kind, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            [
                f"tracking={kind}: {' and '.join(missing)} not installed; "
                f"pip install 'fedlearn[{kind}]', or set tracking=none"
            ]
        )


@contextmanager
def tracked(config: RunConfig, run_id: str, listener: Listener) -> Iterator[Listener]:
    """`listener`, and behind it the tracker that `config` asks for, open while this lasts.

    Raises:
        ConfigError: the tracker's packages are missing, or it cannot be opened.
    """
    check_tracking(config)
    tracker = _tracker(config, run_id)
    if tracker is None:
        yield listener
        return
    try:
        tracker.begin(settings_of(config))
    except Exception as error:  # of whatever kind MLflow, SQLAlchemy or a file system raise
        problem = f"tracking={config.tracking.kind}: cannot be opened: {_first_line(error)}"
        raise ConfigError([problem]) from error
    reported = Tracked(listener, tracker)
    try:
        yield reported
    finally:
        reported.close()


def _tracker(config: RunConfig, run_id: str) -> Tracker | None:
    out = Path(config.out)
    match config.tracking:
        case NoTracking():
            return None
        case MlflowTracking(uri=uri):
            from server.tracking.mlflow_store import MlflowTracker  # an extra

            return MlflowTracker(uri, out, experiment=config.experiment, run_id=run_id)
        case TensorboardTracking(folder=folder):
            from server.tracking.event_files import TensorboardTracker  # an extra

            return TensorboardTracker(Path(folder) if folder else out / "tensorboard")
        case _:
            assert_never(config.tracking)


def settings_of(config: RunConfig) -> dict[str, str]:
    """Dotted key -> value of a config, without folders of this machine."""

    def flat(prefix: str, node: object) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict) and node:
            for key, child in node.items():
                yield from flat(f"{prefix}.{key}" if prefix else str(key), child)
        else:
            yield prefix, str(node)

    return dict(flat("", public_settings(to_tree(config))))


class Tracked:
    """Passes on what it is told; a tracker that fails is left out from there on."""

    def __init__(self, listener: Listener, tracker: Tracker) -> None:
        self._listener, self._tracker = listener, tracker
        self._works, self._finished = True, False

    def started(self, federation: Federation, first_round: int) -> None:
        """Nothing of its own: the tracker was opened before."""
        self._listener.started(federation, first_round)

    def round_finished(self, entry: RoundResult) -> None:
        """Show a round."""
        self._show(lambda tracker: tracker.measure(values_of_round(entry), entry.round))
        self._listener.round_finished(entry)

    def finished(self, result: ResultFile) -> None:
        """Show what is known at the end."""
        self._show(lambda tracker: tracker.measure(values_of_end(result), len(result.rounds)))
        self._finished = True
        self._listener.finished(result)

    def close(self) -> None:
        """End the run in the tracker, however it ended here."""
        self._show(lambda tracker: tracker.end(self._finished))

    def _show(self, what: Callable[[Tracker], None]) -> None:
        if not self._works:
            return
        try:
            what(self._tracker)
        except Exception as error:  # noqa: BLE001  (a run goes on without its tracker)
            self._works = False
            log.warning("tracking stopped: %s", _first_line(error))


def values_of_round(entry: RoundResult) -> dict[str, float]:
    """What a round has measured, by names that trackers group at the slash."""
    known = {f"test/{name}": value for name, value in entry.evaluate.items()}
    known |= {f"privacy/epsilon {site}": value for site, value in entry.epsilon.items()}
    values = {name: value for name, value in known.items() if value is not None}
    values |= {f"traffic/bytes {way}": float(count) for way, count in entry.bytes.items()}
    values |= {"round/seconds": entry.seconds, "round/sites": float(entry.clients.replied)}
    return _named(values)


def values_of_end(result: ResultFile) -> dict[str, float]:
    """What is known of the final model only: every site by itself, and the gaps."""
    values = {
        f"sites/{site} {name}": value
        for site, found in result.final.per_site.items()
        for name, value in found.items()
    }
    if result.privacy.epsilon is not None:
        values["privacy/epsilon"] = result.privacy.epsilon
    if result.fairness and result.fairness.gap:
        values["fairness/gap between sites"] = result.fairness.gap.value
    groups = result.fairness.groups if result.fairness else None
    if groups and groups.gap:
        values[f"fairness/gap by {groups.column}"] = groups.gap.value
    return _named(values)


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """Names of sites may hold anything; those of trackers may not."""
    return {_UNSAFE.sub("_", name): value for name, value in values.items()}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
