"""YAML files that people write and that we write back: read strictly, one value for one text.

PyYAML with three differences that matter for files with a policy or a seed in
them: a key that is given twice is refused (PyYAML keeps the last), `1e-5` is a
number (YAML 1.1 calls it a text), and a date is a text. `dump` quotes what
`parse` would otherwise take for something else, so a round trip is exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from fedlearn.core.errors import ConfigError

_EXPONENT: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
_FLOAT: Final = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """A subclass is PyYAML's own seam for other rules."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping of texts to values, each key once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem="a key is not a text", problem_mark=key.start_mark
                )
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Resolves as `_Loader` does, so that it quotes what that would not take for a text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal lists out in full: no anchors in a file for people."""
        return True


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != _TIMESTAMP]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes these three as they are, and reads them back as a space.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def parse(text: str, source: str) -> dict[str, Any]:
    """The mapping that `text` holds; `source` names it in errors.

    Raises:
        ConfigError: not YAML, not a mapping, or a key twice; with the line.
    """
    try:
        tree = yaml.load(text, _Loader)  # a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: must hold `key: value` lines")
    try:
        json.dumps(tree)
    except (TypeError, ValueError, RecursionError):  # `!!binary`, `!!set`, a list in itself
        raise ConfigError(
            f"{source}: may hold texts, numbers, lists and mappings, nothing else"
        ) from None
    return tree


def read(path: Path) -> dict[str, Any]:
    """The mapping in a file; raises ConfigError as `parse` does, or if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text in UTF-8") from None
    return parse(text, str(path))


def dump(tree: dict[str, Any]) -> str:
    """The text from which `parse` gives back an equal mapping, keys in the given order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
