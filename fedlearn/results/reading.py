"""Reading `result.json` back, strictly: what a report or an export rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from fedlearn.config import decode
from fedlearn.config import load as load_config
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.results.result import SCHEMA, Result


class _File(Protocol):
    @property
    def schema(self) -> str: ...


T = TypeVar("T", bound=_File)


def read_result(folder: Path) -> Result:
    """The result of the run in `folder`; raises DataError as `parse_result` does."""
    return parse_result(folder / "result.json", read_bytes(folder / "result.json"))


def read_bytes(path: Path) -> bytes:
    """The content of a file of a run; raises DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a run"
        ) from None


def parse_result(path: Path, content: bytes) -> Result:
    """The result that `content` of the file `path` holds.

    Raises:
        DataError: not a result, or not one that this version reads.
    """
    result = parse(Result, path, content, schema=SCHEMA, what="a result")
    try:
        load_config(result.config)
    except ConfigError as error:
        raise DataError(f"{path}: not a result that this version reads: {error}") from None
    return result


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
