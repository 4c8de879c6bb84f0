"""A run as Python sees it: its numbers, its model and its report, all read from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedlearn.config import RunConfig, load
from fedlearn.core.errors import DataError
from fedlearn.core.files import shortest
from fedlearn.results import result as stored
from fedlearn.results.reading import read_result, task_of

if TYPE_CHECKING:
    from torch import nn

    from fedlearn.auditing.findings import Findings
    from fedlearn.generation.generator import Answer
    from fedlearn.generation.prompts import Way
    from fedlearn.metrics.by_class import ByClass
    from fedlearn.metrics.survival import SurvivalCurves
    from fedlearn.report.verdict import Light, Remark
    from fedlearn.tasks import Task


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A run that is over: what `fl.simulate` and `fl.load_run` return.

    Everything is read from `folder`, which holds the files that `fedlearn simulate` leaves.

    Attributes:
        folder: where the run is, absolute.
        notes: what is unusual in the records, and what sites have found in their own tables
            (`screening=sums`), in sentences; empty for a run that was loaded.
    """

    folder: Path
    notes: tuple[str, ...] = ()

    @cached_property
    def _stored(self) -> stored.ResultFile:
        return read_result(self.folder)

    @property
    def status(self) -> str:
        """`finished`, or why not: `waiting`, `interrupted`, `stopped_budget`, `failed`."""
        return self._stored.status

    @property
    def metrics(self) -> dict[str, float]:
        """Test metrics of the final model over the records of all sites, by name."""
        return dict(self._stored.final.evaluate)

    @property
    def per_site(self) -> dict[str, dict[str, float]]:
        """The same by site; empty where only the sum over sites was opened."""
        return {site: dict(found) for site, found in self._stored.final.per_site.items()}

    @property
    def by_class(self) -> ByClass | None:
        """Confusion matrix, and precision, recall and F1 by class, with intervals; of two classes
        also what other thresholds are worth: recall at stated shares of alarms, costs, and the
        curve of precision and recall. None where the answer is no class, or nothing was tested."""
        return self._stored.by_class

    @property
    def curves(self) -> SurvivalCurves | None:
        """Of `task=survival`: observed (Kaplan and Meier) and predicted survival at the end of each
        interval, over all test records and at sites that have enough; None for other tasks."""
        return self._stored.curves

    @property
    def epsilon(self) -> float | None:
        """What was spent at `privacy.delta`, the largest over the sites; None without privacy."""
        return self._stored.privacy.epsilon

    @property
    def privacy(self) -> stored.PrivacyResult:
        """Unit, epsilon, delta, noise multiplier, clip norm and epsilon by site."""
        return self._stored.privacy

    @property
    def statement(self) -> str:
        """What the run promises, to whom and against whom, in sentences."""
        return self._stored.privacy.statement

    @property
    def rounds(self) -> Sequence[stored.RoundResult]:
        """Every round: seconds, loss, test metrics, bytes, who took part, epsilon by site."""
        return self._stored.rounds

    @cached_property
    def verdict(self) -> tuple[Remark, ...]:
        """What to know of the run before anything else, the worst first.

        Each has a `light`, `red`, `amber` or `green`, and `says` a sentence.
        """
        from fedlearn.report.facts import Facts
        from fedlearn.report.verdict import verdict

        return verdict(Facts(result=self._stored, hashes={}))

    @property
    def audit(self) -> Findings | None:
        """What an audit has measured of the run; None where none has."""
        return self._stored.audit

    @cached_property
    def config(self) -> RunConfig:
        """The config of the run, every value resolved."""
        return load(self._stored.config)

    @cached_property
    def model(self) -> nn.Module:
        """The trained model in evaluation mode: `[n, *shape of a record]` to `[n, outputs]`.

        Raises:
            DataError: the folder has no model yet, or not the one that its result names.
        """
        import torch

        from fedlearn.report.export import read_model
        from simulations.attacks.measure import trained_model

        vector = read_model(self.folder, self._stored)
        with torch.inference_mode(False):  # weights that a caller may go on training
            return trained_model(self.config, self._task, vector).eval()

    @property
    def _task(self) -> Task:
        if self._stored.model.input is None:
            raise DataError(f"{self.folder}: its release did not say what a record looks like")
        return task_of(self._stored)

    def generate(
        self, *prompts: str, way: Way = "prompt", tuned: bool = True, **sampling: Any
    ) -> list[Answer]:
        """What its language model makes of prompts: as `fl.generate` of the run's folder.

        Raises:
            ConfigError: it is no language model, or what is asked for has no meaning.
            DataError: the run has no model yet.
        """
        from simulations.api.generating import generate

        return generate(self.folder, *prompts, way=way, tuned=tuned, **sampling)

    def report(self) -> Path:
        """Write `report.html` where it is missing or out of date; its path. Opens nothing."""
        return up_to_date_report(self.folder, self.folder / "result.json")

    def __repr__(self) -> str:
        shown = [f"{name}={self.metrics[name]:.3f}" for name in shown_of(self.metrics)]
        spent = "none" if self.epsilon is None else f"{self.epsilon:.3g}"
        broken = [self.audit.verdict] if self.audit and self.audit.broken else []
        facts = [self.status, *broken, *shown, f"epsilon={spent}"]
        facts.append(f"folder={shortest(self.folder)!r}")
        return f"Result({', '.join(facts)})"

    def _repr_html_(self) -> str:
        found = self._stored
        names = shown_of(self.metrics)
        rows = [[site, _count(size.train), _count(size.test), *self._numbers(site, names)]
                for site, size in found.data.sites.items()]  # fmt: skip
        sizes = found.data.sites.values()
        numbers = [f"{self.metrics[name]:.3f}" for name in names] + [_spent(self.epsilon)]
        train = stored.total_of(size.train for size in sizes)
        test = stored.total_of(size.test for size in sizes)
        total = ["all sites", _count(train), _count(test), *numbers]
        heads = ["site", "train", "test", *names, "epsilon"]
        first = self.statement.split(". ")[0].rstrip(".") + "."
        title = f"{found.config['experiment']}: {found.status}, {len(found.rounds)} rounds"
        lines = [first, *self.notes, f"everything of it: {shortest(self.folder)}"]
        return html_table(title, heads, [*rows, total], lines, remarks=self.verdict)

    def _numbers(self, site: str, names: Sequence[str]) -> list[str]:
        own, privacy = self.per_site.get(site, {}), self.privacy.per_site.get(site)
        numbers = [f"{own[name]:.3f}" if name in own else "" for name in names]
        return [*numbers, _spent(privacy.epsilon if privacy else None)]


def load_run(folder: Path | str) -> Result:
    """The run in a folder that `fl.simulate` or `fedlearn simulate` has left.

    Args:
        folder: where the run is.

    Returns:
        The same as `fl.simulate` returned for it.

    Raises:
        DataError: there is no run, or not one that this version reads; or the folder is that of
            a comparison, whose runs are in folders of their own.
    """
    found = Result(Path(folder).resolve())
    if not (found.folder / "result.json").exists() and (runs := sorted(_runs_in(found.folder))):
        raise DataError(
            f"{found.folder}: holds {len(runs)} runs, and is none; load one of them, as "
            f"fl.load_run({str(found.folder / runs[0])!r})"
        )
    found._stored  # noqa: B018  (read now, so that what is wrong with it is said here)
    return found


def _runs_in(folder: Path) -> list[str]:
    return [path.parent.name for path in folder.glob("*/result.json")]


def up_to_date_report(folder: Path, of: Path) -> Path:
    """The report in `folder`, written where it is older than the file `of`, or is not there."""
    from fedlearn.report.page import NAME, write_report

    path = folder / NAME
    if path.is_file() and path.stat().st_mtime_ns >= of.stat().st_mtime_ns:
        return path
    return write_report(folder)


def shown_of(found: Iterable[str]) -> list[str]:
    """The metrics that a small table has room for, those that lead first."""
    from fedlearn.tasks import TASKS

    there = {*found}
    known = (metric for option in TASKS.known.values() for metric in option.learns.metrics_known)
    return list(
        dict.fromkeys(metric.name for metric in known if metric.short and metric.name in there)
    )


_DOTS: Final[Mapping[Light, str]] = {"red": "#d93025", "amber": "#c77700", "green": "#188038"}
"""Dark enough on white and light enough on black; the word beside says the same."""


def html_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    lines: Iterable[str],
    remarks: Iterable[Remark] = (),
) -> str:
    """A table for a notebook: it takes its colours from what is around it, light or dark."""
    rule = "border-bottom:1px solid rgba(128,128,128,.4)"
    verdict = "".join(
        f'<div><span style="color:{_DOTS[one.light]}">&#9679; {one.light}</span> '
        f"{escape(one.says)}</div>"
        for one in remarks
    )
    return (
        f'<div style="font-size:.95em"><strong>{escape(title)}</strong>{verdict}'
        f'<table style="border-collapse:collapse;margin:.4em 0"><thead><tr>'
        f"{_cells('th', heads, rule)}</tr></thead><tbody>"
        + "".join(f"<tr>{_cells('td', row, '')}</tr>" for row in rows)
        + "</tbody></table>"
        + "".join(f'<div style="opacity:.8">{escape(line)}</div>' for line in lines)
        + "</div>"
    )


def _cells(tag: str, cells: Sequence[object], style: str) -> str:
    """Names on the left, numbers on the right."""
    sides = ("left" if place == 0 else "right" for place in range(len(cells)))
    return "".join(
        f'<{tag} style="text-align:{side};padding:.1em .7em;{style}">{escape(str(cell))}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )


def _count(records: int | None) -> str:
    return "" if records is None else str(records)


def _spent(epsilon: float | None) -> str:
    return "" if epsilon is None else f"{epsilon:.2f}"
