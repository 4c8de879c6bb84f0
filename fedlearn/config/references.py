"""References in a tree of values, resolved: `${key}` and `${oc.select:key,default}`, also nested.

OmegaConf parses each with a grammar that knows far more, which is most of what composing a config
takes. Whatever else stands in the text of a value is left to it.
"""

from __future__ import annotations

import re
from typing import Any, Final

_KEY: Final = r"(\w+(?:\.\w+)*)"
_INNERMOST: Final = re.compile(rf"\$\{{(?:{_KEY}|oc\.select:{_KEY},([\w.+-]+|\[\]))\}}", re.ASCII)
_NUMBER: Final = re.compile(r"(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?", re.ASCII)
_WORD: Final = re.compile(r"[a-z]+", re.ASCII)
_OTHER_THAN_TEXT: Final = frozenset({"true", "false", "null", "nan", "inf"})
_PART_OF_A_KEY: Final = re.compile(r"[\w./ -]*", re.ASCII)
_DEEPEST: Final = 20

Tree = dict[str, Any]


class OtherReferenceError(Exception):
    """It takes OmegaConf to read a reference, or to say what is wrong with it."""


def resolved(node: Any, tree: Tree) -> Any:
    """`node` with what its references stand for in `tree`; both are left as they are.

    Raises:
        OtherReferenceError: there is something that only OmegaConf reads.
    """
    if isinstance(node, dict):
        return {key: resolved(child, tree) for key, child in node.items()}
    if isinstance(node, list):
        return [resolved(child, tree) for child in node]
    return _read(node, tree, 0) if isinstance(node, str) and "${" in node else node


def _read(text: str, tree: Tree, depth: int) -> Any:
    if depth > _DEEPEST or "\\" in text:
        raise OtherReferenceError(text)
    found = _INNERMOST.search(text)
    if found is None:
        raise OtherReferenceError(text)
    value = _value_at(found[1] or found[2], found[3], tree, depth)
    if found[0] == text:
        return value
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise OtherReferenceError(text)
    whole = f"{text[: found.start()]}{value}{text[found.end() :]}"
    if "${" not in whole:
        return whole
    if not _PART_OF_A_KEY.fullmatch(str(value)):  # read again, its `}`, `,` or `:` would be grammar
        raise OtherReferenceError(text)
    return _read(whole, tree, depth + 1)


def _value_at(key: str, default: str | None, tree: Tree, depth: int) -> Any:
    node: Any = tree
    for name in key.split("."):
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, dict) and default is not None:
            return _constant(default)
        else:
            raise OtherReferenceError(key)
    if isinstance(node, str) and "${" in node:
        node = _read(node, tree, depth + 1)
    if isinstance(node, list):
        return _plain(node)
    if node is None or node == "???" or isinstance(node, dict):
        raise OtherReferenceError(key)
    return node


def _plain(items: list[Any]) -> list[Any]:
    """A list of texts and numbers that stand for themselves."""
    for one in items:
        if not isinstance(one, str | int | float) or (isinstance(one, str) and _says_more(one)):
            raise OtherReferenceError(str(one))
    return [*items]


def _says_more(text: str) -> bool:
    return "$" in text or "\\" in text or text == "???"


def _constant(text: str) -> str | int | float | list[Any]:
    if text == "[]":
        return []
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    if _WORD.fullmatch(text) and text not in _OTHER_THAN_TEXT:
        return text
    raise OtherReferenceError(text)
