"""What is asked for in Python, as the words of the command line: there is one config for both.

A keyword is the override of its name, and an object such as `fl.Record(epsilon=4)` chooses
its option and brings all of its values.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from fedlearn.config import RunConfig, groups, to_tree
from fedlearn.config.composition import split
from fedlearn.config.layers import CONFIGS
from fedlearn.core.errors import ConfigError, refuse

_PLAIN: Final = re.compile(r"[A-Za-z_./~-][\w./:~+-]*", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NOT_TEXTS: Final = {"true", "false", "null", "nan", "inf"}
_NAMES: Final = {field.name for field in fields(RunConfig)}
_SEVERAL: Final = re.compile(r"[a-z_.]+=\S+(\s+[a-z_.]+=\S+)+", re.ASCII)
_NO_PRIVACY: Final = (
    "privacy: None does not say whether records are protected; write privacy=fl.NoPrivacy() if "
    "they are not, and fl.Record(epsilon=4) if they are (without the word they are, with epsilon 4)"
)
_DEEP: Final = re.compile(r"\bscenario\.(\w+)((?:\.\w+)+)(?:=(\[[^\]]*\]|\w+))?")
_IN_BRACKETS: Final = re.compile(r"\(scenario\.(\w+)\)")
_KEY: Final = re.compile(r"\bscenario\.(\w+)\b(?!\.)")


def words_of(
    words: Iterable[str],
    settings: Mapping[str, Any],
    *,
    base: Iterable[str] = (),
    sweeps: bool = False,
) -> list[str]:
    """The words of the command line for `words` and keywords.

    With `sweeps` a list, range or array of values is one run for each. What is said of a
    key goes before what an object, or the words of `base`, say of it.

    Raises:
        ConfigError: a word is no text, a name is unknown, or means several keys.
    """
    texts = list(words)
    refuse((_no_word(word) for word in texts if not isinstance(word, str)), ConfigError)
    joined = filter(_holds_several, texts)
    refuse((f"{text!r}: holds several words; give each by itself" for text in joined), ConfigError)
    wrong = (_no_value(name, value, sweeps=sweeps) for name, value in settings.items())
    refuse(filter(None, wrong), ConfigError)
    of_parts: list[str] = []
    if settings.get("strategy") is not None:
        from fedlearn.flower.strategies import algorithm_of  # Flower's strategies take a while

        settings = {**settings, "strategy": algorithm_of(settings["strategy"])}
    for name, value in settings.items():
        if is_dataclass(value) and not isinstance(value, type) and name in _NAMES:
            of_parts += _part(name, value)
            continue
        key = key_of(name)
        if sweeps and (several := _several(value)) is not None:
            texts.append(f"{key}={','.join(map(_text, several))}")
        else:
            texts += _words(key, value)
    answered = {split(text)[0] for text in texts}
    chosen = answered | {name for name, value in settings.items() if is_dataclass(value)}
    kept = (w for w in base if not any(_is_inside(split(w)[0], key) for key in chosen))
    return [*kept, *(word for word in of_parts if split(word)[0] not in answered), *texts]


def in_python(text: str) -> str:
    """A message about the records of a study by the names that its keywords have."""
    known = _leaves()

    def own(match: re.Match[str], form: str) -> str:
        unique = known.get(match[1]) == [f"scenario.{match[1]}"]
        return form.format(match[1]) if unique else match[0]

    def nested(match: re.Match[str]) -> str:
        inside = match[3] or "..."
        for name in reversed(match[2].removeprefix(".").split(".")):
            inside = f'{{"{name}": {inside}}}'
        return f"{match[1]}={inside}"

    text = _DEEP.sub(nested, text)
    text = _IN_BRACKETS.sub(lambda match: own(match, "({}=...)"), text)
    return _KEY.sub(lambda match: own(match, "{}"), text)


def check_something_to_learn(words: Sequence[str]) -> None:
    """Refuse a run that nobody has named records for.

    Raises:
        ConfigError: with what can be written.
    """
    if not any(split(word)[0].lstrip("+").split(".")[0] in ("experiment", "scenario")
               for word in words):  # fmt: skip
        raise ConfigError(
            "nothing to learn from: give a study, as in fl.simulate(fl.Study(...)), or words such "
            "as 'experiment=medical_heart' or 'scenario=csv'"
        )


def _no_word(value: Any) -> str:
    way = "; make a study of records, as in fl.Study(data, label=..., site=...)"
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        way = "; give the words one by one"
    return f"{type(value).__name__}: must be a word such as 'rounds=2', or a study{way}"


def _holds_several(text: str) -> bool:
    keys = [part.partition("=")[0].split(".")[0] for part in text.split()]
    return bool(_SEVERAL.fullmatch(text)) and {*keys} <= _NAMES


def _no_value(name: str, value: Any, *, sweeps: bool) -> str:
    """What is wrong with the value of a keyword as such; nothing where it may be one."""
    if name == "privacy" and value is None:
        return _NO_PRIVACY
    if isinstance(value, type) and is_dataclass(value):
        return f"{name}: is the class {value.__name__}; give an object that it makes"
    several = _several(value) if sweeps and not is_dataclass(value) else None
    if several == []:
        return f"{name}: holds no value to compare"
    if several and any(map(is_dataclass, several)):
        return (
            f"{name}: values are compared, and not objects; give one object and the values of one "
            "of its fields, as in privacy=fl.Record(epsilon=1), epsilon=[1, 2]"
        )
    return ""


def _is_inside(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def _part(name: str, value: Any) -> list[str]:
    """A part of the config as words: its option, then each of its values.

    Raises:
        ConfigError: it is of a class that no config can name, such as a subclass of an option.
    """
    tree = to_tree(value)
    kind = tree.pop("kind", None)
    family = groups.FAMILIES.get(name)
    if family is not None and family.find(str(kind)) is not type(value):
        raise ConfigError(
            f"{name}: is a {type(value).__qualname__}, and {name}={kind} is another class, which "
            f"would run in its place; give yours a kind of its own and the entry point "
            f"{family.points}"
        )
    return [*([] if kind is None else [f"{name}={kind}"]), *_words(name, tree)]


def _several(value: Any) -> list[Any] | None:
    """The values of something that is swept; None where it is one value."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return None
    return list(value)


def _words(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        inside = ((_inside(key, str(name)), one) for name, one in value.items())
        return [word for name, one in inside for word in _words(name, one)]
    try:
        return [f"{key}={_text(value)}"]
    except ConfigError as error:
        raise ConfigError([f"{key}: {problem}" for problem in error.problems]) from None


def _inside(key: str, name: str) -> str:
    """The key of a name in a mapping, which may be somebody's column."""
    return f"{key}.{name}" if _IDENTIFIER.fullmatch(name) else f'{key}."{name}"'


def _text(value: Any) -> str:
    """A value as the command line has it."""
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() | Path():
            return _quoted(str(value))
        case Mapping():
            return "{" + ",".join(f"{name}:{_text(one)}" for name, one in value.items()) + "}"
        case Iterable():
            return "[" + ",".join(map(_text, value)) + "]"
    shown = reprlib.repr(value)
    raise ConfigError(f"{shown}: must be a number, a text, a list or a mapping of these")


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXTS:
        return text
    # Before a quote a backslash stands twice, and elsewhere for itself.
    inside = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return "'" + inside.replace("${", "\\${") + "'"


_MEANT: Final = {
    "edges": "fairness.edges",
    "folder": "tracking.folder",
    "keep": "scenario.keep",
    "precision": "training.precision",
    "separator": "scenario.separator",
    "unit": "privacy.unit",
}
"""Short names that programs used before another option had a key of that name."""


def key_of(name: str) -> str:
    """The dotted key that a keyword means: `epsilon` is `privacy.epsilon`.

    Raises:
        ConfigError: no key ends in it, or several do.
    """
    if name in _NAMES or "." in name:
        return name
    known = _leaves()
    if name in _MEANT:
        return _MEANT[name]
    if len(found := known.get(name, [])) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{name}: may be {' or '.join(found)}; write one as a word")
    near = difflib.get_close_matches(name, [*_NAMES, *known], n=1)
    raise ConfigError(f"{name}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))


@cache
def _leaves() -> dict[str, list[str]]:
    """The keys inside the groups, by their last name."""
    found: dict[str, set[str]] = {}
    for path in CONFIGS.glob("*/*.yaml"):
        if path.parent.name in _NAMES - {"experiment"}:
            for name in _names_in(path):
                found.setdefault(name, set()).add(f"{path.parent.name}.{name}")
    return {name: sorted(keys) for name, keys in found.items()}


def _names_in(path: Path) -> Iterable[str]:
    from fedlearn.core import yaml_file

    return yaml_file.read(path)
