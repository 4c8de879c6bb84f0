"""The words of `fedlearn audit demo=poison`: what they may say, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from fedlearn.config import decode
from fedlearn.config.saved import read_value
from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family
from fedlearn.core.settings import Count, config
from fedlearn.robust import ROBUST
from simulations.attacks.poison import ATTACKS
from simulations.attacks.studies import OWN, AuditWords

T = TypeVar("T")


@config
class PoisonSettings:
    """What the audit takes as `audit.NAME=value`."""

    liars: Count | tuple[str, ...] | None = None
    """How many sites lie, or which by name; of themselves one of six, and at least one."""
    attacks: tuple[str, ...] | None = None
    """By name; of themselves all. With none the sites are honest, and only false alarms show."""
    rules: tuple[str, ...] | None = None
    """By name; of themselves all that the study has room for."""
    metric: str | None = None
    """What models are tried by; of itself the first metric of the task."""
    seeds: Count = 2
    """Runs of each pair of an attack and a rule: with the seed of the study, and those after it."""
    workers: Count | None = None
    """Runs at a time; without it, as many as fit the cores."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The words of the command, understood.

    `study` are its other words, by which a config is composed; `run` is the folder of a run that
    has one, where the study is that of a run. `tuned` are the settings of attacks and of rules
    by `KIND.field`.
    """

    settings: PoisonSettings
    study: tuple[str, ...]
    run: Path | None
    tuned: Mapping[str, Any]


def read_words(words: Sequence[str]) -> Asked:
    """What the words of the command say.

    Raises:
        ConfigError: with everything that is wrong with them but for what Hydra finds.
    """
    parts = AuditWords.of(words)
    found = [*parts.problems()]
    tree, tuned = dict[str, Any](), dict[str, Any]()
    for word in parts.own:
        key, _, text = word.removeprefix(OWN).partition("=")
        (tuned if "." in key else tree)[key] = read_value(word, text)
    for key in ("liars", "attacks", "rules"):
        if isinstance(tree.get(key), str):
            tree[key] = [tree[key]]
    try:
        settings = decode(PoisonSettings, json.dumps(tree))
    except ConfigError as error:
        raise ConfigError([*found, *(f"{OWN}{one}" for one in error.problems)]) from None
    found += [*_unknown(settings, tuned)]
    if found:
        raise ConfigError(found)
    return Asked(settings=settings, study=parts.study, run=parts.run, tuned=tuned)


def _unknown(settings: PoisonSettings, tuned: Mapping[str, Any]) -> Iterator[str]:
    for name, kinds in (("attacks", ATTACKS.kinds), ("rules", ROBUST.kinds)):
        strange = [kind for kind in getattr(settings, name) or () if kind not in kinds]
        yield from (f"{OWN}{name}: {kind} is none of {', '.join(kinds)}" for kind in strange)
    for key in tuned:
        kind, _, field = key.partition(".")
        if kind not in ATTACKS.kinds:
            yield f"{OWN}{key}: {kind} is none of {', '.join(ATTACKS.kinds)}"
        elif field not in names_of(option_of(ATTACKS, kind)):
            yield f"{OWN}{key}: {kind} has no {field}"


def option_of(family: Family[T], kind: str) -> type[T]:
    """The class of this kind; raises ConfigError where there is none."""
    option = family.find(kind)
    if option is None:
        raise ConfigError(f"{family.group}={kind}: must be one of {', '.join(family.kinds)}")
    return option


def names_of(option: type[Any]) -> list[str]:
    """The fields of a config class."""
    return [one.name for one in fields(option)]
