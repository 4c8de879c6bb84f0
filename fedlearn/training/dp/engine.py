"""The exact sum of clipped per-sample gradients, from one forward and one backward pass.

The book-keeping method (Bu et al. 2023): norms layer by layer while the
gradient passes, clip factors once all norms are known, then one weighted sum
per parameter from what was kept. It draws no noise, averages nothing and
counts no privacy; an optimizer adds the noise to the sum that is left here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.training.dp.clipping import Clipping, clipping_of
from fedlearn.training.dp.contribution import Contribution
from fedlearn.training.dp.fallback import FALLBACK
from fedlearn.training.dp.plan import layers_of, mixing
from fedlearn.training.dp.tape import Tape
from fedlearn.training.dp.trial import tried

_TRIED: WeakKeyDictionary[nn.Module, set[tuple[Hashable, bool]]] = WeakKeyDictionary()
"""Models for which a batch was tried, each with the layers that such a batch went through."""


@dataclass(frozen=True, kw_only=True)
class ClippedSum:
    """What one batch gave; only `sums` is fit to be released, and only with noise.

    `sums`: by parameter name, the sum over samples of the clipped gradient, in float64.
    `norms`: float[batch], norms before clipping (upper bounds within 1e-5).
    `losses`: float[batch]. `dropped`: bool[batch], samples left out because
    their gradient was not finite.
    """

    sums: Mapping[str, Tensor]
    norms: Tensor
    losses: Tensor
    dropped: Tensor


class ClippedGradients:
    """Computes clipped gradient sums for one model.

    `clip_norm` is one bound for the whole gradient, or a mapping from names of
    modules or parameters to bounds, each then clipped on its own.

    Guarantees:
        exact: the sum equals that of Opacus' per-sample gradients, to rounding.
        bounded: adding or removing one sample changes the sum by at most
            `sensitivity` in Euclidean norm, whatever the sample, the scale or
            the precision of the forward pass. Norms are computed in float32 (float64
            for a float64 model) and sums in float64, from the same kept tensors.
        alone: what a sample adds is a function of that sample and of the number of rows,
            and of no other sample, bit for bit, on a machine and for a number of rows where
            `rows` are the same. With a fixed number of rows the bound then holds whatever the
            weights are, also those that turn the rounding of a product into a difference.
        finite: a sample whose gradient, or its squared norm, is not finite in
            that precision adds nothing and is reported as dropped.
        untouched: between calls the model carries no hook, no changed attribute
            and no `.grad`; pickling, copying and ordinary training work.

    Assumes that the first axis of what every layer sees is the sample (axis 1
    below a module with `batch_first=False`), that no operation between layers
    mixes samples, and that a layer's gradient is what its kind says. Where the
    number of rows shows otherwise it refuses. The first batch of every kind (the
    layers that it goes through) is tried as `fedlearn.training.dp.trial` says,
    which takes two more passes, once for a model, and says what it finds; who must not tell
    what a batch shows tries made-up ones, and then goes on with `trial=False`: that tries
    none, and refuses a batch of a kind that no trial has seen, where there was one.

    Raises: ConfigError for a model or a bound that cannot be handled exactly,
    with every problem and its way out.
    """

    def __init__(
        self, model: nn.Module, *, clip_norm: float | Mapping[str, float], trial: bool = True
    ) -> None:
        self._model, self._trial = model, trial
        self._modules = tuple(model.modules())
        self._layers = layers_of(model)
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.clipping: Clipping = clipping_of(clip_norm, list(self._parameters))
        self.fallbacks = tuple(one.name for one in self._layers if one.rule is FALLBACK)

    @property
    def sensitivity(self) -> float:
        """Largest Euclidean norm of what one sample adds to the sum."""
        return self.clipping.sensitivity

    def step(
        self, per_sample_loss: Callable[[], Tensor], *, first: int | None = None
    ) -> ClippedSum:
        """The clipped sum of one batch.

        `per_sample_loss` runs the model and returns float[batch], one loss per
        sample (`reduction="none"`), the same ones if it is run again: a batch that
        is tried takes it three times. An empty batch gives zeros. Of a batch that
        was filled up only the `first` rows count.

        Raises: ConfigError where the model changed since (frozen parts,
        BatchNorm in training mode); ValueError where losses are not one per
        sample, do not depend on the model, or a layer's rows are not samples, and
        with what the trial of a batch found.
        """
        self._check_unchanged()
        contributions, losses, calls = self._recorded(per_sample_loss)
        with torch.no_grad():
            clipped = clipped_sum(self._parameters, self.clipping, contributions, losses, first)
        if len(losses):
            of_layers = ((one.name, one.rule.name, calls.get(one.name, 0)) for one in self._layers)
            self._check_kind(frozenset(of_layers), len(losses) > 1, per_sample_loss)
        return clipped

    def _check_kind(
        self, layers: Hashable, several: bool, per_sample_loss: Callable[[], Tensor]
    ) -> None:
        """`layers` a batch went through, and whether it could have been mixed."""
        done = _TRIED.setdefault(self._model, set())
        if (layers, several) in done:
            return
        if self._trial:
            if tried(self._model, self._layers, per_sample_loss):
                done.add((layers, several))
        elif done and layers not in {seen for seen, _ in done}:
            raise ValueError("the batch went through other layers than those that were tried")

    def rows(self, per_sample_loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        """All that a batch's sum is made of, by sample: `[batch, ...]` each.

        Losses, norms, and what the weighted sums are taken of. Where a sample has the same rows,
        bit for bit, in whatever place and company, what it adds is its own.
        """
        contributions, losses, _ = self._recorded(per_sample_loss)
        found = [losses]
        for one in contributions.values():
            found += [one.squared_norms, *one.rows]
        return tuple(found)

    def _recorded(
        self, per_sample_loss: Callable[[], Tensor]
    ) -> tuple[Mapping[str, Contribution], Tensor, Mapping[str, int]]:
        if not callable(per_sample_loss):
            raise TypeError("give a function that runs the model, as in step(lambda: loss(...))")
        with Tape(self._model, self._layers) as tape:
            losses = per_sample_loss()
            _check_losses(losses)
            contributions = tape.backward(losses) if len(losses) else {}
        return contributions, losses.detach(), tape.calls

    def _check_unchanged(self) -> None:
        now = [(name, id(p)) for name, p in self._model.named_parameters() if p.requires_grad]
        before = [(name, id(p)) for name, p in self._parameters.items()]
        # The modules are held, so that no other can have taken over an id.
        if now != before or [*map(id, self._model.modules())] != [*map(id, self._modules)]:
            raise ConfigError(
                [
                    "the model's layers or its trainable parameters changed; make a new "
                    "ClippedGradients for this model"
                ]
            )
        if names := mixing(self._model):
            raise ConfigError(
                [
                    f"{name}: BatchNorm mixes the samples of a batch; use nn.GroupNorm"
                    for name in names
                ]
            )


def clipped_sum(
    parameters: Mapping[str, Tensor],
    clipping: Clipping,
    contributions: Mapping[str, Contribution],
    losses: Tensor,
    first: int | None = None,
) -> ClippedSum:
    """The sum over the `first` rows (or all) of what `contributions` say, each sample clipped.

    A parameter without a contribution gets zeros.
    """
    squared = _squared_norms(parameters, clipping, contributions, len(losses))
    total = torch.stack(list(squared.values())).sum(0)
    finite = total.isfinite()
    dropped = ~finite
    counted = finite if first is None else finite & (_places(losses) < first)
    factors = clipping.factors(squared, counted)
    # On a GPU a look at the answer would wait for it, and the CPU has noise to draw.
    left_out = dropped if dropped.is_cuda or bool(dropped.any()) else None
    sums = {
        name: (
            contributions[name].weighted_sum(factors[clipping.group_of[name]], left_out)
            if name in contributions
            else torch.zeros_like(parameter, dtype=torch.float64)
        )
        for name, parameter in parameters.items()
    }
    return ClippedSum(sums=sums, norms=total.sqrt(), losses=losses, dropped=dropped)


def _places(losses: Tensor) -> Tensor:
    return torch.arange(len(losses), device=losses.device)


def _squared_norms(
    parameters: Mapping[str, Tensor],
    clipping: Clipping,
    contributions: Mapping[str, Contribution],
    batch: int,
) -> dict[str, Tensor]:
    """Squared norms of each sample's gradient by group: group to float[batch]."""
    any_parameter = next(iter(parameters.values()))
    squared = {
        group: any_parameter.new_zeros(batch, dtype=_wide(any_parameter))
        for group in clipping.bounds
    }
    for name, one in contributions.items():
        group = clipping.group_of[name]
        squared[group] = squared[group] + one.squared_norms
    return squared


def _wide(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)


def _check_losses(losses: Tensor) -> None:
    if losses.dim() != 1:
        raise ValueError(
            f"losses have shape {tuple(losses.shape)}; return one loss per sample, float[batch] "
            '(reduction="none", and a mean over positions within the sample)'
        )
    if len(losses) and not losses.requires_grad:
        raise ValueError("the losses do not depend on any trainable parameter of the model")
