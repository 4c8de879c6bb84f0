"""A data owner's side of a run: its records, its noise, its ledger.

Nothing here is told by the server what it may spend: the plan is derived from
the config by the site itself, and what a round costs is written to the site's
own ledger before a record is touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from fedlearn import models
from fedlearn.config import RunConfig, decode, encode, task_problems
from fedlearn.data import Partition, Scenario, SiteData, assign, default_cache, deal, load_pool
from fedlearn.data.pool import Pool
from fedlearn.errors import ConfigError
from fedlearn.models.validate import dp_problems
from fedlearn.privacy import NoiseSource, PrivacyPlan, SeededNoise, SystemNoise, derive
from fedlearn.privacy.plan import problems as privacy_problems
from fedlearn.rng import Streams
from fedlearn.task import Task

TEST_NOISE = "FEDLEARN_TEST_NOISE"
"""A test may set this to a seed to make private runs repeat; the run then claims no privacy."""


@dataclass(frozen=True, eq=False)
class Site:
    """One site in one run."""

    name: str
    config: RunConfig
    task: Task
    data: SiteData
    data_sha256: str
    plan: PrivacyPlan | None
    model: nn.Module
    """Kept between rounds; every request brings its own weights."""
    ledger_path: Path

    def noise(self, round_number: int) -> NoiseSource:
        """Where this round's sampling and noise come from."""
        seed = os.environ.get(TEST_NOISE)
        if seed is None:
            return SystemNoise()
        return SeededNoise(f"{seed}/{self.name}/{round_number}".encode())


def open_site(node_config: Mapping[str, object], config: RunConfig) -> Site:
    """The site that this node is: by `partition-id` in a simulation.

    Raises:
        ConfigError: the config cannot be run on this site's records; every reason.
        DataError: the records cannot be read.
    """
    return _open(str(node_config["partition-id"]), encode(config))


@lru_cache(maxsize=4096)
def _open(partition_id: str, config_text: str) -> Site:
    config = decode(RunConfig, config_text)
    torch.set_num_threads(config.engine.threads)
    scenario = encode(config.scenario), encode(config.partition), config.seed
    pool, sites = _simulated_sites(*scenario)
    name = list(sites)[int(partition_id)]
    plan = plan_of(config)
    found = task_problems(config, pool.task)
    model = None if found else _model(encode(config.model), encode(pool.task), config.seed)
    if model is not None and plan:
        found += [f"model: {problem}" for problem in dp_problems(model)]
        found += privacy_problems(config.privacy, records=_smallest(sites))
    if model is None or found:
        raise ConfigError(found)
    ledger = Path(config.out) / "sites" / name / "ledger.jsonl"
    return Site(name, config, pool.task, sites[name], pool.sha256, plan, model, ledger)


def plan_of(config: RunConfig) -> PrivacyPlan | None:
    """What every site does for privacy in this run; the noise is calibrated once, for all rounds."""
    return derive(
        config.privacy,
        sample_rate=config.training.sample_rate,
        steps_per_round=config.training.local_steps,
        rounds=config.rounds,
    )


def simulated_sites(config: RunConfig) -> dict[str, SiteData]:
    """All sites of a simulation with their records, in the order of their names."""
    return _simulated_sites(encode(config.scenario), encode(config.partition), config.seed)[1]


@lru_cache(maxsize=2)
def _simulated_sites(
    scenario: str, partition: str, seed: int
) -> tuple[Pool, dict[str, SiteData]]:
    streams = Streams(seed)
    pool = load_pool(decode(Scenario, scenario), streams, default_cache())
    assignment = assign(decode(Partition, partition), pool, streams.get("partition"))
    return pool, deal(pool, assignment)


@lru_cache(maxsize=1)
def _model(model: str, task: str, seed: int) -> nn.Module:
    # One model serves all sites of a process: a request overwrites all of it.
    return models.build(decode(models.Model, model), decode(Task, task), Streams(seed))


def _smallest(sites: Mapping[str, SiteData]) -> int:
    return min(len(site.train) for site in sites.values())
