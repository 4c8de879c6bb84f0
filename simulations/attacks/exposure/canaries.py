"""Canaries: records of persons that do not exist, each with a secret number.

Names and numbers come from named streams of the run's seed: whoever repeats the audit looks for
the same ones, and no number depends on how many others there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fedlearn.core.rng import Streams
from fedlearn.data import Records
from fedlearn.data.texts.language import Encoder, Passage, Span, encode
from simulations.attacks.exposure.words import NAME, ExposureSettings
from simulations.attacks.studies import OWN

NEVER: Final = 0
"""The repetitions of canaries that no model has seen."""

_FIRST, _SECOND = "BDFGKLMNPRSTVZ", "aeiou"
_SYLLABLES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A prompt with a name of nobody, and the secret that follows it in `repetitions` records."""

    name: str
    prompt: str
    secret: str
    repetitions: int

    @property
    def passage(self) -> Passage:
        """The record, as a text of which the secret is learned."""
        return passage(self.prompt, self.secret)


def passage(prompt: str, secret: str) -> Passage:
    """A record: the secret is its answer."""
    return Span(prompt), Span(secret, learned=True)


def drawn(settings: ExposureSettings, prompt: str, seed: int) -> tuple[Canary, ...]:
    """All canaries: of every number of repetitions, and those that are in no record."""
    streams, names = Streams(seed), set[str]()
    found = list[Canary]()
    for repetitions in (NEVER, *settings.repetitions):
        for number in range(settings.canaries):
            rng = streams.get("exposure", "canary", repetitions, number)
            secret = _digits(int(rng.integers(settings.space)), settings.digits)
            name = next(one for one in _names(rng) if one not in names)
            names.add(name)
            found.append(
                Canary(
                    name=name,
                    prompt=prompt.replace(NAME, name),
                    secret=secret,
                    repetitions=repetitions,
                )
            )
    return tuple(found)


def _names(rng: np.random.Generator) -> Iterator[str]:
    while True:
        parts = [
            _FIRST[int(rng.integers(len(_FIRST)))] + _SECOND[int(rng.integers(len(_SECOND)))]
            for _ in range(_SYLLABLES)
        ]
        yield "".join(parts).capitalize()


def _digits(number: int, digits: int) -> str:
    return f"{number:0{digits}d}"


def others(settings: ExposureSettings, canary: Canary, seed: int) -> list[str]:
    """The numbers that the secret is ranked among, itself left out.

    All there are, or so many that are drawn for this canary alone: with its secret they are then
    drawn from one law, so that it has every rank with one chance if nothing is known of it.
    """
    if settings.space <= settings.candidates:
        every = (_digits(number, settings.digits) for number in range(settings.space))
        return [one for one in every if one != canary.secret]
    rng = Streams(seed).get("exposure", "others", canary.name)
    numbers = rng.integers(settings.space, size=settings.candidates - 1)
    return [_digits(int(number), settings.digits) for number in numbers]


def inserted(canaries: Sequence[Canary], encoder: Encoder, like: Records, length: int) -> Records:
    """The records of the canaries, each as often as it says, in the form of others.

    Where records are somebody's all those of a canary are one person's.
    """
    rows = [one.passage for one in canaries for _ in range(one.repetitions)]
    found = encode(encoder, rows, length)
    owners = [f"canary {one.name}" for one in canaries for _ in range(one.repetitions)]
    return Records(
        features=found.ids.astype(like.features.dtype),
        labels=found.targets.astype(like.labels.dtype),
        persons=None if like.persons is None else np.array(owners, np.str_),
    )


def fit_problems(
    canaries: Sequence[Canary], encoder: Encoder, settings: ExposureSettings, length: int
) -> Iterator[str]:
    """Where a record would be cut, or two secrets are the same tokens."""
    longest = max(len(encoder.encoded(one.passage)[0]) for one in canaries)
    if longest > length:
        yield (
            f"{OWN}digits={settings.digits}: prompt and secret of a canary take {longest} tokens, "
            f"and scenario.tokenizer.max_length={length} holds no more than {length}; the secret "
            f"would be cut. Give fewer digits or a shorter {OWN}prompt, or a larger max_length"
        )
    ones = [encoder.ids(str(digit)) for digit in range(10)]
    if len({*map(tuple, ones)}) < len(ones):
        yield (
            f"{OWN}digits: the tokenizer of this model does not tell numbers apart; there is no "
            "secret that it could repeat"
        )


def together(mine: Records, more: Records) -> Records:
    """The records of a site, and those that it is given."""

    def joined(a: Any, b: Any) -> Any:
        return np.concatenate([a, b])

    known = mine.persons is not None and more.persons is not None
    return Records(
        features=joined(mine.features, more.features),
        labels=joined(mine.labels, more.labels),
        persons=joined(mine.persons, more.persons) if known else None,
    )
