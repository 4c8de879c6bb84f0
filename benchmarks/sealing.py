"""Sealed messages against in-place AES-256-GCM, on one machine, in one run.

    python benchmarks/sealing.py [--megabytes 4] [--json PATH]

In-place AES-GCM (`encrypt_into` and `decrypt_into` on buffers that exist) is what
the processor can do; sealing adds a header, a key per message, chunks that can be
streamed, and fresh buffers for the results. CPU seconds of the process, sides
taken in turn, medians. Every opened message is compared with what was sealed.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from table import Table, parser, ratios, spread, taken, write

from fedlearn.crypto.handshake import Link, ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.sealed import Channel, sealed_size

KIND, ROUND = 1, 1


def connect() -> tuple[Channel, Channel]:
    """A client's and a server's end."""
    server, client = Identity.new(), Identity.new()
    link = Link(run_id=os.urandom(16), terms=os.urandom(32), client="site", server="server")
    offer = ServerOffer(server, link.run_id, link.terms, "server", allow_classical=True)
    mine, answer = accept_offer(client, link, server.public, offer.message, allow_classical=True)
    return mine, offer.finish("site", client.public, answer)


class InPlaceGcm:
    """One-shot AES-256-GCM between two buffers that are reused."""

    def __init__(self, size: int) -> None:
        self._cipher, self._nonce = AESGCM(os.urandom(32)), os.urandom(12)
        self._sealed, self._opened = (
            np.zeros(size + 16, np.uint8).data,
            np.zeros(size, np.uint8).data,
        )

    def round_trip(self, data: bytes) -> None:
        """Encrypts and decrypts. The nonce repeats: a benchmark, not an example."""
        self._cipher.encrypt_into(self._nonce, data, None, self._sealed)
        self._cipher.decrypt_into(self._nonce, self._sealed, None, self._opened)


def measure(size: int, repeats: int) -> dict[str, Any]:
    """Seal and open one message of `size` bytes, and the same through in-place GCM.

    `share_of_gcm` counts the plaintext once for seal plus open.
    """
    client, server = connect()
    data, gcm = os.urandom(size), InPlaceGcm(size)
    gcm.round_trip(data)
    times: dict[str, list[float]] = {"seal": [], "open": [], "gcm": []}
    for _ in range(repeats):
        start = time.process_time()
        message = client.seal(KIND, ROUND, data)
        middle = time.process_time()
        opened = server.open(KIND, message)
        times["open"].append(time.process_time() - middle)
        times["seal"].append(middle - start)
        assert opened.data == data, "opened to something else"
        del message, opened
        times["gcm"].append(taken(lambda: gcm.round_trip(data)))
    both = [seal + opening for seal, opening in zip(times["seal"], times["open"], strict=True)]
    return {
        "megabytes": size / 1e6,
        **{f"{way}_ms": spread(seconds).times(1e3) for way, seconds in times.items()},
        "share_of_gcm": ratios(times["gcm"], both),
        "overhead_bytes": sealed_size(size) - size,
    }


def fernet_seconds(size: int) -> float:
    """CPU seconds of Fernet (what flwr's SecAgg+ seals with), both ways."""
    fernet, data = Fernet(Fernet.generate_key()), os.urandom(size)
    return taken(lambda: fernet.decrypt(fernet.encrypt(data)))


def main() -> None:
    """The command line."""
    options = parser(__doc__, megabytes=[0.1, 4.0, 100.0], repeats=9).parse_args()
    table = Table(
        megabytes=("plaintext", "g", " MB"), seal_ms=("seal", ".1f", " ms"),
        open_ms=("open", ".1f", " ms"), gcm_ms=("in-place GCM", ".1f", " ms"),
        share_of_gcm=("share of its throughput", ".0%"), overhead_bytes=("bytes more", ","),
    )  # fmt: skip
    for megabytes in options.megabytes:
        table.row(measure(int(megabytes * 1e6), options.repeats))
    start = spread([taken(connect) for _ in range(options.repeats)])
    fernet = fernet_seconds(4_000_000)
    print(
        f"\nset-up, both sides: {start.times(1e3).shown('.2f', ' ms')}; "
        f"Fernet, 4 MB both ways: {1e3 * fernet:.0f} ms"
    )
    found = {"rows": table.rows, "setup_seconds": start, "fernet_4mb_seconds": fernet}
    write(options.json, found)


if __name__ == "__main__":
    main()
