"""The proof of a norm once more, in whole numbers of Python: what the arrays are compared with.

It follows docs/protocol.md and shares no line with `fedlearn.secagg.proofs`: polynomials are
interpolated by Lagrange's formula, products are `%`, signs are looked up bit by bit.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

P = 2**64 - 2**32 + 1
IMAGES, KEPT, REPETITIONS = 4096, 25, 3


def stream(key: bytes, length: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))


def drawn(key: bytes, count: int) -> list[int]:
    words = struct.unpack(f"<{count + 16}Q", stream(key, 8 * (count + 16)))
    return [word for word in words if word < P][:count]


def sub_key(key: bytes, label: str) -> bytes:
    text = b"fedlearn/v1/" + label.encode()
    info = len(text).to_bytes(8, "big") + text
    return HKDFExpand(hashes.SHA256(), 32, info).derive(key)


def images(vector: list[int], key: bytes, count: int) -> list[int]:
    data = stream(key, -(-len(vector) // 8) * 2 * count)
    found = []
    for j in range(count):
        total = 0
        for i, value in enumerate(vector):
            start = i // 8 * 2 * count + j
            total += value * ((data[start] >> i % 8 & 1) - (data[start + count] >> i % 8 & 1))
        found.append(total)
    return found


@dataclass(frozen=True)
class Form:
    bits: int
    values: int
    counters: int
    norm: int

    @property
    def squares(self) -> int:
        return min(self.values, IMAGES)

    @property
    def kept(self) -> int:
        return min(self.bits, KEPT)

    @property
    def limit(self) -> int:
        s, k = 40 * math.log(2), self.squares
        each = 1.0 if self.values <= IMAGES else k / 2 + math.sqrt(s * k) + s
        slack = math.sqrt(k) if self.bits > KEPT else 0.0
        longest = self.norm / 2 ** (self.bits - self.kept) * math.sqrt(each) + slack
        return math.floor(longest**2 * (1 + 1e-12))

    @property
    def spare(self) -> int:
        return self.limit.bit_length()

    @property
    def inputs(self) -> int:
        return self.squares + self.counters + self.spare

    @property
    def products(self) -> int:
        return self.inputs + self.counters + self.squares

    @property
    def size(self) -> int:
        sizes = (2**b for b in range(1, 17))
        return min(sizes, key=lambda n: 2 * n + 2 * -(-self.products // (n - 1)))

    @property
    def rows(self) -> int:
        return -(-self.products // (self.size - 1))


def numbers(form: Form, vector: list[int], signs: bytes, *, first: bool) -> list[int]:
    """A server's part: what is squared, then the counters."""
    values = vector[: form.values]
    squared = values if form.values <= IMAGES else images(values, signs, IMAGES)
    shift = 2 ** (form.bits - 1) if first else 0
    whole = [(one + shift) % 2**form.bits for one in squared]
    return whole + [one % 2**form.bits for one in vector[form.values :]]


def bits_of(form: Form, first: list[int], helper: list[int]) -> list[int]:
    around = [int(a < b) for a, b in zip(first, helper, strict=True)]
    cut, total = form.bits - form.kept, 0
    for a, b, e in list(zip(first, helper, around, strict=True))[: form.squares]:
        total += ((a >> cut) - (b >> cut) + e * 2**form.kept - 2 ** (form.kept - 1)) ** 2
    left = form.limit - total
    assert left >= 0
    return around + [left >> i & 1 for i in range(form.spare)]


def terms(
    form: Form, part: list[int], bits: list[int], random: list[int], *, first: bool
) -> tuple[list[int], list[int], int]:
    """A server's share of the factors, and of what is added to their products."""
    k, m, sign, one = form.squares, form.counters, 1 if first else -1, int(first)
    cut, offset = form.bits - form.kept, one * 2 ** (form.kept - 1)
    y = [sign * (part[j] >> cut) + bits[j] * 2**form.kept - offset for j in range(k)]
    counters = [sign * part[k + i] + bits[k + i] * 2**form.bits for i in range(m)]
    left = sum(bit * 2**i for i, bit in enumerate(bits[k + m :])) - one * form.limit
    binary = bits + counters
    a = [x * r for x, r in zip(binary, random, strict=False)] + [x * random[-1] for x in y]
    b = [x - one for x in binary] + y
    return [x % P for x in a], [x % P for x in b], left * random[-1] % P


def roots(size: int) -> list[int]:
    root = pow(7, (P - 1) // size, P)
    return [pow(root, i, P) for i in range(size)]


def at(values: list[int], point: int) -> int:
    """The polynomial through values at the roots of unity, at a point."""
    nodes, found = roots(len(values)), 0
    if point in nodes:
        return values[nodes.index(point)]
    for node, value in zip(nodes, values, strict=True):
        found += value * node * pow((point - node) * len(values), -1, P)
    return found * (pow(point, len(values), P) - 1) % P


def rows(form: Form, a: list[int], b: list[int], random: list[int]) -> list[list[int]]:
    width, found = form.size - 1, []
    for dealt, start in ((a, 0), (b, form.rows)):
        padded = dealt + [0] * (form.rows * width - len(dealt))
        cut = (padded[i * width : (i + 1) * width] for i in range(form.rows))
        found += [[random[start + i], *row] for i, row in enumerate(cut)]
    return found


def prove(form: Form, a: list[int], b: list[int], random: list[int]) -> list[int]:
    polynomials, values = rows(form, a, b, random), []
    for point in roots(2 * form.size):
        seen = [at(one, point) for one in polynomials]
        pairs = zip(seen[: form.rows], seen[form.rows :], strict=True)
        values.append(sum(one * two for one, two in pairs) % P)
    return [*random[: 2 * form.rows], *values]


def seen(
    form: Form, share: tuple[list[int], list[int], int], proof: list[int], point: int
) -> list[int]:
    a, b, c = share
    polynomials, products = rows(form, a, b, proof[: 2 * form.rows]), proof[2 * form.rows :]
    total = (sum(products[2::2]) + c) % P
    return [*(at(one, point) for one in polynomials), at(products, point), total]


def coefficients(form: Form, key: bytes) -> list[list[int]]:
    count = form.inputs + form.counters + 1
    return [drawn(sub_key(key, f"proofs/coefficients/{i}"), count) for i in range(REPETITIONS)]


def points(key: bytes) -> list[int]:
    return [drawn(sub_key(key, f"proofs/point/{i}"), 1)[0] for i in range(REPETITIONS)]


def contribution(
    form: Form, vectors: tuple[list[int], list[int]], keys: dict[str, bytes]
) -> tuple[list[int], list[int]]:
    """What both servers hold of bits and proofs."""
    first = numbers(form, vectors[0], keys["signs"], first=True)
    helper = numbers(form, vectors[1], keys["signs"], first=False)
    length = 2 * form.rows + 2 * form.size
    theirs = drawn(sub_key(keys["seed"], "proofs/shares"), form.inputs + REPETITIONS * length)
    bits, hidden = bits_of(form, first, helper), theirs[: form.inputs]
    given = [(x - y) % P for x, y in zip(bits, hidden, strict=True)]
    masks, proofs = drawn(keys["random"], REPETITIONS * 2 * form.rows), []
    for i, random in enumerate(coefficients(form, keys["coefficients"])):
        one = terms(form, first, given, random, first=True)
        two = terms(form, helper, hidden, random, first=False)
        a, b = ([(x + y) % P for x, y in zip(one[j], two[j], strict=True)] for j in (0, 1))
        proofs += prove(form, a, b, masks[i * 2 * form.rows : (i + 1) * 2 * form.rows])
    whole = given + [(x - y) % P for x, y in zip(proofs, theirs[form.inputs :], strict=True)]
    return whole, theirs


def query(
    form: Form, vector: list[int], share: list[int], keys: dict[str, bytes], *, first: bool
) -> list[int]:
    """All that a server says of a contribution."""
    part, length = numbers(form, vector, keys["signs"], first=first), 2 * (form.rows + form.size)
    found = []
    drawn_keys = zip(coefficients(form, keys["coefficients"]), points(keys["points"]), strict=True)
    for i, (random, point) in enumerate(drawn_keys):
        start = form.inputs + i * length
        own = terms(form, part, share[: form.inputs], random, first=first)
        found += seen(form, own, share[start : start + length], point)
    return found


def holds(form: Form, one: list[int], other: list[int]) -> bool:
    """Whether a contribution is what it must be."""
    summed = [(x + y) % P for x, y in zip(one, other, strict=True)]
    width = 2 * form.rows + 2
    for i in range(REPETITIONS):
        own = summed[i * width : (i + 1) * width]
        pairs = zip(own[: form.rows], own[form.rows : 2 * form.rows], strict=True)
        if own[-1] != 0 or (sum(a * b for a, b in pairs) - own[-2]) % P:
            return False
    return True
