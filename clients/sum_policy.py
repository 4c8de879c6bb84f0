"""What a site holds every sum to: its own reading of the run, never the request's.

Length, ring, plan, layout and the fewest sites to hide among follow from the config
that the site agreed to, the roster that it pinned and the policy of its owner. A
request is compared with them; nothing is adopted from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from flwr.app import Context

from clients.joining import SERVER, joined_run, plan_of, roster_of, secret_bytes
from clients.site import Site
from fedlearn.agreement import (
    Part,
    evaluate_payload,
    least_of,
    payload_of,
    plan_digest,
    protocol_round,
    route_of,
    settings_of,
    stack_of,
)
from fedlearn.core.errors import ProtocolError
from fedlearn.core.vector import layout_of
from fedlearn.crypto.roster import Roster
from fedlearn.mechanisms import PrivacyPlan
from fedlearn.secagg.messages import Params
from fedlearn.secagg.policy import ClientPolicy
from fedlearn.secagg.settings import SecAggMasked, SecAggSum
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Form


def params_of(request: bytes) -> Params:
    """The parameters that a request proposes.

    Raises:
        ProtocolError: they are not well-formed.
    """
    try:
        return Params.decode(request)
    except ValueError as error:
        raise ProtocolError(SERVER, "params", str(error)) from None


@lru_cache(maxsize=64)
def _digest_of(site: Site, payload: AnyPayload, part: Part, plan: PrivacyPlan | None) -> bytes:
    return plan_digest(site.config, payload, part, plan)


@dataclass(frozen=True, eq=False)
class SumPolicy:
    """A site's own terms for one sum: `part` of round `number`."""

    site: Site
    context: Context
    settings: SecAggSum
    part: Part
    number: int

    @cached_property
    def _plan(self) -> PrivacyPlan | None:
        return plan_of(self.site, self.context)

    @cached_property
    def _form(self) -> Form:
        size = layout_of(self.site.model).size
        return route_of(self.site.config, self._plan).form(stack_of(self.site.config, size))

    def payload(self, sites: int = 0) -> AnyPayload:
        """The form of the contribution to a sum over so many `sites`; else over all on the roster.

        Raises:
            ConfigError: the ring is too small for that many sites.
        """
        sites = sites or len(self._roster().sites())
        if self.part == "train":
            return payload_of(self._form, self.settings, sites)
        layout, fairness = self.site.task.sum_layout, self.site.config.fairness
        return evaluate_payload(self.settings, sites, layout, fairness)

    def _roster(self) -> Roster:
        return roster_of(str(joined_run(self.context, self.part)["roster"]))

    def policy(self, settings: SecAggMasked, after_round: int) -> ClientPolicy:
        """What a masked session compares every proposal with."""
        payload = self.payload()
        return ClientPolicy(
            name=self.site.name,
            sites=self._roster().sites(),
            settings=self._rules(settings),
            run_id=secret_bytes(joined_run(self.context, self.part)["run-id"]),
            after_round=after_round,
            length=payload.length,
            layout_hash=self._layout_hash,
            plan_hash=self._plan_hash(payload),
        )

    @cached_property
    def _layout_hash(self) -> bytes:
        return bytes.fromhex(layout_of(self.site.model).digest())

    def _plan_hash(self, payload: AnyPayload) -> bytes:
        return _digest_of(self.site, payload, self.part, self._plan)

    def _rules(self, settings: SecAggMasked) -> SecAggMasked:
        """The ring, and the fewest sites in whose sum this site lets itself be hidden."""
        rules = settings
        if self.part == "train":
            rules = settings_of(settings, self._form, self._plan)
        return replace(rules, min_cohort=self._least(rules.min_cohort))

    def _least(self, min_cohort: int) -> int:
        """The fewest sites: of the settings, the noise that the plan counts on, and the owner."""
        policy = self.site.owner.policy
        planned = least_of(self._plan, min_cohort) if self.part == "train" else min_cohort
        return max(planned, policy.min_cohort if policy else 0)

    def check_cohort(self, params: Params) -> None:
        """Refuse strangers, a cohort without this site, and one too small to hide in.

        Raises:
            ProtocolError: the cohort is one of these.
        """
        sites, cohort = self._roster().sites(), set(params.cohort)
        if self.site.name not in cohort or not cohort <= sites.keys():
            raise ProtocolError(SERVER, "mask", "the cohort is not of this run's sites")
        if len(cohort) < self._least(self.settings.least):
            raise ProtocolError(SERVER, "mask", f"a cohort of {len(cohort)}")

    def check(self, params: Params, payload: AnyPayload, model_hash: bytes) -> None:
        """What a site checks before it sends its one message to two servers.

        Raises:
            ProtocolError: run, round, form, plan or model are not this site's.
        """
        joined = joined_run(self.context, "mask")
        own = (
            secret_bytes(joined["run-id"]),
            payload.ring.bits,
            payload.length,
            self._layout_hash,
            self._plan_hash(payload),
            model_hash,
        )
        got = (
            params.run_id,
            params.bits,
            params.length,
            params.layout_hash,
            params.plan_hash,
            params.model_hash,
        )
        if got != own or params.round != protocol_round(self.part, self.number):
            raise ProtocolError(SERVER, "mask", "run, round, form, plan or model differ")
