"""The text of a file, unpacked and decoded; what is no text is refused by what it is."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible
from fedlearn.data import memory

_GZIP: Final = b"\x1f\x8b"
_SIGNATURES: Final = {
    b"PK\x03\x04": "a zip file; unpack it, or save a sheet as .xlsx or CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls), or one with a password; save it as .xlsx "
    "without a password, or as CSV",
    b"\xff\xfe": "UTF-16 text; set scenario.encoding=utf-16",
    b"\xfe\xff": "UTF-16 text; set scenario.encoding=utf-16",
}


def read_text(
    path: Path, encoding: str, factor: int = memory.TEXT_FACTOR, errors: str = "strict"
) -> str:
    """The whole file as text; see `read_table` for what is refused.

    `factor`: how many bytes of memory a byte of the file will take.
    """
    content = read_content(path, factor)
    _refuse_other_forms(path, content, encoding)
    text = _decode(path, content, encoding, errors)
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def read_loose_text(path: Path, encoding: str, factor: int) -> str:
    """As `read_text`, of a file without a head: where its first bytes are a record's, it is not
    refused for them, and may be empty. What is no text is characters of no meaning."""
    content = _bytes_of(path, factor)
    if content.startswith(_GZIP):
        with suppress(OSError, EOFError, zlib.error):
            content = gzip.decompress(content)
    return _decode(path, content, encoding, "replace")


def read_content(path: Path, factor: int = memory.TEXT_FACTOR) -> bytes:
    """The bytes of the file, unpacked where it is one of gzip; refused as by `read_text`."""
    content = _bytes_of(path, factor)
    if not content.startswith(_GZIP):
        return content
    memory.require(path, int.from_bytes(content[-4:], "little") * factor)  # its size, says gzip
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error})") from error


def _bytes_of(path: Path, factor: int) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file in it")
    with possible("read", path, DataError):
        memory.require(path, path.stat().st_size * factor)
        return path.read_bytes()


def _refuse_other_forms(path: Path, content: bytes, encoding: str) -> None:
    for signature, what in _SIGNATURES.items():
        if _is_utf8(encoding) and content.startswith(signature):
            raise DataError(f"{path}: is {what}")


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in {"utf-8", "utf8"}


def _decode(path: Path, content: bytes, encoding: str, errors: str) -> str:
    try:
        return content.decode("utf-8-sig" if _is_utf8(encoding) else encoding, errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{content[error.start]:02x} is not {encoding}; set "
            "scenario.encoding (`fedlearn data check` finds it: spreadsheets often write cp1252, "
            "in East Asia gb18030, big5, shift_jis or euc_kr) or save the file as UTF-8"
        ) from error
    except LookupError as error:
        raise ConfigError(f"scenario.encoding={encoding}: no such encoding; try utf-8") from error
