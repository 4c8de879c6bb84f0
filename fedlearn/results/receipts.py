"""Receipts: what a site signs about its ledger, for others to keep.

A ledger is chained by hashes but not signed: its owner could write it anew. A receipt is the hash
of one line of it under the site's key. The line holds 256 secret random bits, so that the hash
tells nothing of the lines above it, which know when records were changed; but those lines are
bound by it, and whoever has the receipt knows later whether they are still the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from fedlearn.config import decode, encode
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import write_atomically
from fedlearn.core.names import site_name_problem
from fedlearn.crypto.identity import PUBLIC_BYTES, SIGNATURE_BYTES, Identity, verify
from fedlearn.privacy import Event

FOLDER: Final = "receipts"
"""In the folder of a run, and in that of a coordinator."""

_LARGEST: Final = 1 << 18
"""Characters of a receipt, all of which are of one byte."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One signed line of a ledger; everything in it is public.

    `number` counts the receipts of a ledger: two with one number are of two ledgers. `data` is
    the site's commitment to what it calls the data, `head` the hash of the line (hex), `spent`
    what the run has reserved by then, as the coordinator has heard it with every reply, and `key`
    the public key (hex) of the `signature` (hex).
    """

    site: str
    data: str
    number: int
    head: str
    run_id: str
    terms: str
    spent: tuple[Event, ...]
    key: str
    signature: str = ""
    schema: Literal["fedlearn/receipt/v1"] = "fedlearn/receipt/v1"

    def signed(self, identity: Identity) -> Receipt:
        """The same under a signature."""
        return replace(self, signature=identity.sign("ledger/receipt", self._text()).hex())

    @property
    def is_signed(self) -> bool:
        """Whether the owner of its key has signed it."""
        public, signature = bytes.fromhex(self.key), bytes.fromhex(self.signature)
        return verify(public, signature, "ledger/receipt", self._text())

    def contradicts(self, other: Receipt) -> bool:
        """Whether both cannot be of one ledger that only grew: a proof, by the site's own key."""
        mine, theirs = ((r.key, r.data, r.number) for r in (self, other))
        return mine == theirs and self != other

    def _text(self) -> bytes:
        return encode(replace(self, signature="")).encode()


def to_json(receipt: Receipt) -> str:
    """The text of a receipt, which `from_json` reads."""
    return encode(receipt)


def from_json(text: str) -> Receipt:
    """The receipt in a text.

    Raises:
        DataError: it is none, or not signed by the key that it names.
    """
    if len(text) > _LARGEST:  # what is kept must be read again
        raise DataError(f"is no receipt: it has more than {_LARGEST} characters")
    try:
        receipt = decode(Receipt, text)
    except (ConfigError, RecursionError) as error:
        raise DataError(f"is no receipt: {str(error)[:200]}") from None
    digests = (receipt.data, receipt.head, receipt.terms)
    sized = (receipt.key, PUBLIC_BYTES), (receipt.signature, SIGNATURE_BYTES)
    sound = all(re.fullmatch("[0-9a-f]{64}", one) for one in digests)
    sound &= all(re.fullmatch(f"[0-9a-f]{{{2 * size}}}", one) for one, size in sized)
    sound &= bool(re.fullmatch("[0-9a-f]{32}", receipt.run_id)) and 1 <= receipt.number < 1 << 63
    if not sound or site_name_problem(receipt.site):
        raise DataError("is no receipt: a number, a name or a hash in it is none")
    if not receipt.is_signed:
        raise DataError("is not signed by the key that it names")
    return receipt


def keep(folder: Path, receipt: Receipt) -> bool:
    """Write a receipt into the folder of a run; whether it was not there before."""
    path = folder / f"{receipt.site}.{receipt.number}.{receipt.head[:8]}.json"
    fresh = not path.exists()
    _write(path, receipt)
    return fresh


def keep_last(folder: Path, receipt: Receipt) -> None:
    """Write the last receipt of a site, over all runs."""
    _write(folder / f"{receipt.site}.json", receipt)


def last_of(folder: Path, site: str) -> Receipt | None:
    """What `keep_last` has written for a site, if anything.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / f"{site}.json"
    return _read(path) if path.exists() else None


def _write(path: Path, receipt: Receipt) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (to_json(receipt) + "\n").encode())


def read(path: Path) -> dict[Path, Receipt]:
    """The receipts in a file, in a folder, or in the folder of a run, by file.

    Raises:
        DataError: there are none, or one cannot be read or is not signed by the key that it names.
    """
    found = {file: _read(file) for file in _files(path)}
    if not found:
        raise DataError(f"{path}: there are no receipts here")
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    inner = path / FOLDER
    yield from sorted((inner if inner.is_dir() else path).glob("*.json"))


def _read(path: Path) -> Receipt:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 2)
        return from_json(content.decode())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, DataError) as error:
        raise DataError(f"{path}: {error}") from None
