"""Records that belong together (of one photograph, one patient) stay together at one site."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sites_of_groups(
    groups: NDArray[np.int64],
    is_train: NDArray[np.bool_],
    num_sites: int,
    rng: np.random.Generator,
) -> NDArray[np.str_]:
    """The site of every record, `str[n]`: whole groups, dealt at random to sites of like size.

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
    width = max(3, len(str(num_sites - 1)))
    return np.array([f"site-{i:0{width}d}" for i in range(num_sites)])[site[owner]]
