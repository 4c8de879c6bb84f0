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
from fedlearn.results import receipts
from fedlearn.results.receipts import Receipt
from server.enrol import raise_refusals
from server.grid import Replies, SiteGrid

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """Those of one run: `run` is its folder of them, `last` the one of all runs."""

    run: Path
    last: Path
    grid: SiteGrid
    publics: Mapping[str, bytes]
    run_id: str
    terms: str

    def at_start(self) -> None:
        """Ask every site before a round is paid for.

        Raises:
            PrivacyError: a site's own ledger has lost what the site had signed.
        """
        raise_refusals(self._ask().refusals)

    def at_end(self) -> None:
        """Ask for what a run has left in the ledgers; who does not answer is named in the log."""
        with suppress(StoppedError):  # the run itself is over
            for refusal in self._ask().refusals:
                log.warning("%s gives no receipt: %s", refusal.site, refusal.reason)

    def _ask(self) -> Replies:
        known = {site: self._last_of(site) for site in self.grid.sites}
        replies = self.grid.exchange(
            (self._question(site, one) for site, one in known.items()), check=self._read
        )
        for site, failure in replies.failures.items():
            log.warning("%s gives no receipt: %s", site, failure)
        for site, reply in replies.answers.items():
            self._keep(site, self._read(reply.content), known[site])
        return replies

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

    def _keep(self, site: str, receipt: Receipt, known: Receipt | None) -> None:
        if receipt.site != site:
            log.warning("%s has sent a receipt of %s", site, receipt.site)
            return
        if not receipts.keep(self.run, receipt):
            return  # a run that goes on, and has spent nothing since
        comparable = known and (known.key, known.data) == (receipt.key, receipt.data)
        if known and comparable and known.number >= receipt.number and known != receipt:
            # Both are kept: of one number, they are a proof.
            log.warning(
                "%s: its ledger was set back or written anew: it signed receipt %d after %d",
                *(site, receipt.number, known.number),
            )
            receipts.keep(self.run, known)
            return
        receipts.keep_last(self.last, receipt)

    def _last_of(self, site: str) -> Receipt | None:
        try:
            return receipts.last_of(self.last, site)
        except DataError as error:
            log.warning("%s", error)
            return None
