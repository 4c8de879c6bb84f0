"""A run's own `config.yaml` as the start of another run: `fedlearn simulate --config FILE`.

The file holds exact values, not choices that `configs/` would resolve again:
what is not overridden is what that run had, whatever the defaults are today.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from fedlearn.config import RunConfig, begun, load, nested, without_unset
from fedlearn.config.composition import parts_of, rank, sift, split, value_of
from fedlearn.config.layers import CONFIGS
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, collected, refuse

_KEYS: Final = {field.name for field in fields(RunConfig)} - {"parent"}
"""Also those that a file leaves out where they say nothing."""


def load_file(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The config in `path` (as a run writes it) with `key=value` overrides on top.

    Values are written as for `configs/run.yaml`, and as there an option is chosen before
    values are set, in any order. `group=option` takes the values of that option, for
    example `privacy=none`; everything outside the group stays as in the file, so nothing
    else is tuned for the option.

    Raises:
        ConfigError: with every problem, one line each.
    """
    tree = yaml_file.read(path)
    found: list[str] = []
    for override in sorted(overrides, key=rank):
        with collected(found):
            _apply(tree, override)
    try:
        config = load(tree)
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    refuse(found, ConfigError)
    return begun(config)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, text = split(override)
    if "=" not in override or not key or not (key[0].isalpha() or key[0] == "_"):
        raise ConfigError(f"{override}: must have the form key=value")
    *parents, last = parts_of(key)
    node = tree
    for at, name in enumerate(parents):
        child = node.get(name)
        if not isinstance(child, dict):
            raise ConfigError(f"{override}: {_unknown('.'.join(parents[: at + 1]), name, node)}")
        node = child
    # A last name that is not there may be a new key of a free mapping, such as a
    # column; `load` knows where those are and refuses the others.
    if not parents and last not in _KEYS:
        raise ConfigError(f"{override}: {_unknown(last, last, dict.fromkeys(_KEYS))}")
    if not parents and (CONFIGS / key).is_dir():
        node[last] = _option(override, key, text)
        return
    value = read_value(override, text)
    if (choice := nested.chosen([*parents, last], value)) and choice[0] == tuple(parents):
        default = nested.instead(*choice, node)
        if default is not None:
            node.clear()
            node |= without_unset(default)
    node[last] = value


def _unknown(path: str, name: str, node: dict[str, Any]) -> str:
    if name in node:
        return f"{path} holds a value and has no keys"
    near = difflib.get_close_matches(name, list(node), n=1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _option(override: str, group: str, option: str) -> dict[str, Any]:
    """All values of one option of a group, without those that it leaves to the user."""
    tree, _, found = sift([override])
    refuse(found, ConfigError)
    chosen = tree[group]
    if not isinstance(chosen, dict):  # `experiment` is a folder of configs and a name here
        raise ConfigError(
            f"{override}: the file holds the experiment's values already; override single keys"
        )
    return {key: value for key, value in chosen.items() if value != "???"}


def read_value(override: str, text: str) -> Any:
    """The value that `text` (the right side of `override`) stands for; raises ConfigError."""
    if "${" in text:
        raise ConfigError(f"{override}: a config file holds values; write the value itself")
    try:
        return value_of(text)
    except ValueError:
        problem = f"{override}: the value cannot be read; quote it if it is a text"
        raise ConfigError(problem) from None
