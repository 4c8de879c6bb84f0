"""Sabotages of private training by somebody who had not read the checks, and later had.

Each changes the real engine in this process, so that a record loses more than its epsilon says.
"""

from tests.simulations.attacks.sabotages.besides import (
    UNSEEN,
    momentum_of_clear_sums,
    noise_in_sixteen_steps_alone,
)
from tests.simulations.attacks.sabotages.registry import CAUGHT

__all__ = ["CAUGHT", "UNSEEN", "momentum_of_clear_sums", "noise_in_sixteen_steps_alone"]
