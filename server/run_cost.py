"""What a run has cost and what it promises, from what is known after each round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.privacy import Event
from fedlearn.privacy.accounting import epsilon, epsilon_rdp
from fedlearn.privacy.events import merged
from fedlearn.results.result import PrivacyResult, PromiseFacts, ScreeningResult, SitePrivacy

MOST_RESUMED: Final = 10
"""Times over that a site is believed to have paid for a run."""


def spent_in_round(
    plan: PrivacyPlan,
    before: dict[str, tuple[Event, ...]],
    sites: Sequence[str],
    asked: Sequence[str],
    replies: Replies,
    together: Mapping[str, int],
) -> dict[str, tuple[Event, ...]]:
    """What every site has spent in this run once a round is over; `asked` are those with the model.

    What a site says it has spent counts where it is more than is known here. A
    site that fell silent, or failed after it had begun, is taken to have
    spent a round; one that refused for privacy has spent nothing. Noise in
    shares is counted for the sites that are in the sum: `together` says how many there are in
    that of a site. Sampling of clients
    counts only over all rounds, chosen or not, so then every site pays for each.
    """
    refused = {one.site for one in replies.refusals if one.of_budget}
    paying = [site for site in asked if site not in refused]
    after = {
        site: merged((*before.get(site, ()), plan.cost(together.get(site, 0))))
        for site in plan.payers(sites, paying)
    }
    for site, message in replies.answers.items():
        known = after.get(site, before.get(site, ()))
        after[site] = _at_least(plan, known, flower.read_spent(message.content))
    return before | after


def spent_besides(
    event: Event, before: Mapping[str, tuple[Event, ...]], asked: Sequence[str]
) -> dict[str, tuple[Event, ...]]:
    """What every site has spent once those that were `asked` have told private sums."""
    return {**before, **{site: merged((*before.get(site, ()), event)) for site in asked}}


def _at_least(
    plan: PrivacyPlan, known: tuple[Event, ...], reported: tuple[Event, ...]
) -> tuple[Event, ...]:
    """What is known here, and what only the site knows of: paid for, then lost.

    A run that is cut off and resumed pays for rounds again, but not for hundreds of runs: who says
    so may lie about himself, and ends nothing for the others.
    """
    besides = _besides(plan)
    mine, theirs = (_steps_by(events) for events in (known, reported))
    lost = sum(theirs[e] for e in theirs if e not in besides)
    lost -= sum(mine[e] for e in mine if e not in besides)
    lost = min(lost, MOST_RESUMED * plan.total_event.steps)
    more = [replace(plan.round_event, steps=lost)] if lost > 0 else []
    for event, most in besides.items():
        unknown = min(theirs.get(event, 0), MOST_RESUMED * most) - mine.get(event, 0)
        more += [replace(event, steps=unknown)] if unknown > 0 else []
    return merged((*known, *more))


def _besides(plan: PrivacyPlan) -> dict[Event, int]:
    """The events of what a plan pays for beside training, one step each, and how many there are."""
    return _steps_by(plan.besides)


def _steps_by(events: Iterable[Event]) -> dict[Event, int]:
    return {replace(event, steps=1): event.steps for event in merged(events)}


def _steps(plan: PrivacyPlan, events: Iterable[Event]) -> int:
    """Steps of training."""
    besides = _besides(plan)
    return sum(count for event, count in _steps_by(events).items() if event not in besides)


def epsilon_of(plan: PrivacyPlan, events: Iterable[Event]) -> float:
    """What events of this run amount to, for the unit and against the adversary of its plan."""
    return epsilon(events, plan.delta, unit=plan.unit, cohort_known=plan.cohort_known)


def privacy_result(
    plan: PrivacyPlan | None,
    spent: dict[str, tuple[Event, ...]],
    promise: PromiseFacts,
    *,
    whole: bool = False,
) -> PrivacyResult:
    """What the run promises; the statement is still to be made from it.

    With `whole` a site is promised no less than all that was planned, whatever it has spent: a
    number of rounds that depends on what earlier ones have released bounds no loss by itself, and
    the plan for all of them does (Rogers et al. 2016, "Privacy Odometers and Filters").
    """
    if plan is None or not promise.noise_is_private:
        return _no_privacy(plan, promise)
    per_site = {site: _site(plan, events, whole=whole) for site, events in sorted(spent.items())}
    largest = max((site.epsilon for site in per_site.values()), default=0.0)
    if math.isinf(largest):
        return _no_privacy(plan, promise)
    return PrivacyResult(
        unit=plan.unit,
        relation=plan.relation,
        epsilon=largest,
        delta=plan.delta,
        accountant=plan.accountant,
        noise_multiplier=plan.noise_multiplier,
        clip_norm=plan.clip_norm,
        sampling=plan.sampling,
        per_site=per_site,
        statement="",
        promise=promise,
    )


def screening_result(plan: PrivacyPlan | None, sites: int | None) -> ScreeningResult | None:
    """What there is to say of tables that `sites` sites have compared."""
    if sites is None:
        return None
    paid = plan.screening.events if plan and plan.screening else ()
    return ScreeningResult(sites=sites, epsilon=epsilon_of(plan, paid) if plan and paid else None)


def _site(plan: PrivacyPlan, events: tuple[Event, ...], *, whole: bool) -> SitePrivacy:
    known, counted = plan.cohort_known, (events, *([plan.events] if whole else []))
    cruder = max(epsilon_rdp(e, plan.delta, unit=plan.unit, cohort_known=known) for e in counted)
    return SitePrivacy(
        epsilon=max(epsilon_of(plan, one) for one in counted),
        epsilon_rdp=None if math.isinf(cruder) else cruder,
        delta=plan.delta,
        steps=_steps(plan, events),
        sample_rate=plan.sample_rate,
    )


def _no_privacy(plan: PrivacyPlan | None, promise: PromiseFacts) -> PrivacyResult:
    return PrivacyResult(
        unit="none",
        relation=None,
        epsilon=None,
        delta=None,
        accountant=None,
        noise_multiplier=plan.noise_multiplier if plan else None,
        clip_norm=plan.clip_norm if plan else None,
        sampling=None,
        per_site={},
        statement="",
        promise=promise,
    )
