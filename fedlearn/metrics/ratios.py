"""How sure a ratio of two sums over records is, from the sums and their second moments.

Nats per token are a ratio: records have different numbers of tokens, so that neither nats nor
tokens alone say how far the ratio would move had other records been drawn. The sum over n
records is near a normal law by the central limit theorem, with the moments of one record times n
(Cochran 1977, "Sampling Techniques", section 6.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlearn.metrics.intervals import RESAMPLES, normal_draws


@dataclass(frozen=True)
class Ratio:
    """Sums over `count` records: of `(x, y)`, and of `(x x, x y, y y)`."""

    count: int
    sums: tuple[float, float]
    products: tuple[float, float, float]

    @property
    def value(self) -> float:
        """The sum of x over that of y."""
        return self.sums[0] / self.sums[1]

    @property
    def stddev(self) -> float:
        """Of the ratio, to first order: that of the sum of `x - value y`, over the sum of y."""
        xx, xy, yy = self.products
        r = self.value
        return float(np.sqrt(max(0.0, xx - 2 * r * xy + r * r * yy)) / self.sums[1])

    def drawn(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """The ratio had the records been drawn anew, `float64[draws]`; NaN where nobody knows.

        Two records or more say something of their spread.
        """
        if self.count < 2 or self.sums[1] <= 0:
            return np.full(RESAMPLES, np.nan)
        return normal_draws(self.value, self.stddev, rng)
