"""What of a config decides who could learn what, and the texts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlearn.config import RunConfig
from fedlearn.mechanisms import Privacy
from fedlearn.metrics.fairness import GroupFairness
from fedlearn.report.texts import texts


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What of a config decides who could learn what."""

    config: RunConfig
    mechanism: Privacy
    """What holds; `NoPrivacy` for a run whose noise can be repeated, or is none."""

    @classmethod
    def of(cls, config: RunConfig) -> Setup:
        """The setup that a config describes."""
        return cls(config=config, mechanism=config.privacy)

    @property
    def sum_only(self) -> bool:
        """Whether a single update stays closed, as far as the mechanism relies on it.

        Two servers in one place are one, to noise of which a single update carries a share.
        """
        alone = self.mechanism.noise_from == "shares"
        secagg = self.config.secagg
        return secagg.hides and not (alone and secagg.two_servers)

    @property
    def pooled(self) -> bool:
        """Whether nothing of an evaluation is opened but the sum over all sites."""
        return self.config.evaluation == "pooled" and self.config.secagg.hides

    @property
    def private_tests(self) -> bool:
        """Whether epsilon covers the test metrics."""
        return self.config.evaluation == "private" and self.mechanism.unit != "none"

    @property
    def summed_tests(self) -> bool:
        """Whether no test sums of a single site were opened."""
        return self.config.evaluation in ("pooled", "private") and self.config.secagg.hides

    @property
    def groups(self) -> GroupFairness | None:
        """By what the evaluation tells groups of people apart, if it does."""
        fairness = self.config.fairness
        return fairness if isinstance(fairness, GroupFairness) else None

    def texts(self, values: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """What templates about a setup are filled in with, and these templates beside them."""
        mine = {"setup": self, "config": self.config, **values}
        return texts(
            mine, "threats", "released", *names,
            mechanism=self.mechanism, secagg=self.config.secagg, transport=self.config.transport,
        )  # fmt: skip
