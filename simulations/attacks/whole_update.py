"""Private steps of a site, made again by an auditor who holds records, coins and noise in hand.

Slots show what the mechanism does to a canary, on coordinates of its own. Whether it does the same
to the records, on the coordinates of the model, is looked at here: after the run one site makes
steps as in a round, by its own code and plan, from the model that the run has left. What would
leave it is held against what can be known otherwise:

- steps with the same coins, or with nobody in them, differ by noise alone;
- a step without noise, of records that the audit has chosen, gives the sum of clipped gradients,
  which a loop over single records computes in float64 and knows nothing of the engine;
- where every record has a coordinate of its own, an update says who took part, and how often;
- a source that repeats gives the same update again, and the site's own never does.

Nothing is spent, sent or kept: the records of a simulation lie with the auditor already, and what
is written down are chances that depend on noise and coins, and whether sums agree.
"""

from __future__ import annotations

import copy
import math
import os
import secrets
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.canaries import TrainingSet
from clients.owner import owner_of
from clients.site import Site, open_site
from clients.work import SiteRound
from fedlearn.algorithms import FedAvg
from fedlearn.auditing import NoAudit
from fedlearn.auditing.findings import Check
from fedlearn.auditing.gaussian import epsilon_of
from fedlearn.auditing.whole_update import (
    Draws,
    Noise,
    draw_checks,
    exact_check,
    noise_checks,
)
from fedlearn.config import RunConfig
from fedlearn.config.terms import terms_of
from fedlearn.core.vector import Layout, Vector, layout_of, load_vector, to_vector
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.mechanisms.encoding import real_sum
from fedlearn.models import Learner
from fedlearn.models.slots import attach, is_slot, no_canaries, without_slots
from fedlearn.privacy.noise import BoolArray, Float32Array, Keystream, NoiseSource, SeededNoise
from fedlearn.report.export import read_model
from fedlearn.results.result import ResultFile
from fedlearn.rounds import RoundNote, TrainRequest
from fedlearn.stages import Stage, Update
from fedlearn.tasks import Loss
from fedlearn.training.device import home
from simulations.attacks.measure import plan_in
from simulations.engines.forks import forking

Floats = NDArray[np.float64]

_LARGE: Final = 200_000
"""Of a model with more values fewer updates say as much, and each takes longer."""

_DRAWN: Final = 32
"""Of the made-up records whose draws are counted, so many take part in a step on the average."""
_FEWEST, _MOST = 256, 4096
"""How many they may be."""
_CANARIES: Final = 32
"""Besides."""
_SINGLE, _SEVERAL, _MOST_STEPS = 64, 8, 16
"""Steps, and rounds of steps, in which they are."""

_STEEP: Final = 10.0
"""A gradient over the clip norm: a clip that is missing shows."""

_CLOSE, _MORE = 5e-3, 5e-4
"""Clip norms that a sum in float32 may be off, and more for every record."""

_PATIENCE: Final = 10.0
"""Seconds that a twin of this process may take for a few draws."""

_ROUNDED: Final = 0.02
"""By how much of it an accountant of another making may lie above the promise."""


def checks_of_run(config: RunConfig, result: ResultFile) -> list[Check]:
    """What looking at whole updates of a finished run has shown.

    Empty where nothing is promised to a record: there is nothing to hold updates against.

    Raises:
        FedlearnError: the model, or the site that was drawn, cannot be opened any more.
    """
    plan, model = plan_in(config, result), read_model(Path(config.out), result)
    if plan is None or plan.unit != "record" or result.privacy.epsilon is None:
        return []
    if not plan.noise_multiplier:
        return []
    name = secrets.choice(list(result.data.sites))
    bench = Bench.of(open_site(owner_of(config, name), config), plan, model)
    coins = np.random.default_rng(secrets.randbits(128))
    rounding = bench.rounding
    return [
        *noise_checks(bench.noise(coins), rounding=rounding),
        *draw_checks(bench.draws(), plan.sample_rate, coins),
        exact_check("clipped_sum", *bench.sums_agree(coins)),
        exact_check("source", *bench.source_is_the_sites()),
        exact_check("accounting", *_accounted(config, plan, result)),
    ]


# --- a site that does as it is asked -------------------------------------------------------


class ChosenCoins:
    """A site's own noise with the coins of an auditor: those who take part are `chosen`."""

    def __init__(self, own: NoiseSource, chosen: BoolArray) -> None:
        self._own, self._chosen = own, chosen
        self.name, self.is_private = own.name, own.is_private

    def normal(self, size: int, stddev: float) -> Float32Array:
        """Those of the site."""
        return self._own.normal(size, stddev)

    def bernoulli(self, size: int, probability: float) -> BoolArray:
        """The auditor's."""
        found = np.zeros(size, np.bool_)
        found[: len(self._chosen)] = self._chosen[:size]
        return found

    def stream(self) -> Keystream:
        """Those of the site."""
        return self._own.stream()


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A site, its plan, and the model that its steps begin with."""

    site: Site
    plan: PrivacyPlan
    start: Vector
    local_steps: int
    """Of the run; those of single steps are set for each."""

    @classmethod
    def of(cls, site: Site, plan: PrivacyPlan, model: Vector) -> Bench:
        """The site with a model of its own, in which nothing is drawn but coins and noise."""
        own = copy.deepcopy(site.model)
        for part in own.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0
        layout = layout_of(own)
        steps = site.config.training.local_steps
        placed = _placed(site, Learner(frozen=site.learner.frozen, model=own), plan)
        return cls(site=placed, plan=plan, start=_with_slots(layout, model), local_steps=steps)

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.site.model

    @property
    def at_site(self) -> bool:
        """Whether every site adds all of its noise itself, in every step."""
        return self.site.config.privacy.noise_from == "site"

    # --- updates -----------------------------------------------------------------------

    def update(
        self,
        given: TrainingSet,
        loss: Loss,
        *,
        coins: BoolArray | None = None,
        noise: NoiseSource | None = None,
        steps: int = 1,
        silent: bool = False,
        number: int = 1,
    ) -> Floats:
        """What the site would give of `given` in a round `number`, in clip norms: `float64[d]`.

        With the site's own noise and coins, but for those given; `silent` without noise.
        """
        training = replace(self.site.config.training, local_steps=steps)
        site = replace(self.site, config=replace(self.site.config, training=training))
        vars(site)["loss"] = loss
        start = self.start if site.model is self.model else to_vector(site.model)
        site.load(start)
        at = SiteRound(site, _request(start, number))
        own = noise or site.noise(number)
        source = ChosenCoins(own, coins) if coins is not None else own
        vars(at).update(_mine=given, noise=source)
        plan = self._plan(steps, silent=silent)
        given_away = plan.source(terms_of(site.config)).produce(at).values.astype(np.float64)
        if not self.at_site:
            return np.asarray(given_away / self.plan.clip_norm)
        return np.asarray(start.astype(np.float64) - given_away)

    def _plan(self, steps: int, *, silent: bool) -> PrivacyPlan:
        if not self.at_site:
            return self.plan  # of one step, whose noise comes in a stage
        plan: Any = self.plan
        plan = replace(plan, steps_per_round=steps)
        found: PrivacyPlan = replace(plan, noise_multiplier=0.0) if silent else plan
        return found

    def on(self, model: nn.Module) -> Bench:
        """The same with another model, as it is."""
        site = replace(self.site, learner=Learner(frozen=None, model=model))
        return replace(self, site=site, start=to_vector(model))

    # --- noise -------------------------------------------------------------------------

    @property
    def rounding(self) -> float:
        """By how much of it rounding to whole numbers may add to the variance of the noise."""
        if self.at_site:
            return 0.0
        step = float(getattr(self.plan, "granularity", 0.0))
        sites = float(getattr(self.plan, "num_clients", 1))
        return sites * (step / 2) ** 2 / self.plan.noise_stddev**2

    def noise(self, coins: np.random.Generator) -> Noise:
        """Noise of steps and rounds over its deviation, by layer."""
        draws = 2 if self.start.size > _LARGE else 8
        rows = list(self._noise_at_site(draws, coins) if self.at_site else self._shared(2 * draws))
        parts = [layers_of(self.model, row) for row in rows]
        return {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    def _noise_at_site(self, draws: int, coins: np.random.Generator) -> Iterator[Floats]:
        deviation, given = self.plan.noise_multiplier, self.records
        loss = self.site.loss
        for draw in range(draws):
            # Two rounds, or the same one once more.
            first, second = (self._any_round(coins) for _ in range(2))
            numbers = (first, first if draw % 2 else second)
            chosen = self._chosen(len(given.labels), coins, self.plan.sample_rate)
            one, other = (self.update(given, loss, coins=chosen, number=n) for n in numbers)
            yield (one - other) / (deviation * math.sqrt(2))
        steps = min(self.local_steps, _MOST_STEPS)
        for _ in range(draws):
            number = self._any_round(coins)
            found = self.update(self.nobody, loss, steps=steps, number=number)
            yield found / (deviation * math.sqrt(steps))

    def _any_round(self, coins: np.random.Generator) -> int:
        return int(coins.integers(1, self.site.config.rounds + 1))

    def _shared(self, draws: int) -> Iterator[Floats]:
        """Of all sites together, in the sum; the stages are those of a site."""
        plan: Any = self.plan
        stages: tuple[Stage, ...] = plan.stages(terms_of(self.site.config))
        sums = self.update(self.records, self.site.loss)
        sums *= plan.clip_norm / max(1.0, float(np.linalg.norm(sums)))  # within every bound
        for draw in range(draws):
            at = SiteRound(self.site, _request(self.start, 1 + draw % 3))
            sent = np.zeros(self.start.size) if draw % 2 else sums
            total = np.zeros(1, np.int64)
            for _ in range(plan.num_clients):
                one = Update(values=sent)
                for stage in stages:
                    vars(at).pop("noise", None)
                    one = stage.forward(one, at)
                total = total + one.values
            opened = real_sum(plan, total, context=at.public)
            yield (opened - plan.num_clients * sent) / plan.noise_stddev

    @cached_property
    def records(self) -> TrainingSet:
        """Those of the site, without canaries."""
        features, labels = self.site.train_tensors
        return TrainingSet(features=features, labels=labels, slots=no_canaries())

    @property
    def nobody(self) -> TrainingSet:
        """None of them."""
        return _some(self.records, np.zeros(0, np.int64))

    # --- who takes part ----------------------------------------------------------------

    def draws(self) -> Draws:
        """How often made-up records took part, by what each has left on its own coordinate."""
        bench, given, loss = self.counting
        steps = min(self.local_steps, _MOST_STEPS) if self.at_site else 1

        def counts(number: int, steps: int) -> NDArray[np.int64]:
            found = bench.update(given, loss, steps=steps, silent=True, number=number)
            # A gradient that is clipped to less or more than one norm is no whole number.
            return np.asarray(np.where(np.abs(found - np.rint(found)) < 1e-2, np.rint(found), -1))

        singles = _SINGLE if self.plan.sample_rate < 1 else _SEVERAL
        single = np.stack([counts(1 + i % 4, 1) for i in range(singles)]).astype(np.int64)
        several = np.stack([counts(1 + i, steps) for i in range(_SEVERAL)]).astype(np.int64)
        return Draws(single=single, several=several, steps=steps)

    @cached_property
    def counting(self) -> tuple[Bench, TrainingSet, Loss]:
        """A model on which every record, and every canary, has a coordinate of its own."""
        records = int(min(_MOST, max(_FEWEST, _DRAWN / self.plan.sample_rate)))
        table = nn.Embedding(records, 1)
        nn.init.zeros_(table.weight)
        model = nn.Sequential(table)
        attach(model, _CANARIES)
        device, slope = home(self.model), _STEEP * self.plan.clip_norm
        numbers = torch.arange(records, device=device)
        given = TrainingSet(features=numbers, labels=numbers, slots=torch.arange(_CANARIES))

        def loss(outputs: Tensor, _: Tensor) -> Tensor:
            return slope * outputs.squeeze(-1)

        return self.on(model.to(device)), given, loss

    # --- clipped sums ------------------------------------------------------------------

    def sums_agree(self, coins: np.random.Generator) -> tuple[bool, str]:
        """Whether sums without noise are those of a loop over single records, and where not."""
        tries, most = (2, 8) if self.start.size > _LARGE else (6, 24)
        everybody = len(self.records.labels)
        for _ in range(tries):
            given = _some(self.records, coins.permutation(everybody)[:most])
            # A few more or less than the run would take: whoever takes part is the audit's choice.
            chosen = self._chosen(len(given.labels), coins, 0.6)
            gradients = list(self._gradients(given))
            scale = _scale(gradients, self.plan.clip_norm)
            loss = scaled(self.site.loss, scale)
            found = self.update(given, loss, coins=chosen, silent=True)
            mine = [one for one, inside in zip(gradients, chosen, strict=True) if inside]
            gaps = self._gaps(found, self._clipped_sum(mine, scale / self.plan.clip_norm))
            if not math.hypot(*gaps.values()) <= _CLOSE + _MORE * len(mine):
                worst = max(gaps, key=lambda name: gaps[name])
                return False, f"the sum of clipped gradients, most of all on {worst}"
        return True, ""

    def _chosen(self, records: int, coins: np.random.Generator, rate: float) -> BoolArray:
        """Who takes part; everybody, where the plan has no sampling and asks for no coins."""
        chosen: BoolArray = coins.random(records) < (rate if self.plan.sample_rate < 1 else 1.0)
        return chosen

    def _gaps(self, found: Floats, wanted: Floats) -> dict[str, float]:
        """How far two sums are apart, by layer."""
        both = layers_of(self.model, found), layers_of(self.model, wanted)
        return {name: float(np.linalg.norm(both[0][name] - both[1][name])) for name in both[0]}

    def _clipped_sum(self, gradients: Sequence[Floats], scale: float) -> Floats:
        """The sum of `scale` times the gradients, each clipped to a norm of one."""
        total = np.zeros(self.start.size)
        for gradient in gradients:
            norm = scale * float(np.linalg.norm(gradient))
            if math.isfinite(norm):
                total[: len(gradient)] += scale * gradient / max(1.0, norm)
        return total

    def _gradients(self, given: TrainingSet) -> Iterator[Floats]:
        """Every record's, one after the other, by plain automatic derivation: `float64[p]` each."""
        load_vector(self.model, self.start)
        model, loss = copy.deepcopy(self.model).double().train(), self.site.loss
        learning = [p for p in model.parameters() if p.requires_grad]
        for i in range(len(given.labels)):
            one = given.features[i : i + 1], given.labels[i : i + 1]
            inputs, meant = (_wide(values).to(home(model)) for values in one)
            found = loss(model(inputs), meant).sum()
            parts = torch.autograd.grad(found, learning, allow_unused=True)
            pairs = zip(learning, parts, strict=True)
            whole = [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in pairs]
            yield torch.cat(whole).cpu().numpy()

    # --- where noise and coins come from -----------------------------------------------

    def source_is_the_sites(self) -> tuple[bool, str]:
        """Whether noise and coins are those of the source, and that of the site is no other's."""
        bench, given, loss = self.counting
        source = self.site.noise(1)
        if not source.is_private:
            return False, "the source of the site's noise, which can be repeated"
        if not _differs_in_twins(self.site):
            return False, "noise that comes again where a program starts from the same state"
        seed = secrets.token_bytes(16)
        one, same = (bench.update(given, loss, noise=SeededNoise(seed)) for _ in range(2))
        other = bench.update(given, loss, noise=SeededNoise(secrets.token_bytes(16)))
        repeats = np.allclose(one, same, rtol=0, atol=1e-4)
        if not repeats or (self.at_site and np.allclose(one, other, rtol=0, atol=1e-4)):
            return False, "noise or coins that are not drawn from the site's source"
        return True, ""


def _wide(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def _scale(gradients: Sequence[Floats], clip_norm: float) -> float:
    """What makes four of five gradients longer than the clip norm, and the fifth shorter."""
    norms = [float(np.linalg.norm(gradient)) for gradient in gradients]
    finite = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    return clip_norm / float(np.quantile(finite, 0.2)) if finite else 1.0


def scaled(loss: Loss, scale: float) -> Loss:
    """`scale` times the loss."""
    return lambda outputs, targets: scale * loss(outputs, targets)


def _placed(site: Site, learner: Learner, plan: PrivacyPlan) -> Site:
    """The site with a plain step: what moves the model is the noisy sum, and by as much."""
    training = site.config.training
    divisor = training.sample_rate * training.nominal_records
    plain = replace(
        training,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=divisor / plan.clip_norm,
        shifts=0,  # as many views as in the run, each of them the record itself
        flips=False,
        precision="fp32",
    )
    config = replace(
        site.config, training=plain, strategy=FedAvg(fraction=1.0, min_sites=1), audit=NoAudit()
    )
    return replace(site, config=config, learner=learner)


def _request(start: Vector, number: int) -> TrainRequest:
    note = RoundNote(terms="", run_id="00" * 16, round=number, cohort=1)
    return TrainRequest(note=note, model=start)


def _some(given: TrainingSet, rows: NDArray[np.int64]) -> TrainingSet:
    chosen = torch.from_numpy(rows).to(given.labels.device)
    return replace(given, features=given.features[chosen], labels=given.labels[chosen])


def layers_of(model: nn.Module, update: Floats) -> Mapping[str, Floats]:
    """What is trained, by the name of the parameter; a model is not only what records touch."""
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    parts = layout_of(model).split(update)  # type: ignore[arg-type]
    return {name: part.ravel() for name, part in parts.items() if name in learning}  # type: ignore[misc]


def _with_slots(layout: Layout, model: Vector) -> Vector:
    """The trained model with slots that nobody has touched."""
    parts = without_slots(layout).split(model)
    pieces = [
        np.zeros(math.prod(shape), np.float32) if is_slot(name) else parts[name].ravel()
        for name, shape in layout.entries
    ]
    return np.concatenate(pieces)


def _differs_in_twins(site: Site) -> bool:
    """Whether two copies of this process, in the same state, draw other noise and other coins."""
    if not hasattr(os, "fork"):
        return True
    one, other = (_drawn_by_a_twin(site) for _ in range(2))
    return all(a != b for a, b in zip(one, other, strict=True))


def _drawn_by_a_twin(site: Site) -> tuple[bytes, ...]:
    reading, writing = os.pipe()
    with forking():
        twin = os.fork()
    if twin == 0:
        try:
            source = site.noise(1)
            drawn = source.normal(16, 1.0).tobytes(), source.bernoulli(128, 0.5).tobytes()
            os.write(writing, b"".join((*drawn, source.stream().words(16).tobytes())))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        # A twin may hang on a lock of a thread that it has not got; it then says nothing.
        answered = select.select([pipe], [], [], _PATIENCE)[0]
        if not answered:
            os.kill(twin, signal.SIGKILL)
        found = pipe.read()
    os.waitpid(twin, 0)
    found = found or secrets.token_bytes(64 + 128 + 128)
    return found[:64], found[64:192], found[192:]


# --- accounting ----------------------------------------------------------------------------


def _accounted(config: RunConfig, plan: PrivacyPlan, result: ResultFile) -> tuple[bool, str]:
    """Whether the promise is no less than a second accountant gives for the steps of the config."""
    steps = config.rounds * config.training.local_steps
    least = least_epsilon(plan.noise_multiplier, plan.sample_rate, steps, plan.delta)
    promised = [result.privacy.epsilon or 0.0]
    if not config.privacy.drops_sites:
        promised += [spent.epsilon for spent in result.privacy.per_site.values()]
    return min(promised) >= least * (1 - _ROUNDED), "an epsilon that is less than what was spent"


@lru_cache(maxsize=64)
def least_epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """A lower bound on the epsilon of so many noisy sums, from Opacus' accountant."""
    if rate >= 1:
        return epsilon_of(math.sqrt(steps) / noise, delta)
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    error, delta_error = 0.01, delta / 1000
    found = accountant._get_dprv(eps_error=error, delta_error=delta_error)
    lower, _, _ = found.compute_epsilon(delta, delta_error, error)
    return float(lower)
