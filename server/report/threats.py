"""Who could learn what from a run, seat by seat: the threat table, filled in for its configuration.

It says what a mechanism gives on paper; what an attacker really gets from a run
is measured elsewhere. Known limits of secure aggregation without noise: Fowl et
al. 2022 (trap weights), Pasquini et al. 2022 (inconsistent models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from server.result import Protection, Result


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
    private: bool
    released_by_site: bool
    """Whether every site's test results are known, or their sum alone."""

    @classmethod
    def of(cls, result: Result) -> Defence:
        """The defence of a run."""
        return cls(
            protection=result.protection,
            private=result.privacy.epsilon is not None,
            released_by_site=result.config["evaluation"] == "per_site",
        )

    @property
    def name(self) -> str:
        """The configuration in a few words."""
        noise = "noise for every record" if self.private else "no differential privacy"
        kinds = self.protection
        return f"transport {kinds.transport}, secure aggregation {kinds.secagg}, {noise}"


_BOUND = "differential privacy: epsilon bounds what anything seen can say about a record"
_PROPERTIES = "what is true of a whole site, such as its mix of classes"


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


def _network(defence: Defence) -> Threat:
    seat = "A listener on the network"
    match defence.protection.transport:
        case "plain":
            held = "the noise in the updates" if defence.private else "nothing in this run"
            return Threat(
                seat=seat,
                sees="all messages, unless the connection itself is protected",
                held_by=held,
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
    if defence.private:
        held, remains = _BOUND, _PROPERTIES
    elif _summed(defence.protection):
        held, remains = "secure aggregation", "mixtures of records, and what holds for the cohort"
    else:
        held, remains = "nothing in this run", "records can be rebuilt from an update"
    return Threat(
        seat="A coordinator that keeps to the protocol",
        sees=f"{_sees(defence.protection)}, and {tests} exactly",
        held_by=held,
        remains=f"{remains}; test results are outside of epsilon",
    )


def _malicious(defence: Defence) -> Threat:
    if defence.private:
        held, remains = f"{_BOUND}, whatever weights are sent", _PROPERTIES
    else:
        held, remains = (
            "nothing in this run",
            ("single records, even from a sum: weights can be chosen to pick them out"),
        )
    return Threat(
        seat="A coordinator that chooses weights to spy",
        sees=_sees(defence.protection),
        held_by=held,
        remains=remains,
    )


def _colluding(defence: Defence) -> Threat:
    return Threat(
        seat="The coordinator and all sites but one, together",
        sees="the update of the remaining site",
        held_by=f"{_BOUND}: the site adds all of its noise itself"
        if defence.private
        else "nothing in this run",
        remains=_PROPERTIES if defence.private else "records can be rebuilt from an update",
    )


def _model_user(defence: Defence) -> Threat:
    return Threat(
        seat="The other sites, and whoever gets the model",
        sees="the model after every round (sites), or at the end",
        held_by=_BOUND if defence.private else "nothing in this run",
        remains="what the model teaches about people in general"
        if defence.private
        else "whether a record was used can be guessed; parts may be memorised",
    )
