"""An algorithm whose step at the coordinator is a function of a program, given from Python.

The sites train as for FedAvg; what becomes of their mean is the function's business. A run is
told by its config, and a function does not stand in one: `name` does. Whoever resumes such a
run gives the function again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

from fedlearn.algorithms.algorithm import Algorithm, RoundMean, State
from fedlearn.core import objects
from fedlearn.core.settings import Name, config
from fedlearn.core.vector import Vector

Step = Callable[[RoundMean, State], tuple[Vector, State]]
"""The next model, `float32[d]`, and the next state, from the mean of a round and the state."""


@config
class GivenStep(Algorithm):
    """FedAvg at the sites, and the step called `name` at the coordinator; `give` makes one."""

    kind: Literal["python"] = "python"
    name: Name

    def prepare(self) -> None:
        """Refuse a run whose function is not there."""
        self._step()

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        """What the function makes of them."""
        return self._step()(mean, state)

    def _step(self) -> Step:
        found: Step = objects.find(_key(self.name), f"strategy.name={self.name}")
        return found


def give(step: Step, *, name: str, fraction: float = 1.0, min_sites: int = 2) -> GivenStep:
    """An algorithm by its step at the coordinator; the last of a name is the one that counts.

    Example:
        >>> halved = give(
        ...     lambda mean, state: ((mean.before + mean.model) / 2, state), name="halved"
        ... )
        >>> halved.kind, halved.name
        ('python', 'halved')
    """
    made = GivenStep(name=name, fraction=fraction, min_sites=min_sites)
    objects.keep(_key(name), step)
    return made


def _key(name: str) -> str:
    return hashlib.sha256(f"strategy\n{name}".encode()).hexdigest()[: objects.LENGTH]
