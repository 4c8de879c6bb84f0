"""What both ends of a run compute for themselves and compare by hash.

Nobody takes the form of a contribution, its size, or what is done to it from
the other side: site and server derive it from the config each holds, and a
difference shows as a refused round, never as a wrong sum.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.config import RunConfig, encode, sizes_of
from fedlearn.config.terms import terms_of
from fedlearn.core.errors import ConfigError, counted
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.crypto.codec import sorted_names
from fedlearn.figures import TableLayout
from fedlearn.mechanisms import UNPROTECTED, EvaluationPlan, PrivacyPlan
from fedlearn.mechanisms.reach import SumBound
from fedlearn.metrics.fairness import Fairness, groups_of
from fedlearn.metrics.sums import SumLayout, Sums, length_of
from fedlearn.models.custom import source_digest
from fedlearn.robust import Draw, Within
from fedlearn.rounds import RoundNote
from fedlearn.screening import ScreeningLayout
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.proofs.norm import PROVEN_BITS, NormBound
from fedlearn.secagg.proven_payload import ProvenPayload
from fedlearn.secagg.settings import (
    LEAST_BITS,
    MOST_BITS,
    SecAggMasked,
    SecAggSum,
    bits_of,
    fixed_point_of,
    sum_of,
)
from fedlearn.secagg.whole import AnyPayload, WholePayload
from fedlearn.stages import Difference, Form, Route, Stack, Stage
from fedlearn.tasks import Task

Part = Literal["screen", "train", "evaluate"]
"""What is summed: where the sites' records stand, once and before round 1; in a round, the sites'
models, or their test metrics."""

_ROUNDED: Final = 1 + 1e-6
"""Float32 and float64 move a norm by less."""


def protocol_round(part: Part, number: int) -> int:
    """The number of the protocol run for one part of a round: it grows and never repeats."""
    return 2 * number + (part != "train")


def part_of(protocol_number: int) -> tuple[Part, int]:
    """The part and the round that a protocol run is for: the inverse of `protocol_round`."""
    number, besides = divmod(protocol_number, 2)
    if not besides:
        return "train", number
    return ("evaluate" if number else "screen"), number


def stack_of(config: RunConfig, size: int) -> Stack:
    """Which vectors of `size` values travel together: the model, and what the strategy adds."""
    return Stack(size, config.strategy.travels)


def request_digest(note: RoundNote, model: Vector, besides: Mapping[str, Vector]) -> bytes:
    """SHA-256 of all that shapes what a site answers in a round: it binds what the sites mask.

    So nobody is asked with another model, norm, cohort or terms than all the others.
    """
    sent = model
    if besides:
        sent = np.concatenate([model, *(besides[name] for name in sorted(besides))])
    head = f"fedlearn/request/v1\n{encode(note)}\n{sorted(besides)}\n{vector_digest(sent)}"
    return hashlib.sha256(head.encode()).digest()


def bound_of(
    config: RunConfig, plan: PrivacyPlan | None, form: Form, clip_norm: float = 0.0
) -> SumBound | None:
    """What honest updates of this form can be; None where no rule bounds them.

    `clip_norm` is that of one round, zero for what holds in all of them.
    """
    reach = (plan or UNPROTECTED).reach(terms_of(config), clip_norm or None)
    if reach is None:
        return None
    # Whole numbers are not rounded once more.
    step = config.secagg.resolution or 0.0 if form.bits is None else 0.0
    return SumBound(reach=reach, size=form.values, rounds=config.most_rounds, step=step)


def route_of(config: RunConfig, plan: PrivacyPlan | None) -> Route:
    """What happens to an update on its way.

    Where updates come in clear and the coordinator is trusted to see them, it does itself what
    the sites would do otherwise.
    """
    mechanism, terms = plan or UNPROTECTED, terms_of(config)
    source, own = mechanism.source(terms), mechanism.stages(terms)
    change: tuple[Stage, ...] = (Difference(),) if source.gives_model else ()
    chosen = () if config.stage.idle else (config.stage,)
    # Of records that are clipped one by one, the noise may come in a step at the site, or later.
    clipped_before = config.privacy.within_sites and config.privacy.noise_from != "site"
    if chosen and (clipped_before or not source.gives_model) and not config.stage.contracts:
        raise ConfigError(
            f"stage={config.stage.kind}: the gradients of records are clipped before it, and "
            "it may bring them further apart than their noise is planned for. Set stage=none"
        )
    if terms.summed:
        reach = mechanism.reach(terms)
        within = (Within(reach, config.most_rounds),) if reach and not reach.clips else ()
        return Route(source, (*change, *chosen, *within, *own))
    if mechanism.trusts_coordinator:
        there = (*change, *chosen) if chosen else ()
        return Route(source, there, own if chosen else (*change, *own))
    # Where nothing asks for changes, the mean of models: to take these first would round twice.
    needed = change if any(stage.needs_change for stage in (*chosen, *own)) else ()
    return Route(source, (*needed, *chosen, *own))


def dimension_of(config: RunConfig, size: int) -> int:
    """The length of an update of a model of `size` values as its mechanism sees it."""
    return config.stage.form(Form(values=stack_of(config, size).total)).values


@lru_cache(maxsize=64)
def payload_of(
    form: Form,
    settings: SecAggSum,
    sites: int,
    bound: SumBound | None = None,
    *,
    proved: bool = False,
) -> AnyPayload:
    """How an update of this form enters a sum over at most `sites` sites.

    With a `bound` the ring is sized to what honest sites can sum up to, unless bits are set.
    With `proved` a site proves that its update is within it.

    Raises:
        ConfigError: the ring is too small for them, or nothing is known that could be proved.
    """
    if proved:
        return _proven(form, settings, sites, bound)
    if form.bits is not None:
        return WholePayload(bits=form.bits, max_clients=sites, num_values=form.values)
    # Where every site weighs 1, no bits are spent on weights.
    even = settings if form.weighted else dataclasses.replace(settings, max_weight=1)
    plan = partial(Payload.plan, num_values=form.values, num_counters=form.counters)
    if bound is None:
        return plan(even, num_clients=sites)
    return plan(_sized(even, sites, bound), num_clients=sites, bounded=True)


def _proven(form: Form, settings: SecAggSum, sites: int, bound: SumBound | None) -> ProvenPayload:
    """The form of a contribution whose norm is proved, in a ring that has room for that."""
    if bound is None:
        raise ConfigError(
            [
                "robust=proofs: the norm of a round is not known beforehand where it moves. Set "
                "privacy.clipping=flat, or robust=bounded"
            ]
        )
    point, weight, bits, norm = None, 1, form.bits or LEAST_BITS, bound.site_norm
    if form.bits is None:
        even = settings if form.weighted else dataclasses.replace(settings, max_weight=1)
        sized = _sized(even, sites, bound)
        point, weight, bits = fixed_point_of(sized), sized.max_weight, bits_of(sized)
        # A value is rounded by less than a step.
        norm = norm / settings.resolution + math.sqrt(form.values)
    longest = math.ceil(norm * _ROUNDED)
    needed = max(bits, NormBound.least_bits(form.values, longest))
    if needed > min(settings.bits or MOST_BITS, PROVEN_BITS):
        raise ConfigError(
            [
                f"secagg.bits={settings.bits}: to prove a norm of {longest} steps takes {needed}. "
                "Leave secagg.bits out, or raise secagg.resolution"
            ]
        )
    proved = NormBound(bits=needed, values=form.values, counters=form.counters, norm=longest)
    return ProvenPayload(bound=proved, fixed_point=point, max_weight=weight, max_clients=sites)


def _sized(settings: SecAggSum, sites: int, bound: SumBound) -> SecAggSum:
    """As few bits as the largest honest sum needs; what is longer than any honest value is cut.

    Raises:
        ConfigError: fewer bits are set, or 64 are too few.
    """
    step, weight = settings.resolution, sites * settings.max_weight
    cut = dataclasses.replace(settings, clip=max(step, min(settings.clip, bound.site_value)))
    each = weight * fixed_point_of(cut).max_integer
    largest = min(each, math.ceil(bound.sum_value(weight) / step))
    # Where a sum may not be refused, what is too large is folded back, and that takes room.
    bits = max(LEAST_BITS, largest.bit_length() + (1 if bound.reach.noised else 2))
    if bits > (settings.bits or MOST_BITS):
        bounds = "robust and privacy" if each > largest else "secagg.clip"
        raise ConfigError(
            f"secagg.bits={settings.bits}: the sum of {counted(sites, 'site')} with weights up to "
            f"{settings.max_weight} can be {largest * step:.3g} by {bounds}, and takes {bits} "
            f"bits in steps of secagg.resolution={step:g}. "
            + (
                "Leave secagg.bits out, or raise secagg.resolution"
                if bits <= MOST_BITS
                else "Raise secagg.resolution, or lower secagg.max_weight or secagg.clip"
            )
        )
    return dataclasses.replace(cut, bits=settings.bits or bits)


@lru_cache(maxsize=64)  # settings check themselves, and every message of a sum asks for them
def masks_of(
    settings: SecAggMasked, plan: PrivacyPlan | None, part: Part = "train", bits: int | None = None
) -> SecAggMasked:
    """The settings of a masked sum, with all that the privacy of the run rests on.

    Where sites that work with the coordinator may know their shares of the noise, the masks
    withstand as many: a promise is worth no more than the sum that it relies on. With fewer
    sites than the noise counts on no honest site unmasks a sum. `bits` are those of its form.
    """
    least = least_of(plan, settings.min_cohort, part)
    sized = settings.against(plan.colluders if plan else 0, least)
    return dataclasses.replace(sized, bits=bits or settings.bits)


def least_of(plan: PrivacyPlan | None, min_cohort: int, part: Part = "train") -> int:
    """The fewest sites whose sum may be opened; of other sums than those of updates, where noise
    in shares counts on them."""
    besides = {} if plan is None else {"evaluate": plan.evaluation, "screen": plan.screening}
    paid = besides.get(part)
    counts = part == "train" or (paid is not None and (part != "screen" or paid.shares > 1))
    return max(min_cohort, plan.min_survivors if plan and counts else 0)


def sites_in_sum(config: RunConfig, part: Part, sites: int) -> int:
    """How many of the `sites` of a run are in one sum, at most."""
    return sizes_of(config, sites).largest if part == "train" else sites


def draw_of(config: RunConfig, sites: Collection[str], seed: bytes) -> Draw | None:
    """The groups of every round, from common randomness; None where all are summed together."""
    if config.robust.group_size is None:
        return None
    return Draw(seed, sorted_names(sites), sizes_of(config, len(sites)).size)


def evaluates_in_sum(config: RunConfig) -> bool:
    """Whether test sums of single sites stay closed, as their updates do."""
    return sum_of(config.secagg) is not None and config.evaluation in ("pooled", "private")


def rotation_context(config: RunConfig, number: int) -> bytes:
    """What names the public rotation of a round; from the run's seed, so that runs repeat."""
    return f"fedlearn/{config.experiment}/{config.seed}/{number}".encode()


def evaluate_payload(
    settings: SecAggSum,
    sites: int,
    layout: SumLayout,
    fairness: Fairness,
    plan: PrivacyPlan | None = None,
    *,
    own: bool = False,
) -> Payload:
    """The form of a site's test sums: no values, and counters.

    The counters are those of `Sums.counters`; then the same for every group, and if `own` for the
    site's own model. Where the plan adds noise to them, they are its whole numbers.
    """
    counters = (1 + len(groups_of(fairness)) + own) * length_of(layout)
    if plan and plan.evaluation:
        counters = plan.evaluation.dimension
    return Payload.plan(settings, num_clients=sites, num_values=0, num_counters=counters)


def screen_payload(
    settings: SecAggSum, sites: int, layout: ScreeningLayout | TableLayout
) -> Payload:
    """The form of what a site adds to the sums of a table before the first round: counters."""
    return Payload.plan(settings, num_clients=sites, num_values=0, num_counters=layout.size)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Test sums, of one site or of several: of all records, by group, and by sites' own models."""

    total: Sums
    groups: dict[str, Sums]
    own: Sums | None = None
    """None where sites test no model of their own beside the shared one."""

    @classmethod
    def of(cls, parts: Sequence[Sums], fairness: Fairness) -> Tested:
        """From all of them, in the order in which sites count.

        Raises:
            ValueError: they are not as many as the run has.
        """
        total, names = parts[0], groups_of(fairness)
        groups, own = parts[1 : 1 + len(names)], parts[1 + len(names) :]
        if len(own) > 1:
            raise ValueError(f"{len(parts)} test sums")
        named = dict(zip(names, groups, strict=True))
        return cls(total=total, groups=named, own=own[0] if own else None)

    @property
    def all(self) -> tuple[Sums, ...]:
        """Every one of them."""
        return (self.total, *self.groups.values(), *([self.own] if self.own else []))


def sums_of(counters: NDArray[np.int64], layout: SumLayout, fairness: Fairness) -> Tested:
    """The test sums that counters hold."""
    size = length_of(layout)
    parts = [counters[at : at + size] for at in range(0, len(counters), size)]
    return Tested.of([Sums.of_counters(layout, one) for one in parts], fairness)


def noised_sums_of(
    counters: NDArray[np.int64],
    task: Task,
    fairness: Fairness,
    plan: EvaluationPlan,
    number: int,
    sites: int,
) -> Tested:
    """The test sums in whole numbers with the noise of so many `sites`.

    Raises:
        ValueError: they are not as many as the plan says.
    """
    if counters.shape != (plan.dimension,):
        raise ValueError(f"{counters.shape} noisy numbers, expected {plan.dimension}")
    layout, stddev = task.noised_layout, plan.stddev_at(number) * math.sqrt(sites)
    steps = {s.name: s.bound / step for s, step in zip(layout, plan.steps, strict=False)}
    noise = {name: stddev * step for name, step in steps.items()}

    def read(part: NDArray[np.int64]) -> Sums:
        arrays, at = {}, 0
        for spec in layout:
            numbers = part[at : at + spec.size].reshape(spec.shape)
            arrays[spec.name] = np.asarray(numbers * steps[spec.name], np.float64)
            at += spec.size
        return task.opened(arrays, noise)

    each = sum(spec.size for spec in layout)
    return Tested.of([read(part) for part in np.split(counters, len(counters) // each)], fairness)


def plan_digest(
    config: RunConfig, payload: AnyPayload, part: Part, plan: PrivacyPlan | None
) -> bytes:
    """SHA-256 of what happens to records before they are summed, and of the form of the sum."""
    digest = hashlib.sha256(b"fedlearn/agreement/v3\n" + part.encode() + b"\n" + payload.hash())
    digest.update(config.terms + encode(plan).encode() + b"\n")
    # Equal fields say little of what packages, or somebody's own model, do with them.
    route = route_of(config, plan)
    done = (route.source, *route.at_site, *route.on_arrival, config.privacy, config.task)
    named = [*(_class_of(one) for one in done), *config.strategy.travels]
    digest.update(repr((named, code_besides(config))).encode())
    return digest.digest()


def code_besides(config: RunConfig) -> tuple[tuple[str, str], ...]:
    """What of a run's config is code from outside of this project, and could touch records.

    Name and SHA-256 of the source that is here (empty where there is none): a function that
    makes a model, and the classes of packages.
    """
    parts = (
        *(config.model, config.task, config.strategy),
        *(config.privacy, config.stage, config.robust),
    )
    names = [_class_of(one) for one in parts if not _class_of(one).startswith("fedlearn.")]
    own = config.model.code()
    return (*((own,) if own else ()), *((name, _digest_here(name)) for name in names))


def _class_of(thing: object) -> str:
    return f"{type(thing).__module__}:{type(thing).__qualname__}"


@cache
def _digest_here(name: str) -> str:
    """As it was when this process first asked: what was imported is not read again."""
    try:
        return source_digest(name)
    except ConfigError:
        return ""
