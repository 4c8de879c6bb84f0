"""The coordinator's public records: what training on them alone would change."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlearn import models
from fedlearn.config import RunConfig
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.data import load_pool
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.pool import Pool, Records, deal, public_rows
from fedlearn.tasks import Task
from fedlearn.training.local import train

_PART: Final = 32
"""Records that go through the frozen part of a model together."""


@dataclass(frozen=True, eq=False)
class PublicRecords:
    """Records that are nobody's, as the model takes them, and the model that is trained on them."""

    config: RunConfig
    task: Task
    learner: models.Learner
    inputs: Tensor
    targets: Tensor

    @classmethod
    def of(cls, config: RunConfig, task: Task, *, deployed: bool) -> PublicRecords | None:
        """Those that the rule of a run asks for; None where it asks for none.

        Raises:
            ConfigError, DataError: there are none, or they are of another form than the sites'.
        """
        rule = config.robust
        if not rule.public_path and not rule.public_share:
            return None
        if deployed and not rule.public_path:
            raise ConfigError(
                "robust.public_file: sites on machines of their own give no records away. Set it "
                "to a file of public records at the coordinator"
            )
        pool, records = _read(config)
        if pool.task.form != task.form:
            raise DataError(
                "robust.public_file: the public records have other columns, categories or classes "
                "than those of the sites; they must be the same"
            )
        if not len(records):
            raise DataError(
                "robust.public: no record is public; raise it, or set robust.public_file"
            )
        weights = config.model.weights(default_cache(os.environ))
        learner = models.build(
            config.model, task, Streams(config.seed), config.training.trained_part, weights
        )
        inputs = torch.from_numpy(records.features)
        if learner.frozen is not None:
            learner.frozen.eval()
            with torch.no_grad():
                inputs = torch.cat([learner.frozen(part) for part in torch.split(inputs, _PART)])
        return cls(config, task, learner, inputs, torch.from_numpy(records.labels))

    def change(self, model: Vector, number: int) -> NDArray[np.float64]:
        """What a round of training on them changes of the model, `float64[d]`."""
        load_vector(self.learner.model, model)
        loss = self.task.training_loss(self.config.training.class_weights, torch.device("cpu"))
        rng = Streams(self.config.seed).get("public", number)
        train(
            self.learner.model, self.inputs, self.targets, self.config.training, loss=loss, rng=rng
        )
        return to_vector(self.learner.model).astype(np.float64) - model


def _read(config: RunConfig) -> tuple[Pool, Records]:
    """The public records, with all that is known of them."""
    rule, streams, cache = config.robust, Streams(config.seed), default_cache(os.environ)
    scenario = config.scenario
    if not rule.public_path:
        pool = load_pool(scenario, streams, cache, "", config.task)
        rows = np.flatnonzero(public_rows(pool, rule.public_share, streams))
        return pool, deal(pool, {"public": rows}, all_sites=False)["public"].train
    if not hasattr(scenario, "path"):
        raise ConfigError(
            f"robust.public_file: scenario={scenario.kind} is not read from a file. In a "
            "simulation set robust.public instead"
        )
    here = replace(scenario, path=rule.public_path)  # type: ignore[type-var]
    pool = load_pool(here, streams, cache, "", config.task)
    dealt = deal(pool, {"public": np.arange(len(pool))}, all_sites=False)["public"]
    parts = (dealt.train, dealt.test)
    features = np.concatenate([one.features for one in parts])
    labels = np.concatenate([one.labels for one in parts])
    return pool, Records(features=features, labels=labels)
