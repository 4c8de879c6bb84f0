"""Which records are trained on and which are tested on, where a data set does not say it itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stratified(
    strata: NDArray[np.int64],
    sites: NDArray[np.str_] | None,
    test_fraction: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """`bool[n]`, True for training: about `test_fraction` of every stratum at every site.

    A rest of less than one record is drawn for, so that the fraction holds over
    many small sites as well.

    **Guarantees:** every stratum (class) of every site keeps at least one training
    record; the outcome is a function of the arguments and the state of `rng`.
    """
    owner = np.zeros_like(strata) if sites is None else np.unique(sites, return_inverse=True)[1]
    is_train = np.ones(len(strata), dtype=np.bool_)
    for site, stratum in np.unique(np.stack([owner, strata]), axis=1).T:
        rows = np.flatnonzero((owner == site) & (strata == stratum))
        wanted = int(np.floor(test_fraction * len(rows) + rng.random()))
        is_train[rng.permutation(rows)[: min(wanted, len(rows) - 1)]] = False
    return is_train
