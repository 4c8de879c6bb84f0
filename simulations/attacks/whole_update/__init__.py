"""Private steps of a site, made again by an auditor who holds records, coins and noise in hand.

Slots show what the mechanism does to a canary, on coordinates of its own. Whether it does the same
to the records, on the coordinates of the model, is looked at here: after the run one site makes
steps as in a round, by its own code and plan, from the model that the run has left. What would
leave it is held against what can be known otherwise:

- steps with the same coins, or with nobody in them, differ by noise alone, and that noise has
  nothing to do with the records;
- a step without noise, of records that the audit has chosen, gives the sum of clipped gradients,
  which a loop over single records computes in float64 and knows nothing of the engine;
- where every record has a coordinate of its own, an update says who took part, and how often;
- a source that repeats gives the same update again, the site's own never does, and the update is
  the same, bit for bit, whatever else there is in records than what was added up;
- an optimiser that is fed the noisy sums gives what the run's own gives.

Of privacy for whole clients clip, noise and count are looked at in the same way, and so are the
noised test sums of private evaluation and the sums that tables are compared by.

Nothing is spent, sent or kept: the records of a simulation lie with the auditor already, and what
is written down are chances that depend on noise and coins, and whether sums agree.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np

from clients.owner import owner_of
from clients.site import Site, open_site
from fedlearn.auditing.chance import exact_check
from fedlearn.auditing.draw_laws import draw_checks
from fedlearn.auditing.findings import Check
from fedlearn.auditing.noise_laws import noise_checks, record_checks, source_checks
from fedlearn.config import RunConfig
from fedlearn.core.vector import Vector
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.mechanisms.client import ClientPlan
from fedlearn.report.export import read_model
from fedlearn.results.result import ResultFile
from fedlearn.training import private
from simulations.attacks.measure import plan_in
from simulations.attacks.whole_update.accounting import accounted
from simulations.attacks.whole_update.bench import Bench
from simulations.attacks.whole_update.coordinator import checks_of_coordinator
from simulations.attacks.whole_update.counting import Counting
from simulations.attacks.whole_update.evaluations import checks_of_evaluation
from simulations.attacks.whole_update.noise import noise_of, other_noise, rounding_of, steps_of
from simulations.attacks.whole_update.source import (
    drawn_beside,
    source_is_sound,
    source_is_the_sites,
)
from simulations.attacks.whole_update.sums import sums_agree
from simulations.attacks.whole_update.tables import checks_of_screening
from simulations.attacks.whole_update.traces import leave_no_trace, optimizer_agrees

__all__ = ["checks_of_run"]


def checks_of_run(config: RunConfig, result: ResultFile) -> list[Check]:
    """What looking at whole updates of a finished run has shown.

    Empty where nothing is promised: there is nothing to hold updates against.

    Raises:
        FedlearnError: the model, or the site that was drawn, cannot be opened any more.
    """
    plan, model = plan_in(config, result), read_model(Path(config.out), result)
    if plan is None or result.privacy.epsilon is None or not plan.noise_multiplier:
        return []
    coins = np.random.default_rng(secrets.randbits(128))
    account = exact_check("accounting", *accounted(config, plan, result))
    name = secrets.choice(list(result.data.sites))
    site = open_site(owner_of(config, name), config)
    with _in_silence():
        return [*_of_site(config, site, plan, model, coins), account]


@contextmanager
def _in_silence() -> Iterator[None]:
    """What training says in the log of its site: the audit makes up what it warns of."""
    before, private.log.disabled = private.log.disabled, True
    try:
        yield
    finally:
        private.log.disabled = before


def _of_site(
    config: RunConfig, site: Site, plan: PrivacyPlan, model: Vector, coins: np.random.Generator
) -> list[Check]:
    tested = checks_of_evaluation(site, plan.evaluation, model, coins) if plan.evaluation else []
    compared = checks_of_screening(site, plan.screening, coins) if plan.screening else []
    return [*_of_training(config, site, plan, model, coins), *tested, *compared]


def _of_training(
    config: RunConfig, site: Site, plan: PrivacyPlan, model: Vector, coins: np.random.Generator
) -> list[Check]:
    if plan.trusts_coordinator:
        return checks_of_coordinator(config, cast(ClientPlan, plan), coins)
    bench = Bench.of(site, plan, model)
    made = Counting.beside(bench)
    own = _own_noise(bench, made, coins) if bench.at_site else _shared_noise(bench, coins)
    drawn = source_checks(*drawn_beside(lambda: bench.site.noise(1)))
    if plan.unit == "client":
        sound = source_is_sound(lambda: bench.site.noise(1))
        return [*own, exact_check("source", *sound), *drawn]
    return [
        *own,
        *draw_checks(made.draws(), plan.sample_rate, coins),
        exact_check("clipped_sum", *sums_agree(bench, made, coins)),
        exact_check("traces", *leave_no_trace(bench, made, coins)),
        exact_check("source", *source_is_the_sites(bench, made)),
        *drawn,
    ]


def _own_noise(bench: Bench, made: Counting, coins: np.random.Generator) -> list[Check]:
    """Of a site that adds all of its noise itself, in every step."""
    noise = noise_of(bench, coins)
    steps, more = steps_of(bench, coins)
    both = {layer: np.concatenate([noise[layer], more[layer]]) for layer in noise}
    return [
        *noise_checks(both, others=other_noise(bench)),
        *record_checks(steps),
        exact_check("optimizer", *optimizer_agrees(bench, made)),
    ]


def _shared_noise(bench: Bench, coins: np.random.Generator) -> list[Check]:
    """In shares, and rounded to whole numbers."""
    return noise_checks(noise_of(bench, coins), rounding=rounding_of(bench))
