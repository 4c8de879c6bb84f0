"""What training costs in privacy, asked without training."""

from __future__ import annotations

from fedlearn.core.settings import Count, NonNegative, Probability, Rate, config
from fedlearn.privacy import accounting
from fedlearn.privacy.events import GaussianEvent


@config
class _Steps:
    noise_multiplier: NonNegative
    sample_rate: Rate
    steps: Count
    delta: Probability

    def contradictions(self) -> list[str]:
        least = accounting.SMALLEST_DELTA
        return [] if self.delta >= least else [f"delta={self.delta}: must be at least {least}"]


def epsilon(
    *, noise_multiplier: float, sample_rate: float, steps: int, delta: float = 1e-5
) -> float:
    """Epsilon of DP-SGD: `steps` noisy sums of clipped gradients, for one record more or less.

    Args:
        noise_multiplier: standard deviation of the noise on a coordinate of the sum, over the
            clip norm. Zero releases the sum in clear.
        sample_rate: chance in (0, 1] with which each record is in a step, independently
            (Poisson sampling). It must be a public constant.
        steps: how many sums are released in all.
        delta: at least 1e-12, and well below one over the number of records.

    Returns:
        The smallest epsilon that our accountant proves at `delta`, infinite without noise.

    Raises:
        ConfigError: a value is out of its range; every problem by name.

    Guarantees:
        Never below the true epsilon, and at most 2 percent above it between 0.01 and 100.

    Source:
        Privacy loss distributions: Koskela, Jalko, Honkela 2020; Doroshenko et al. 2022.

    Example:
        >>> import fedlearn as fl
        >>> round(fl.epsilon(noise_multiplier=2, sample_rate=0.02, steps=500, delta=1e-5), 2)
        0.92
    """
    asked = _Steps(
        noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps, delta=delta
    )
    event = GaussianEvent(
        noise_multiplier=asked.noise_multiplier, sample_rate=asked.sample_rate, steps=asked.steps
    )
    return accounting.epsilon([event], asked.delta)
