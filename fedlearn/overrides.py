"""Hydra overrides, `key=value`, over the YAML files of `configs/`; nothing else knows Hydra.

Composing the files takes Hydra about a tenth of a second, and a sweep has hundreds
of points, so it is done once for each choice of groups; plain values are then set
in a copy, as Hydra itself does it after composing. Anything else that its grammar
knows (`+key=`, `~key`, packages) goes through Hydra whole.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Hydra is imported where it is used: it takes a while
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def sift(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that Hydra takes, and a problem for each of the others."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Of an option that is no text, as in strategy=3, Hydra says so by a ValueError.
    refused = (HydraException, OmegaConfBaseException, ValueError)
    try:
        compose_tree(overrides)
    except refused as whole:
        good: list[str] = []
        found: list[str] = []
        for override in overrides:
            try:
                compose_tree([*good, override])
                good.append(override)
            except refused as error:
                found.append(_hydra_problem(override, error))
        return good, found or [_first_line(whole)]
    return list(overrides), []


def compose_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `configs/run.yaml` under `overrides`, before they are checked.

    Raises:
        HydraException, OmegaConfBaseException, ValueError: an override is not one.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [override for override in parsed if _sets_value(override)]
    others = [str(override.input_line) for override in parsed if not _sets_value(override)]
    composed = _composed(tuple(others))
    config = copy.deepcopy(composed)
    for override in values:
        key = override.key_or_group
        own = _in_open_mapping(composed, key)
        OmegaConf.update(config, key, override.value(), merge=True, force_add=own)
    return plain(config)


def _in_open_mapping(composed: DictConfig, key: str) -> bool:
    """Whether `key` is, or lies in, a mapping that the YAML leaves empty: its names are the user's.

    So `scenario.scaling.columns.age=[20,90]` needs no `+`.
    """
    from omegaconf import OmegaConf

    node: Any = OmegaConf.to_container(composed, resolve=False)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
        if node == {}:
            return True
    return False


def plain(config: DictConfig) -> dict[str, Any]:
    """What Hydra has composed as plain values, references resolved, without `tuned`."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)  # noqa: S101  (run.yaml is a mapping)
    return {str(key): value for key, value in tree.items() if key != "tuned"}


def _sets_value(override: Override) -> bool:
    """Whether an override is `key=value` for a key that stands in the YAML files."""
    plain = not (override.is_add() or override.is_delete() or override.is_force_add())
    key = override.key_or_group
    whole = override.package is not None or override.is_sweep_override() or key.startswith("hydra")
    return plain and not whole and not (CONFIGS / key).is_dir()


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """What Hydra composes, references not yet resolved; not to be changed by who gets it."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("run", list(overrides))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _hydra_problem(override: str, error: Exception) -> str:
    key, equals, value = override.partition("=")
    key = key.lstrip("+~")
    if not key or not (equals or override.startswith("~")):
        return f"{override}: must have the form key=value"
    options = sorted(path.stem for path in (CONFIGS / key).glob("*.yaml")) if key else []
    if options:
        near = difflib.get_close_matches(value, options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{override}: must be one of {', '.join(options)}{hint}"
    known = _known_keys()
    if key and key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        return f"{override}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    line = _first_line(error)
    if " input " in line:  # what its grammar says
        return (
            f"{override}: cannot be read ({line}); a value with signs in it is put in quotes "
            f"(\"{key}='...'\"), a mapping with such names into a file (--config run.yaml)"
        )
    return f"{override}: {line}"


@cache
def _known_keys() -> tuple[str, ...]:
    keys: list[str] = []

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                keys.append(f"{prefix}{name}")
                walk(f"{prefix}{name}.", child)

    walk("", compose_tree([]))
    return tuple(keys)
