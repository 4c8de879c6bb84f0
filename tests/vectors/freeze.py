"""Our own vectors: what every release must reproduce byte for byte.

    python -m tests.vectors.freeze     writes fedlearn_v1.json

Run it only together with a new protocol version; the test compares with the file.
Everything is made from fixed keys. The `bad_*` messages must be refused.
"""

import hashlib
import json
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlearn.core.ring import Ring, pack
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.kdf import derive, expand
from fedlearn.crypto.keystream import SecureWords, add_masks
from fedlearn.crypto.sealed import Channel
from fedlearn.crypto.shamir import split
from fedlearn.secagg import keys
from fedlearn.secagg.framing import encode
from fedlearn.secagg.graph import neighbours_of
from fedlearn.secagg.layout import SumLayout
from fedlearn.secagg.messages import Params, Survivors
from fedlearn.secagg.payload import Payload
from fedlearn.secagg.settings import SecAggMasked
from tests.vectors import HERE

PARAMS = Params(
    run_id=bytes(range(16)),
    round=3,
    cohort=("athens", "basel", "córdoba", "dublin"),
    neighbours=3,
    threshold=2,
    bits=60,
    length=5,
    layout_hash=b"\x11" * 32,
    plan_hash=b"\x22" * 32,
    request_hash=b"\x33" * 32,
)
ROOT = bytes(range(32))
PRIVATE = {"athens": b"\x01" * 32, "basel": b"\x02" * 32}
IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))


def receiver() -> Channel:
    """The server's end of the channel that the frozen sealed message was made for."""
    return Channel.start(ROOT, PARAMS.run_id, me="server", peer="athens", is_client=False)


def values() -> dict[str, str]:
    """Everything that is a function of fixed keys, in hex."""
    context = PARAMS.context()
    public = {name: keys.public_of(private) for name, private in PRIVATE.items()}
    mask = np.zeros(4, "<u8")
    add_masks(mask, [ROOT])
    coefficients = hashlib.shake_256(b"coefficients").digest(64)
    payload = Payload.plan(
        SecAggMasked(bits=20, clip=1.0, resolution=2.0**-6, max_weight=16),
        num_clients=4,
        num_values=5,
        num_counters=1,
    )
    update = np.array([0.5, -0.5, 1.5, -0.015625, 0.1], np.float32)
    contribution = payload.encode(update, 3, [-7], SecureWords(ROOT))
    survivors = Survivors(names=PARAMS.cohort[:3])
    graph = neighbours_of([f"n{index}" for index in range(9)], 4, b"seed")
    out: dict[str, bytes] = {
        "params": PARAMS.encode(),
        "context": context,
        "roll_context": PARAMS.bound_to(b"a roll"),
        "derive": derive(ROOT, "test", b"one", b"two"),
        "expand": expand(ROOT, "test", b"one", b"two"),
        "keystream": mask.tobytes(),
        "pair_mask_key": keys.pair_mask_key(
            keys.load_private(PRIVATE["athens"]), public["basel"], context, "athens", "basel"
        ),
        "self_mask_key": keys.self_mask_key(ROOT, context, "athens"),
        "share_key_out": keys.share_keys(
            keys.load_private(PRIVATE["athens"]), public["basel"], context, "athens", "basel"
        )[0],
        "commitment": keys.commitment(ROOT, context, "athens"),
        "shamir_3_of_5": split(ROOT, 3, 5, random=lambda count: coefficients[:count]).tobytes(),
        "graph": json.dumps(graph, sort_keys=True).encode(),
        "payload_hash": payload.hash(),
        "contribution": bytes(pack(contribution, payload.ring)),
        "packed_20": bytes(pack(np.arange(5, dtype="<u4") * 1001, Ring(bits=20))),
        "layout_hash": SumLayout.of({"w": np.zeros((2, 3), np.float32)}).hash(),
        "survivors": encode(survivors, context),
        "signature": IDENTITY.sign("secagg/survivors", context, survivors.hash()),
    }
    return {name: data.hex() for name, data in out.items()}


def bad_params() -> dict[str, str]:
    """Parameter messages that no decoder may accept."""
    good = PARAMS.encode()
    swapped = good.replace(b"athens", b"zthens")
    return {
        "bad_magic": (b"FLSB" + good[4:]).hex(),
        "bad_version": (good[:4] + b"\x01" + good[5:]).hex(),
        "bad_kind": (good[:5] + b"\x03" + good[6:]).hex(),
        "bad_truncated": good[:-1].hex(),
        "bad_trailing": (good + b"\0").hex(),
        "bad_order_of_names": swapped.hex(),
        "bad_repeated_name": good.replace(b"\x05basel", b"\x06athens").hex(),
        "bad_empty_name": good.replace(b"\x06athens", b"\x00").hex(),
        "bad_utf8_in_name": good.replace(b"athens", b"\xff\xfehens").hex(),
        "bad_count_of_names": good.replace(b"\0\0\0\x04", b"\xff\xff\xff\xff", 1).hex(),
    }


def main() -> None:
    """Writes the file. The sealed message has a random salt, so it is made once and kept."""
    sender = Channel.start(ROOT, PARAMS.run_id, me="athens", peer="server", is_client=True)
    case: dict[str, Any] = {
        "values": values(),
        "bad_params": bad_params(),
        "sealed": bytes(sender.seal(9, 2, b"sealed with a fixed root")).hex(),
    }
    document = {"source": "fedlearn, protocol version 1", "licence": "Apache-2.0", "cases": [case]}
    (HERE / "fedlearn_v1.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
