"""A study file from one's own data: `fedlearn new FOLDER --data FILE`.

The file is a whole config, as a run leaves one behind, so that what it says is what a run does:
what `data check` has understood, what follows by rule, and beside every setting what it means,
which are the remarks of the files of `configs/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fedlearn.config import to_tree
from fedlearn.config.composition import split
from fedlearn.config.layers import CONFIGS
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, DataError, refuse, some
from fedlearn.core.files import possible, write_atomically
from fedlearn.data.check.files import check
from fedlearn.data.check.report import Report
from fedlearn.data.tables.guess import quoted
from simulations.derived import Composed, composed
from simulations.run import records

NAME: Final = "study.yaml"

_FIRST: Final = (
    *("experiment", "purpose", "scenario", "partition", "task", "model", "privacy", "training"),
    *("rounds", "evaluation", "secagg", "transport", "robust"),
)
"""What whoever reads it should see first; all else follows."""
_REMARK: Final = re.compile(r"( *)([a-z_]+): .*?  +# (.+)")
_KEY: Final = re.compile(r"( *)([a-z_]+):( .*)?")


def new_study(
    folder: Path, data: Path, label: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Path, Composed]:
    """Write a study file into `folder`, which is made; its path, and what it holds.

    Args:
        folder: where it goes; its name is that of the study.
        data: a file or folder that `fedlearn data check` understands.
        label: the column to predict, instead of the one that looks most like it.
        overrides: what the study has instead of what was understood, and besides.

    Raises:
        ConfigError: there is a study already, or no column to predict.
        DataError: the data cannot be read or learned from.
    """
    path = folder / NAME
    if path.exists():
        raise ConfigError(f"{path}: is there already; choose another folder")
    report = check(data.resolve())
    if not report.kind:
        refuse(report.problems, DataError)
    given = {split(word)[0] for word in overrides}
    words = [word for word in _words(report, label) if split(word)[0] not in given]
    found = composed([*words, *overrides])
    records(found.config)  # what is wrong with them is said now
    found = replace(found, config=replace(found.config, experiment=folder.resolve().name,
                                          out=f"runs/{folder.resolve().name}"))  # fmt: skip
    with possible("written", path, ConfigError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text_of(found, report).encode())
    return path, found


def _words(report: Report, label: str | None) -> list[str]:
    """The command that the check suggests, with another label where one is given."""
    words = list(report.settings)
    if label is None:
        if "scenario.label=COLUMN" in words:
            raise ConfigError(f"{report.path}: no column looks like what is to be predicted; "
                              "name it (--label)")  # fmt: skip
        return words
    names = [column.name for column in report.columns]
    if label not in names:
        raise ConfigError(f"--label {label}: no such column; there are {', '.join(names)}")
    others = [word for word in words if split(word)[0] != "scenario.label"]
    return [*others, f"scenario.label={quoted(label)}"]


# --- the file ---------------------------------------------------------------------------


def text_of(found: Composed, report: Report) -> str:
    """The file: what was understood, then every setting with its remark."""
    tree = to_tree(found.config)
    tree = {key: tree[key] for key in (*_FIRST, *(key for key in tree if key not in _FIRST))}
    whys = {one.key: f"by rule: {one.reason}" for one in found.derived}
    lines = [*_remark(_head(report)), "", *_settings(tree, whys)]
    return "\n".join(lines) + "\n"


def _head(report: Report) -> Iterator[str]:
    yield "A study of fedlearn. Run it:  fedlearn simulate --config FILE [key=value ...]"
    yield f"Made from {report.path}: {report.kind}, {report.records:,} records."
    yield from report.facts
    for column in report.columns:
        gaps = f", {column.missing:,} missing" if column.missing else ""
        yield f"  {column.name}: {column.kind}, {column.distinct:,} different values{gaps}"
    for role, names in (("label", report.labels), ("site", report.sites), ("text", report.texts)):
        if names:
            yield f"Could be the {role}: {some(names)}"
    yield from (f"PROBLEM {problem}" for problem in report.problems)
    yield from (f"Hint: {hint}" for hint in report.hints)
    yield "How many records there are is taken as public where training.nominal_records says so."


def _remark(sentences: Iterable[str]) -> Iterator[str]:
    """As remarks; a name of a column may have any sign, and ends no line here."""
    for sentence in sentences:
        yield "# " + " ".join(sentence.split("\n")).replace("\r", " ")


def _settings(tree: Mapping[str, Any], whys: Mapping[str, str]) -> Iterator[str]:
    of_run = _remarks(CONFIGS / "run.yaml")
    for key, value in tree.items():
        kind = value.get("kind") if isinstance(value, dict) else None
        group = CONFIGS / key
        if group.is_dir() and isinstance(value, dict):
            yield from ("", *_remark([_options(group)]))
        file = group / f"{kind or 'default'}.yaml"
        known = _remarks(file) if file.is_file() else {}
        for place, line in _placed(yaml_file.dump({key: value})):
            why = whys.get(".".join(place)) or known.get(place[1:]) or of_run.get(place)
            yield f"{line}  # {why}" if why and not line.endswith((">", "|", "|-", "-")) else line


def _options(group: Path) -> str:
    names = sorted(path.stem for path in group.glob("*.yaml"))
    return f"{group.name}: {', '.join(names)}"


def _placed(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The lines of a mapping in YAML, each with the keys that it stands under."""
    under: list[tuple[int, str]] = []
    for line in text.rstrip("\n").split("\n"):
        key = _KEY.fullmatch(line)
        if key is None:
            yield (), line
            continue
        depth = len(key[1])
        under = [one for one in under if one[0] < depth] + [(depth, key[2])]
        yield tuple(name for _, name in under), line


def _remarks(path: Path) -> dict[tuple[str, ...], str]:
    """What a file of `configs/` remarks beside its keys, by place."""
    found = dict[tuple[str, ...], str]()
    for place, line in _placed(path.read_text(encoding="utf-8")):
        if place and (remark := _REMARK.fullmatch(line)):
            found[place] = remark[3]
    return found
