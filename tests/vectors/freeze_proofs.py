"""Vectors of the proofs of norms, made by the slow implementation in whole numbers of Python.

    python -m tests.vectors.freeze_proofs     writes norm_proofs_v1.json

Run it only together with a new protocol version. Everything is made from fixed keys and a fixed
stream; with the first server's share altered at one of `bad_elements`, a proof is refused.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from tests.fedlearn.secagg.proofs import slow
from tests.fedlearn.secagg.proofs.slow import Form
from tests.vectors import HERE

FORMS: Final = {
    "few values": Form(bits=12, values=5, counters=0, norm=1000),
    "with a counter": Form(bits=20, values=30, counters=1, norm=3000),
    "bits cut off": Form(bits=33, values=17, counters=2, norm=100_000),
    "widest ring": Form(bits=62, values=3, counters=1, norm=2**50),
}


def keys_of(name: str) -> dict[str, bytes]:
    """Fixed keys of a case."""
    names = ("signs", "seed", "coefficients", "points", "random")
    return {key: hashlib.sha256(f"{name}/{key}".encode()).digest() for key in names}


def vectors_of(form: Form) -> tuple[list[int], list[int]]:
    """A masked vector and its mask: values of either sign within the norm, counters of 0 and 1."""
    most = int(form.norm / form.values**0.5)
    signed = [(-1) ** i * (most - i) for i in range(form.values)]
    signed += [i % 2 for i in range(form.counters)]
    width = (form.bits + 7) // 8
    data = slow.stream(bytes(range(32)), width * len(signed))
    mask = [
        int.from_bytes(data[i * width : (i + 1) * width], "little") % 2**form.bits
        for i in range(len(signed))
    ]
    masked = [(x + m) % 2**form.bits for x, m in zip(signed, mask, strict=True)]
    return masked, mask


def _hex(elements: list[int]) -> str:
    return b"".join(one.to_bytes(8, "little") for one in elements).hex()


def case(name: str) -> dict[str, object]:
    """All that a proof is made of and what it is."""
    form, keys, vectors = FORMS[name], keys_of(name), vectors_of(FORMS[name])
    first, helper = slow.contribution(form, vectors, keys)
    seen = [
        slow.query(form, vectors[0], first, keys, first=True),
        slow.query(form, vectors[1], helper, keys, first=False),
    ]
    assert slow.holds(form, *seen)
    return {
        "bound": vars(form),
        "keys": {key: value.hex() for key, value in keys.items()},
        "masked": vectors[0],
        "mask": vectors[1],
        "first_share": _hex(first),
        "first_seen": _hex(seen[0]),
        "helper_seen": _hex(seen[1]),
        "bad_elements": [0, form.inputs - 1, form.inputs, len(first) - 1],
    }


if __name__ == "__main__":
    cases = {name: case(name) for name in FORMS}
    (HERE / "norm_proofs_v1.json").write_text(json.dumps(cases, indent=1) + "\n")
