"""Test sums as sites tell them: checked, put together, and told apart by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import RecordDict

from fedlearn import flower
from fedlearn.agreement import groups_of
from fedlearn.core.errors import ProtocolError
from fedlearn.metrics.fairness import Fairness
from fedlearn.metrics.sums import SumLayout, Sums, added
from fedlearn.rounds import EvaluateReply


@dataclass(frozen=True, kw_only=True)
class GroupSums:
    """Test sums of groups of people: of every site that releases its own, and over all sites."""

    per_site: dict[str, dict[str, Sums]] = field(default_factory=dict)
    withheld: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Site -> the groups that are too small there to be shown."""
    pooled: dict[str, Sums] = field(default_factory=dict)


def check_sums(content: RecordDict, layout: SumLayout, fairness: Fairness) -> None:
    """Refuse test sums that cannot be added to those of the other sites.

    Raises:
        ValueError: they are of another form, or of a group that nobody asked for.
    """
    reply = flower.read_evaluate_reply(content, layout)
    if not {*reply.groups, *reply.withheld} <= set(groups_of(fairness)):
        raise ValueError("test sums of a group that nobody asked for")


def group_sums(reported: Mapping[str, EvaluateReply]) -> GroupSums:
    """What sites have shown of their groups, and the sums of that over the sites."""
    total: dict[str, Sums] = {}
    for _, reply in sorted(reported.items()):
        for name, sums in reply.groups.items():
            total[name] = total[name] + sums if name in total else sums
    return GroupSums(
        per_site={site: reply.groups for site, reply in reported.items() if reply.groups},
        withheld={site: reply.withheld for site, reply in reported.items() if reply.withheld},
        pooled=total,
    )


def pooled(per_site: Mapping[str, Sums]) -> Sums:
    """The sums over all sites, added in the order of their names.

    Raises:
        ProtocolError: there is none.
    """
    if not per_site:
        raise ProtocolError("", "evaluate", "no site answered")
    return added([per_site[site] for site in sorted(per_site)])
