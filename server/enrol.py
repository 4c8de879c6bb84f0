"""Before the first round: who takes part, under which keys, and the model they start from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlearn import models
from fedlearn.agreement import dimension_of, draw_of, least_of
from fedlearn.algorithms import cohort_size
from fedlearn.auditing.settings import slots_of
from fedlearn.config import RunConfig, plan_of
from fedlearn.config.contradictions import private_learner_problems, task_problems
from fedlearn.config.study import sign_run, sign_terms
from fedlearn.core.errors import (
    ConfigError,
    DataError,
    PrivacyError,
    ProtocolError,
    StoppedError,
)
from fedlearn.core.names import checked_site_name, name_problem
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Layout, Vector, layout_of, to_vector
from fedlearn.crypto.common import seed_of
from fedlearn.crypto.handshake import ServerOffer
from fedlearn.crypto.identity import PUBLIC_BYTES, Identity
from fedlearn.crypto.roster import Participant, Roster
from fedlearn.crypto.settings import TransportSealed
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.tables.schema import differences, suspicions
from fedlearn.flower import messages as flower
from fedlearn.flower.records import read_small_bytes
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.models.slots import attach, without_slots
from fedlearn.robust import Draw
from fedlearn.rounds import Description, Hello, Invitation, Openings, Refusal, TermsOffer
from fedlearn.secagg.settings import sum_of
from fedlearn.secagg.two_server import Helper
from fedlearn.tasks import Task
from server.admission import SIMULATED, Admission
from server.grid import Replies, SiteGrid
from server.public import PublicRecords
from server.sealing import Sealing
from server.secagg import DRIVERS, SecAggDriver

SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The public keys of the sites that have joined under one, and the second server, if any."""

    publics: Mapping[str, bytes]
    helper: Helper | None = None
    openings: Openings | None = None
    """The sites' shares of common randomness, where the run needs it."""
    draw: Draw | None = None
    """The groups of every round, which follow from that; None: all sites are summed together."""


@dataclass(frozen=True)
class Enrolment:
    """The sites of a run and the model they start from."""

    grid: SiteGrid
    sites: dict[str, Description]
    """What every site has told of its records."""
    keys: Keys
    task: Task
    """What all sites learn."""
    layout: Layout
    parameters: int
    initial: Vector
    declined: tuple[str, ...] = ()
    """Why sites that were asked take no part in the run."""
    notes: tuple[str, ...] = ()
    """What is unusual in what the sites told."""
    public: PublicRecords | None = None
    """What the coordinator trains on itself, where a rule against poisoning asks for it."""

    @property
    def trainable(self) -> Layout:
        """The layout of the model that is trained, without audit slots."""
        return without_slots(self.layout)


def enrol(
    grid: Grid,
    config: RunConfig,
    stopping: Callable[[], bool],
    run_id: bytes,
    admission: Admission = SIMULATED,
) -> Enrolment:
    """Ask every node who it is, have it join, and build the model that all of them can train.

    A site hears the terms first, tells of its records last, and is not invited unless it takes
    part. Under `privacy.on_exhausted=drop_site` sites whose budget or policy refuses are
    left out, while `strategy.min_sites` are there.

    Raises:
        ConfigError, DataError, PrivacyError: what the sites refused, all together.
        ProtocolError: nodes did not answer, two claim one name, or a site did not join.
    """
    identity = admission.identity or Identity.new()
    nodes = _wait_for_nodes(grid, config.strategy.min_sites, admission, stopping)
    seconds = admission.seconds
    by_node = SiteGrid(grid, {f"node {node}": node for node in nodes}, seconds, stopping)
    replies = by_node.ask(flower.HELLO, _offer(config, identity), by_node.sites, check=_hello)
    declined = _left_out(config, replies)
    if replies.failures:
        raise ProtocolError("", "hello", listed(replies.failures))
    hellos, node_of, refused = {}, {}, list[str]()
    for reply in replies.answers.values():
        hello = _hello(reply.content)
        if hello.site in hellos:
            raise ProtocolError(hello.site, "hello", "two nodes claim this name")
        if refusal := admission.refusal(reply.metadata.src_node_id, hello):
            refused.append(refusal)
        hellos[hello.site], node_of[hello.site] = hello, reply.metadata.src_node_id
    if refused:
        raise ProtocolError("", "hello", "; ".join(refused))
    sites = SiteGrid(grid, node_of, config.reply_timeout, stopping)
    keys = _join(sites, config, run_id, identity, hellos)
    found = _start_model(config, sites, keys, _described(sites, keys), declined)
    deployed = admission.identity is not None
    return replace(found, public=PublicRecords.of(config, found.task, deployed=deployed))


def _offer(config: RunConfig, identity: Identity) -> RecordDict:
    signature = sign_terms(identity, config.terms)
    return flower.hello_request(TermsOffer(terms=config.terms.hex(), signature=signature.hex()))


def _left_out(config: RunConfig, replies: Replies) -> tuple[str, ...]:
    """Why the sites that refused for privacy are left out, where the config allows that."""
    private = [r for r in replies.refusals if r.exit_code == PrivacyError.exit_code]
    enough = len(replies.answers) >= config.strategy.min_sites
    if config.privacy.drops_sites and enough and len(private) == len(replies.refusals):
        return tuple(reason for refusal in private for reason in refusal.reason.splitlines())
    raise_refusals(replies.refusals)
    return ()


def _hello(content: RecordDict) -> Hello:
    """A site's introduction; ValueError for a name or a key that cannot be one."""
    hello = flower.read_hello(content)
    checked_site_name(hello.site)
    if hello.public_key and len(bytes.fromhex(hello.public_key)) != PUBLIC_BYTES:
        raise ValueError("not a public key")
    return hello


def _wait_for_nodes(
    grid: Grid, least: int, admission: Admission, stopping: Callable[[], bool]
) -> list[int]:
    deadline = time.monotonic() + admission.seconds
    while len(nodes := sorted(grid.get_node_ids())) < max(least, admission.wanted):
        if time.monotonic() > deadline and len(nodes) >= least:
            return nodes  # who comes later takes part in the next run
        if time.monotonic() > deadline:
            raise ProtocolError("", "hello", f"{len(nodes)} of at least {least} sites connected")
        if stopping():
            raise StoppedError("stopped while waiting for sites")
        time.sleep(0.2)
    return nodes


def _described(grid: SiteGrid, keys: Keys) -> dict[str, Description]:
    """What the sites' records look like.

    Raises:
        ConfigError, DataError, PrivacyError: what the sites refused, all together.
        ProtocolError: one did not answer.
    """
    question = flower.openings_request(keys.openings)
    replies = grid.ask(flower.DESCRIBE, question, grid.sites, flower.read_description)
    raise_refusals(replies.refusals)
    if replies.failures:
        raise ProtocolError("", "describe", listed(replies.failures))
    return {site: flower.read_description(reply.content) for site, reply in replies.answers.items()}


def _start_model(
    config: RunConfig,
    grid: SiteGrid,
    keys: Keys,
    sites: dict[str, Description],
    declined: tuple[str, ...],
) -> Enrolment:
    schemas = {site: one.schema for site, one in sites.items()}
    if found := differences(schemas):
        raise DataError("\n".join(found))
    form = next(iter(sites.values())).task
    unlike = [site for site, one in sites.items() if one.task != form]
    if unlike:
        raise DataError(
            f"records look different at {', '.join(unlike)} than at {next(iter(sites))}: "
            "columns, categories and classes must be the same everywhere"
        )
    task = config.task.of(form)
    if found := task_problems(config, task):
        raise ConfigError(found)
    weights = config.model.weights(default_cache(os.environ))
    learner = models.build(
        config.model, task, Streams(config.seed), config.training.trained_part, weights
    )
    model, parameters = learner.model, sum(p.numel() for p in learner.whole().parameters())
    attach(model, slots_of(config.audit))
    if found := private_learner_problems(config, learner, task):
        raise ConfigError(found)
    notes = tuple(suspicions(schemas))
    layout, initial = layout_of(model), to_vector(model)
    return Enrolment(grid, sites, keys, task, layout, parameters, initial, declined, notes)


def plan_for(config: RunConfig, enrolment: Enrolment) -> PrivacyPlan | None:
    """The privacy of a run over the enrolled sites, as each of them derives it too.

    Raises:
        ConfigError: it cannot be had with so many sites and so large a model.
    """
    dimension = dimension_of(config, enrolment.layout.size)
    return plan_of(config, sites=len(enrolment.sites), dimension=dimension, task=enrolment.task)


# --- keys -------------------------------------------------------------------------


def _join(
    grid: SiteGrid,
    config: RunConfig,
    run_id: bytes,
    identity: Identity,
    hellos: Mapping[str, Hello],
) -> Keys:
    """Have the sites with keys take the run's roster, and open the channels to them.

    The coordinator's `identity` signs the roster of the keys that the sites said in their hello.

    Raises:
        ProtocolError: a site did not accept.
    """
    publics = {
        site: bytes.fromhex(hello.public_key) for site, hello in hellos.items() if hello.public_key
    }
    if not publics:
        return Keys(publics={})
    helper, offer = None, None
    if config.secagg.two_servers:
        helper = Helper(run_id, publics, min_cohort=config.secagg.least)
    if isinstance(config.transport, TransportSealed):
        classical = config.transport.allow_classical
        offer = ServerOffer(identity, run_id, config.terms, SERVER, allow_classical=classical)
    invitation = Invitation(
        run_id=run_id.hex(),
        roster=_roster(config, publics, identity).to_json(),
        offer=offer.message.hex() if offer else "",
        helper=helper.public.hex() if helper else "",
        signature=sign_run(identity, config.terms, run_id, helper.public if helper else b"").hex(),
        commitments={site: one.commitment for site, one in hellos.items() if one.commitment},
    )
    accepted, openings = _invite(grid, invitation)
    if offer and isinstance(config.transport, TransportSealed):
        channels = {site: offer.finish(site, publics[site], accepted[site]) for site in publics}
        grid.sealing = Sealing(channels, config.transport.max_bytes)
    draw = _draw(config, publics, invitation, openings)
    return Keys(publics=publics, helper=helper, openings=openings if draw else None, draw=draw)


def _draw(
    config: RunConfig, publics: Mapping[str, bytes], invitation: Invitation, openings: Openings
) -> Draw | None:
    """The groups of every round, where sums are of groups.

    Raises:
        ProtocolError: a site has not opened the share that it was committed to.
    """
    if config.robust.group_size is None:
        return None
    run_id = bytes.fromhex(invitation.run_id)
    try:
        seed = seed_of(openings.shares, run_id, invitation.commitments, publics)
    except ValueError as error:
        raise ProtocolError("", "join", str(error)) from None
    return draw_of(config, publics, seed)


def secagg_driver(
    enrolment: Enrolment, config: RunConfig, plan: PrivacyPlan | None, run_id: bytes
) -> SecAggDriver[Any] | None:
    """Who sums over the sites of a run; None where updates stay in clear.

    Raises:
        ConfigError: the ring is too small, or the cohort for its threshold, or for the rule.
    """
    config.robust.check(cohort_size(config.strategy, len(enrolment.sites)))
    settings = sum_of(config.secagg)
    if settings is None:
        return None
    helper = enrolment.keys.helper
    if helper:
        helper.min_cohort = least_of(plan, config.secagg.least)
    sites = enrolment.keys.publics or dict.fromkeys(enrolment.sites, b"")
    summing = DRIVERS[type(settings)](
        enrolment.grid, config, settings, plan, run_id, sites, enrolment.layout, helper
    )
    summing.check()
    return summing


def _roster(config: RunConfig, publics: Mapping[str, bytes], identity: Identity) -> Roster:
    sites = tuple(Participant(name=s, role="site", public=key) for s, key in publics.items())
    coordinator = Participant(name=SERVER, role="server", public=identity.public)
    federation = "run" if name_problem(config.experiment) else config.experiment
    return Roster.sign(federation, (*sites, coordinator), identity)


def _invite(grid: SiteGrid, value: Invitation) -> tuple[dict[str, bytes], Openings]:
    """What the sites answer: their halves of the set-up of channels, and their shares."""
    replies = grid.exchange(
        (
            Message(
                flower.invitation(value), dst_node_id=grid.node_of[site], message_type=flower.JOIN
            )
            for site in grid.sites
        ),
        flower.read_opening,
    )
    raise_refusals(replies.refusals)
    if replies.failures:
        raise ProtocolError("", "join", listed(replies.failures))
    accepted, shares = {}, {}
    for site, reply in replies.answers.items():
        accepted[site] = read_small_bytes(reply.content, "accepted") or b""
        if opening := flower.read_opening(reply.content):
            shares[site] = opening
    return accepted, Openings(shares=shares)


def raise_refusals(refusals: Sequence[Refusal]) -> None:
    """One error for all refusals: of the kind that most needs the user, with every reason."""
    if not refusals:
        return
    code = min(refusal.exit_code for refusal in refusals)
    reasons = dict.fromkeys(
        reason for refusal in refusals for reason in refusal.reason.splitlines()
    )
    if code == ConfigError.exit_code:
        raise ConfigError(list(reasons))
    for kind in (PrivacyError, DataError):
        if code == kind.exit_code:
            raise kind("\n".join(reasons))
    raise ProtocolError("", "refused", "; ".join(reasons))


def listed(failures: Mapping[str, str]) -> str:
    """`site: reason` of every failure, in one line."""
    return "; ".join(f"{site}: {reason}" for site, reason in failures.items()) or "no failures"
