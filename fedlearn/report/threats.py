"""Who could learn what from a run, seat by seat: the threat table, filled in for its configuration.

It says what a mechanism gives on paper; what an attacker really gets is
measured elsewhere (`fedlearn audit`). Known limits of secure aggregation without
noise: Fowl et al. 2022 (trap weights), Pasquini et al. 2022 (inconsistent models).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Final, Literal, assert_never

from fedlearn.algorithms import cohort_size
from fedlearn.config import RunConfig, load
from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import DistributedPrivacy
from fedlearn.results.result import Protection, Result
from fedlearn.secagg.graph import choose_degree
from fedlearn.secagg.settings import SecAggMasked, SecAggTwoServer

Noise = Literal["none", "site", "shares", "coordinator"]
"""Who adds it: nobody, every site all of it, all sites together, or the coordinator."""

_NOISE_OF: Final[dict[str, Noise]] = {
    "none": "none",
    "record": "site",
    "distributed": "shares",
    "client": "coordinator",
}


def _colluders(config: RunConfig) -> int:
    shared = config.privacy
    return shared.max_colluders if isinstance(shared, DistributedPrivacy) else 0


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One seat at the table."""

    seat: str
    sees: str
    held_by: str
    remains: str


@dataclass(frozen=True, kw_only=True)
class Defence:
    """What of a configuration decides the table; equal defences have equal tables."""

    protection: Protection
    noise: Noise
    unit: Literal["record", "client", "none"]
    colluders: int
    """Of shares of noise: how many sites may pool what they know with the coordinator."""
    released_by_site: bool
    """Whether every site's test results are known, or their sum alone."""

    @classmethod
    def of(cls, result: Result) -> Defence:
        """The defence of a run; one whose noise can be repeated, or is none, has no privacy."""
        private = result.privacy.epsilon is not None
        config = load(result.config)
        pooled = config.evaluation == "pooled" and _summed(result.protection)
        return cls(
            protection=result.protection,
            noise=_NOISE_OF[config.privacy.kind] if private else "none",
            unit=result.privacy.unit if private else "none",
            colluders=_colluders(config) if private else 0,
            released_by_site=not pooled,
        )

    @property
    def name(self) -> str:
        """The configuration in a few words."""
        kinds = self.protection
        return f"transport {kinds.transport}, secure aggregation {kinds.secagg}, {self._noise_name}"

    @property
    def _noise_name(self) -> str:
        unit = "record" if self.unit == "record" else "site"
        match self.noise:
            case "none":
                return "no differential privacy"
            case "site":
                return f"noise for every {unit}, which each site adds"
            case "shares":
                return f"noise for every {unit}, which all sites add together"
            case "coordinator":
                return f"noise for every {unit}, which the coordinator adds"
            case _:
                assert_never(self.noise)

    @property
    def bound(self) -> str:
        """What differential privacy says where it holds."""
        whom = "a record" if self.unit == "record" else "all that one site holds"
        return f"differential privacy: epsilon bounds what anything seen can say about {whom}"

    @property
    def properties(self) -> str:
        """What it says nothing about."""
        if self.unit == "record":
            return "what is true of a whole site, such as its mix of classes"
        return "what is true of all sites together"

    @property
    def summed(self) -> bool:
        """Whether a single update stays closed."""
        return _summed(self.protection)


def threats(defence: Defence) -> tuple[Threat, ...]:
    """The table, from the outside in."""
    return (
        _network(defence),
        _coordinator(defence),
        _malicious(defence),
        _colluding(defence),
        _model_user(defence),
        Threat(
            seat="The site itself",
            sees="its own records",
            held_by="nothing, and nothing is meant to",
            remains="its computers and its staff",
        ),
    )


_REBUILT: Final = "records can be rebuilt from an update"
_NOTHING: Final = "nothing in this run"
_A_SHARE: Final = "a site's share of the noise alone, which is too little to promise anything"


def _network(defence: Defence) -> Threat:
    seat = "A listener on the network"
    match defence.protection.transport:
        case "plain":
            held = ["the masks of secure aggregation"] if defence.summed else []
            held += ["the noise in the updates"] if defence.noise in ("site", "shares") else []
            return Threat(
                seat=seat,
                sees="all messages, unless the connection itself is protected",
                held_by=" and ".join(held) or _NOTHING,
                remains="whatever the coordinator can learn",
            )
        case "sealed":
            return Threat(
                seat=seat,
                sees="sizes and times of messages",
                held_by="AES-256-GCM from end to end",
                remains="who takes part, when, and how large the model is",
            )
        case _:
            assert_never(defence.protection.transport)


def _sees(protection: Protection) -> str:
    match protection.secagg:
        case "off" | "ring":
            return "the update of every single site"
        case "masked":
            return "the sum of a round's updates"
        case "two_server":
            return "the sum of a round's updates, unless both servers pool what they hold"
        case _:
            assert_never(protection.secagg)


def _summed(protection: Protection) -> bool:
    return protection.secagg in ("masked", "two_server")


def _coordinator(defence: Defence) -> Threat:
    tests = "each site's test results" if defence.released_by_site else "the pooled test results"
    mixtures = "mixtures of records, and what holds for the cohort"
    match defence.noise:
        case "site":
            held, remains = defence.bound, defence.properties
        case "shares" if defence.summed:
            held = f"{defence.bound}; the noise is in the sum, and only the sum is opened"
            remains = defence.properties
        case "shares":
            held, remains = _A_SHARE, _REBUILT
        case "coordinator" | "none" if defence.summed:
            held, remains = "secure aggregation", mixtures
        case "coordinator":
            held = "nothing: it is trusted to add the noise and to forget what it saw"
            remains = _REBUILT
        case "none":
            held, remains = _NOTHING, _REBUILT
        case _:
            assert_never(defence.noise)
    return Threat(
        seat="A coordinator that keeps to the protocol",
        sees=f"{_sees(defence.protection)}, and {tests} exactly",
        held_by=held,
        remains=f"{remains}; test results are outside of epsilon",
    )


def _malicious(defence: Defence) -> Threat:
    match defence.noise:
        case "site":
            held, remains = f"{defence.bound}, whatever weights are sent", defence.properties
        case "shares" if defence.summed:
            held = f"{defence.bound}, whatever weights are sent{_while_few(defence)}"
            remains = defence.properties
        case "shares":
            held, remains = _A_SHARE, _REBUILT
        case "coordinator" | "none":
            held = _NOTHING if defence.noise == "none" else "nothing: it may leave the noise out"
            remains = "single records, even from a sum: weights can be chosen to pick them out"
        case _:
            assert_never(defence.noise)
    return Threat(
        seat="A coordinator that chooses weights to spy",
        sees=_sees(defence.protection),
        held_by=held,
        remains=remains,
    )


def _while_few(defence: Defence) -> str:
    if not defence.colluders:
        return ", while no site works with it"
    sites = "site works" if defence.colluders == 1 else "sites work"
    return f", while no more than {defence.colluders} {sites} with it"


def _colluding(defence: Defence) -> Threat:
    match defence.noise:
        case "site":
            held = f"{defence.bound}: the site adds all of its noise itself"
            remains = defence.properties
        case "shares":
            held, remains = _A_SHARE, _REBUILT
        case "coordinator" | "none":
            held, remains = _NOTHING, _REBUILT
        case _:
            assert_never(defence.noise)
    return Threat(
        seat="The coordinator and all sites but one, together",
        sees="the update of the remaining site",
        held_by=held,
        remains=remains,
    )


def _model_user(defence: Defence) -> Threat:
    private = defence.noise != "none"
    return Threat(
        seat="The other sites, and whoever gets the model",
        sees="the model after every round (sites), or at the end",
        held_by=defence.bound if private else _NOTHING,
        remains="what the model teaches about people in general"
        if private
        else "whether a record was used can be guessed; parts may be memorised",
    )


# --- what secure aggregation rests on ------------------------------------------------


def limits(result: Result) -> tuple[str, ...]:
    """The numbers behind the masks of a run: cohort, collusion, dropouts."""
    config, sites = load(result.config), len(result.data.sites)
    match config.secagg:
        case SecAggMasked():
            return _limits_of_masks(config, config.secagg, cohort_size(config.strategy, sites))
        case SecAggTwoServer(min_cohort=least):
            return (
                f"No sum over fewer than {least} sites is opened. Both servers run inside the "
                "coordinator: what they hold together opens every single update.",
            )
        case _:
            return ()


def _limits_of_masks(config: RunConfig, masks: SecAggMasked, cohort: int) -> tuple[str, ...]:
    try:
        degree = choose_degree(cohort, masks.corrupt_fraction, masks.dropout_fraction)
    except ConfigError:  # sites have left since, and the run could not have gone on
        return ()
    return (
        f"A round sums {cohort} sites; no sum over fewer than {masks.min_cohort} is opened.",
        f"The masks of a site can be opened by {degree.threshold} of the {degree.neighbours} "
        "sites that hold its shares; a coordinator that works with so many opens its update.",
        f"Planned for {_sites(masks.corrupt_fraction, cohort)} working with the coordinator, and "
        f"{_sites(masks.dropout_fraction, cohort)} falling silent in a round.",
    )


def _sites(fraction: float, cohort: int) -> str:
    """A fraction of the cohort as a number of sites; the decimal that the user wrote, cut off."""
    count = floor(Fraction(str(fraction)) * cohort)
    return f"{count or 'no'} site{'' if count == 1 else 's'}"
