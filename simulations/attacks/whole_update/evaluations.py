"""Private evaluation: the noise on the test sums of whole runs, and what is under it, made again.

One site grades its test records by the model that the run has left, and gives its noised sums of
the rounds that the run evaluates, again and again. Less what a loop over single records adds up,
they are noise, which is held against what the ledger paid for. With a source that repeats two
answers have the same noise, and their difference is that of their sums to the last step.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clients import evaluation
from clients.site import Site
from fedlearn.auditing.chance import exact_check
from fedlearn.auditing.findings import Check
from fedlearn.auditing.noise_laws import Noise, sums_check
from fedlearn.core.vector import Vector
from fedlearn.mechanisms import EvaluationPlan
from fedlearn.metrics.fairness import GroupFairness, group_of, groups_of
from fedlearn.privacy.noise import NoiseSource, SeededNoise
from simulations.attacks.whole_update.bench import Floats, Steered, request_of, with_slots
from simulations.attacks.whole_update.source import source_is_sound

Whole = NDArray[np.int64]

_RUNS: Final = 96
"""Runs whose noise is drawn: of the site's records, and of nobody."""

_MOST_ROUNDS: Final = 3
"""Rounds of a run that are looked at: the first and the last that are evaluated, and one more."""

_MOST_RECORDS: Final = 1024
"""Test records that are added up, of sites that have more."""

_SINGLE: Final = 8
_SINGLE_ONE: Final = "a single"
"""How cases begin of which what is paid for bounds the whole."""
_EXTREMES: Final = (-1e300, -1e3, 1e3, 1e300, np.inf, np.nan)
"""What grades are multiplied by: losses and scores from nothing to what no sum could hold."""

_EDGE: Final = 1e-6
"""So near to a half, or to a whole step, rounding may go either way."""


def checks_of_evaluation(
    site: Site, plan: EvaluationPlan, model: Vector, coins: np.random.Generator
) -> list[Check]:
    """What noised test sums of a site show, by the `model` of a run."""
    whole = with_slots(site.layout, model)
    graded = evaluation.graded(site, request_of(whole, site.config.rounds)).shared
    rows = np.sort(coins.permutation(len(graded))[:_MOST_RECORDS])
    made = _Tests(site, plan, graded[rows], rows)
    return [
        sums_check(made.noise(coins), dithered=made.dithered),
        exact_check("sums_of_tests", *made.sums_agree(coins)),
        exact_check("source_of_tests", *made.source_is_the_sites()),
    ]


@dataclass(frozen=True, eq=False)
class _Tests:
    """The test records `rows` of a site, and what a model makes of them."""

    site: Site
    plan: EvaluationPlan
    graded: Floats
    rows: NDArray[np.int64]

    # --- what the site gives -----------------------------------------------------------

    def given(
        self, graded: Floats, rows: NDArray[np.int64], number: int, source: NoiseSource | None
    ) -> Whole:
        """Its noised sums in a round, of these records alone; with its own noise, or another."""
        test, own = self.site.data.test, self.site.noise_of_tests
        validates = self.site.config.validates
        data = replace(
            self.site.data,
            test=test.of(rows),
            validation=test.of(rows) if validates else None,  # by whatever number they are read
            test_attributes={k: v[rows] for k, v in self.site.data.test_attributes.items()},
        )
        site = replace(self.site, data=data)
        if source is not None:
            vars(site)["noise_of_tests"] = lambda of: Steered(own(of), source, None)
        nothing = request_of(np.zeros(0, np.float32), number)
        with np.errstate(all="ignore"):
            return evaluation.noised(site, self.plan, nothing, evaluation.Answers(graded))

    def repeated(self, graded: Floats, rows: NDArray[np.int64], seed: bytes) -> Whole:
        """The same in the last round, with noise that repeats."""
        return self.given(graded, rows, self.plan.numbers[-1], SeededNoise(seed))

    @property
    def numbers(self) -> list[int]:
        """The numbers that the run's own config evaluates under; validation tells no groups apart,
        so that with them it is the test alone."""
        config = self.site.config
        by_group = config.validates and groups_of(config.fairness)
        return list(config.evaluated[-1:] if by_group else config.evaluated)

    # --- noise -------------------------------------------------------------------------

    @property
    def dithered(self) -> float:
        """By how much of it uniform noise within a step adds to the least variance."""
        return 1 / 12 / min(self._deviation(number) for number in self.numbers) ** 2

    def _deviation(self, number: int) -> float:
        """Of what is paid for in a round, not of what is done."""
        return float(self.plan.event_at(number).share_stddev)

    def noise(self, coins: np.random.Generator) -> Noise:
        """In deviations, by sum and round; whole numbers are spread over their step."""
        numbers = self.numbers
        middle = numbers[1:-1]
        drawn = [int(coins.choice(middle))] if middle else []
        rounds = sorted({numbers[0], *drawn, numbers[-1]})[:_MOST_ROUNDS]
        under, nobody = self._by_hand(self.graded, self.rows)[0], self.rows[:0]
        rows = []
        for run in range(_RUNS):
            everybody = run % 2 == 0
            graded, who = (self.graded, self.rows) if everybody else (self.graded[:0], nobody)
            parts = []
            for number in rounds:
                found = self.given(graded, who, number, None) - (under if everybody else 0)
                spread = coins.uniform(-0.5, 0.5, found.shape)
                parts.append((found + spread) / self._deviation(number))
            rows.append(parts)
        drawn_noise = np.array(rows)  # [runs, rounds, d]
        return {
            f"{what} in round {number}": drawn_noise[:, i, part]
            for i, number in enumerate(rounds)
            for what, part in self._parts()
        }

    def _parts(self) -> Iterator[tuple[str, slice]]:
        start = 0
        for group in ("", *(f" of {name}" for name in groups_of(self.site.config.fairness))):
            for spec in self.site.task.noised_layout:
                yield f"{spec.name}{group}", slice(start, start + spec.size)
                start += spec.size

    # --- sums --------------------------------------------------------------------------

    def _by_hand(self, graded: Floats, rows: NDArray[np.int64]) -> tuple[Whole, int]:
        """What is under the noise, record by record; and how many may be rounded either way."""
        labels, fairness = self.site.data.test.labels[rows], self.site.config.fairness
        groups = None
        if isinstance(fairness, GroupFairness):
            groups = group_of(fairness, self.site.data.test_attributes[fairness.column][rows])
        totals = np.zeros((1 + len(groups_of(fairness)), self._size), np.int64)
        unsure, people = 0, self._people(rows)
        own = {person: np.zeros_like(totals) for person in people}
        for i, one in enumerate(graded):
            if not np.isfinite(one).all():
                continue
            with np.errstate(all="ignore"):
                exact = self._in_steps(
                    self.site.task.contributions(one[None], labels[i : i + 1])[0]
                )
            single = self._size_one
            whole = np.where(single, np.rint(exact), np.trunc(exact))
            near = np.where(single, exact - np.floor(exact) - 0.5, exact - np.rint(exact))
            unsure += bool(((np.abs(near) < _EDGE) & (exact != whole)).any())
            mine = own[people[i]] if people else totals
            mine[0] += whole.astype(np.int64)
            if groups is not None:
                mine[1 + groups[i]] += whole.astype(np.int64)
        for person, sums in own.items():  # the mean over what one person has, towards zero
            totals += np.sign(sums) * (np.abs(sums) // people.count(person))
        if self.plan.unit == "client":  # the mean over all, towards zero
            totals = np.sign(totals) * (np.abs(totals) // max(len(graded), 1))
        return totals.reshape(-1), unsure

    def _people(self, rows: NDArray[np.int64]) -> list[str]:
        """Whose these test records are, where persons are protected; else nothing."""
        persons = self.site.data.test.persons
        if self.plan.unit != "person" or persons is None:
            return []
        found: list[str] = persons[rows].tolist()
        return found

    @property
    def _size(self) -> int:
        return sum(spec.size for spec in self.site.task.noised_layout)

    @property
    def _size_one(self) -> NDArray[np.bool_]:
        """Which numbers are arrays by themselves."""
        layout = self.site.task.noised_layout
        return np.concatenate([np.full(spec.size, spec.size == 1) for spec in layout])

    def _in_steps(self, added: Floats) -> Floats:
        """A record's arrays, each brought to its norm and counted in its steps."""
        parts, start = [], 0
        for spec, step in zip(self.site.task.noised_layout, self.plan.steps, strict=False):
            part = added[start : start + spec.size]
            start += spec.size
            length = float(np.linalg.norm(part)) if np.isfinite(part).all() else 0.0
            scale = 0.0 if length == 0 else min(1.0, spec.bound / length) * step / spec.bound
            parts.append(np.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) * scale)
        return np.concatenate(parts)

    def sums_agree(self, coins: np.random.Generator) -> tuple[bool, str]:
        """Whether answers differ by the sums of their records, and one record by what is paid."""
        seed = secrets.token_bytes(16)
        nothing = self.repeated(self.graded[:0], self.rows[:0], seed)
        paid = self.plan.event_at(self.plan.rounds).l2_sensitivity
        for what, graded, rows in self._cases(coins):
            found = self.repeated(graded, rows, seed) - nothing
            wanted, unsure = self._by_hand(graded, rows)
            if np.abs(found - wanted).max(initial=0) > unsure:
                return False, f"the sums of {what}"
            if what.startswith(_SINGLE_ONE) and np.linalg.norm(found) > paid:
                return False, f"{what}, which moves the sums further than was paid for"
        return True, ""

    def _cases(self, coins: np.random.Generator) -> Iterator[tuple[str, Floats, NDArray[np.int64]]]:
        """Records with their grades: single ones, of any size, some, and all."""
        count = len(self.rows)
        for place in coins.permutation(count)[:_SINGLE]:
            one, row = self.graded[place : place + 1], self.rows[place : place + 1]
            yield f"{_SINGLE_ONE} test record", one, row
            for factor in _EXTREMES:
                with np.errstate(all="ignore"):
                    yield f"{_SINGLE_ONE} test record with a strange grade", one * factor, row
        people = np.array(self._people(self.rows))
        for person in coins.permutation(np.unique(people))[:_SINGLE]:
            own = people == person
            yield f"{_SINGLE_ONE} person's test records", self.graded[own], self.rows[own]
        half = coins.random(count) < 0.5
        yield "some test records", self.graded[half], self.rows[half]
        yield "all test records", self.graded, self.rows

    # --- source ------------------------------------------------------------------------

    def source_is_the_sites(self) -> tuple[bool, str]:
        """Whether the noise is drawn from the source, and that of the site is no other's."""
        sound, where = source_is_sound(lambda: self.site.noise_of_tests(1))
        if not sound:
            return False, where
        one, same, other = (
            self.repeated(self.graded, self.rows, seed) for seed in (b"one", b"one", b"other")
        )
        if not np.array_equal(one, same) or (one == other).mean() > 0.5:
            return False, "noise on test sums that is not drawn from the site's source"
        return True, ""
