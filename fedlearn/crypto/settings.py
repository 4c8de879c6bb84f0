"""What a user sets about transport; unions are told apart by `kind`."""

from __future__ import annotations

from typing import Literal

from fedlearn.core.settings import Count, config


@config
class TransportPlain:
    """Messages travel as Flower sends them (under TLS, where Flower is set up for it)."""

    kind: Literal["plain"] = "plain"


@config
class TransportSealed:
    """Every message is encrypted from end to end with AES-256-GCM.

    `allow_classical` permits a set-up with X25519 alone where a side has no
    ML-KEM; `max_bytes` is the largest plaintext that a peer may declare.
    """

    kind: Literal["sealed"] = "sealed"
    allow_classical: bool = False
    max_bytes: Count = 4 * 2**30


Transport = TransportPlain | TransportSealed
