"""How clip factors follow from norms: one bound for the model, or one for each part of it.

Clipping a sample's gradient to C means multiplying it by min(1, C / norm)
(Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlearn.core.errors import ConfigError

SAFETY = 32
"""Clipping aims at C (1 - SAFETY units of rounding: 3.8e-6 in float32, 7e-15 in float64).

So rounding in norm, product and sum stays below C.
"""

SMALLEST = 1e-9
"""Smallest bound that single-precision squares can honour."""


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """A bound for each group of parameters; a sample's gradient is clipped group by group.

    `bounds` maps the group's name to its bound, `group_of` a parameter's name to its group.
    """

    bounds: Mapping[str, float]
    group_of: Mapping[str, str]

    @property
    def sensitivity(self) -> float:
        """What one sample can change the clipped sum by, in Euclidean norm: add-or-remove one."""
        return math.sqrt(sum(bound**2 for bound in self.bounds.values()))

    def factors(self, squared_norms: Mapping[str, Tensor], finite: Tensor) -> dict[str, Tensor]:
        """Clip factor of each sample in each group: group to float[batch].

        Guarantees: factor times norm is at most the bound; the factor of a
        sample that is not `finite` is zero.
        """
        return {
            group: torch.where(finite, _factor(bound, squared_norms[group]), 0.0)
            for group, bound in self.bounds.items()
        }


def _factor(bound: float, squared_norms: Tensor) -> Tensor:
    aim = bound * (1 - SAFETY * torch.finfo(squared_norms.dtype).eps)
    return (aim / squared_norms.sqrt()).clamp(max=1.0)


def clipping_of(clip_norm: float | Mapping[str, float], parameters: Sequence[str]) -> Clipping:
    """The clipping that `clip_norm` asks for.

    A number is one bound over all parameters together. A mapping has a bound
    for each name of a parameter or of a module ("encoder.layers.0"); the
    longest name that fits a parameter counts.

    Raises: ConfigError with every bound that is not a positive finite number,
    parameter without a bound, and name without a parameter.
    """
    bounds = dict(clip_norm) if isinstance(clip_norm, Mapping) else {"": float(clip_norm)}
    problems = [
        f"clip_norm{f'[{name}]' if name else ''}={bound}: must be a finite number >= {SMALLEST}"
        for name, bound in bounds.items()
        if not (SMALLEST <= bound < math.inf)
    ]
    group_of = {name: group for name in parameters if (group := _group(name, bounds)) is not None}
    problems += [
        f"clip_norm has no bound for {name}; add it or a module that holds it"
        for name in parameters
        if name not in group_of
    ]
    problems += [
        f"clip_norm[{name}]: no trainable parameter has this as its longest fitting name"
        for name in bounds
        if name not in group_of.values()
    ]
    if problems:
        raise ConfigError(problems)
    return Clipping(bounds=bounds, group_of=group_of)


def _group(parameter: str, groups: Mapping[str, float]) -> str | None:
    fitting = [g for g in groups if g == "" or parameter == g or parameter.startswith(g + ".")]
    return max(fitting, key=len, default=None)
