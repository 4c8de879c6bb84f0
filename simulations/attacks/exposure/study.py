"""The runs of an audit of repeated secrets: the study with canaries, and its twin without
privacy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from flwr.clientapp import ClientApp

from clients.records import records_digest, simulated_sites, simulated_task
from fedlearn.config import RunConfig, load, to_tree
from fedlearn.core.errors import ConfigError, refuse
from fedlearn.data import SiteData
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.texts.language import Encoder, LanguageTokens, open_encoder
from fedlearn.mechanisms import NoPrivacy
from fedlearn.tasks import Task, TextInput
from simulations.attacks.exposure.canaries import Canary, drawn, fit_problems, inserted
from simulations.attacks.exposure.carrier import Carrier
from simulations.attacks.exposure.words import AskedExposure, ExposureSettings
from simulations.attacks.studies import OWN, study_of
from simulations.sweeps.points import without

FOLDER: Final = "exposure"
"""Where the runs of an audit are, in the folder of the run or of the study."""

PRIVATE, PLAIN = "private", "plain"


@dataclass(frozen=True, kw_only=True, eq=False)
class ExposureTrial:
    """One run of the study with canaries at one site."""

    name: str
    config: RunConfig
    client: Callable[[], ClientApp]
    besides: list[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExposureStudy:
    """The runs, the canaries in them, and what reads these."""

    settings: ExposureSettings
    config: RunConfig
    task: Task
    encoder: Encoder
    site: str
    records: int
    """Training records of that site, without canaries."""
    canaries: tuple[Canary, ...]
    trials: tuple[ExposureTrial, ...]

    @property
    def text(self) -> TextInput:
        """The form of a record."""
        return _text(self.task)


def plan(asked: AskedExposure) -> ExposureStudy:
    """The runs that are asked for.

    Raises:
        ConfigError: the study cannot be run, or has no room for the canaries; every reason.
        DataError: its records, or the run that it is of, cannot be read.
    """
    settings, base = asked.settings, study_of(asked.run, asked.study)
    task = simulated_task(base)
    if not task.next_tokens:
        raise ConfigError(
            f"demo=exposure: looks for texts that a model goes on with, and task={task.kind} "
            "writes none; it is for task=language, as in experiment=legal_drafting"
        )
    sites, text = simulated_sites(base), _text(task)
    tokens = LanguageTokens(folder=text.tokenizer, max_length=text.max_length)
    encoder = open_encoder(tokens, default_cache(os.environ))
    site = settings.site or max(sites, key=lambda name: len(sites[name].train))
    canaries = drawn(settings, settings.prompt or base.scenario.canary, base.seed)
    refuse(
        [
            *_site_problems(settings, sites, site),
            *fit_problems(canaries, encoder, settings, text.max_length),
        ],
        ConfigError,
    )
    mine = sites[site].train
    given = inserted(canaries, encoder, mine, text.max_length)
    carrier = Carrier(number=list(sites).index(site), canaries=given)
    folder = (asked.run or Path(base.out)).resolve() / FOLDER
    trials = [
        ExposureTrial(
            name=name,
            config=replace(config, out=str(folder / name)),
            client=carrier,
            besides=[site, records_digest(given)],
        )
        for name, config in _configs(asked, base)
    ]
    return ExposureStudy(
        settings=settings,
        config=base,
        task=task,
        encoder=encoder,
        site=site,
        records=len(mine),
        canaries=canaries,
        trials=tuple(trials),
    )


def _text(task: Task) -> TextInput:
    if not isinstance(task.input, TextInput):
        raise TypeError(f"task={task.kind} has next tokens, and its records are no texts")
    return task.input


def _site_problems(
    settings: ExposureSettings, sites: dict[str, SiteData], site: str
) -> Iterator[str]:
    if site not in sites:
        yield f"{OWN}site: {site} is none of {', '.join(sites)}"
        return
    there = len(sites[site].train)
    if settings.inserted > there:
        yield (
            f"{OWN}canaries={settings.canaries}: with {OWN}repetitions="
            f"{list(settings.repetitions)} they are {settings.inserted} records, more than the "
            f"{there} that {site} trains on; give fewer, or fewer repetitions, or another "
            f"{OWN}site"
        )


def _configs(asked: AskedExposure, base: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """The study with its privacy, if it has one, and without."""
    if base.privacy.unit == "none":
        yield PLAIN, base
        return
    yield PRIVATE, base
    # What the budget paid for is not to be had without one.
    evaluation = "pooled" if base.evaluation == "private" else base.evaluation
    if asked.run:
        plain = replace(base, privacy=NoPrivacy(), evaluation=evaluation)
        yield PLAIN, load(to_tree(plain))
        return
    words = [*without(asked.study, "privacy", "evaluation"), "privacy=none"]
    yield PLAIN, study_of(None, [*words, f"evaluation={evaluation}"])
