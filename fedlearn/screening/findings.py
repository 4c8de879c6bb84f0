"""What a site's own sums say beside those of the others, noise included: mathematics alone.

Every statement has a null hypothesis in plain words, and is made only where that is refuted:
hospitals differ, and a difference alone is no fault.

- *unit*: the mean of a column here is no further from that of the others than a quarter of its
  public range (`SHIFT`); of a number without one, than a factor of ten.
- *labels*: what goes with a class here goes with it elsewhere as well. The columns vote together:
  the inner product of the differences between the class and all others, here and there.
- *share*: the odds of a class, a category or a yes are no more than `ODDS` times those elsewhere,
  and no less than their inverse.

Who is wrong cannot be seen: where one site has most of the others' records, its mistake is found by
whom it is compared with as well.

Statistics are bilinear in both sums, so that their variance under noise of a known deviation is
known as well. To it comes what the choice of the own records does (`fedlearn.screening.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from fedlearn.screening.choice import Rows, log_chance, of_difference, of_mean
from fedlearn.screening.contrast import Contrast, SiteSums
from fedlearn.screening.sums import Floats, PlacedColumn

Kind = Literal["unit", "labels", "share"]

SHIFT: Final = {"range": 0.5, "size": 0.25}
"""On the scale from -1 to 1: a quarter of the range, and one of eight decades."""
ODDS: Final = 10.0

_FEWEST: Final = 5
"""Records of a class, and of the others, without which labels are not compared."""

_NEAR: Final = 1.3
"""Other people have another mean, and among the others may be some without a value."""

_FACTORS: Final = (
    (38.67, "mmol/L and mg/dL of cholesterol"),
    (88.57, "mmol/L and mg/dL of triglycerides"),
    (88.42, "mg/dL and µmol/L of creatinine"),
    (18.02, "mmol/L and mg/dL of glucose"),
    (7.5006, "kPa and mmHg"),
    (2.54, "inches and centimetres"),
    (2.2046, "kilograms and pounds"),
    (12.0, "years and months"),
    (365.25, "years and days"),
    (24.0, "days and hours"),
    (60.0, "hours and minutes"),
    (10.0, "as cm and mm"),
    (100.0, "as m and cm"),
    (1000.0, "as g and mg"),
)


@dataclass(frozen=True, kw_only=True)
class TableFinding:
    """Something that a site's owner should look at; `column` is empty where it is the label."""

    kind: Kind
    column: str
    text: str

    @property
    def where(self) -> str:
        """The column, or `label`."""
        return self.column or "label"

    @property
    def grave(self) -> bool:
        """Whether the records should not count as they are; others may be so."""
        return self.kind != "share"


def findings(
    own: SiteSums, others: SiteSums, alarm: float, rows: Rows | None = None
) -> list[TableFinding]:
    """What is wrong with `own`, held against `others`.

    `rows` are the records behind `own` where whoever asks has them, and it has no noise. Without
    them what is found follows from both sums alone.

    Guarantees: where no null hypothesis is violated there is a finding with a chance of at most
    `alarm`, over the noise and the choice of the own records: with `rows`, of units as far as their
    means follow Student's law (docs/privacy.md says where they do not); without, of labels as far
    as columns go together no more than two by two.
    """
    if own.records <= 0 or others.records <= 0:
        return []
    layout = own.layout
    units = 2 * sum(column.scale != "share" for column in layout.columns)
    shares = 2 * (len(layout.classes) + sum(c.width for c in layout.columns if c.scale == "share"))
    chance = alarm / (units + len(layout.classes) + (shares if rows else 0))
    found = [*_units(own, others, chance, rows), *_labels(own, others, chance, rows)]
    return [*found, *_shares(own, others, chance)] if rows else found


def _exceeds(value: float, variance: float, chance: float) -> bool:
    """Whether what is zero at the most would be so large with no more than this chance."""
    return value > 0 and value > -float(ndtri(chance)) * math.sqrt(variance)


# --- units ---------------------------------------------------------------------------------


def _units(
    own: SiteSums, others: SiteSums, chance: float, rows: Rows | None
) -> Iterator[TableFinding]:
    for i, column, part in own.layout.parts:
        if column.scale == "share":
            continue
        o = np.array([own.records, own.whole[part][0]])
        q = np.array([others.records, others.whole[part][0]])
        places = values = None
        if rows is not None:
            places, values = column.places(rows[0][:, i]), column.values(rows[0][:, i])
        for sign, words in ((1.0, "above"), (-1.0, "below")):
            shift = SHIFT[column.scale]
            # The difference of means, less what is allowed, times both numbers of records.
            form = np.array([[-shift, -sign], [sign, 0.0]])
            excess = float(o @ form @ q)
            variance = _of_form(form, o, q, own.variance, others.variance)
            if places is None:
                most = sign * q[1] / q[0] + shift
                found = _is_beyond(excess / q[0], most, o[0], variance / q[0] ** 2, chance)
            else:
                limit = -float(stdtrit(max(1, len(places) - 1), chance))
                variance += of_mean(places) * (o[0] * q[0]) ** 2
                found = excess > limit * math.sqrt(variance)
            if found:
                spread = math.sqrt(others.variance) / others.records
                text = _unit_text(column, words, o[1] / o[0], q[1] / q[0], spread, values)
                yield TableFinding(kind="unit", column=column.name, text=text)


def _is_beyond(excess: float, mean: float, records: float, variance: float, chance: float) -> bool:
    """Whether sums that are so much more than this mean allows are no chance, of the records or of
    the noise."""
    if excess <= 0:
        return False
    return log_chance(excess, mean, records, math.sqrt(variance)) < math.log(chance)


def _of_form(form: Floats, o: Floats, q: Floats, here: float, there: float) -> float:
    """The variance of `o form q` where o and q have noise of variances `here` and `there`."""
    return float(
        there * np.square(o @ form).sum()
        + here * np.square(form @ q).sum()
        + here * there * np.square(form).sum()
    )


def _unit_text(
    column: PlacedColumn,
    words: str,
    mine: float,
    theirs: float,
    spread: float,
    values: Floats | None,
) -> str:
    """In plain words; the mean of the others is known to three deviations of its noise."""
    low, high = (column.mean(np.clip(theirs + s * 3 * spread, -1, 1)) for s in (-1, 1))
    here = column.mean(float(np.clip(mine, -1, 1)))
    found = f"values are far {words} those of the other sites: {here:.4g} in the mean, and there "
    found += f"between {low:.4g} and {high:.4g}"
    if here > 0 and low > 0:
        least, most = sorted((max(here / high, low / here), max(here / low, high / here)))
        low, high = least / _NEAR, most * _NEAR
        known = [f"{factor:g} ({what})" for factor, what in _FACTORS if low <= factor <= high]
        found += f", a factor of {least:.3g} to {most:.3g}"
        found += f"; near it are {', '.join(known)}" if known else ""
    if values is not None and len(values):
        each, times = np.unique(values, return_counts=True)
        if times.max() > len(values) / 2:
            found += f"; {times.max()} of {len(values)} are {each[times.argmax()]:.4g}"
    return (
        f"{found}. Another unit, or a value that stands for a gap, here or at a large one of them?"
    )


# --- labels --------------------------------------------------------------------------------


def _labels(
    own: SiteSums, others: SiteSums, chance: float, rows: Rows | None
) -> Iterator[TableFinding]:
    classes = own.layout.classes
    two = len(classes) == 2
    for at in (1,) if two else range(len(classes)):
        here, there = Contrast.of(own, at), Contrast.of(others, at)
        if min(here.inside, here.outside, there.inside, there.outside) < _FEWEST:
            continue
        more, freedom = here.of_choice(there, own)
        if rows is not None:
            more, freedom = of_difference(own.layout, rows, at, there.values)
        variance = here.variance(there) + more * (here.inside * here.outside) ** 2
        limit = -float(stdtrit(freedom, chance))
        if here.along(there) < -limit * math.sqrt(variance):
            swapped = f"what goes with {classes[at]} elsewhere goes with {classes[0]} here"
            mixed = f"what goes with {classes[at]} here speaks against it elsewhere"
            text = f"{swapped if two else mixed}: are labels {'swapped' if two else 'mixed up'}"
            text += ", here or at a large other site?"
            yield TableFinding(kind="labels", column="", text=text)


# --- shares --------------------------------------------------------------------------------


def _shares(own: SiteSums, others: SiteSums, chance: float) -> Iterator[TableFinding]:
    """Of classes, and of every column of that kind; the own sums have no noise."""
    for at, name in enumerate(own.layout.classes):
        here, there = own.sums[at, 0], others.sums[at, 0]
        yield from _share("", f"the class {name}", own, others, here, there, chance)
    for _, column, part in own.layout.parts:
        if column.scale != "share":
            continue
        if column.width == 1:
            here, there = ((t.records + t.whole[part][0]) / 2 for t in (own, others))
            yield from _share(column.name, "yes", own, others, here, there, chance)
            continue
        for code, (here, there) in enumerate(zip(own.whole[part], others.whole[part], strict=True)):
            what = f"category {code}" if code else "a gap, or an unknown category,"
            yield from _share(column.name, what, own, others, here, there, chance)


def _share(
    column: str,
    what: str,
    own: SiteSums,
    others: SiteSums,
    here: float,
    there: float,
    chance: float,
) -> Iterator[TableFinding]:
    count, total = own.records, others.records
    for mine, theirs, words in ((here, there, "more"), (count - here, total - there, "less")):
        # The smallest share that gives so many with no less than this chance (Clopper, Pearson).
        least = float(betaincinv(mine, count - mine + 1, chance)) if mine > 0 else 0.0
        limit = least / (least + ODDS * (1 - least))
        if _exceeds(limit * total - theirs, others.variance * (1 + limit**2), chance):
            text = (
                f"{what} is far {words} frequent than at the other sites: {here:.0f} of "
                f"{count:.0f} records, about {min(max(there / total, 0.0), 1.0):.0%} there"
            )
            yield TableFinding(kind="share", column=column, text=text)
