"""Who holds which record: pure functions from a pool to sites.

All rows of the pool are dealt at once, each with its own train or test flag. A
partitioner decides the sites of a study and reads labels to do so; in a
deployment the sites are given and nothing here runs.

Sources: per-class Dirichlet shares, Yurochkin et al. 2019; sizes by a power
law, as in the quantity skew of Li, Diao, Chen and He 2022.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.settings import Count, NonNegative, Positive, config
from fedlearn.data.pool import Indices, Pool, taken

_ATTEMPTS = 100


Assignment = dict[str, Indices]


class Partition(ABC):
    """A way to deal out records: a frozen dataclass of settings that derives from this.

    Its class stands in `fedlearn.data.PARTITIONS`, or is an entry point `fedlearn.partitions`
    of a package.
    """

    kind: str
    """The name that a config chooses it by."""
    reads_site_files: ClassVar[bool] = False
    """Whether every site's records are those that its own file names."""
    deals: ClassVar[bool] = True
    """Whether sites are parts of one set of records, and not what institutions hold."""

    @abstractmethod
    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        """The rows of every site, ascending, in the order of the sites' names.

        **Guarantees:** every row goes to exactly one site; every site has a training row; the
        outcome is a function of (settings, pool, state of `rng`). Artificial sites are called
        `site-000`, `site-001`, ... A draw that leaves a site without training rows is drawn
        again, up to 100 times.

        Raises:
            DataError: a drawn site would have no training rows, or there are no natural sites.
            ConfigError: `alpha` is infinite.
        """

    def in_one_place(self) -> bool:
        """Whether one site gets the records of all."""
        return getattr(self, "num_sites", 0) == 1


@config
class Natural(Partition):
    """The sites that the records come from."""

    kind: Literal["natural"] = "natural"
    deals = False

    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        """The rows under the name of each site."""
        return natural_sites(pool)


@config
class Iid(Partition):
    """Sites of equal size (to within one record), filled at random."""

    kind: Literal["iid"] = "iid"
    num_sites: Count = 10

    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        """Equal shares, at random."""
        return draw(self.num_sites, pool, lambda: by_size(np.ones(self.num_sites), len(pool), rng))


@config
class Dirichlet(Partition):
    """Label skew: of every class each site gets a share drawn from Dirichlet(alpha, ..., alpha).

    A small `alpha` gives sites of few classes; towards infinity it is `Iid`
    with shares alike.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    num_sites: Count = 10
    alpha: Positive = 0.5

    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        """Of every class, shares that are drawn."""
        return draw(self.num_sites, pool, lambda: self._owners(pool, rng))

    def _owners(self, pool: Pool, rng: np.random.Generator) -> NDArray[np.intp]:
        if not np.isfinite(self.alpha):
            raise ConfigError(f"partition.alpha={self.alpha}: must be finite; choose partition=iid")
        owner = np.empty(len(pool), dtype=np.intp)
        strata = pool.task.strata(pool.labels)
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            shares = rng.dirichlet(np.full(self.num_sites, self.alpha))
            owner[rows] = by_size(shares, len(rows), rng)
        return owner


@config
class Quantity(Partition):
    """Size skew: site k of 1, 2, ... gets records in proportion to k^-exponent, at random.

    An `exponent` of 0 is `Iid`; of 1, the first of ten sites holds a third.
    """

    kind: Literal["quantity"] = "quantity"
    num_sites: Count = 10
    exponent: NonNegative = 1.0

    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        """Falling shares, at random."""
        falling = np.arange(1.0, self.num_sites + 1.0) ** -self.exponent
        return draw(self.num_sites, pool, lambda: by_size(falling, len(pool), rng))


@config
class Files(Partition):
    """Every site's records are those that its own file names: `sites=FOLDER` holds the files.

    Of the scenario only what all sites share is used, as in a deployment. `pooled` puts the
    records of all files into one place, `POOLED`: what a comparison measures against, which
    no deployment could do.
    """

    kind: Literal["files"] = "files"
    pooled: bool = False

    reads_site_files = True
    deals = False

    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        """The rows of each file, or all in one place."""
        return {POOLED: np.arange(len(pool))} if self.pooled else natural_sites(pool)

    def in_one_place(self) -> bool:
        """Where they are pooled."""
        return self.pooled


def dealt_out(partition: Partition, pool: Pool, rng: np.random.Generator) -> Assignment:
    """As `Partition.assign`; where records are dealt out, those of a person go to one site.

    A person is dealt like a record, with the label and the part of the first one; where nothing
    says whose records are, this is `assign`.
    """
    if pool.persons is None or not partition.deals:
        return partition.assign(pool, rng)
    _, first, owner = np.unique(pool.persons, return_index=True, return_inverse=True)
    dealt = partition.assign(taken(pool, first.astype(np.int64)), rng)
    site_of = np.empty(len(first), np.intp)
    for place, persons in enumerate(dealt.values()):
        site_of[persons] = place
    return _by_owner(list(dealt), site_of[owner])


POOLED: Final = "all"
"""The one site of records that were put together from those of all."""


def natural_sites(pool: Pool) -> Assignment:
    """The rows under the name of each site; raises DataError where records have none."""
    if pool.natural_site is None:
        raise DataError(
            f"{pool.name}: its records come without sites; name the site column "
            "(scenario.site) or choose partition=iid, dirichlet or quantity"
        )
    names, owner = np.unique(pool.natural_site, return_inverse=True)
    return _by_owner([str(name) for name in names], owner)


def draw(num_sites: int, pool: Pool, owners: Callable[[], NDArray[np.intp]]) -> Assignment:
    """Draws an owner per row until every site can train."""
    if num_sites <= pool.is_train.sum():
        for _ in range(_ATTEMPTS):
            owner = owners()
            if not _without_training(owner, num_sites, pool).size:
                return _by_owner(_site_names(num_sites), owner)
    raise DataError(
        f"partition.num_sites={num_sites}: {pool.name} has {pool.is_train.sum()} training records, "
        f"and {_ATTEMPTS} draws left a site without any; use fewer sites, a larger "
        "partition.alpha (dirichlet) or a smaller partition.exponent (quantity)"
    )


def by_size(
    shares: NDArray[np.float64], num_rows: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """An owner per row, at random, with counts in proportion to `shares`."""
    owner = np.empty(num_rows, dtype=np.intp)
    owner[rng.permutation(num_rows)] = np.repeat(np.arange(len(shares)), _counts(shares, num_rows))
    return owner


def _counts(shares: NDArray[np.float64], total: int) -> NDArray[np.intp]:
    """Whole numbers that sum to `total`, each within one of its exact share."""
    ends = np.cumsum(shares)
    counts: NDArray[np.intp] = np.diff(np.rint(ends / ends[-1] * total).astype(np.intp), prepend=0)
    return counts


def _without_training(owner: NDArray[np.intp], num_sites: int, pool: Pool) -> NDArray[np.intp]:
    return np.flatnonzero(np.bincount(owner[pool.is_train], minlength=num_sites) == 0)


def _by_owner(names: list[str], owner: NDArray[np.intp]) -> Assignment:
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(names)))
    parts = np.split(order.astype(np.int64), ends[:-1])
    return dict(zip(names, parts, strict=True))


def sites_of_groups(
    groups: NDArray[np.int64],
    is_train: NDArray[np.bool_],
    num_sites: int,
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """The site of every record, `str[n]`: whole groups, dealt at random to sites of like size.

    Records of a group (of one photograph, of one patient) stay together.

    Groups come in random order, each to the site that has the fewest training
    records so far; those that hold test records only, to the one with the
    fewest test records. With `num_sites` 0 every group is a site.
    """
    names, owner = np.unique(groups, return_inverse=True)
    if not num_sites:
        width = len(str(names.max()))
        return np.array([f"group-{name:0{width}d}" for name in names])[owner]
    sizes = np.stack(
        [np.bincount(owner[part], minlength=len(names)) for part in (is_train, ~is_train)]
    )
    filled = np.zeros((2, num_sites), np.int64)
    site = np.zeros(len(names), np.int64)
    for group in rng.permutation(len(names)):
        kind = 0 if sizes[0, group] else 1
        site[group] = filled[kind].argmin()
        filled[:, site[group]] += sizes[:, group]
    return np.array(_site_names(num_sites))[site[owner]]


def _site_names(count: int) -> list[str]:
    width = max(3, len(str(count - 1)))
    return [f"site-{i:0{width}d}" for i in range(count)]
