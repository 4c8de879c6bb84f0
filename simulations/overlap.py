"""Whether a file that somebody calls public, or new, is what a run's sites have to themselves.

The records of a simulated run are on this machine, so that it can be looked at. Those of different
people may look alike where columns are coarse; how often they do is seen among the sites' own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients.records import read_simulated
from fedlearn.config import load
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import SiteData
from fedlearn.results.reading import read_bytes
from fedlearn.results.result import ResultFile

_SAME: Final = 0.5
"""From this share of records that are also a site's own on, a file is no other than theirs."""
_BY_CHANCE: Final = 1e-3
"""A coincidence that is less probable is none."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Records of a file beside those of a run's sites."""

    records: int
    common: int
    """That look like one of a site."""
    chance: float
    """How often a stranger's looks like one of them, at the most."""

    @classmethod
    def between(cls, file: Iterable[bytes], own: Iterable[bytes]) -> Overlap:
        """Of a file's records and those of sites, each as bytes.

        Strangers look like a record of a site no oftener than another one of a site does, of which
        there is an estimate (Laplace's, since none among few proves little) and its standard error.
        """
        known, found = Counter(own), [*file]
        count = known.total() + 1
        share = (sum(times for times in known.values() if times > 1) + 1) / count
        return cls(
            records=len(found),
            common=sum(row in known for row in found),
            chance=min(1.0, share + sqrt(share * (1 - share) / count)),
        )

    @property
    def is_own(self) -> bool:
        """Whether half of them are common, or more than chance explains."""
        if not self.common:
            return False
        return self.common >= _SAME * self.records or self._probability() < _BY_CHANCE

    def _probability(self) -> float:
        """That so many, or more, of as many strangers look like one of a site."""
        from scipy.stats import binom

        return float(binom.sf(self.common - 1, self.records, self.chance))


def sites_here(result: ResultFile) -> dict[str, SiteData] | None:
    """The records of a simulated run; None where they are not here, or others."""
    try:
        pool, sites = read_simulated(load(result.config))
    except (ConfigError, DataError, OSError):  # a deployment's are nowhere that its config knows
        return None
    return sites if pool.sha256 == result.data.sha256 else None


def is_of_run(path: Path, result: ResultFile) -> bool:
    """Whether a file is the one that the run has read, or lies in its folder."""
    own = Path(getattr(load(result.config).scenario, "path", ""))
    if own == Path() or not own.exists():
        return False
    if own.is_dir():
        return own.resolve() in path.resolve().parents
    return own.samefile(path) or read_bytes(own) == read_bytes(path)


def overlap(records: NDArray[Any], result: ResultFile) -> Overlap | None:
    """Records, as the run's model takes them, beside those of its sites; None where those are not
    here."""
    if (sites := sites_here(result)) is None:
        return None
    own = (
        row.tobytes()
        for site in sites.values()
        for part in (site.train, site.test)
        for row in np.ascontiguousarray(part.features, dtype=records.dtype)
    )
    return Overlap.between((row.tobytes() for row in records), own)
