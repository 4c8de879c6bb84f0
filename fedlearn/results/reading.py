"""Reading `result.json` back, strictly: what a report or an export rests on."""

from __future__ import annotations

from pathlib import Path

from fedlearn.config import decode
from fedlearn.config import load as load_config
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.results.result import SCHEMA, Result


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
    try:
        result = decode(Result, content.decode())
        load_config(result.config)
    except (ConfigError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a result that this version reads: {error}") from None
    if result.schema != SCHEMA:
        raise DataError(f"{path}: schema is {result.schema!r}; this version reads {SCHEMA!r}")
    return result
