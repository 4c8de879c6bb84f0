"""The coordinator keeps what sites sign about their ledgers: at the start and the end of a run.

With the last receipt of a site, of whichever run, a coordinator asks for the next one; a site
whose ledger has lost that line refuses. Receipts lie in the folder of the run, and the last of
each site in a folder of the coordinator's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message, RecordDict

from fedlearn.core.errors import DataError, ProtocolError, StoppedError
from fedlearn.flower import messages as flower
from fedlearn.flower.grid import Replies, SiteGrid
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signed:
    """What sites answered to the question for a receipt, and the receipts shown to them."""

    replies: Replies
    known: Mapping[str, Receipt | None]


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """Those of one run; `last` is the folder with the last one of every site, of all runs."""

    last: Path
    grid: SiteGrid
    publics: Mapping[str, bytes]
    run_id: str
    terms: str

    def ask(self) -> Signed:
        """Ask every site; a refusal says that its ledger has lost what the site had signed."""
        known = {site: self._last_of(site) for site in self.grid.sites}
        questions = (self._question(site, one) for site, one in known.items())
        return Signed(self.grid.exchange(questions, check=self._read), known)

    def at_end(self, run: Path) -> None:
        """Ask for what a run has left in the ledgers, and keep it in its folder of receipts."""
        with suppress(StoppedError):  # the run itself is over
            self.keep(run, self.ask())

    def keep(self, run: Path, signed: Signed) -> None:
        """Write down what was signed; who has signed nothing is named in the log."""
        for site, failure in signed.replies.failures.items():
            log.warning("%s gives no receipt: %s", site, failure)
        for refusal in signed.replies.refusals:
            log.warning("%s gives no receipt: %s", refusal.site, refusal.reason)
        for site, reply in signed.replies.answers.items():
            self._keep(run, site, self._read(reply.content), signed.known[site])

    def _question(self, site: str, known: Receipt | None) -> Message:
        content = flower.receipt_content(receipts.to_json(known) if known else "")
        node = self.grid.node_of[site]
        return Message(content, dst_node_id=node, message_type=flower.RECEIPT)

    def _read(self, content: RecordDict) -> Receipt:
        """A receipt of this run, under the key of the site that it names."""
        receipt = receipts.from_json(flower.read_receipt(content))
        key = self.publics.get(receipt.site, b"").hex()
        if (receipt.key, receipt.run_id, receipt.terms) != (key, self.run_id, self.terms):
            raise ProtocolError(receipt.site, "receipt", "is not of this run, or of another key")
        return receipt

    def _keep(self, run: Path, site: str, receipt: Receipt, known: Receipt | None) -> None:
        if receipt.site != site:
            log.warning("%s has sent a receipt of %s", site, receipt.site)
            return
        if not receipts.keep(run, receipt):
            return  # a run that goes on, and has spent nothing since
        comparable = known and (known.key, known.data) == (receipt.key, receipt.data)
        if known and comparable and known.number >= receipt.number and known != receipt:
            # Both are kept: of one number, they are a proof.
            log.warning(
                "%s: its ledger was set back or written anew: it signed receipt %d after %d",
                *(site, receipt.number, known.number),
            )
            receipts.keep(run, known)
            return
        receipts.keep_last(self.last, receipt)

    def _last_of(self, site: str) -> Receipt | None:
        try:
            return receipts.last_of(self.last, site)
        except DataError as error:
            log.warning("%s", error)
            return None
