"""Which test metrics a run releases, in words: what is exact and outside of any epsilon."""

from __future__ import annotations

from fedlearn.config import RunConfig
from fedlearn.fairness import GroupFairness


def released(config: RunConfig) -> str:
    """What everyone learns from the evaluation that `config` asks for."""
    if config.evaluation == "pooled" and config.secagg.kind in ("masked", "two_server"):
        return f"Test metrics: only their sum over all sites was opened, exact.{_summed(config)}"
    return (
        "Test metrics: every site released its own, exact and not covered by any epsilon"
        f"{_by_group(config)}; evaluation=pooled under secure aggregation opens their sum alone."
    )


def _summed(config: RunConfig) -> str:
    if not isinstance(config.fairness, GroupFairness):
        return ""
    return (
        f" So were the sums over groups by {config.fairness.column!r}; the coordinator saw all of "
        f"them, and passed on those of at least {config.fairness.smallest} test records."
    )


def _by_group(config: RunConfig) -> str:
    if not isinstance(config.fairness, GroupFairness):
        return ""
    return (
        f", and with them those of its groups by {config.fairness.column!r} that have at least "
        f"{config.fairness.smallest} test records there"
    )
