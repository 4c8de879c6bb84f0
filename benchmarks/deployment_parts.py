"""What one message with a model costs, part by part: CPU seconds of both ends together.

    python benchmarks/deployment_parts.py [--parameters 1000000] [--repeats 7] [--json PATH]

Taking it apart into Flower's objects and putting it together again, sealing and opening,
TLS 1.3 once (it passes two connections, one at the gateway and one at the SuperLink), the
copies of an envelope, and the checks of its hashes. Medians. What `benchmarks/deployment.py`
measures beyond these is Flower's request handling, and processes that wait for each other.
"""

from __future__ import annotations

import hashlib
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict
from table import Table, in_turns, parser, spread, taken, write

from fedlearn.crypto.certificates import authority_credential, server_credential
from fedlearn.crypto.handshake import NO_TERMS, Link, ServerOffer, accept_offer
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.sealed import Channel
from fedlearn.flower import envelopes, private
from fedlearn.flower.envelope import Capacity, Envelope
from fedlearn.flower.records import arrays_of, large_bytes


def channels() -> tuple[Channel, Channel]:
    """Both ends of a sealed channel, set up as between a coordinator and a site."""
    server, site, run = Identity.new(), Identity.new(), bytes(16)
    offer = ServerOffer(server, run, NO_TERMS, "server")
    link = Link(run_id=run, terms=NO_TERMS, client="site", server="server")
    near, accepted = accept_offer(site, link, server.public, offer.message)
    return offer.finish("site", site.public, accepted), near


def sealing(data: bytes) -> None:
    """Seal and open once."""
    far, near = channels()
    near.open(1, far.seal(1, 1, data), max_bytes=1 << 32)


def tls_pair() -> tuple[ssl.SSLObject, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A TLS 1.3 connection in memory: client, server, and what travels each way."""
    now = datetime.now(UTC)
    authority = authority_credential("bench", now)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tls"
        path.write_bytes(server_credential(authority, ["localhost"], now).pem())
        server.load_cert_chain(path)
    client = ssl.create_default_context(cadata=authority.certificate_pem().decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(down, up, server_hostname="localhost")
    two = server.wrap_bio(up, down, server_side=True)
    for end in (one, two, one, two):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return one, two, up, down


def tls(data: bytes) -> Callable[[], None]:
    """Encrypt and decrypt all of it once."""
    client, server, _, _ = tls_pair()

    def through() -> None:
        for start in range(0, len(data), 1 << 16):
            part = data[start : start + (1 << 16)]
            client.write(part)
            left = len(part)
            while left:
                left -= len(server.read(left))

    return through


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, parameters=1_000_000, repeats=7).parse_args()
    private.new_run(run_id=1)
    model = np.random.default_rng(0).normal(size=options.parameters).astype(np.float32)
    plain = private.content_to_bytes(RecordDict({"arrays": arrays_of(model)}))
    content = RecordDict({"sealed": large_bytes("sealed", plain)})

    def there_and_back() -> Envelope:
        with envelopes.packing() as packed:
            one = packed(Message(content, 7, "train"))
            envelope = Envelope(one.head.SerializeToString(), tuple(one.inline(Capacity(1 << 40))))
        envelopes.unpacked(one.head, one.tree, envelope.by_id(), lambda name: b"")
        return envelope

    envelope = there_and_back()
    parts: dict[str, Callable[[], object]] = {
        "taking apart, putting together": there_and_back,
        "records to bytes and back": lambda: private.content_from_bytes(
            private.content_to_bytes(RecordDict({"arrays": arrays_of(model)}))
        ),
        "sealing and opening": lambda: sealing(plain),
        "TLS, one connection": tls(plain),
        "an envelope's copies": lambda: Envelope.decode(envelope.encode()),
        "one SHA-256 of it": lambda: hashlib.sha256(plain).digest(),
    }
    times = in_turns({name: partial(taken, work) for name, work in parts.items()}, options.repeats)
    found = {name: spread(seconds) for name, seconds in times.items()}
    table = Table(part="part", cpu=("CPU", ".1f", " ms"))
    for name, seconds in found.items():
        table.row({"part": name, "cpu": seconds.times(1e3)})
    write(options.json, {"parameters": options.parameters, "cpu_seconds": found})


if __name__ == "__main__":
    main()
