"""What a privacy statement says, from a run's result alone: for people who are in the data.

The promise itself is `privacy.statement` of the result, written by the plan
that made the noise. Here it is laid out with what each site spent, what it
rests on and what it does not cover.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from fedlearn.config import load
from fedlearn.report.released import released, told
from fedlearn.results.result import Protection, Result


@dataclass(frozen=True, kw_only=True)
class SpentRow:
    """What a site spent."""

    name: str
    epsilon: str
    epsilon_rdp: str
    delta: str
    steps: str
    sample_rate: str


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """The contents of `privacy_statement.md`, in the order of the page."""

    title: str
    run_id: str
    started_at: str
    model_sha256: str
    promise: str
    meaning: str
    sites: tuple[SpentRow, ...]
    accountant: str
    protection: tuple[str, ...]
    assumed: tuple[str, ...]
    outside: tuple[str, ...]


def privacy_statement(result: Result) -> PrivacyStatement:
    """The statement of a run."""
    privacy = result.privacy
    return PrivacyStatement(
        title=str(result.config["experiment"]),
        run_id=result.run_id,
        started_at=result.started_at,
        model_sha256=result.model.sha256,
        promise=privacy.statement,
        meaning=_meaning(result),
        sites=tuple(
            SpentRow(
                name=site,
                epsilon=rounded_up(spent.epsilon),
                epsilon_rdp=rounded_up(spent.epsilon_rdp),
                delta=f"{spent.delta:g}",
                steps=f"{spent.steps:,}",
                sample_rate=f"{spent.sample_rate:g}",
            )
            for site, spent in privacy.per_site.items()
        ),
        accountant=privacy.accountant or "",
        protection=(_transport(result.protection), _secagg(result.protection)),
        assumed=_assumed(result),
        outside=_outside(result),
    )


def rounded_up(value: float) -> str:
    """Three decimals, never less than `value`."""
    return "infinite" if math.isinf(value) else f"{math.ceil(value * 1000) / 1000:.3f}"


def _meaning(result: Result) -> str:
    """What epsilon allows a guesser: at even odds, at most e^epsilon / (1 + e^epsilon)."""
    privacy = result.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return ""
    sure = 1 / (1 + math.exp(-privacy.epsilon))
    unit = "one certain record" if privacy.unit == "record" else "one certain site"
    percent = math.ceil(sure * 1000) / 10
    return (
        f"In other words: take somebody who knows everything but whether {unit} was used, and "
        "holds it for as likely as not. After seeing all that this run let out, test results "
        f"aside, they can be at most {percent:.1f} percent sure, save for the exception of about "
        f"{privacy.delta:g}. This is the worst case over all guessers; a smaller epsilon would "
        "leave them less sure."
    )


def _transport(protection: Protection) -> str:
    match protection.transport:
        case "plain":
            return (
                "Transport plain: messages were not encrypted from end to end. Whoever runs the "
                "network between a site and the coordinator could read updates, unless the "
                "connection itself was protected."
            )
        case "sealed":
            return (
                "Transport sealed: every message was encrypted from end to end (AES-256-GCM), "
                "under keys that only its sender and its receiver hold."
            )
        case _:
            assert_never(protection.transport)


def _secagg(protection: Protection) -> str:
    match protection.secagg:
        case "off":
            return "Secure aggregation off: the coordinator saw the update of every single site."
        case "ring":
            return (
                "Secure aggregation ring: updates were rounded as for masking, but not masked; "
                "the coordinator saw the update of every single site."
            )
        case "masked":
            return (
                "Secure aggregation masked: the coordinator could open only the sum of a round's "
                "updates, never the update of a single site."
            )
        case "two_server":
            return (
                "Secure aggregation two_server: only the sum of a round's updates could be opened, "
                "as long as the two servers do not put together what they received."
            )
        case _:
            assert_never(protection.secagg)


def _assumed(result: Result) -> tuple[str, ...]:
    lines = [
        "Every site ran this software unaltered. What the table says was spent is what the sites "
        "reported; the ledger at each site is the record that counts.",
        "This page repeats the files of the run. Whoever could change those files could change "
        "this page too: compare the SHA-256 above with one that was noted when the run ended.",
    ]
    if result.privacy.epsilon is not None:
        lines += [
            "The random numbers behind the noise, which come from the operating system of each "
            "site, cannot be predicted or looked at by others.",
            "The settings of the run say nothing about single records: they are published.",
        ]
    if result.protection.secagg in ("masked", "two_server"):
        lines.append(
            "Enough of the other parties to a round are honest, as docs/threat-model.md lays down: "
            "if all sites but one put together what they know, the rest is that one's update."
        )
    return tuple(lines)


def _outside(result: Result) -> tuple[str, ...]:
    config = load(result.config)
    lines = [
        "What the model teaches about people in general. If it has learned that a sign goes with "
        "an illness, that can be said of everyone with the sign, in the data or not.",
        "The numbers of records and the test results in the model card: they are exact. "
        f"{released(config)}",
        *filter(None, [told(config)]),
        "Settings that were found by trying them out on the same data.",
        "Whatever else was made from the same records: other runs, studies and models add to what "
        "is known. A site's ledger adds up the runs of this software, and only those.",
        "The site itself, its computers and its staff, who have the records anyway.",
        "Whether using the records for this purpose is lawful.",
    ]
    if result.privacy.unit == "record":
        lines.append(
            "People with several records, at one site or at several: they are protected less, by "
            "about epsilon times the number of their records."
        )
    return tuple(lines)
