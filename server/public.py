"""The coordinator's public records: what training on them alone would change."""

from __future__ import annotations

import math
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
from fedlearn.privacy.noise import SeededNoise
from fedlearn.tasks import Loss, Task
from fedlearn.training.local import train

_PART: Final = 32
"""Records that go through the frozen part of a model together."""
_BATCH: Final = 256
"""Fewer public records than these in a batch, where there are more, say too little."""


@dataclass(frozen=True, kw_only=True)
class _Clipped:
    """Steps of clipped gradients; records that are public need no noise."""

    clip_norm: float
    sample_rate: float
    noise_multiplier: float = 0.0


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

    def __len__(self) -> int:
        return len(self.targets)

    def some(self, rows: NDArray[np.int64]) -> PublicRecords:
        """Those of these rows, by the same model."""
        chosen = torch.from_numpy(rows)
        return replace(self, inputs=self.inputs[chosen], targets=self.targets[chosen])

    def change(
        self, model: Vector, number: int, clip_norm: float | None = None
    ) -> NDArray[np.float64]:
        """What a round of training on them changes of the model, `float64[d]`.

        Where sites clip the gradient of every record to `clip_norm` it is done here as well, for
        it is another objective that is learned then, with other gradients and other curvature.
        """
        load_vector(self.learner.model, model)
        rng = Streams(self.config.seed).get("public", number)
        if clip_norm is None:
            train(
                self.learner.model, self.inputs, self.targets, self.config.training,
                loss=self._loss, rng=rng,
            )  # fmt: skip
        else:
            self._train_clipped(clip_norm, rng)
        return to_vector(self.learner.model).astype(np.float64) - model

    def loss(self, model: Vector) -> float:
        """The mean training loss of a model on them, as it is tested; infinite where it is none."""
        load_vector(self.learner.model, model)
        self.learner.model.eval()
        size, total = self.config.training.max_batch, 0.0
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(self)), size):
                outputs = self.learner.model(self.inputs[rows])
                total += float(self._loss(outputs.float(), self.targets[rows]).double().sum())
        return total / len(self) if math.isfinite(total) else math.inf

    @property
    def _loss(self) -> Loss:
        return self.task.training_loss(self.config.training.class_weights, torch.device("cpu"))

    def _train_clipped(self, clip_norm: float, rng: np.random.Generator) -> None:
        """As under privacy, without noise; batches are of enough records to say anything."""
        from fedlearn.training.private import train_private  # Opacus takes a second

        count, training = len(self), self.config.training
        rate = max(training.sample_rate, min(1.0, _BATCH / count))
        train_private(
            self.learner.model,
            self.inputs,
            self.targets,
            replace(training, sample_rate=rate, nominal_records=count, dp_engine="fast"),
            _Clipped(clip_norm=clip_norm, sample_rate=rate),
            loss=self._loss,
            noise=SeededNoise(rng.bytes(32)),
        )


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
    here = scenario.of_nobody(rule.public_path)
    pool = load_pool(here, streams, cache, "", config.task)
    dealt = deal(pool, {"public": np.arange(len(pool))}, all_sites=False)["public"]
    parts = (dealt.train, dealt.test)
    features = np.concatenate([one.features for one in parts])
    labels = np.concatenate([one.labels for one in parts])
    return pool, Records(features=features, labels=labels)
