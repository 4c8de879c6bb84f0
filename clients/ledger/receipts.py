"""A ledger and its receipts: signed at the site for a run, and held against the ledger later."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from clients.ledger.ledger import Ledger, load
from clients.ledger.state import NotedReceipt, Spending
from fedlearn.core.errors import DataError, PrivacyError
from fedlearn.crypto.identity import Identity
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt


def sign(
    ledger: Ledger, identity: Identity, *, data: str, run_id: str, terms: str, now: datetime
) -> Receipt:
    """The receipt for a run, of the ledger as it is; `data` is the site's commitment to it."""
    noted, head = ledger.receipt(run_id, terms, data, now=now)
    unsigned = Receipt(
        site=ledger.site,
        data=noted.data,
        number=noted.number,
        head=head,
        run_id=run_id,
        terms=terms,
        spent=noted.spent,
        key=identity.public.hex(),
    )
    return unsigned.signed(identity)


def check_grown(ledger: Ledger, known: str, *, key: bytes, data: str) -> None:
    """Refuse to go on from a ledger that has lost what the site signed before.

    `known` is the text of the last receipt that somebody has; of another data set, or an
    earlier key of the site, it says nothing here.

    Raises:
        DataError: it is no receipt.
        PrivacyError: this site has signed it, and its ledger has no such line.
    """
    receipt = receipts.from_json(known)
    if (receipt.key, receipt.data) == (key.hex(), data) and not ledger.holds(receipt.head):
        raise PrivacyError(
            f"site {ledger.site}: its ledger lacks the line of receipt {receipt.number}, which it "
            "has signed: it is an older copy, or another ledger, and what was spent since is "
            "missing. Restore the newest copy; nothing can be spent from this one"
        )


def misfits(path: Path, given: Mapping[Path, Receipt]) -> list[str]:
    """What does not fit between a ledger and receipts, by file; empty: it has grown from all.

    Raises:
        DataError: the ledger is not intact.
    """
    chain, state = load(path)
    numbered = {noted.number: noted for noted in state.receipts}
    found = (
        (file, _misfit(receipt, state, numbered.get(receipt.number), chain.hashes))
        for file, receipt in given.items()
    )
    return [f"{file}: {problem}" for file, problem in found if problem]


def _misfit(
    receipt: Receipt, state: Spending, noted: NotedReceipt | None, hashes: Sequence[str]
) -> str:
    """Why a ledger is not the one of a receipt; empty if it is."""
    if receipt.site != state.site:
        return f"is of site {receipt.site}, and the ledger of site {state.site}"
    if noted is None:
        return (
            f"is receipt {receipt.number}, and the ledger has {len(state.receipts)}: it was set "
            "back to an older copy, cut, or begun anew"
        )
    if hashes[noted.line - 1] != receipt.head:
        return (
            f"is receipt {receipt.number}, and line {noted.line}, which has this number, is not "
            "the one that was signed: it, or lines above it, were written anew"
        )
    says = [(one.run_id, one.terms, one.data, one.spent) for one in (noted, receipt)]
    if says[0] != says[1]:
        return (
            f"says of run {receipt.run_id} what line {noted.line} and those above it do not say: "
            "the site has signed something else than it had booked"
        )
    return ""


def of_other_data(path: Path, given: Mapping[Path, Receipt]) -> set[Path]:
    """Receipts of other data sets than a ledger's, by what its own receipts say; each has a
    ledger of its own."""
    mine = {noted.data for noted in load(path)[1].receipts}
    return {file for file, receipt in given.items() if mine and receipt.data not in mine}


def contradictions(given: Mapping[Path, Receipt]) -> list[str]:
    """Receipts that cannot be of one ledger which only grew, whatever the ledger is now."""
    return [
        f"{one} and {other}: are both receipt {mine.number} of site {mine.site}, and differ: there "
        "were two ledgers, or one was written anew; the signatures prove it"
        for (one, mine), (other, theirs) in itertools.combinations(given.items(), 2)
        if mine.contradicts(theirs)
    ]


def key_of(given: Mapping[Path, Receipt], key: bytes | None) -> bytes:
    """The key that receipts are signed by; `key` is the one that the site is known by, if any.

    Raises:
        DataError: one is signed by another key, or, where none is known, they are by several.
    """
    keys = {receipt.key for receipt in given.values()}
    if key is not None and keys != {key.hex()}:
        strange = [str(file) for file, one in given.items() if one.key != key.hex()]
        raise DataError("\n".join(f"{file}: is not under the site's key" for file in strange))
    if len(keys) > 1:
        raise DataError(
            f"the receipts are signed by {len(keys)} keys, and any of them may be a stranger's. "
            "Give the pinned roster with --roster, or the receipts of one key"
        )
    return bytes.fromhex(keys.pop())
