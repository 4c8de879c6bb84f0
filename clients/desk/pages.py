"""The desk as a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from clients.desk.spending import Account, SpentPoint, account_of
from clients.studies.decisions import Decision, Standing, Verb
from clients.studies.view import OwnersView, StudyView, look
from fedlearn.core.errors import FedlearnError
from fedlearn.loopback.look import HEIGHT, Look, steps

_LOOK: Final = Look(Path(__file__).parent / "templates")

STANDINGS: Final[dict[Standing, tuple[str, str]]] = {
    "waiting": ("amber", "waits for your decision"),
    "allowed": ("green", "allowed by your policy"),
    "approved": ("green", "approved"),
    "paused": ("amber", "paused"),
    "refused": ("red", "refused for good"),
    "withdrawn": ("red", "withdrawn for good"),
}
"""How a study stands: a colour, and words that say the same."""

_FINAL: Final = frozenset({"refuse", "withdraw"})

_EXPLAINED: Final[dict[Verb, str]] = {
    "refuse": "Your site takes no part in this study, also when it asks again. This cannot be "
    "taken back.",
    "withdraw": "Your site answers nothing more in this study, from now on. What it has given "
    "stays in the model, and what was spent stays spent. This cannot be taken back.",
    "pause": "Your site takes part in no further round until you resume. The coordinator waits "
    "for a while, and goes on without it then.",
    "approve": "Your site takes part under exactly these terms, with the sites of the list that "
    "is pinned now. What your policy or your ledger refuses stays refused.",
}


@dataclass(frozen=True, kw_only=True)
class Button:
    """A decision that can be made: its word, what follows, and whether that is for good."""

    verb: Verb
    label: str
    explained: str

    @property
    def final(self) -> bool:
        """Whether it cannot be taken back."""
        return self.verb in _FINAL


def buttons(study: StudyView) -> list[Button]:
    """What an owner can decide of a study."""
    labels = {verb: verb.capitalize() for verb in _EXPLAINED}
    if study.standing == "paused":
        labels["approve"] = "Resume"
    return [
        Button(verb=verb, label=labels[verb], explained=_EXPLAINED[verb]) for verb in study.choices
    ]


def desk(site: Path, form: str, notice: str) -> str:
    """The page.

    Args:
        site: the file of the site, which is read anew for every page.
        form: the token that its forms hold.
        notice: what has just been decided, or was not; empty where nothing was.
    """
    view = look(site)
    account, problem = _account(view)
    return _LOOK.filled(
        "desk.html.j2",
        command="fedlearn desk",
        title=f"Studies on {view.site.dataset}",
        view=view,
        waiting=_of(view, "waiting"),
        going=_of(view, "approved", "allowed", "paused"),
        over=_of(view, "refused", "withdrawn"),
        made=_decisions(view),
        account=account,
        curve=curve(account.points, account.total) if account else None,
        wrong=(*view.wrong, *problem),
        form=form,
        notice=notice,
        buttons=buttons,
        standings=STANDINGS,
    )


def _of(view: OwnersView, *standings: Standing) -> list[StudyView]:
    return [one for one in view.studies if one.standing in standings]


def _decisions(view: OwnersView) -> list[tuple[Decision, StudyView]]:
    """All decisions with their studies, the last first."""
    made = [(one, study) for study in view.studies for one in study.history]
    return sorted(made, key=lambda one: one[0].time, reverse=True)


def _account(view: OwnersView) -> tuple[Account | None, tuple[str, ...]]:
    try:
        return account_of(view.site.ledger, view.site.policy.budget), ()
    except FedlearnError as error:
        return None, (str(error),)


@dataclass(frozen=True, kw_only=True)
class SpentCurve:
    """A line of steps in a box of 640 by 200: `line` is its path, `top` the epsilon at the top,
    `limit` the height of the budget, None where it is above the box or there is none."""

    line: str
    top: float
    limit: float | None
    first: str
    last: str


def curve(points: tuple[SpentPoint, ...], total: float) -> SpentCurve | None:
    """What was spent over time; None where nothing was."""
    if not points or any(math.isinf(one.epsilon) for one in points):
        return None
    most = points[-1].epsilon
    top = max(total if total <= 5 * most else 1.25 * most, 1.02 * most, 1e-9)
    times = [datetime.fromisoformat(one.time).timestamp() for one in points]
    span = max(times[-1] - times[0], 1.0)
    return SpentCurve(
        line=steps(
            [(when - times[0]) / span for when in times], [one.epsilon / top for one in points]
        ),
        top=top,
        limit=HEIGHT * (1 - total / top) if total <= top else None,
        first=points[0].time,
        last=points[-1].time,
    )
