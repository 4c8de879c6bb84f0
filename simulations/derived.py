"""A run on one's own records from the words of the command line: what nobody has set, by rule.

`fedlearn.config.defaults` has the rules. An experiment's settings were tuned, and the config of
another run is exact: neither is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlearn.config import RunConfig, compose
from fedlearn.config.composition import split
from fedlearn.config.defaults import Derived, derived
from fedlearn.core.errors import FedlearnError
from simulations.run import records


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A config, and what of it nobody has set."""

    config: RunConfig
    derived: tuple[Derived, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was set by rule and why, in sentences: one for each reason."""
        reasons = dict.fromkeys(one.reason for one in self.derived)
        return tuple(
            f"by rule, {' '.join(one.word for one in self.derived if one.reason == reason)}: "
            f"{reason}"
            for reason in reasons
        )


def composed(words: Sequence[str]) -> Composed:
    """The config that `words` describe, with what follows by rule for records of one's own.

    Raises:
        ConfigError: with every problem, one line each.
    """
    config = compose(words)
    given = {split(word)[0].lstrip("+~").partition("@")[0] for word in words}
    if (
        "experiment" in given
        or config.scenario.dataset is not None
        or config.privacy.unit == "client"
    ):
        return Composed(config=config)
    try:
        pool, sites = records(config)
    except FedlearnError:  # the run says so itself, where it says all that is wrong
        return Composed(config=config)
    found = derived(config, pool.task, len(sites), given)
    if not found:
        return Composed(config=config)
    return Composed(config=compose([*words, *(one.word for one in found)]), derived=found)
