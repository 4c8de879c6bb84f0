"""Sealed messages against in-place AES-256-GCM, on one machine, in one run.

    python benchmarks/sealing.py [--quick] [--json PATH]

In-place AES-GCM (`encrypt_into` and `decrypt_into` on buffers that exist) is what
the processor can do; sealing adds a header, a key per message, chunks that can be
streamed, and fresh buffers for the results. CPU seconds of the process, sides
taken in turn, medians. Every opened message is compared with what was sealed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedlearn.crypto.handshake import Link, ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.sealed import Channel, sealed_size

KIND, ROUND = 1, 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """Medians for one message size; throughput counts the plaintext once for seal plus open."""

    megabytes: float
    seal_seconds: float
    open_seconds: float
    gcm_seconds: float
    sealed_gb_per_second: float
    gcm_gb_per_second: float
    share_of_gcm: float
    overhead_bytes: int


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def connect() -> tuple[Channel, Channel]:
    """A client's and a server's end."""
    server, client = Identity.new(), Identity.new()
    link = Link(run_id=os.urandom(16), client="site", server="server")
    offer = ServerOffer(server, link.run_id, "server", allow_classical=True)
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


def measure(size: int, repeats: int) -> Result:
    """Seal and open one message of `size` bytes, and the same through in-place GCM."""
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
        times["gcm"].append(cpu(lambda: gcm.round_trip(data)))
    seal, opening, plain = (median(times[key]) for key in ("seal", "open", "gcm"))
    return Result(
        megabytes=size / 1e6,
        seal_seconds=seal,
        open_seconds=opening,
        gcm_seconds=plain,
        sealed_gb_per_second=size / 1e9 / (seal + opening),
        gcm_gb_per_second=size / 1e9 / plain,
        share_of_gcm=plain / (seal + opening),
        overhead_bytes=sealed_size(size) - size,
    )


def fernet_seconds(size: int) -> float:
    """CPU seconds of Fernet (what flwr's SecAgg+ seals with), both ways."""
    fernet, data = Fernet(Fernet.generate_key()), os.urandom(size)
    return cpu(lambda: fernet.decrypt(fernet.encrypt(data)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.1, 4, 100])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="4 MB only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [4.0] if options.quick else options.megabytes
    results = []
    for megabytes in sizes:
        result = measure(int(megabytes * 1e6), options.repeats)
        results.append(asdict(result))
        print(
            f"{megabytes:g} MB: seal {1e3 * result.seal_seconds:.1f} ms, "
            f"open {1e3 * result.open_seconds:.1f} ms, in-place GCM both ways "
            f"{1e3 * result.gcm_seconds:.1f} ms: {result.share_of_gcm:.0%} of its throughput, "
            f"{result.overhead_bytes} bytes more"
        )
    start = cpu(connect)
    fernet = fernet_seconds(4_000_000)
    print(
        f"set-up, both sides: {1e3 * start:.2f} ms; Fernet, 4 MB both ways: {1e3 * fernet:.0f} ms"
    )
    if options.json:
        environment = {"machine": platform.machine(), "python": platform.python_version()}
        document = {
            "results": results,
            "setup_seconds": start,
            "fernet_4mb_seconds": fernet,
            "environment": environment,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
