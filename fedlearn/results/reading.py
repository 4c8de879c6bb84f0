"""Reading `result.json` back, strictly: what a report or an export rests on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeVar

from fedlearn.config import decode
from fedlearn.config import load as load_config
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible
from fedlearn.results.result import SCHEMA, ResultFile
from fedlearn.tasks import TASKS, TableInput, Task, TaskConfig, TaskForm


class _File(Protocol):
    @property
    def schema(self) -> str: ...


T = TypeVar("T", bound=_File)


def read_result(folder: Path) -> ResultFile:
    """The result of the run in `folder`; raises DataError as `parse_result` does."""
    return parse_result(folder / "result.json", read_bytes(folder / "result.json"))


def task_of(result: ResultFile) -> Task:
    """What the run has learned; of a release that did not say the form of a record, without it."""
    learned = decode(_Learned, json.dumps({"task": result.config.get("task", _FIRST)})).task
    shape = result.model.input or TableInput(numeric=0)
    return learned.of(TaskForm(input=shape, classes=tuple(result.data.classes)))


def leading_by_site(result: ResultFile) -> dict[str, float]:
    """The metric that leads, at the sites whose test records have one."""
    name = task_of(result).leading.name
    return {s: found[name] for s, found in result.final.per_site.items() if name in found}


_FIRST: Final = {"kind": "classification"}
"""The task of releases that knew no other."""


@dataclass(frozen=True, kw_only=True)
class _Learned:
    task: Annotated[TaskConfig, TASKS]


def read_bytes(path: Path) -> bytes:
    """The content of a file of a run; raises DataError if it cannot be read."""
    with possible("read", path, DataError, "; give the folder of a run"):
        return path.read_bytes()


def parse_result(path: Path, content: bytes) -> ResultFile:
    """The result that `content` of the file `path` holds.

    Raises:
        DataError: not a result, or not one that this version reads.
    """
    result = parse(ResultFile, path, content, schema=SCHEMA, what="a result")
    try:
        load_config(result.config)
        task = task_of(result)
    except ConfigError as error:
        raise DataError(f"{path}: not a result that this version reads: {error}") from None
    worst = f"final.per_site.{result.final.worst_site}"  # a site without test records does no worst
    leading = task.leading.name
    lacking = [
        where
        for where, found in _measured(result)
        if leading not in found and ((found and task.always_leads) or where == worst)
    ]
    if lacking:
        raise DataError(f"{path}: {', '.join(lacking)}: without {leading}, the metric that leads")
    tested = result.fairness.per_site if result.fairness else {}
    if strange := sorted(tested.keys() - result.data.sites.keys()):
        raise DataError(f"{path}: fairness.per_site: {', '.join(strange)}: no site of data.sites")
    return result


def _measured(result: ResultFile) -> Iterator[tuple[str, Mapping[str, object]]]:
    """All metrics of a run at its end, each with where they stand."""
    yield "final.evaluate", result.final.evaluate
    for site, found in result.final.per_site.items():
        yield f"final.per_site.{site}", found
    if (fairness := result.fairness) is None:
        return
    yield "fairness.all_sites", fairness.all_sites
    for site, intervals in fairness.per_site.items():
        yield f"fairness.per_site.{site}", intervals
    if (groups := fairness.groups) is None:
        return
    for name, group in groups.all_sites.items():
        yield f"fairness.groups.all_sites.{name}", group.evaluate
    for site, shown in groups.per_site.items():
        for name, group in shown.items():
            yield f"fairness.groups.per_site.{site}.{name}", group.evaluate


def read_beside(kind: type[T], path: Path, *, schema: str, what: str) -> T | None:
    """The same in a file that a run's folder may have; None where there is none."""
    if not path.is_file():
        return None
    return parse(kind, path, read_bytes(path), schema=schema, what=what)


def parse(kind: type[T], path: Path, content: bytes, *, schema: str, what: str) -> T:
    """The frozen dataclass that `content` of the file `path` holds; `what` it is, in words.

    Raises:
        DataError: it is something else, or of another schema than this version reads.
    """
    try:
        value = decode(kind, content.decode())
    except (ConfigError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not {what} that this version reads: {error}") from None
    if value.schema != schema:
        raise DataError(f"{path}: schema is {value.schema!r}; this version reads {schema!r}")
    return value
