"""A value set in a tree as OmegaConf sets it, where that is no more than to put it there.

To make a config of OmegaConf's of all values, to change one of them and to read all again takes
ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tree = dict[str, Any]


class OtherValueError(Exception):
    """It takes OmegaConf to set this, or to say what is wrong with it."""


def at(tree: Any, parts: Sequence[str]) -> Any:
    """What stands in a mapping of mappings; None where nothing does."""
    node = tree
    for part in parts:
        node = node.get(part) if isinstance(node, dict) else None
    return node


def in_open_mapping(tree: Tree, parts: Sequence[str]) -> list[str] | None:
    """Where in a mapping that the YAML leaves empty a key is; None if it is in none.

    The names of such a mapping are the user's: `scenario.scaling.columns.age=[20,90]`
    needs no `+`, and a dot in a name of theirs is a dot.
    """
    for depth in range(1, len(parts)):
        if at(tree, parts[:depth]) == {}:
            return [*parts[:depth], ".".join(parts[depth:])]
    return None


def put(tree: Tree, parts: Sequence[str], value: Any, *, new: bool) -> Tree:
    """A copy of the tree with `value` at `parts`; the tree is left as it is.

    Args:
        new: whether the last of the names may be one that is not there yet.

    Raises:
        OtherValueError: the place is not there, what is there would be merged with the value, or
            that holds a reference or `???`.
    """
    name, *inside = parts
    below = tree.get(name)
    if inside:
        if not isinstance(below, dict):
            raise OtherValueError(name)
        return tree | {name: put(below, inside, value, new=new)}
    if below != {} if isinstance(value, dict) else isinstance(below, dict):
        raise OtherValueError(name)
    if not (new or name in tree):
        raise OtherValueError(name)
    return tree | {name: _simple(value)}


def _simple(value: Any) -> Any:
    match value:
        case list():
            return [_simple(child) for child in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _simple(child) for key, child in value.items()}
        case str() if "${" not in value and value != "???":
            return value
        case bool() | int() | float() | None:
            return value
    raise OtherValueError(repr(value))
