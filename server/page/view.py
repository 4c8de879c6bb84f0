"""What the page of a coordinator shows: its status, the rounds of its run, and its queue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from fedlearn.core.errors import DataError, FedlearnError
from fedlearn.loopback.look import Look
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from server.page.curves import EPSILON, KEPT, RoundCurve, curves, largest, metrics
from server.queue import Queue, QueuedStudy
from server.queue import State as StudyState
from server.serverfile import ServerFile
from server.status import State, Status, status_of
from server.status_views import WORDS

REPORT: Final = "report.html"

COMMAND: Final = "fedlearn status --page"

Verb = Literal["stop", "resume", "add"]

_LOOK: Final = Look(Path(__file__).parent / "templates")

_STATES: Final[dict[State, str]] = {
    "nothing": "muted", "starting": "amber", "waiting": "amber", "training": "green",
    "finished": "green", "ended": "red", "gone": "red",
}  # fmt: skip
_STUDIES: Final[dict[StudyState, str]] = {
    "queued": "amber", "running": "green", "finished": "green", "stopped": "amber",
    "aborted": "amber", "failed": "red",
}  # fmt: skip
_SITES: Final = {"online": "green", "offline": "red"}


@dataclass(frozen=True, kw_only=True)
class StudyButton:
    """What can be done with a study of the queue."""

    verb: Verb
    label: str


_BUTTONS: Final[dict[StudyState, StudyButton]] = {
    "queued": StudyButton(verb="stop", label="Abort before its start"),
    "running": StudyButton(verb="stop", label="Stop after its round"),
    "stopped": StudyButton(verb="resume", label="Resume"),
    "aborted": StudyButton(verb="resume", label="Put back into the queue"),
    "failed": StudyButton(verb="resume", label="Try again"),
}


@dataclass(frozen=True, kw_only=True)
class CoordinatorView:
    """A coordinator as of now; `wrong` are sentences on what cannot be shown."""

    status: Status
    result: ResultFile | None
    studies: tuple[QueuedStudy, ...]
    wrong: tuple[str, ...]

    @property
    def curves(self) -> list[RoundCurve]:
        """What the rounds gave."""
        return curves(self.result) if self.result else []

    @property
    def reports(self) -> dict[str, Path]:
        """Reports that are there, by the name under which the page shows them."""
        there = {"report/run": self.status.out}
        there |= {f"report/{one.number}": one.out for one in self.studies}
        found = {name: Path(out) / REPORT for name, out in there.items() if out}
        return {name: path for name, path in found.items() if path.is_file()}


def look(file: ServerFile, now: datetime) -> CoordinatorView:
    """Read a coordinator's files; what cannot be read is said in their place."""
    status, wrong = status_of(file.state, now), list[str]()
    result, studies = None, list[QueuedStudy]()
    try:
        studies = Queue(file.state).studies()
    except DataError as error:
        wrong.append(str(error))
    if status.out and (Path(status.out) / "result.json").exists():
        try:
            result = read_result(Path(status.out))
        except FedlearnError as error:
            wrong.append(str(error))
    return CoordinatorView(status=status, result=result, studies=tuple(studies), wrong=tuple(wrong))


def page(file: ServerFile, folder: Path, form: str, notice: str) -> str:
    """The page.

    Args:
        file: of the coordinator; what it points to is read anew for every page.
        folder: as seen from which a new study names its paths.
        form: the token that its forms hold.
        notice: what has just been done, or was not; empty where nothing was.
    """
    view = look(file, datetime.now(UTC))
    rounds = view.result.rounds[-KEPT:][::-1] if view.result else []
    return _LOOK.filled(
        "coordinator.html.j2",
        title=f"Coordinator {file.listen}",
        command=COMMAND,
        view=view,
        status=view.status,
        does=WORDS[view.status.state],
        state_colour=_STATES[view.status.state],
        site_colours=_SITES,
        study_colours=_STUDIES,
        study_buttons=_BUTTONS,
        rounds=rounds,
        metrics=metrics(rounds),
        largest=largest,
        epsilon_name=EPSILON,
        folder=folder,
        form=form,
        notice=notice,
    )
