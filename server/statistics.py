"""A run that makes a table of figures: the sums of all sites, opened once, and what they say."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fedlearn.agreement import request_digest
from fedlearn.config import statistics_layout
from fedlearn.core.errors import PrivacyError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.figures import ChoicePart, StatisticsFile, TableFigures, TableLayout, TableSums, asked
from fedlearn.flower import messages as flower
from fedlearn.rounds import RoundNote
from server.aside import raise_refusals
from server.federation import Federation

log = logging.getLogger(__name__)

Whole = NDArray[np.int64]

_ROUND = 0
_EXACT = 1 << 20


@dataclass(frozen=True, eq=False)
class OpenedTable:
    """Sums as they were given, over `sites`; and those of each, where they come in clear."""

    layout: TableLayout
    total: Whole
    sites: tuple[str, ...]
    alone: Mapping[str, Whole]


def gather(federation: Federation) -> OpenedTable:
    """Ask all sites for their sums.

    Raises:
        PrivacyError: a site cannot pay.
        ProtocolError: too few answer, or what they gave cannot be.
    """
    grid, config = federation.grid, federation.config
    layout = statistics_layout(config, federation.enrolment.task)
    sites = grid.sites
    note = RoundNote(
        terms=config.terms.hex(), run_id=federation.run_id, round=_ROUND, cohort=len(sites)
    )
    messages = flower.screen_messages(note, [grid.node_of[site] for site in sites])
    federation.account_screening(sites)
    if federation.summing and not config.statistics.by_site:
        request = request_digest(note, np.zeros(0, np.float32), {})
        one = federation.summing.screen(messages, request, layout)
        return OpenedTable(layout, np.asarray(one.total.counters, np.int64), tuple(one.sites), {})
    alone = _in_clear(federation, messages, layout.size)
    total = np.asarray(np.sum([*alone.values()], axis=0), np.int64)
    return OpenedTable(layout, total, tuple(alone), alone)


def _in_clear(federation: Federation, messages: Sequence[Message], size: int) -> dict[str, Whole]:
    """What each site shows of its own."""

    def read(content: RecordDict) -> Whole:
        return flower.read_noised_reply(content, size)

    replies = federation.grid.exchange(messages, read)
    exhausted = [r for r in replies.refusals if r.exit_code == PrivacyError.exit_code]
    if not federation.config.privacy.drops_sites:
        raise_refusals(exhausted)
    if not replies.answers:
        raise ProtocolError("", "screen", "no site answered")
    for site, reason in replies.failures.items():
        log.warning("the figures are without %s: %s", site, reason)
    return {site: read(reply.content) for site, reply in replies.answers.items()}


def figures(
    federation: Federation, opened: OpenedTable, statement: str, *, real_noise: bool
) -> StatisticsFile:
    """The contents of `statistics.json`; categories that are not public are numbers in it."""
    config, plan = federation.config, federation.plan
    read = _Reading(federation, opened)
    unit: Literal["record", "person", "none"] = "none"
    if plan is not None and plan.unit != "client":
        unit = plan.unit
    return StatisticsFile(
        experiment=config.experiment,
        run_id=federation.run_id,
        unit=unit,
        epsilon=plan.epsilon if plan else None,
        delta=plan.delta if plan else None,
        confidence=asked(config.statistics).confidence,
        noise_is_private=real_noise,
        sites=sorted(opened.sites),
        statement=statement,
        pooled=read.table(opened.total, len(opened.sites), ""),
        by_site={site: read.table(one, 1, site) for site, one in sorted(opened.alone.items())}
        if config.statistics.by_site
        else {},
        language=config.report.language,
    )


@dataclass(frozen=True, eq=False)
class _Reading:
    """From sums as they were given to figures."""

    federation: Federation
    opened: OpenedTable

    def table(self, given: Whole, sites: int, stream: str) -> TableFigures:
        """Of the sum over so many sites."""
        layout, config = self.opened.layout, self.federation.config
        settings, plan = asked(config.statistics), self.federation.plan
        paid = plan.screening if plan else None
        steps = paid.steps if paid else (_EXACT,) * len(layout.parts)
        # Noise, and the rounding of each sum.
        each = math.sqrt(sites * (paid.last_stddev**2 + 1 / 12)) if paid else 0.0
        noise = tuple(
            each * part.bound / step for part, step in zip(layout.parts, steps, strict=True)
        )
        return TableSums(
            layout=layout,
            sums=layout.opened(given, steps),
            noise=noise,
            threshold=self._thresholds(noise),
            quantiles=settings.quantiles,
            confidence=settings.confidence,
            rng=Streams(config.seed).get("bootstrap", "statistics", stream),
        ).figures()

    def _thresholds(self, noise: Sequence[float]) -> dict[str, float]:
        """Of columns whose categories are not public."""
        plan, layout = self.federation.plan, self.opened.layout
        hidden = {
            part.name: noise[number]
            for number, part, _ in layout.slices()
            if isinstance(part, ChoicePart) and not part.public
        }
        if plan is None:
            return dict.fromkeys(hidden, 0.5)
        # Of all sites and at its own a record has its chance to be named.
        times = 2 if self.federation.config.statistics.by_site else 1
        alone = layout.most_alone(plan.unit) * times
        return {name: plan.named_from(one, alone) for name, one in hidden.items()}
