"""What stands between the markers of a page: tables and sentences, from figures alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Final

from benchmarks.page_data import Audited, Figures, Mean, Row
from benchmarks.page_plots import alternatives
from fedlearn.tasks import metric_called

MOST_SITES: Final = 12
"""Sites with a row of their own; of more, the worst, the middle and the best."""

_WIDTH: Final = 100

NOT_MEASURED: Final = (
    "Run folders of this experiment have not been read yet. The figures of this page that stand "
    "outside of this block were written down when they were measured; the version is said there."
)


def block(name: str, figures: Figures | None) -> str:
    """The block of the page `name`, with a line's end."""
    if figures is None:
        return f"{_filled(NOT_MEASURED)}\n"
    parts = [
        _command(figures),
        _measured(figures),
        _table(_metric_rows(figures)),
        _error(figures),
        *(f"![{text}](figures/{name}-{kind}.svg)" for kind, text in alternatives(figures).items()),
        *_who_pays(figures),
        "### Cost",
        _table(_cost_rows(figures)),
        _filled(
            "Seconds are by the clock, of the middle run, on a machine that was shared. Bytes are "
            "what all rounds of a run moved, model and protocol, before any compression."
        ),
        *_audits(figures.audits),
    ]
    return "\n\n".join(parts) + "\n"


def overview(found: Sequence[Figures]) -> str:
    """A row for every experiment that has figures, with the error of its test part."""
    head = ("experiment", "sites", "test records", "measured by", "no privacy", "strictest",
            "loosest", "error of the test part")  # fmt: skip
    return _table([head, *(_overview_row(figures) for figures in found)]) + "\n"


def _overview_row(figures: Figures) -> tuple[str, ...]:
    leading = figures.metrics[0]
    rows = [row for row in [*figures.rows, *figures.references] if leading in row.metrics]
    plain = next((row for row in rows if row.label in ("none", "federated, no privacy")), None)
    private = [row for row in figures.rows if row.epsilon is not None]
    shown = [f"{value(row.metrics[leading].mean)} ({_short(row)})" for row in private]
    first = plain or private[0]
    return (
        f"[`{figures.experiment}`](experiments/{figures.experiment}.md)",
        str(len(figures.sites)),
        _count(figures.tested),
        _title(leading),
        value(plain.metrics[leading].mean) if plain else "-",
        shown[0] if shown else "-",
        shown[-1] if shown else "-",
        _error_of(first.metrics[leading]),
    )


def _short(row: Row) -> str:
    return row.label.partition(",")[0]


# --- what was measured ------------------------------------------------------------------------


def _command(figures: Figures) -> str:
    return "\n".join(["```", *figures.commands, "```"]) if figures.commands else ""


def _measured(figures: Figures) -> str:
    when = figures.first
    if figures.last != figures.first:
        when += f" to {figures.last}"
    promise = ""
    if figures.delta is not None:
        promise = (
            f" Privacy is per {figures.unit} and for the whole run, delta {_power(figures.delta)}."
        )
    return _filled(
        f"{len(figures.results)} runs of {when} ({'; '.join(figures.versions)}), "
        f"{len(figures.sites)} sites, {_count(figures.tested)} test records."
        f"{promise} A cell is the mean over runs that differ in their seed alone, and in "
        "brackets their range."
    )


def _metric_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    names = figures.metrics
    yield ("privacy", "runs", *map(_title, names), f"standard error of {_title(names[0])}")
    for row in [*figures.rows, *figures.references]:
        if names[0] in row.metrics:
            cells = (_cell(row.metrics.get(name)) for name in names)
            yield (row.label, str(row.runs), *cells, _error_of(row.metrics[names[0]]))
    guessed = [figures.uninformed.get(name) for name in names]
    if any(one is not None for one in guessed):
        shown = ("" if one is None else value(one) for one in guessed)
        yield ("the best guess that looks at no record", "", *shown, "")


def _error(figures: Figures) -> str:
    errors = [row.metrics[figures.metrics[0]].error for row in figures.rows]
    known = [error for error in errors if error is not None]
    if not known:
        return _filled("The test part gives this metric no standard error.")
    seeds = _DRAWN if figures.drawn else _FIXED
    return _filled(
        f"**Error of the test part.** The standard error, up to {value(max(known))}, says how far "
        "a figure would be off on other test records of the same kind: they were drawn anew with "
        f"replacement (bootstrap). {seeds} differences are surer than each figure. Still, rows "
        "that are closer than one standard error are not told apart here."
    )


_FIXED: Final = (
    "It is not the range over seeds, which leaves the test records as they are. All rows are of "
    "the same test records, so their"
)
_DRAWN: Final = (
    "A seed draws its own deal to sites, or its own test part, so that the range holds some of "
    "this. Runs of one seed are of the same test records, so their"
)


# --- who pays, and what it costs ----------------------------------------------------------------


def _who_pays(figures: Figures) -> Iterator[str]:
    rows = [row for row in [*figures.rows, *figures.references] if len(row.sites) > 1]
    if not rows:
        return
    yield "### Who pays"
    names = list(rows[0].sites)
    if len(names) > MOST_SITES:
        yield _table(_extremes(rows))
        yield _filled(
            f"The {_title(figures.metrics[0])} at the sites, {len(names)} of them in the first "
            "row: mean over the runs at each, then the lowest, the middle and the highest of these."
        )
        return
    yield _table(_site_rows(figures, rows, names))
    yield _filled(
        f"The {_title(figures.metrics[0])} at each site, mean over the runs; with ± the standard "
        "error of the site's own test part, which is large where few records are tested."
    )


def _site_rows(
    figures: Figures, rows: Sequence[Row], names: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    yield ("site", "records to train", "to test", *(row.label for row in rows))
    for name in names:
        size = figures.sites.get(name)
        sizes = (_count(size.train), _count(size.test)) if size else ("-", "-")
        yield (name, *sizes, *(_with_error(row.sites.get(name)) for row in rows))
    means = [[one.mean for one in row.sites.values()] for row in rows]
    yield ("mean of the sites, each alike", "", "", *(value(fmean(found)) for found in means))


def _extremes(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    yield ("privacy", "sites", "lowest", "middle", "highest", "mean, each site alike")
    for row in rows:
        ordered = sorted(row.sites.items(), key=lambda pair: pair[1].mean)
        picked = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
        shown = (f"{_with_error(one)} ({name})" for name, one in picked)
        mean = fmean(one.mean for one in row.sites.values())
        yield (row.label, str(len(ordered)), *shown, value(mean))


def _cost_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    yield ("privacy", "seconds of a run", "from the sites", "to the sites")
    for row in [*figures.rows, *figures.references]:
        moved = (f"{one / 1e6:,.2f} MB" if row.up else "-" for one in (row.up, row.down))
        yield (row.label, f"{row.seconds:g}", *moved)


def _audits(audits: Sequence[Audited]) -> Iterator[str]:
    if not audits:
        return
    yield "### Attacks"
    yield _table([("promised epsilon", "measured: at least", "of at most", "seen by the attacker",
                   "guessing members: AUC (most that the promise allows)", "verdict"),
                  *map(_audit_row, audits)])  # fmt: skip
    yield _filled(
        "Measured by canaries that runs carried (`fedlearn audit`), at 95 percent confidence. A "
        "lower bound says that so much is given away; zero is no proof of privacy. The next column "
        "is what the same test would have found had every guess been right. Guessing at random has "
        "an AUC of .5."
    )


def _audit_row(one: Audited) -> tuple[str, ...]:
    guesses = (
        f"{name} {value(guess.auc)}"
        + (f" ({value(guess.ceiling)})" if guess.ceiling is not None else "")
        for name, guess in one.membership.items()
    )
    numbers = map(_epsilon, (one.promised, one.lower_bound, one.ceiling))
    return (*numbers, one.seat, ", ".join(guesses) or "-", one.verdict)


# --- numbers and Markdown -------------------------------------------------------------------------


def value(number: float) -> str:
    """Three digits after the point, without the zero before it; of large numbers one."""
    if abs(number) >= 10:
        return f"{number:,.1f}"
    return f"{number:.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.3f}"


def _cell(one: Mean | None) -> str:
    if one is None:
        return "-"
    low, high = value(min(one.values)), value(max(one.values))
    return value(one.mean) if low == high else f"{value(one.mean)} ({low} to {high})"


def _error_of(one: Mean) -> str:
    return "-" if one.error is None else value(one.error)


def _with_error(one: Mean | None) -> str:
    if one is None:
        return "-"
    return value(one.mean) + (f" ± {value(one.error)}" if one.error is not None else "")


def _epsilon(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _power(number: float) -> str:
    return f"{number:g}".replace("e-0", "e-")


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _title(metric: str) -> str:
    return metric_called(metric).title


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *rest = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
