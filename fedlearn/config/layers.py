"""What the files of `configs/` make of a choice of groups: layers, one over another.

An experiment's file lies over the options that it chose and over `run.yaml`. Hydra reads every
file again for each choice, which takes it a tenth of a second, and a sweep has hundreds of points.
So what these files use of its language is put together here, each file read once: `run.yaml` names
an option of every group, and an experiment (`@package _global_`) overrides some of them. A file
that uses more, and whatever else an override can be, goes through Hydra whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedlearn.core import registry, yaml_file
from fedlearn.core.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_GROUP: Final = r"([a-z_]+)"
_CHOICE: Final = re.compile(rf"{_GROUP}=(\w+)", re.ASCII)
_HEADER: Final = re.compile(r"#\s*@")
_SELF: Final = "_self_"

Tree = dict[str, Any]


@lru_cache(maxsize=256)
def composed(overrides: tuple[str, ...]) -> Tree:
    """The values under overrides that choose, references not resolved; not to be changed.

    What an experiment sets inside a group belongs to the option that it chose there. Where
    another is chosen, the values of a model go with it, whose names mean other things in
    another model; of the other groups, those that the other option does not have.

    Raises:
        HydraException, ValueError: an override is not one.
        ConfigError: the package that brings an option, or its file, cannot be read.
    """
    tree, keys = _from_files(overrides), {_key(text) for text in overrides}
    if "experiment" not in keys:
        return tree
    meant = _from_files(tuple(text for text in overrides if _key(text) == "experiment"))
    for group in sorted(key for key in keys if isinstance(tree.get(key), dict)):
        if tree[group].get("kind") != meant[group].get("kind"):
            without = tuple(text for text in overrides if _key(text) != "experiment")
            own = _from_files(without)[group]
            tree = tree | {group: own if group == "model" else _pruned(tree[group], own)}
    return tree


def _key(override: str) -> str:
    return override.partition("=")[0]


def _pruned(node: Tree, known: Tree) -> Tree:
    """The mapping without keys that `known` has not."""
    kept = {key: child for key, child in node.items() if key in known}
    inside = [key for key, child in kept.items() if isinstance(child, dict) and known[key]]
    return kept | {
        key: _pruned(kept[key], known[key]) for key in inside if isinstance(known[key], dict)
    }


@lru_cache(maxsize=256)
def _from_files(overrides: tuple[str, ...]) -> Tree:
    """What Hydra makes of the files; not to be changed by who gets it."""
    try:
        return _together(_choices(overrides))
    except _HydrasError:
        return _by_hydra(overrides)


# --- without Hydra ----------------------------------------------------------------------


class _HydrasError(Exception):
    """It takes Hydra to read this, or to say what is wrong with it."""


class _File(NamedTuple):
    """One file of `configs/`, or the values of an option that a package brings."""

    everywhere: bool
    """Its keys are those of the whole tree, and not of its group."""
    defaults: tuple[tuple[str, str | None], ...]
    """Options of groups in their order; in `run.yaml` its own place among them too."""
    values: Tree


def _choices(overrides: tuple[str, ...]) -> dict[str, str]:
    """Which option of which group."""
    found: dict[str, str] = {}
    for override in overrides:
        choice = _CHOICE.fullmatch(override)
        if choice is None or choice[1] in found:
            raise _HydrasError(override)
        found[choice[1]] = choice[2]
    return found


def _together(chosen: Mapping[str, str]) -> Tree:
    """The files under a choice, in the order of the defaults of `run.yaml`."""
    run = _file("", "run")
    options: dict[str, str | None] = {**dict(run.defaults), **chosen}
    files = {group: _file(group, option) for group, option in options.items() if option}
    choosing = [file for file in files.values() if file.defaults]
    for group, option in (default for file in choosing for default in file.defaults):
        if group not in chosen:
            files[group] = _file(group, option or "")
    more = len(choosing) > 1 or [file for file in files.values() if file.defaults] != choosing
    if more or not files.keys() | options.keys() <= dict(run.defaults).keys():
        raise _HydrasError("files that choose among each other, or no such group")
    tree: Tree = {}
    for group in options:
        if group == _SELF:
            tree = _over(tree, run.values)
        elif group in files:
            file = files[group]
            tree = _over(tree, file.values if file.everywhere else {group: file.values})
    return tree


def groups_of_files() -> list[str]:
    """The groups of a run in which there is a choice."""
    folders = [folder for folder in sorted(CONFIGS.iterdir()) if folder.is_dir()]
    return [folder.name for folder in folders if len(options_of(folder.name)) > 1]


def options_of(group: str) -> list[str]:
    """What can be chosen in a group; nothing where there is none of this name.

    Every option of the house has a file; the names of those that packages bring are read from
    what is installed. Neither imports what it names.
    """
    own = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) if group else []
    return [*own, *(kind for kind in registry.plugin_kinds(group) if kind not in own)]


def _brought(group: str, option: str) -> Tree | None:
    """The values of an option that a package brings; None where none does."""
    if option not in registry.plugin_kinds(group):
        return None
    from fedlearn.config import groups  # all families, which take a second

    return groups.values_of(group, option)


@lru_cache(maxsize=256)
def _file(group: str, option: str) -> _File:
    """One file, or what a package brings."""
    path = CONFIGS / group / f"{option}.yaml"
    if not path.is_file():
        brought = _brought(group, option)
        if brought is None:
            raise _HydrasError(f"no {group}={option}")
        return _File(everywhere=False, defaults=(), values=brought)
    lines = filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines()))
    header = [*takewhile(_HEADER.match, lines)]
    try:
        values = yaml_file.read(path)
    except ConfigError as error:
        raise _HydrasError(str(error)) from None
    if header not in ([], ["# @package _global_"]):
        raise _HydrasError(f"{path}: {header}")
    values.pop("hydra", None)  # settings of its own, in `run.yaml`
    defaults = tuple(_default(entry, run=not group) for entry in values.pop("defaults", []))
    return _File(everywhere=bool(header), defaults=defaults, values=values)


def _default(entry: Any, *, run: bool) -> tuple[str, str | None]:
    """One of a file's defaults: an option of a group in `run.yaml`, another one elsewhere."""
    if run and entry == _SELF:
        return _SELF, None
    if isinstance(entry, dict) and len(entry) == 1:
        ((key, option),) = entry.items()
        group = re.fullmatch(_GROUP if run else rf"override /{_GROUP}", key, re.ASCII)
        if group and (option is None or isinstance(option, str)):
            return group[1], option
    raise _HydrasError(str(entry))


def _over(below: Tree, above: Tree) -> Tree:
    """The one merged over the other: mappings key by key, all else is replaced."""
    merged = dict(below)
    for key, child in above.items():
        old = below.get(key)
        if isinstance(child, dict):
            if isinstance(old, str) and "${" in old:
                raise _HydrasError("a mapping over a reference")
            merged[key] = _over(old if isinstance(old, dict) else {}, child)
        elif isinstance(child, list) and isinstance(old, dict):
            raise _HydrasError("a list over a mapping")
        elif child != "???" or key not in below:
            merged[key] = child
    return merged


# --- by Hydra ---------------------------------------------------------------------------


def _by_hydra(overrides: tuple[str, ...]) -> Tree:
    from hydra import compose, initialize_config_dir
    from hydra.errors import MissingConfigException
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            tree = OmegaConf.to_container(compose("run", list(overrides)))
    except MissingConfigException as error:
        if not _bring(str(error.missing_cfg_file)):
            raise
        return _by_hydra(overrides)
    assert isinstance(tree, dict)  # noqa: S101  (run.yaml is a mapping)
    return {str(key): value for key, value in tree.items()}


def _bring(name: str) -> bool:
    """Tell Hydra the values of `group/option` where a package brings them; false if none does."""
    from hydra.core.config_store import ConfigStore

    group, _, option = name.rpartition("/")
    values = _brought(group, option)
    if values is not None:
        ConfigStore.instance().store(group=group, name=option, node=values)
    return values is not None
