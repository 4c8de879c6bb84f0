"""Before the first round: who takes part, under which keys, and the model they start from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedlearn import models
from fedlearn.agreement import dimension_of, least_of
from fedlearn.algorithms import cohort_size
from fedlearn.auditing.settings import slots_of
from fedlearn.config import RunConfig, plan_of
from fedlearn.config.contradictions import learner_problems, task_problems
from fedlearn.config.study import sign_terms
from fedlearn.core.errors import ConfigError, DataError, ProtocolError, StoppedError
from fedlearn.core.names import checked_site_name
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Layout, Vector, layout_of, to_vector
from fedlearn.crypto.identity import PUBLIC_BYTES, Identity
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.tables.schema import differences, suspicions
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import SiteGrid
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.models.slots import attach, without_slots
from fedlearn.rounds import Description, Hello, TermsOffer
from fedlearn.secagg.proven import ProvingHelper
from fedlearn.secagg.settings import sum_of
from fedlearn.tasks import Task
from server.admission import SIMULATED, Admission
from server.aside import FailingSitesError, Invited, check, failing_in
from server.driver import SecAggDriver
from server.joining import Joining, Keys, draw_groups, join
from server.owners import OwnersWait
from server.parent import first_model
from server.public import PublicRecords
from server.receipts import Receipts, Signed
from server.secagg import DRIVERS
from server.waiting import Waiting


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
    """What is unusual in what the sites told, and in the model that the run begins from."""
    public: PublicRecords | None = None
    """What the coordinator trains on itself, where a rule against poisoning asks for it."""
    receipts: Receipts | None = None
    """Who asks sites to sign their ledgers; None where nothing is paid for, or all is one's own."""
    signed: Signed | None = None
    """What they signed before the first round."""
    owners: OwnersWait | None = None
    """How owners are waited for who have paused their site; None in a simulation."""

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
    part. Sites that cannot take part are set aside where that is allowed (`server.aside`), and the
    others are invited once more, to a run without them. Where runs are paid for and receipts are
    kept, each site has then signed what its ledger holds. Where sums are of groups, all open their
    shares of common randomness once nothing else can fail.

    Raises:
        ConfigError, DataError, PrivacyError: what the sites refused, all together.
        ProtocolError: nodes did not answer, two claim one name, or a site did not join.
    """
    identity = admission.identity or Identity.new()
    nodes = _wait_for_nodes(grid, config.strategy.min_sites, admission, stopping)
    named = {admission.nodes.get(node, f"node {node}"): node for node in nodes}
    aside: tuple[str, ...] = ()
    while True:
        by_name = SiteGrid(grid, named, admission.seconds, stopping)
        asked = _greeted(by_name, config, identity, admission, aside)
        sites = SiteGrid(grid, dict(asked.node_of), config.reply_timeout, stopping)
        try:
            joining = Joining(sites, config, run_id, identity, _offer(config, identity), admission)
            keys = join(joining, asked.hellos)
            described = _described(sites, admission)
            found = _start_model(config, sites, keys, described, asked.aside)
            found = _signed(found, config, run_id, admission)
            deployed = admission.identity is not None
            public = PublicRecords.of(config, found.task, deployed=deployed)
            # Last of all: what a site opens counts at home, whatever fails afterwards.
            drawn = draw_groups(sites, config, run_id, keys)
            return replace(found, public=public, keys=drawn, owners=admission.owners)
        except FailingSitesError as failing:
            # Invited for another hello as well: what they were committed to may be known by now.
            asked = asked.without(failing, config, admission)
            named, aside = dict(asked.node_of), asked.aside


def _greeted(
    grid: SiteGrid,
    config: RunConfig,
    identity: Identity,
    admission: Admission,
    aside: tuple[str, ...],
) -> Invited:
    """Who says hello, and may."""
    offer = _offer(config, identity)
    replies = grid.ask(flower.HELLO, offer, grid.sites, check=_hello)
    if admission.owners is not None:
        replies = admission.owners.settled(
            replies, lambda late: grid.ask(flower.HELLO, offer, late, check=_hello)
        )
    hellos, node_of, refused = {}, {}, dict[str, list[str]]()
    for name, reply in replies.answers.items():
        hello, node = _hello(reply.content), grid.node_of[name]
        if refusal := admission.refusal(node, hello) or _uncommitted(config, hello):
            refused[name] = [refusal]
        elif hello.site in hellos:
            raise ProtocolError(hello.site, "hello", "two nodes claim this name")
        else:
            hellos[hello.site], node_of[hello.site] = hello, node
    asked = Invited(hellos, node_of, aside)
    for failing in (failing_in(replies, "hello"), _not_let_in(refused)):
        if failing is not None:
            asked = asked.without(failing, config, admission)
    return asked


def _not_let_in(refused: Mapping[str, list[str]]) -> FailingSitesError | None:
    """Sites that are none of the run's, if there are any."""
    if not refused:
        return None
    reasons = "; ".join(reason for found in refused.values() for reason in found)
    return FailingSitesError(refused, ProtocolError("", "hello", reasons))


def _uncommitted(config: RunConfig, hello: Hello) -> str | None:
    """Why a site cannot have a part in common randomness, where the run needs it."""
    if config.robust.group_size is None or hello.commitment:
        return None
    return f"{hello.site}: is committed to no share of the randomness that groups are drawn by"


def _offer(config: RunConfig, identity: Identity) -> RecordDict:
    signature = sign_terms(identity, config.terms)
    return flower.hello_request(TermsOffer(terms=config.terms.hex(), signature=signature.hex()))


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
    waiting = Waiting(least, admission.seconds, admission.tell)
    while True:
        nodes = _sites_of(grid, admission)
        missing = sorted(name for node, name in admission.nodes.items() if node not in nodes)
        admission.absent.intersection_update(missing)  # who has come back is waited for again
        if len(nodes) >= max(least, admission.wanted - len(admission.absent)):
            return nodes
        if waiting.left < 0 and len(nodes) >= least:
            waiting.without(missing)
            admission.absent.update(missing)
            return nodes  # who comes later takes part in the next run
        if waiting.left < 0:
            raise waiting.over(len(nodes), missing)
        if stopping():
            raise StoppedError("stopped while waiting for sites")
        waiting.look(len(nodes), [name for name in missing if name not in admission.absent])
        time.sleep(0.2)


def _sites_of(grid: Grid, admission: Admission) -> list[int]:
    second = admission.helper and admission.helper.node
    return sorted(node for node in grid.get_node_ids() if node != second)


def _described(grid: SiteGrid, admission: Admission) -> dict[str, Description]:
    """What the sites' records look like: alike everywhere.

    Raises:
        FailingSitesError: a site refused or did not answer; or the records of some have another
            form than those of most sites.
        DataError: they are of different forms, none of which most sites have.
    """
    replies = grid.ask(flower.DESCRIBE, RecordDict(), grid.sites, flower.read_description)
    check(replies, "describe")
    found = {
        site: flower.read_description(reply.content) for site, reply in replies.answers.items()
    }
    error = _difference(found)
    if error is None:
        return found
    most = _most_alike(found) if admission.sets_aside else None
    if most is None:
        raise error
    usual, norm = next(iter(most.items()))
    apart = {site: _difference({usual: norm, site: one}) for site, one in found.items()}
    reasons = {site: str(one).splitlines() for site, one in apart.items() if one}
    raise FailingSitesError(reasons, error)


def _difference(found: Mapping[str, Description]) -> DataError | None:
    """What keeps sites with such records from training one model."""
    if lines := differences({site: one.schema for site, one in found.items()}):
        return DataError("\n".join(lines))
    form = next(iter(found.values())).task
    unlike = [site for site, one in found.items() if one.task != form]
    if not unlike:
        return None
    return DataError(
        f"records look different at {', '.join(unlike)} than at {next(iter(found))}: "
        "columns, categories and classes must be the same everywhere"
    )


def _most_alike(found: Mapping[str, Description]) -> dict[str, Description] | None:
    """More than half of the sites, whose records are of one form; None where there are none."""
    for one in found.values():
        alike = {s: other for s, other in found.items() if not _difference({"": one, s: other})}
        if 2 * len(alike) > len(found):
            return alike
    return None


def _signed(
    enrolled: Enrolment, config: RunConfig, run_id: bytes, admission: Admission
) -> Enrolment:
    """With what the sites sign of their ledgers, where they are asked for it.

    Raises:
        FailingSitesError: the ledger of a site has lost what the site had signed.
    """
    if admission.receipts is None or plan_for(config, enrolled) is None:
        return enrolled
    asking = Receipts(
        last=admission.receipts,
        grid=enrolled.grid,
        publics=enrolled.keys.publics,
        run_id=run_id.hex(),
        terms=config.terms.hex(),
    )
    signed = asking.ask()
    check(replace(signed.replies, failures={}), "receipt")
    return replace(enrolled, receipts=asking, signed=signed)


def _start_model(
    config: RunConfig,
    grid: SiteGrid,
    keys: Keys,
    sites: dict[str, Description],
    declined: tuple[str, ...],
) -> Enrolment:
    schemas = {site: one.schema for site, one in sites.items()}
    task = config.task.of(next(iter(sites.values())).task)
    if found := task_problems(config, task):
        raise ConfigError(found)
    weights = config.model.weights(default_cache(os.environ))
    learner = models.build(
        config.model, task, Streams(config.seed), config.training.trained_part, weights
    )
    model, parameters = learner.model, sum(p.numel() for p in learner.whole().parameters())
    attach(model, slots_of(config.audit))
    if found := learner_problems(config, learner, task):
        raise ConfigError(found)
    layout = layout_of(model)
    initial, begun = first_model(config, task, layout, to_vector(model))
    notes = (*suspicions(schemas), *begun)
    return Enrolment(grid, sites, keys, task, layout, parameters, initial, declined, notes)


def plan_for(config: RunConfig, enrolment: Enrolment) -> PrivacyPlan | None:
    """The privacy of a run over the enrolled sites, as each of them derives it too.

    Raises:
        ConfigError: it cannot be had with so many sites and so large a model.
    """
    dimension = dimension_of(config, enrolment.layout.size)
    return plan_of(config, sites=len(enrolment.sites), dimension=dimension, task=enrolment.task)


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
    if isinstance(helper, ProvingHelper):
        helper.min_cohort = least_of(plan, config.secagg.least)
    sites = enrolment.keys.publics or dict.fromkeys(enrolment.sites, b"")
    summing = DRIVERS[type(settings)](
        *(enrolment.grid, config, settings, plan, run_id, sites, enrolment.layout, helper),
        records=_records(enrolment),
    )
    summing.check()
    return summing


def _records(enrolment: Enrolment) -> dict[str, int]:
    """How many records sites have that have told it."""
    counts = {site: one.train_records for site, one in enrolment.sites.items()}
    return {site: count for site, count in counts.items() if count is not None}
