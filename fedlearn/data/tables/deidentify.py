"""Columns made less telling before anything learns from them: hashed, or generalised.

This removes what identifies directly; it does not make a table anonymous. What
is left can still single people out in combination, which is what differential
privacy is for.

A hash is HMAC-SHA-256 under a key that only the site has: equal values stay
equal, and nobody without the key can find a value by trying all of them, as one
could with a plain hash of a number. Sites have different keys, so hashed values
mean nothing across sites: they serve to keep records of one person together,
not to be learned from by several sites.

Source: RFC 2104 (HMAC).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path

import numpy as np

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import Count, Positive, config
from fedlearn.data.tables.cells import Cells, encode
from fedlearn.data.tables.table import Table

KEY_BYTES = 32
_HASH_CHARACTERS = 16  # 64 bits: two of a million values collide with a chance of 1 in 10^7
_YEAR = re.compile(r"(\d{4})([-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4})")

Write = Callable[[Cells], list[str | None]]
"""The values of a column as they will be; None for one that is not of the kind that was said."""


@config
class Deidentify:
    """What becomes of columns that tell too much; missing values stay missing.

    `hash` names columns whose values are replaced by a hash under the secret in
    the file `key`. `bands` maps a column of numbers to a width, and each number
    becomes the lower end of its band. `years` maps a column of dates to a number
    of years, and each date becomes its year, or the first of so many. `prefixes`
    maps a column to the number of characters that are kept. To remove a column
    there is `scenario.drop`.
    """

    hash: tuple[str, ...] = ()
    key: str = ""
    bands: dict[str, Positive] = field(default_factory=dict)
    years: dict[str, Count] = field(default_factory=dict)
    prefixes: dict[str, Count] = field(default_factory=dict)

    @property
    def ways(self) -> Mapping[str, Sequence[str]]:
        """The columns that are treated, by setting."""
        return {
            "hash": self.hash,
            "bands": (*self.bands,),
            "years": (*self.years,),
            "prefixes": (*self.prefixes,),
        }

    @property
    def treated(self) -> list[str]:
        """All columns that are treated, one that is named twice twice."""
        return [name for names in self.ways.values() for name in names]


def problems(config: Deidentify) -> Iterator[str]:
    """What is contradictory, as `dotted.path: reason` lines."""
    if config.hash and not config.key:
        yield (
            "scenario.deidentify.key: hashing needs a secret of the site; name a file, which "
            "is made where there is none"
        )
    for name in sorted(set(config.treated)):
        if config.treated.count(name) > 1:
            yield f"scenario.deidentify: column {name!r} is treated in two ways; choose one"


def deidentified(
    config: Deidentify,
    table: Table,
    missing: Sequence[str] = (),
    decimal: str = ".",
    *,
    by_record: bool = False,
) -> Table:
    """The table with every column that `config` names treated.

    Raises:
        DataError: cells that are no number or no date, with their lines; `by_record` they are
            gaps.
        ConfigError: the key file cannot be used.

    """
    writers = _writers(config, decimal)
    changed, refused = {}, []
    for name in filter(writers.__contains__, table.header):
        own = table.cells(name)
        gaps = own.among(missing)
        old, new = own.texts(), writers[name](own)
        wrong = own.rows(np.array([text is None for text in new], np.bool_) & ~gaps)
        if by_record:
            new = ["" if text is None else text for text in new]
        elif wrong.size:
            what = "number" if name in config.bands else "date with a year of four digits"
            refused.append(f"column {name!r}: {table.places(wrong)}: not a {what}")
        made = [str(b) if given else a for a, b, given in zip(old, new, ~gaps, strict=True)]
        changed[name] = encode(made, own.codes)
    refuse(refused)
    return table.with_columns(changed)


def site_key(path: Path) -> bytes:
    """The site's secret, 32 bytes; made on first use, in a file of mode 0600.

    Raises:
        ConfigError: the file grants anything to others, or holds no such secret.

    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made ({error.strerror})") from error
    secret = os.urandom(KEY_BYTES)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret


def _read_key(path: Path) -> bytes:
    try:
        with path.open(encoding="utf-8") as file:
            # Asked of the open file, not of the path: the path may change in between.
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4 * KEY_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a key ({error})") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: mode {stat.S_IMODE(mode):04o} lets others in; "
                           f"run: chmod 600 {path}")  # fmt: skip
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise ConfigError(f"{path}: holds no key of {KEY_BYTES} bytes; name another file")
    return bytes.fromhex(text)


def _writers(config: Deidentify, decimal: str) -> dict[str, Write]:
    key = site_key(Path(config.key)) if config.hash else b""
    hashed = {name: _hasher(key, name) for name in config.hash}
    banded = {name: _bander(width, decimal) for name, width in config.bands.items()}
    years = {name: _year_of(width) for name, width in config.years.items()}
    prefixes = {name: _prefix_of(length) for name, length in config.prefixes.items()}
    return {**hashed, **banded, **years, **prefixes}


def _hasher(key: bytes, name: str) -> Write:
    # The column goes in, so that equal values of two columns do not link them.
    context = hmac.new(key, f"fedlearn/deidentify/v1\0{name}\0".encode(), hashlib.sha256)

    def write(cell: str) -> str:
        digest = context.copy()
        digest.update(cell.encode())
        # A letter in front: no hash may be taken for a number such as 12e34.
        return "h" + digest.hexdigest()[:_HASH_CHARACTERS]

    return _each(write)


def _bander(width: float, decimal: str) -> Write:
    def write(cells: Cells) -> list[str | None]:
        ends = np.floor(cells.numbers(decimal) / width) * width
        return [None if math.isnan(end) else f"{end + 0:.12g}".replace(".", decimal)
                for end in ends.tolist()]  # fmt: skip

    return write


def _year_of(width: int) -> Write:
    def write(cell: str) -> str | None:
        found = _YEAR.fullmatch(cell)
        return None if found is None else str(int(found[1] or found[4]) // width * width)

    return _each(write)


def _prefix_of(length: int) -> Write:
    return _each(lambda cell: cell[:length])


def _each(write: Callable[[str], str | None]) -> Write:
    return lambda cells: [write(text) for text in cells.texts()]
