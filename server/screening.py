"""Before the first round: where the records of all sites stand, given back to each to compare.

What a site finds it keeps to itself. Sums that no honest sites can have made, or that cannot be
opened, are told to nobody, and the run goes on: nothing that is released hangs on them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from flwr.app import Message, RecordDict
from numpy.typing import NDArray

from fedlearn.agreement import request_digest
from fedlearn.config import screened_layout
from fedlearn.core.errors import ProtocolError
from fedlearn.flower import messages as flower
from fedlearn.rounds import RoundNote
from fedlearn.screening import ScreeningLayout, noise_in, plausible, step_of
from server.aside import raise_refusals
from server.federation import Federation

log = logging.getLogger(__name__)

_ROUND = 0
"""It comes before the first."""


def screen(federation: Federation) -> None:
    """Ask all sites, and give each the sum, where the run says so and has not done it.

    Raises:
        PrivacyError: a site cannot pay, and the run ends for it.
    """
    layout = screened_layout(federation.config, federation.enrolment.task)
    progress = federation.progress
    if layout is None or progress.screened is not None or progress.rounds:
        return
    try:
        opened, sites = _opened(federation, layout)
        _check(federation, layout, opened, len(sites))
    except ProtocolError as error:
        log.warning("tables are not compared: %s", error)
        return
    federation.grid.ask(flower.COMPARE, flower.compare_request(opened, sites), sites)
    progress.screened = len(sites)


def _opened(
    federation: Federation, layout: ScreeningLayout
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """The sums over those that answer, in steps, and who they are.

    Raises:
        ProtocolError: too few do.
        PrivacyError: one cannot pay, and the run ends for it.
    """
    grid, config = federation.grid, federation.config
    sites = grid.sites
    note = RoundNote(
        terms=config.terms.hex(), run_id=federation.run_id, round=_ROUND, cohort=len(sites)
    )
    messages = flower.screen_messages(note, [grid.node_of[site] for site in sites])
    federation.account_screening(sites)
    if federation.summing:
        request = request_digest(note, np.zeros(0, np.float32), {})
        one = federation.summing.screen(messages, request, layout)
        return one.total.counters, one.sites
    return _added(federation, messages, layout.size)


def _added(
    federation: Federation, messages: Sequence[Message], size: int
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """The same where each shows its own."""

    def read(content: RecordDict) -> NDArray[np.int64]:
        return flower.read_noised_reply(content, size)

    replies = federation.grid.exchange(messages, read)
    if not federation.config.privacy.drops_sites:
        raise_refusals([one for one in replies.refusals if one.of_budget])
    if not replies.answers:
        raise ProtocolError("", "screen", "no site answered")
    found = [read(reply.content) for reply in replies.answers.values()]
    return np.sum(found, axis=0, dtype=np.int64), tuple(replies.answers)


def _check(
    federation: Federation, layout: ScreeningLayout, opened: NDArray[np.int64], sites: int
) -> None:
    """Refuse what honest sites cannot have given.

    Raises:
        ProtocolError: they cannot.
    """
    paid = federation.plan.screening if federation.plan else None
    sums = opened.reshape(len(layout.classes), layout.width) / step_of(paid)
    if reason := plausible(layout, sums, noise_in(paid) * float(np.sqrt(sites))):
        raise ProtocolError("", "screen", f"of the sites one has lied: {reason}")
