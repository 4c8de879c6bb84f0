"""Hydra overrides, `key=value`, over the YAML files of `configs/`; nothing else knows Hydra.

The files are composed once for each choice of groups (`fedlearn.config.layers`); plain values
are then set in a copy, as Hydra itself does it after composing. Anything else that its grammar
knows (`+key=`, `~key`, packages) goes through Hydra whole.

One thing its grammar does not know: the last name of a key may be that of somebody's
own column, as in `scenario.scaling.columns.Blutdruck (mmHg)=[60,250]`; a name with an
equals sign stands in quotes. And a value that it cannot read is the text that it is, as in
`scenario.label=Größe`, where it does not look like a quoted text or several values; so are
the words of a list, as in `scenario.drop=[Größe,Name]`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fedlearn.config import nested
from fedlearn.config.layers import CONFIGS, Tree, composed, options_of
from fedlearn.config.placing import OtherValueError, at, in_open_mapping, put
from fedlearn.config.references import OtherReferenceError, resolved
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError

if TYPE_CHECKING:  # Hydra is imported where it is used: it takes a while
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

_UNKNOWN = "unknown key"
_PART = r"(?:[a-z_][\w-]*|\d+)"
_PLAIN = re.compile(rf"[+~]*(?:{_PART}(?:[./]{_PART})*)?(?:@.*)?", re.ASCII | re.IGNORECASE)
"""Keys that are Hydra's to read."""
_QUOTED = re.compile(r"""([^"'=]+\.(["'])(.+?)\2)=(.*)""", re.DOTALL)

_WORD = r"""(?:[^\[\]{}"'$\\,]+|"[^"\\,]*"|'[^'\\,]*')"""
_LIST_OF_WORDS = re.compile(rf"\[{_WORD}(?:,{_WORD})*\]")
"""A list with nothing in it but words, some perhaps in quotes."""


def split(override: str) -> tuple[str, str]:
    """Key and value of an override; an equals sign in a quoted name is part of the key."""
    quoted = _QUOTED.fullmatch(override)
    key, _, value = (quoted[1], "", quoted[4]) if quoted else override.partition("=")
    return key, value


def parts_of(key: str) -> list[str]:
    """The names in a dotted key, the last without the quotes that it may stand in."""
    quoted = _QUOTED.fullmatch(f"{key}=")
    if quoted is None:
        return key.split(".")
    return [*key[: -len(quoted[3]) - 3].split("."), quoted[3]]


def is_own_name(override: str) -> bool:
    """Whether the key of `key=value` has signs that Hydra's grammar has not."""
    return "=" in override and not _PLAIN.fullmatch(split(override)[0])


class Sifted(NamedTuple):
    """What Hydra takes of some overrides."""

    tree: Tree
    """The values under those, before they are checked."""
    good: list[str]
    found: list[str]
    """A problem for each of the others."""


def sift(overrides: Sequence[str]) -> Sifted:
    """The overrides that Hydra takes, and what they make."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Of an option that is no text, as in strategy=3, Hydra says so by a ValueError.
    refused = (HydraException, OmegaConfBaseException, ValueError, ConfigError)
    try:
        return Sifted(compose_tree(overrides), list(overrides), [])
    except refused as whole:
        good: list[str] = []
        found: list[str] = []
        for override in sorted(overrides, key=rank):
            try:
                compose_tree([*good, override])
                good.append(override)
            except refused as error:
                found.append(_hydra_problem(override, error, tuple(good)))
        kept = [text for text in overrides if text in good]
        return Sifted(compose_tree(good), kept, found or [_first_line(whole)])


def rank(override: str) -> int:
    """Choices come first: what is chosen decides which keys there are."""
    key = split(override)[0].lstrip("+~")
    if key and (CONFIGS / key).is_dir():
        return 0
    return 1 if nested.may_choose(parts_of(key)) else 2


def compose_tree(overrides: Sequence[str]) -> Tree:
    """The values of `configs/run.yaml` under `overrides`, before they are checked.

    Raises:
        HydraException, OmegaConfBaseException, ValueError: an override is not one.
        ConfigError: the package that brings an option, or its file, cannot be read.
    """
    own = [split(text) for text in overrides if is_own_name(text)]
    rest = [_parsed(text) for text in overrides if not is_own_name(text)]
    values = [override for override in rest if _sets_value(override)]
    others = [str(override.input_line) for override in rest if not _sets_value(override)]
    tree = composed(tuple(others))
    for (group, name), default in _other_options(tree, values).items():
        tree = tree | {group: tree[group] | {name: default}}
    if any(in_open_mapping(tree, parts_of(key)) is None for key, _ in own):
        raise ValueError(_UNKNOWN)
    settings = [(one.key_or_group, one.value()) for one in values]
    settings += [(key, _value(text)) for key, text in own]
    try:
        return _without_tuned(_put(tree, settings))
    except (OtherValueError, OtherReferenceError):
        return plain(_set(tree, settings))


def _put(tree: Tree, settings: Sequence[tuple[str, Any]]) -> Tree:
    """What is set in a copy without OmegaConf, with all references resolved."""
    made = tree
    for key, value in settings:
        parts = in_open_mapping(tree, parts_of(key))
        made = put(made, parts or key.split("."), value, new=parts is not None)
    resolved_tree: Tree = resolved(made, made)
    return resolved_tree


def _set(tree: Tree, settings: Sequence[tuple[str, Any]]) -> DictConfig:
    """What is set in a copy, with references that follow it."""
    from omegaconf import OmegaConf

    config: DictConfig = OmegaConf.create(tree, flags={"struct": True})
    for key, value in settings:
        if (parts := in_open_mapping(tree, parts_of(key))) is not None:
            _set_own(config, parts, value)
        else:
            whole = at(tree, key.split(".")) == {}
            OmegaConf.update(config, key, value, merge=True, force_add=whole)
    return config


def value_of(text: str) -> Any:
    """The value that the right side of an override stands for; raises ValueError for none."""
    from hydra.errors import HydraException

    try:
        return _value(text)
    except HydraException as error:
        raise ValueError(_first_line(error)) from None


def _other_options(tree: Tree, values: Sequence[Override]) -> dict[nested.Path, Tree]:
    """The defaults of unions inside a group of which another option is chosen than in `tree`."""
    choices = (nested.chosen(value.key_or_group.split("."), value.value()) for value in values)
    found: dict[nested.Path, Tree] = {}
    for path, kind in dict(choice for choice in choices if choice).items():
        node = at(tree, path)
        default = nested.instead(path, kind, node) if isinstance(node, dict) else None
        if default is not None:
            found[path] = default
    return found


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([text])[0]
    except HydraException:
        key, value = split(text)
        if _LIST_OF_WORDS.fullmatch(value):
            words = [_quoted_word(word.strip()) for word in value[1:-1].split(",")]
            return parser.parse_override(f"{key}=[{','.join(words)}]")
        if not value or value[0] in "'\"[{" or set(value) & set(",$\\"):
            raise
        quoted = value.replace("'", "\\'")
        return parser.parse_override(f"{key}='{quoted}'")


def _quoted_word(word: str) -> str:
    """A word of a list in quotes where Hydra's grammar lacks one of its signs."""
    return word if word.isascii() or word[0] in "'\"" else f"'{word}'"


def _set_own(config: DictConfig, parts: Sequence[str], value: Any) -> None:
    """Set a value under a name that is the user's, which may hold any sign."""
    from omegaconf import open_dict

    *parents, name = parts
    node = config
    for parent in parents:
        node = node[parent]
    with open_dict(node):
        node[name] = value


def _value(text: str) -> Any:
    """What the right side of an override stands for."""
    read = _parsed(f"value={text}")
    if read.is_sweep_override():
        raise ValueError("several values are for fedlearn compare")
    return read.value()


def plain(config: DictConfig) -> Tree:
    """What Hydra has composed as plain values, references resolved, without `tuned`."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.to_container(config)
    try:
        tree = resolved(tree, tree)
    except OtherReferenceError:
        tree = OmegaConf.to_container(config, resolve=True)
    return _without_tuned(tree)


def _without_tuned(tree: Tree) -> Tree:
    return {str(key): value for key, value in tree.items() if key != "tuned"}


def _sets_value(override: Override) -> bool:
    """Whether an override is `key=value` for a key that stands in the YAML files."""
    plain = not (override.is_add() or override.is_delete() or override.is_force_add())
    key = override.key_or_group
    whole = override.package is not None or override.is_sweep_override() or key.startswith("hydra")
    return plain and not whole and not (CONFIGS / key).is_dir()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _hydra_problem(override: str, error: Exception, good: tuple[str, ...]) -> str:
    key, value = split(override)
    line = _first_line(error)
    if is_own_name(override) and line != _UNKNOWN:
        return f"{override}: {line}"
    key = key.lstrip("+~")
    if not key or not ("=" in override or override.startswith("~")):
        return f"{override}: must have the form key=value"
    if isinstance(error, ConfigError):
        return str(error)
    if options := options_of(key):
        near = difflib.get_close_matches(value, options, n=1) or _with_value(key, value)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{override}: must be one of {', '.join(options)}{hint}"
    known, unread = _known_keys(good), type(error).__name__ == "OverrideParseException"
    if key not in known and not unread:
        return f"{override}: {_UNKNOWN}{_instead(key, known)}"
    if unread:
        why = f" ({line})" if " input " in line else ""
        return (
            f"{override}: cannot be read{why}; a value with signs in it is put in quotes "
            f"(\"{key}='...'\"), a mapping with such names is written name by name ('KEY.NAME=...')"
        )
    if line.startswith("Ambiguous value"):
        return f"{override}: {_one_value(key, value)}"
    if line.startswith("Cannot merge DictConfig with"):
        return f"{override}: must be a mapping, written name by name ('{key}.NAME=...')"
    return f"{override}: {line}"


def _with_value(group: str, value: str) -> list[str]:
    """The words that choose an option one of whose settings may have this value."""
    from fedlearn.config import groups  # all families, which take a second

    return list(groups.with_value(group, value))


def _one_value(key: str, value: str) -> str:
    return (
        f"must be one value: a number has a point ({value.replace(',', '.', 1)}), a text with a "
        f"comma is put in quotes (\"{key}='...'\"), of several `fedlearn compare` makes runs"
    )


def _holds(tree: Any, key: str) -> bool:
    name, _, inside = key.partition(".")
    there = isinstance(tree, dict) and name in tree
    return there and (not inside or _holds(tree[name], inside))


_ELSEWHERE: Final = {
    "lr": "training.learning_rate",
    "local_epochs": "training.local_steps",
    "batch_size": "training.sample_rate",
    "max_grad_norm": "privacy.clip_norm",
    "eps": "privacy.epsilon",
    "target_epsilon": "privacy.epsilon",
    "target": "scenario.label",
    "sep": "scenario.separator",
    "delimiter": "scenario.separator",
    "epochs": "rounds",
    "num_rounds": "rounds",
    "output_dir": "out",
    "output": "out",
    "clients": "partition.num_sites",
    "num_clients": "partition.num_sites",
    "num_sites": "partition.num_sites",
}
"""What other frameworks call our keys, or what takes their place."""


def _instead(key: str, known: Sequence[str]) -> str:
    """What may have been meant by a key that is none: one of other options, or one much like it."""
    if having := _having(key):
        return f" here; {having} it"
    last = key.rpartition(".")[2]
    if (ours := _ELSEWHERE.get(last)) is not None:
        having = "" if ours in known else _having(ours)
        return f"; did you mean {ours}?" + (f" {having} it" if having else "")
    same = [one for one in known if one.rpartition(".")[2] == last]  # in another group
    near = same if len(same) == 1 else difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    near = [one for one in near if not key.startswith(f"{one}.")]
    return f"; did you mean {near[0]}?" if near else ""


def key_for(name: str) -> str | None:
    """The setting that a bare name stands for, by us or in another framework; None for none."""
    known = _known_keys(())
    if name in known or name in _ELSEWHERE:
        return _ELSEWHERE.get(name, name)
    same = [key for key in known if key.rpartition(".")[2] == name]
    return same[0] if len(same) == 1 else None


def _having(key: str) -> str:
    """Which options of its group have a key, in words; empty where none has."""
    group, _, inside = key.partition(".")
    files = sorted((CONFIGS / group).glob("*.yaml")) if inside else ()
    having = [path.stem for path in files if _holds(yaml_file.read(path), inside)]
    if not having:
        return ""
    return f"{group}={', '.join(having)} {'has' if len(having) == 1 else 'have'}"


@lru_cache(maxsize=8)
def _known_keys(chosen: tuple[str, ...]) -> tuple[str, ...]:
    keys: list[str] = []

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                keys.append(f"{prefix}{name}")
                walk(f"{prefix}{name}.", child)

    walk("", compose_tree(chosen))
    return tuple(keys)
