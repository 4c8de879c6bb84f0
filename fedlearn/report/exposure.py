"""What an audit of repeated secrets found: the contents of `exposure.json`.

Plain data, schema `fedlearn/exposure/v1`; keys may be added but never renamed.
`simulations.attacks.exposure` measures it; a report shows it where its folder has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fedlearn.auditing.findings import BROKEN, VerdictText
from fedlearn.core.language import Figure, Message, message
from fedlearn.results.folder import write_json
from fedlearn.results.reading import read_beside

SCHEMA: Final = "fedlearn/exposure/v1"
FILE: Final = "exposure.json"

Watch = Literal["model", "rounds"]
WATCHES: Final[dict[Watch, str]] = {
    "model": "the final model",
    "rounds": "the models of all rounds, as coordinator and sites see them",
}
"""Where who looks for secrets sits, in words."""

Score = Literal["loss", "reference"]
SCORES: Final[dict[Score, str]] = {
    "loss": "its loss",
    "reference": "its loss less that of the untouched model",
}
"""What candidates are ranked by, in words."""

FIRST: Final = ("model", "reference")
"""The view that is drawn and stands in the first table; it was chosen before anything was found."""


@dataclass(frozen=True, kw_only=True)
class RankedView:
    """The ranks of some canaries where somebody sits who ranks by one score.

    `exposure` is their mean in bits, `low` and `high` its interval over canaries; null where all
    of them have the same. `auc` is the chance that one of them looks more like a member than one
    that is in no record. `chance` is that of a mean as high where no secret has been seen.
    """

    seat: Watch
    score: Score
    ranks: list[int]
    exposure: float
    low: float | None
    high: float | None
    chance: float
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Canaries that are in `repetitions` records each, or (0) in none, and the final model.

    `greedy` is how many secrets it writes when it takes the likeliest token at every place;
    `sampled` the mean chance that one of `tries` random texts has the secret. The others are the
    most that the promise allows; null without one, and where nothing was inserted.
    """

    repetitions: int
    views: list[RankedView]
    greedy: int
    sampled: float
    exposure_allowed: float | None
    greedy_allowed: float | None
    sampled_allowed: float | None
    auc_allowed: float | None

    @property
    def canaries(self) -> int:
        """How many there are."""
        return len(self.views[0].ranks)

    @property
    def first(self) -> RankedView:
        """The view that is shown first."""
        return next(view for view in self.views if (view.seat, view.score) == FIRST)


@dataclass(frozen=True, kw_only=True)
class ExposedRun:
    """One run and what its models tell of the canaries.

    `p_value` is at most the chance of what was found if the promise holds, over all its tests.
    """

    name: str
    """Of its folder: `private` or `plain`."""
    privacy: str
    unit: str
    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    rounds: int
    metrics: dict[str, float]
    verdict: VerdictText
    p_value: float | None
    repeated: list[Repeated]

    @property
    def broken(self) -> bool:
        """Whether it tells more than it promises."""
        return self.verdict == BROKEN

    @property
    def called(self) -> Message:
        """The run, in words."""
        if self.privacy == "none":
            return message("without privacy")
        if self.epsilon is None:
            return message("privacy=%(kind)s, no epsilon", kind=self.privacy)
        spent = Figure(self.epsilon, ".3g")
        return message("privacy=%(kind)s, epsilon %(spent)s", kind=self.privacy, spent=spent)

    def level(self, repetitions: int) -> Repeated | None:
        """The canaries of so many repetitions."""
        return next((one for one in self.repeated if one.repetitions == repetitions), None)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The whole of `exposure.json`."""

    schema: str = SCHEMA
    version: str
    experiment: str
    command: str
    """What was asked for, so that it can be asked for again."""
    model: str
    sites: int
    site: str
    """That had the canaries among its records."""
    records: int
    """Its training records without them."""
    inserted: int
    example: str
    """One of them, made up like all."""
    digits: int
    candidates: int
    """Among how many a secret is ranked."""
    exact: bool
    """Whether these are all there are; else so many were drawn for every canary."""
    tries: int
    edge: float
    """Bits: the mean exposure below which 95 of 100 models stay that have seen no secret."""
    by_chance: float
    """Bits: the mean exposure of a secret that nobody has seen."""
    runs: list[ExposedRun]

    @property
    def most(self) -> float:
        """Bits of a secret that is the first of all."""
        return math.log2(self.candidates)

    @property
    def broken(self) -> bool:
        """Whether any run tells more than it promises."""
        return any(run.broken for run in self.runs)

    @property
    def repetitions(self) -> list[int]:
        """How often canaries are there, from never on."""
        return sorted(one.repetitions for one in self.runs[0].repeated)


def write_exposure(folder: Path, found: Exposure) -> None:
    """Write `exposure.json`."""
    write_json(folder / FILE, found)


def read_exposure(folder: Path) -> Exposure | None:
    """What an audit has left in `folder`; None where there was none.

    Raises:
        DataError: the file is not one that this version reads.
    """
    return read_beside(Exposure, folder / FILE, schema=SCHEMA, what="an audit of repeated secrets")
