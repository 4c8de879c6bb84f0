"""For whom a model works: which groups of people are told apart, and which are too small to show.

The groups and the smallest one that is shown are public settings of a run. What
they say about single sites (`fairness=sites`) needs no settings: it comes from
the sites' own test sums.

A group that is too small is withheld together with the next larger one, so that
nobody finds it by subtracting the groups that are shown from the total (secondary
suppression; Hundepool et al. 2012, Statistical Disclosure Control, section 4.2).
Exact sums over groups are outside differential privacy, shown or not; under
`evaluation=private` groups have noise like everything else, and none is withheld at a site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.settings import Count, Name, config
from fedlearn.metrics.sums import Sums

Attribute = NDArray[np.str_] | NDArray[np.float64]
"""One value per record that groups can be made by: a text, or a number (NaN: not known)."""

OTHERS = "(others)"
"""Records of none of the groups that the config names."""


@config
class SiteFairness:
    """Every site is a group; nothing is asked that evaluation does not release already."""

    kind: Literal["sites"] = "sites"


@config
class GroupFairness:
    """Sites, and beside them groups of people by a column of the table.

    A column of texts is told apart by `values`, a column of numbers by `edges`:
    40, 60 makes three groups, below 40, from 40 to below 60, and from 60 on.
    """

    kind: Literal["groups"] = "groups"
    column: Name
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    smallest: Count = 10
    """Test records that a group must have to be shown; where records are somebody's, persons."""

    @property
    def names(self) -> tuple[str, ...]:
        """The groups, in the order of the config; the rest, `OTHERS`, comes last."""
        if not self.edges:
            return (*self.values, OTHERS)
        low, high = f"below {self.edges[0]:g}", f"{self.edges[-1]:g} and above"
        between = (f"{one:g} to below {other:g}" for one, other in pairwise(self.edges))
        return (low, *between, high, OTHERS)


Fairness = SiteFairness | GroupFairness
"""The union of settings, told apart by `kind`."""


def groups_of(fairness: Fairness) -> tuple[str, ...]:
    """The groups of people that are told apart, in the order in which they are counted."""
    return fairness.names if isinstance(fairness, GroupFairness) else ()


def problems(config: Fairness) -> list[str]:
    """What is wrong with the settings by themselves."""
    if isinstance(config, SiteFairness):
        return []
    if bool(config.values) == bool(config.edges):
        return [
            f"fairness.column={config.column}: give fairness.values=[...] for a column of texts, "
            "or fairness.edges=[...] for a column of numbers"
        ]
    found = []
    if list(config.edges) != sorted(set(config.edges)):
        found.append(f"fairness.edges={list(config.edges)}: must be growing numbers")
    if len(set(config.values)) != len(config.values) or OTHERS in config.values:
        found.append(f"fairness.values={list(config.values)}: must be different names")
    return found


def column_problems(config: Fairness, attributes: Mapping[str, Attribute]) -> list[str]:
    """What is wrong once it is known what the records of a site can be grouped by."""
    if isinstance(config, SiteFairness):
        return []
    if config.column not in attributes:
        there = ", ".join(attributes) or "none"
        return [f"fairness.column={config.column}: records can be grouped by: {there}"]
    numbers = attributes[config.column].dtype.kind == "f"
    if numbers != bool(config.edges):
        what, needed = ("numbers", "edges") if numbers else ("texts", "values")
        return [f"fairness.column={config.column}: holds {what}; give fairness.{needed}=[...]"]
    return []


def group_of(config: GroupFairness, attribute: Attribute) -> NDArray[np.int64]:
    """`int64[n]`: for every record the position of its group in `config.names`."""
    rest = len(config.names) - 1
    if config.edges:
        numbers = np.asarray(attribute, np.float64)
        found = np.searchsorted(np.asarray(config.edges), numbers, side="right")
        return np.where(np.isnan(numbers), rest, found).astype(np.int64)
    position = {value: i for i, value in enumerate(config.values)}
    return np.array([position.get(str(value), rest) for value in attribute], dtype=np.int64)


def group_sums(
    config: GroupFairness, attribute: Attribute, sums_of: Callable[[NDArray[np.bool_]], Sums]
) -> dict[str, Sums]:
    """The test sums of every group by name, empty groups included, small ones not yet withheld.

    `sums_of` adds up the records of a mask `bool[n]`.
    """
    groups = group_of(config, attribute)
    return {name: sums_of(groups == i) for i, name in enumerate(config.names)}


def withheld(counts: Mapping[str, int], smallest: int) -> tuple[str, ...]:
    """The groups that must not be shown, by their numbers of records, or of persons.

    **Guarantees:** what is withheld holds no record at all or at least `smallest`
    of them, or is everything that there is; an empty group hides nobody and is
    not counted as small.
    """
    by_size = sorted((n, name) for name, n in counts.items() if n)
    hidden = [(n, name) for n, name in by_size if n < smallest]
    rest = by_size[len(hidden) :]
    while hidden and rest and sum(n for n, _ in hidden) < smallest:
        hidden.append(rest.pop(0))
    return tuple(name for name in counts if name in {name for _, name in hidden})


def shown(
    sums: Mapping[str, Sums], smallest: int, sizes: Mapping[str, int] | None = None
) -> tuple[dict[str, Sums], tuple[str, ...]]:
    """The groups with records that may be shown, and the names of those that may not.

    `sizes` are how many persons a group is of, where its records are somebody's.
    """
    counts = {name: one.count for name, one in sums.items()}
    if sizes is not None:
        counts = {name: min(count, sizes[name]) for name, count in counts.items()}
    hidden = withheld(counts, smallest)
    return {n: one for n, one in sums.items() if one.count and n not in hidden}, hidden


def take(attributes: Mapping[str, Attribute], rows: NDArray[Any]) -> dict[str, Attribute]:
    """The attributes of some of the records."""
    return {name: values[rows] for name, values in attributes.items()}
