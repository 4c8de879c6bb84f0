"""Screening: the noise on the sums that tables are compared by, and what is under it, made again.

As of private evaluation (`evaluations.py`): one site gives its sums again and again; less what a
loop over single records adds up, they are noise. With a source that repeats two answers have the
same noise, and their difference is that of their records to the last step.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clients import screening
from clients.site import Site
from fedlearn.auditing.chance import exact_check
from fedlearn.auditing.findings import Check
from fedlearn.auditing.noise_laws import sums_check
from fedlearn.mechanisms import EvaluationPlan
from fedlearn.privacy.noise import SeededNoise
from fedlearn.screening import PlacedColumn
from simulations.attacks.whole_update.bench import Steered
from simulations.attacks.whole_update.source import source_is_sound

Whole = NDArray[np.int64]

_RUNS: Final = 96
_MOST_RECORDS: Final = 512
_SINGLE: Final = 8
_SINGLE_ONE: Final = "a single"
"""How cases begin of which what is paid for bounds the whole."""
_EDGE: Final = 1e-6
"""So near to a half rounding may go either way."""


def checks_of_screening(
    site: Site, paid: EvaluationPlan, coins: np.random.Generator
) -> list[Check]:
    """What the sums of a site show."""
    rows = np.sort(coins.permutation(len(site.data.train))[:_MOST_RECORDS])
    made = _Tables(site, paid, rows)
    noise, dithered = made.noise(coins), 1 / 12 / paid.event_at(1).share_stddev ** 2
    return [
        sums_check({"the sums": noise}, dithered=dithered, name="noise_of_tables"),
        exact_check("sums_of_tables", *made.sums_agree(coins)),
        exact_check("source_of_tables", *made.source_is_the_sites()),
    ]


@dataclass(frozen=True, eq=False)
class _Tables:
    """The training records `rows` of a site."""

    site: Site
    paid: EvaluationPlan
    rows: Whole

    def _people(self, rows: Whole) -> list[str]:
        """Whose these records are, where persons are protected; else nothing."""
        persons = self.site.data.train.persons
        if self.paid.unit != "person" or persons is None:
            return []
        found: list[str] = persons[rows].tolist()
        return found

    def _with(self, rows: Whole) -> Site:
        some = self.site.data.train.of(rows)
        return replace(self.site, data=replace(self.site.data, train=some))

    def _repeated(self, rows: Whole, seed: bytes) -> Whole:
        """What the site gives of these records, with noise that repeats."""
        site, own = self._with(rows), self.site.noise_of_screening
        vars(site)["noise_of_screening"] = lambda: Steered(own(), SeededNoise(seed), None)
        return screening.noised(site, self.paid)

    def noise(self, coins: np.random.Generator) -> NDArray[np.float64]:
        """In deviations of what is paid for; whole numbers are spread over their step."""
        under, nobody, drawn = self._by_hand(self.rows)[0], self.rows[:0], []
        for run in range(_RUNS):
            everybody = run % 2 == 0
            site = self._with(self.rows if everybody else nobody)
            found = screening.noised(site, self.paid) - (under if everybody else 0)
            drawn.append(found + coins.uniform(-0.5, 0.5, found.shape))
        return np.array(drawn) / float(self.paid.event_at(1).share_stddev)

    def _by_hand(self, rows: Whole) -> tuple[Whole, int]:
        """What is under the noise, record by record; and how many may be rounded either way."""
        layout, train = screening.layout_in(self.site), self.site.data.train
        total, unsure = np.zeros((len(layout.classes), layout.width), np.int64), 0
        people = self._people(rows)
        own = {person: np.zeros_like(total) for person in people}
        for i, row in enumerate(rows):
            places = [np.ones(1)]
            for column, value in zip(layout.columns, train.features[row], strict=True):
                places.append(_place(column, float(value)))
            exact = np.concatenate(places) * self.paid.steps[0]
            unsure += bool((np.abs(exact - np.floor(exact) - 0.5) < _EDGE).any())
            mine = own[people[i]] if people else total
            mine[int(train.labels[row])] += np.rint(exact).astype(np.int64)
        for person, sums in own.items():  # the mean over what one person has, towards zero
            total += np.sign(sums) * (np.abs(sums) // people.count(person))
        return total.reshape(-1), unsure

    def sums_agree(self, coins: np.random.Generator) -> tuple[bool, str]:
        """Whether answers differ by the sums of their records, and one record by what is paid."""
        seed = secrets.token_bytes(16)
        nothing, most = self._repeated(self.rows[:0], seed), self.paid.event_at(1).l2_sensitivity
        for what, rows in self._cases(coins):
            found = self._repeated(rows, seed) - nothing
            wanted, unsure = self._by_hand(rows)
            if np.abs(found - wanted).max(initial=0) > unsure:
                return False, f"the sums of {what}"
            if what.startswith(_SINGLE_ONE) and np.linalg.norm(found) > most:
                return False, f"{what}, which moves the sums further than was paid for"
        return True, ""

    def _cases(self, coins: np.random.Generator) -> Iterator[tuple[str, Whole]]:
        for row in coins.permutation(self.rows)[:_SINGLE]:
            yield f"{_SINGLE_ONE} record", np.array([row])
        people = np.array(self._people(self.rows))
        for person in coins.permutation(np.unique(people))[:_SINGLE]:
            yield f"{_SINGLE_ONE} person's records", self.rows[people == person]
        yield "some records", self.rows[coins.random(len(self.rows)) < 0.5]
        yield "all records", self.rows

    def source_is_the_sites(self) -> tuple[bool, str]:
        """Whether the noise is drawn from the source, and that of the site is no other's."""
        sound, where = source_is_sound(self.site.noise_of_screening)
        if not sound:
            return False, where
        one, same, other = (self._repeated(self.rows, seed) for seed in (b"one", b"one", b"other"))
        if not np.array_equal(one, same) or (one == other).mean() > 0.5:
            return False, "noise that is not drawn from the site's source"
        return True, ""


def _place(column: PlacedColumn, value: float) -> NDArray[np.float64]:
    """Where one value stands."""
    if column.width > 1:
        found = np.zeros(column.width)
        found[min(round(value), column.width - 1)] = 1.0
        return found
    if column.scale == "size":
        raw = float(column.values(np.array([value]))[0])
        decades = np.log10(raw) if raw > 0.01 else -2.0
        return np.array([min((decades + 2) / 4 - 1, 1.0)])
    place = value if column.low == column.low else 2 * value - 1
    return np.array([min(max(place, -1.0), 1.0)])
