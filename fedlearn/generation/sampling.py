"""Which token comes next: the likeliest, or one that is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from annotated_types import MinLen
from numpy.typing import NDArray
from torch import Tensor

from fedlearn.core.errors import DataError
from fedlearn.core.settings import Count, Name, Natural, NonNegative, Rate, config


@config
class Sampling:
    """How a text goes on, and where it ends.

    With `temperature=0` every token is the likeliest one (greedy). Else it is drawn: logits are
    divided by the temperature, then no token but the `top_k` likeliest counts (0: all), and of
    those as few, the likeliest first, as have `top_p` of the chance.
    """

    max_tokens: Count = 64
    """Of an answer; one that ends by itself is shorter."""
    temperature: NonNegative = 0.0
    top_k: Natural = 0
    top_p: Rate = 1.0
    stop: Annotated[tuple[Name, ...], MinLen(0)] = ()
    """Words that end an answer, which is given without them."""
    samples: Count = 1
    """Answers to every prompt."""
    seed: Natural = 0
    """Of what is drawn for a prompt and a number of sample, whatever else is asked."""

    def contradictions(self) -> Iterator[str]:
        """What has no meaning where nothing is drawn."""
        if self.temperature:
            return
        for name, idle in (("top_k", 0), ("top_p", 1.0), ("samples", 1)):
            if (value := getattr(self, name)) != idle:
                yield (
                    f"{name}={value}: has no effect with temperature=0, which takes the likeliest "
                    "token; set temperature=1 to draw"
                )


def next_token(logits: Tensor, sampling: Sampling, rng: np.random.Generator) -> int:
    """The token that follows, of logits `float32[vocabulary]`.

    Raises:
        DataError: they are no numbers: the model has diverged.
    """
    if not bool(torch.isfinite(logits).all()):
        raise DataError("the model answers with what is no number: its training has diverged")
    if not sampling.temperature:
        return int(logits.argmax())
    sums = np.cumsum(chances(logits, sampling))
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def chances(logits: Tensor, sampling: Sampling) -> NDArray[np.float64]:
    """How likely each token is to be drawn, `float64[vocabulary]`; their sum is 1.

    Equal logits are cut off together or not at all by `top_k`. At least one token is left.
    """
    wide = logits.double()
    wide = (wide - wide.max()) / sampling.temperature
    if 0 < sampling.top_k < len(wide):
        least = wide.topk(sampling.top_k).values[-1]
        wide = wide.masked_fill(wide < least, -torch.inf)
    found = wide.softmax(0)
    if sampling.top_p < 1:
        falling, order = found.sort(descending=True, stable=True)
        before = falling.cumsum(0) - falling
        found[order[before >= sampling.top_p]] = 0
    numbers: NDArray[np.float64] = (found / found.sum()).numpy()
    return numbers
