"""From an update to integers with noise, and from their sum back to real numbers.

Client: scale down to the bound, rotate, divide by the granularity, round
stochastically, add the site's share of integer noise, reduce modulo 2^bits.
Server: take the sum's representatives around zero, multiply, rotate back. Not
here: masks; the integers must not leave a site without them.

Source: Kairouz, Liu, Steinke 2021 (arXiv 2102.06387), algorithms 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.mechanisms.norms import clipped
from fedlearn.privacy.discrete import integer_noise
from fedlearn.privacy.noise import WORDS, Keystream
from fedlearn.privacy.rotation import padded, rotation
from fedlearn.stages import Form, Round, ServerRound, SiteContext, Source, Stage, Total, Update

if TYPE_CHECKING:  # the plan makes the stages
    from fedlearn.mechanisms.distributed import DistributedPlan

RingVector = NDArray[np.unsignedinteger[Any]]
Float64Array = NDArray[np.float64]

_TRIES: Final = 1000


@dataclass(frozen=True)
class NoisyIntegers(Stage):
    """Rotation, rounding and a share of integer noise; backwards, the sum as real numbers."""

    plan: DistributedPlan

    def form(self, form: Form) -> Form:
        """Whole numbers, as many as the rotation has, of the plan's bits in the sum."""
        return Form(values=padded(form.values), bits=self.plan.bits)

    def forward(self, update: Update, at: Round) -> Update:
        """The site's part of the sum, with its share of the noise."""
        noisy = integers(self.plan, update.values, context=at.public, stream=at.noise.stream())
        return Update(values=noisy)

    def bounded(self, change: NDArray[np.floating], at: Round) -> NDArray[np.floating]:
        """Scaled down to the bound."""
        return clipped(change, self.plan.range_norm)

    def backward(self, total: Total, at: ServerRound) -> Total:
        """The noisy sum; of clients, their mean by a public constant."""
        noisy = real_sum(self.plan, total.values, context=at.public)
        clients = 1 if self.plan.within_sites else self.plan.num_clients
        return replace(total, values=noisy / clients, weight=1)


@dataclass(frozen=True)
class CommonStep(Source):
    """Gradients of all sites for the step of SGD that each would have made on their mean.

    `records` are those of a step at all sites: a public constant.
    """

    plan: DistributedPlan
    learning_rate: float
    weight_decay: float
    records: float
    gives_model = False

    def produce(self, site: SiteContext) -> Update:
        """The sum of the site's clipped gradients."""
        return Update(values=site.clipped_gradient_sum(self.plan))

    def backward(self, total: Total, at: ServerRound) -> Total:
        """The step on the noisy sum."""
        gradient = total.values / self.records + self.weight_decay * at.base
        step = -self.learning_rate * gradient
        return replace(total, values=at.base.astype(np.float64) + step)


def integers(
    plan: DistributedPlan, update: NDArray[np.floating], *, context: bytes, stream: Keystream
) -> NDArray[np.int64]:
    """What a site gives to secure aggregation: `float[dimension]` to `int64[padded(dimension)]`.

    `context` names run and round, is public and the same for all sites; `stream`
    must be a fresh one of this site.

    Guarantees: neighbours differ as `plan.event` says, whatever `update` holds;
    equal arguments and keystreams give equal words on every machine.

    Raises:
        ValueError: wrong length, or a value that is not finite.
        RuntimeError: no rounding within the bound in 1,000 tries; nothing is returned.
    """
    scaled = rotation(plan.dimension, context).forward(clipped(update, plan.range_norm))
    scaled /= plan.granularity
    if plan.within_sites:
        rounded = _rounded(scaled, stream)
    else:
        rounded = _rounded_within(scaled, plan.rounded_norm, stream)
    rounded += integer_noise(plan.law, plan.share_stddev).draw(len(rounded), stream)
    return rounded


def encode(
    plan: DistributedPlan, update: NDArray[np.floating], *, context: bytes, stream: Keystream
) -> RingVector:
    """`integers` modulo 2^bits, in the smallest machine word: `word[padded(dimension)]`."""
    whole = integers(plan, update, context=context, stream=stream)
    return _reduced(whole.view(np.uint64), plan.bits)


def decode(plan: DistributedPlan, total: RingVector, *, context: bytes) -> Float64Array:
    """The noisy sum of all updates from the modular sum of all words: `float64[dimension]`.

    Divide it by a public constant, never by anything that was counted in the data.

    Raises ValueError for a wrong length.
    """
    if total.shape != (padded(plan.dimension),):
        raise ValueError(f"sum of shape {total.shape}, expected {padded(plan.dimension)}")
    shift = np.int64(64 - plan.bits)
    signed = (total.astype(np.uint64).view(np.int64) << shift) >> shift
    return real_sum(plan, signed, context=context)


def real_sum(
    plan: DistributedPlan, total: NDArray[np.int64] | Float64Array, *, context: bytes
) -> Float64Array:
    """The noisy sum of all updates from the sum of all `integers`, centred: `float64[dimension]`.

    Divide it by a public constant, never by anything that was counted in the data.
    """
    return rotation(plan.dimension, context).inverse(total * plan.granularity)


def _rounded(values: Float64Array, stream: Keystream) -> NDArray[np.int64]:
    """Up where the fraction exceeds a uniform coin of 53 bits, else down: the mean stays."""
    floor = np.floor(values)
    result = floor.astype(np.int64)
    for start in range(0, len(values), WORDS):
        block = slice(start, start + WORDS)
        fraction = values[block] - floor[block]
        coins = (stream.words(len(fraction)) >> np.uint64(11)) * 2.0**-53
        result[block] += coins < fraction
    return result


def _rounded_within(values: Float64Array, bound: float, stream: Keystream) -> NDArray[np.int64]:
    """Rounded again and again until the norm is at most `bound`; fails closed."""
    for _ in range(_TRIES):
        result = _rounded(values, stream)
        if float(np.linalg.norm(result.astype(np.float64))) <= bound:
            return result
    raise RuntimeError(f"no rounding within the bound {bound} in {_TRIES} tries")


def _reduced(words: NDArray[np.uint64], bits: int) -> RingVector:
    """Modulo 2^bits, in the smallest machine word that holds it."""
    dtype = "<u2" if bits <= 16 else "<u4"
    return (words & np.uint64((1 << bits) - 1)).astype(dtype)
