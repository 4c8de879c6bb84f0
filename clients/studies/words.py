"""The terms of a study in plain words, for the owner who is to approve of them.

Made from the terms alone, which are the coordinator's: what it promises is bounded by the code of
the site, its policy and its ledger, and what it says of itself is shown as its word. Texts of its
own are printed in one line each, without a sign that could draw or turn what stands around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clients.ledger.state import plain
from fedlearn.agreement import code_besides
from fedlearn.config import RunConfig, plan_of
from fedlearn.core.errors import ConfigError, counted
from fedlearn.privacy.accounting import epsilon as account
from fedlearn.report.setup import Setup
from fedlearn.report.statement import beside_the_model
from fedlearn.report.texts import three_digits_up

MOST_PURPOSE = 2000
"""Characters of a purpose that are shown; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class TermsPart:
    """A heading and what is said under it, a sentence a line; `word` is the coordinator's own."""

    title: str
    lines: tuple[str, ...]
    word: str = ""


def in_words(config: RunConfig, sites: Sequence[str], coordinator: str) -> tuple[TermsPart, ...]:
    """What a study is for, who takes part, what it promises and what leaves a site.

    Args:
        config: the terms.
        sites: the names of the pinned list; none in a simulation.
        coordinator: the fingerprint of who asks; empty where a simulation has none.
    """
    return (
        _purpose(config),
        TermsPart(title="What is learned", lines=tuple(_learned(config))),
        TermsPart(title="Who takes part", lines=tuple(_company(config, sites, coordinator))),
        TermsPart(title="What it promises", lines=tuple(_promise(config))),
        TermsPart(title="Who sees what", lines=tuple(_seen(config))),
        TermsPart(title="What its report will say of the rest", lines=tuple(_rest(config))),
    )


def title_of(config: RunConfig) -> str:
    """What a list calls a study, in one short line: its experiment and the begin of its purpose."""
    purpose = f': "{plain(config.purpose, 60)}"' if config.purpose.strip() else ""
    return f"{plain(config.experiment, 64)}{purpose}"


def _purpose(config: RunConfig) -> TermsPart:
    text = config.purpose
    lines = ["The coordinator gives no purpose."] if not text.strip() else []
    if len(text) > MOST_PURPOSE:
        lines.append(f"It has {len(text):,} characters, of which the first are shown.")
    return TermsPart(
        title="What it is for", lines=tuple(lines), word=plain(text.strip(), MOST_PURPOSE)
    )


def _learned(config: RunConfig) -> Iterator[str]:
    if not config.statistics.idle:
        yield (
            f"Experiment {plain(config.experiment)}: no model, but figures of all records of its "
            "table, released once."
        )
        return
    yield (
        f"Experiment {plain(config.experiment)}: a model of the kind {config.model.kind} for the "
        f"task {config.task.kind}, from records of the kind {config.scenario.kind}."
    )
    yield f"It has at most {counted(config.most_rounds, 'round')}."
    if config.parent is not None:
        yield f"It begins from a model with the SHA-256 {config.parent.sha256[:16]}."
    for name, digest in code_besides(config):
        yield f"It uses code that is none of fedlearn's: {plain(name)}, SHA-256 {digest[:16]}."


def _company(config: RunConfig, sites: Sequence[str], coordinator: str) -> Iterator[str]:
    least = max(config.strategy.min_sites, config.secagg.least)
    if sites:
        yield f"No others than these {counted(len(sites), 'site')}: {', '.join(map(plain, sites))}."
    yield f"It starts with {counted(least, 'site')} at the least."
    if coordinator:
        yield f"The coordinator has the fingerprint {coordinator}, and has signed these terms."
    if config.secagg.two_servers:
        yield "A second server takes part in adding up."


def _promise(config: RunConfig) -> Iterator[str]:
    privacy = config.privacy
    if privacy.unit == "none":
        yield (
            "No differential privacy: nothing bounds what can be learned of single records, and "
            "nothing is spent."
        )
        return
    total = _epsilon(config)
    who = {"client": "site as a whole"}.get(privacy.unit, privacy.unit)
    if total is None:
        yield (
            f"Each {who} is protected with noise that is given as such; what it costs in epsilon "
            "is known once it is known who takes part, and the ledger refuses what is too much."
        )
        return
    yield (
        f"Each {who} is protected with epsilon {three_digits_up(total)} and delta "
        f"{privacy.delta:g}, over all rounds, test figures included where they are private."
    )
    yield (
        "Every run under these terms may spend as much from the budget of this data, for good: an "
        "approval holds until you pause or withdraw. Approval raises no budget: "
        "the ledger refuses what is not left."
    )


def _epsilon(config: RunConfig) -> float | None:
    """What the run promises to spend at most; None where that is not known before it starts."""
    given: float | None = getattr(config.privacy, "epsilon", None)
    if given is not None:
        return given
    try:
        plan = plan_of(config)
    except (ConfigError, ValueError):
        return None
    return None if plan is None else account(plan.events, plan.delta, unit=plan.unit)


def _seen(config: RunConfig) -> Iterator[str]:
    for seat, sees, held_by, remains in Setup.of(config).texts({})["threats"].rows("table")[:-1]:
        yield f"{seat} sees {sees}. Held back by: {held_by}. Open to it: {remains}."


def _rest(config: RunConfig) -> Iterator[str]:
    if text := beside_the_model(config):
        yield text
