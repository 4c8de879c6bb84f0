"""What report and terminal show of an audit of repeated secrets: tables, sentences, a picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from markupsafe import Markup

from fedlearn.core.language import ENGLISH, Locale, Message, message
from fedlearn.report.exposure import (
    SCORES,
    WATCHES,
    ExposedRun,
    Exposure,
    RankedView,
    Repeated,
    read_exposure,
)
from fedlearn.report.texts import Texts, texts

COLUMNS: Final = (
    "in records",
    "exposure",
    "95 %",
    "chance",
    "allowed",
    "greedy",
    "sampled",
    "allowed",
    "member",
    "allowed",
)
"""Of the table of a run."""

Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExposurePage:
    """What an audit has found, as it is shown."""

    found: Exposure
    language: Locale = ENGLISH

    @classmethod
    def of(cls, folder: Path, language: Locale = ENGLISH) -> ExposurePage | None:
        """What is in a folder; None where no audit has left anything."""
        found = read_exposure(folder)
        return None if found is None else cls(found=found, language=language)

    @cached_property
    def texts(self) -> Texts:
        """The sentences: what was done, what the columns mean, who is promised what."""
        private = next((run for run in self.found.runs if run.privacy != "none"), None)
        values = {"found": self.found, "private": private, "language": self.language}
        answer: Texts = texts(values, "exposure")["exposure"]
        return answer

    @property
    def columns(self) -> Row:
        """The headings of `rows`."""
        return COLUMNS

    @property
    def numbers(self) -> Row:
        """In how many records secrets are."""
        return tuple(map(times, self.found.repetitions))

    def rows(self, run: ExposedRun) -> tuple[Row, ...]:
        """A line for every number of repetitions."""
        return tuple((times(row.repetitions), *self._cells(row)) for row in run.repeated)

    @property
    def views(self) -> tuple[Row, ...]:
        """Exposure and its chance at every seat and by every score, a line a run."""
        first = self.found.runs[0].repeated[0].views
        return tuple(
            (
                WATCHES[view.seat],
                SCORES[view.score],
                run.called,
                *(self._view(row.views[number]) for row in run.repeated),
            )
            for number, view in enumerate(first)
            for run in self.found.runs
        )

    def verdict(self, run: ExposedRun) -> Message:
        """Whether the promise of a run holds, with the chance of what was found if it does."""
        verdict = message(run.verdict)
        if run.p_value is None:
            return message("%(run)s: %(verdict)s", run=run.called, verdict=verdict)
        p = self._chance(run.p_value)
        return message("%(run)s: %(verdict)s (p = %(p)s)", run=run.called, verdict=verdict, p=p)

    @property
    def plot(self) -> Markup:
        """The picture."""
        from fedlearn.report.exposure_plot import plot  # matplotlib takes a while

        return plot(self.found, self.language)

    def _cells(self, row: Repeated) -> Row:
        view, number = row.first, self.language.number
        interval: str = ""
        if view.low is not None and view.high is not None:
            low, high = number(view.low, ".1f"), number(view.high, ".1f")
            interval = message("%(low)s to %(high)s", low=low, high=high)
        greedy = message("%(some)s of %(all)s", some=row.greedy, all=row.canaries)
        return (
            number(view.exposure, ".2f"),
            interval,
            self._chance(view.chance),
            self._maybe(row.exposure_allowed),
            greedy,
            self._share(row.sampled),
            "" if row.sampled_allowed is None else self._share(row.sampled_allowed),
            self._maybe(view.auc),
            self._maybe(row.auc_allowed),
        )

    def _view(self, view: RankedView) -> str:
        return f"{self.language.number(view.exposure, '.2f')} ({self._chance(view.chance)})"

    def _chance(self, chance: float) -> str:
        """With as many digits as say something."""
        if chance >= 0.001:
            return self.language.number(chance, ".3f")
        return f"{chance:.0e}".replace("e-0", "e-") if chance > 1e-99 else "< 1e-99"

    def _maybe(self, value: float | None) -> str:
        return "" if value is None else self.language.number(value, ".2f")

    def _share(self, value: float) -> str:
        return self.language.number(value, ".0%" if value >= 0.1 or value == 0 else ".2%")


def times(repetitions: int) -> str:
    """In how many records a secret is."""
    return str(repetitions) if repetitions else message("none")
