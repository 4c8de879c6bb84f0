"""A site with studies, a ledger and receipts, made in a moment: for pages to show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from clients.ledger import ledger as ledgers
from clients.ledger.ledger import Budget, Ledger
from clients.ledger.state import Cost, Declined
from clients.studies import asked, decisions
from clients.studies.decisions import Verb
from fedlearn.config import RunConfig, to_tree
from fedlearn.config.study import study_text
from fedlearn.privacy.events import GaussianEvent
from server.deployment import composed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = """\
name: cleveland
data: {kind: heart}
dataset: registry 2019-2024
ledger: state/ledger.jsonl
policy: {epsilon_total: 8.0, approval: ask}
"""
NASTY = "<script>alert(1)</script>\u202egnp.exe\x1b[31m \u05e9\u05dc\u05d5\u05dd </style>&amp;" * 8


@cache
def study(
    purpose: str = "Find heart disease early, at hospitals that share no records.",
) -> RunConfig:
    return replace(composed(["experiment=medical_heart"]), purpose=purpose)


def make_site(folder: Path) -> Path:
    """The file of a site that nobody has asked for anything."""
    path = folder / "site.yaml"
    path.write_text(SITE)
    return path


def ledger_of(site: Path) -> Path:
    return site.parent / "state" / "ledger.jsonl"


def ask(site: Path, config: RunConfig, hours: float = 0.0) -> str:
    """A study asks for the site; its terms."""
    text, now = study_text(to_tree(config)), NOW + timedelta(hours=hours)
    return asked.note(ledger_of(site), text, now, ())[0]


def decide(site: Path, verb: Verb, terms: str, hours: float = 1.0) -> None:
    now = NOW + timedelta(hours=hours)
    decisions.decide(ledger_of(site), "cleveland", verb, terms, "", asks=True, now=now)


def spend(site: Path, *runs: str, rounds: int = 12) -> None:
    """Rounds of runs, a day for each, with a receipt after every run; and what was refused."""
    budget, event = (
        Budget(epsilon=8.0, delta=1e-5),
        GaussianEvent(noise_multiplier=2.0, sample_rate=0.1, steps=4),
    )
    with Ledger(
        ledger_of(site), site="cleveland", data="registry 2019-2024", budget=budget, now=NOW
    ) as ledger:
        for day, run in enumerate(runs):
            for number in range(1, rounds + 1):
                now = NOW + timedelta(days=day, minutes=number)
                purpose = "training medical_heart"
                ledger.reserve(
                    Cost(event=event, run_id=run, round_number=number, purpose=purpose), now=now
                )
            ledger.receipt(run, "ab" * 32, "cd" * 32, now=NOW + timedelta(days=day, hours=1))
    declined = Declined(
        run_id=runs[-1],
        purpose="training <b>wide</b>",
        reason="policy.allow_models=['tabular']: the run trains 'cnn'. Choose one of those models",
    )
    ledgers.decline(ledger_of(site), declined, now=NOW + timedelta(days=len(runs)))


def busy_site(folder: Path) -> Path:
    """One that has studies of every standing, and has spent."""
    site = make_site(folder)
    spend(site, "5be1d2a90c4477f05be1d2a90c4477f0", "77f05be1d2a90c4477f05be1d2a90c44")
    for verb, purpose in (
        ("approve", "Tell which patients need a second look."),
        ("refuse", "Rank our wards by their costs."),
    ):
        terms = ask(site, study(purpose))
        decide(site, verb, terms)  # type: ignore[arg-type]
    paused = ask(site, study("Compare the dose of two drugs."))
    decide(site, "approve", paused)
    decide(site, "pause", paused, hours=3.0)
    ask(site, study(NASTY), hours=4.0)
    ask(site, study(), hours=5.0)
    return site
