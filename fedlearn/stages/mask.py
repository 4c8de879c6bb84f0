"""Compression: a round sends a public random part of the update, the same for all sites."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.settings import Rate, config
from fedlearn.stages.stage import Form, Round, ServerRound, Stage, Total, Update


@config
class RandomMask(Stage):
    """Send `share` of the values of an update, drawn anew in every round; the others stay.

    The draw is public and equal at all sites, so that parts add up under masks, and no
    record decides which values are sent: clips and noise after it are for what is sent.

    Source: Konecny et al. 2016, "Federated Learning: Strategies for Improving Communication
    Efficiency", section 2 (random mask), with one mask for all sites.
    """

    kind: Literal["random_mask"] = "random_mask"
    share: Rate = 0.25

    contracts: ClassVar[bool] = True

    def form(self, form: Form) -> Form:
        """As many values as are sent, at least one."""
        return replace(form, values=math.ceil(self.share * form.values))

    def forward(self, update: Update, at: Round) -> Update:
        """The part of this round."""
        return replace(update, values=update.values[self._part(update.values.size, at.public)])

    def backward(self, total: Total, at: ServerRound) -> Total:
        """The change where it was sent, and none elsewhere."""
        values = np.zeros(at.base.size)
        values[self._part(at.base.size, at.public)] = total.values
        return replace(total, values=values)

    def _part(self, size: int, public: bytes) -> NDArray[np.int64]:
        """Where the values of a round are, in order."""
        seed = hashlib.sha256(b"fedlearn/random-mask/v1\n" + public).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        return np.sort(rng.choice(size, math.ceil(self.share * size), replace=False))
