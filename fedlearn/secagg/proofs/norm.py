"""What is proved of a vector of integers modulo 2^bits, and what a liar may still do.

With x for its representatives around zero, an honest client has |x| <= `norm`. Where there are no
more than `IMAGES` values, |x| itself is proved to be within it. Where there are more, that of
`IMAGES` random images y_j = sum_i z_ij x_i modulo 2^bits (`projections`): sum_j y_j^2 <= limit.
The signs come from a hash of what was sent, so that they are known after x and not before.

**An honest client** is believed, but for a chance of `FALSE_ALARM`: y_j is lighter in its tails
than a Gaussian of variance |x|^2 / 2, so that sum_j y_j^2 <= c k |x|^2 / 2 with
c = 1 + 2 sqrt(s / k) + 2 s / k but for e^-s (Laurent and Massart 2000, lemma 1, as a moment bound).

**A liar** with |x| > g norm is believed with a chance of 2^-`SECURITY` at most. Let F be the sum
over all m of exp(-t (y + 2^bits m)^2), and t = 2 a / (g norm)^2. Its Fourier coefficients over
Z / 2^bits are positive, and so is E exp(i theta z x) = (1 + cos(theta x)) / 2. Hence more
coordinates make E F(y) smaller, and it is enough to look at few of them:

- one with |x_i| >= g norm: E F <= 1/2 F(0) + 1/2 F(g norm), and F falls up to 2^(bits - 1);
- else as many as bring their norm to g norm, and not beyond sqrt(2) of that. Their y has
  variance |x|^2 / 2 and a fourth moment of at most three times its square, so that
  E exp(-t y^2) <= 1 - a + 3/2 a^2 (for a up to 2/9 also where the norm is larger).

Either way E F <= 1 - a + 3/2 a^2 + e, with e for what wraps around (`image`), and by Markov
P[sum of k squares <= S] <= (exp(t S / k) (1 - a + 3/2 a^2 + e))^k. `reach` is g norm
for the best a.

Squares must not wrap around p: of images the highest `KEPT_BITS` bits are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fedlearn.crypto.codec import Reader, Writer
from fedlearn.secagg.proofs.field import ELEMENT_BYTES, MODULUS
from fedlearn.secagg.proofs.products import Products

IMAGES: Final = 4096
"""Numbers whose squares are summed."""
KEPT_BITS: Final = 25
"""4096 squares of numbers up to 1.5 times 2^25 stay below p."""
REPETITIONS: Final = 3
"""Proofs with coefficients and points of their own; as the VDAF draft has it for this field."""
SECURITY: Final = 128
"""Of the images: chance 2^-128 for every choice of what is hashed."""
FALSE_ALARM: Final = 2.0**-40
"""Chance that an honest client has to draw another mask, or that what it sends tells of it."""
_SPARE_BITS: Final = 4
"""2^bits is 16 times the norm at least: images do not wrap around."""
PROVEN_BITS: Final = 62
"""The widest ring: wrapped around once, a counter stays below p."""
_MOST_SLOPE: Final = 2 / 9


@dataclass(frozen=True, kw_only=True)
class NormBound:
    """The statement: `values` numbers modulo 2^bits of that norm, then `counters` of 0 or 1."""

    bits: int
    values: int
    counters: int
    norm: int

    def __post_init__(self) -> None:
        if not self.least_bits(self.values, self.norm) <= self.bits <= PROVEN_BITS:
            raise ValueError(f"bits={self.bits}: a norm of {self.norm} is not proved in them")

    @staticmethod
    def least_bits(values: int, norm: int) -> int:
        """Bits of the ring in which such a norm can be proved."""
        return norm.bit_length() + (1 if values <= IMAGES else _SPARE_BITS)

    @property
    def exact(self) -> bool:
        """Whether every value is looked at, and not images of all."""
        return self.values <= IMAGES

    @property
    def squares(self) -> int:
        """Numbers whose squares are summed."""
        return min(self.values, IMAGES)

    @property
    def kept(self) -> int:
        """Bits of them that are kept."""
        return min(self.bits, KEPT_BITS)

    @property
    def cut(self) -> int:
        """Bits of them that are cut off."""
        return self.bits - self.kept

    @property
    def _rounding(self) -> float:
        """Norm of what is cut off: less than a step for each."""
        return math.sqrt(self.squares) if self.cut else 0.0

    @cached_property
    def limit(self) -> int:
        """What the sum of squares may be."""
        each = 1.0
        if not self.exact:
            s = -math.log(FALSE_ALARM)
            each = self.squares / 2 + math.sqrt(s * self.squares) + s
        longest = self.norm / 2.0**self.cut * math.sqrt(each) + self._rounding
        return math.floor(longest**2 * (1 + 1e-12))

    @property
    def spare(self) -> int:
        """Bits of what is left below the limit."""
        return self.limit.bit_length()

    @property
    def inputs(self) -> int:
        """Shared bits: what wraps around, of every number, and what is left below the limit."""
        return self.squares + self.counters + self.spare

    @property
    def products(self) -> Products:
        """The form of the proof."""
        return Products(self.inputs + self.counters + self.squares)

    @property
    def elements(self) -> int:
        """Field elements of a contribution's proof."""
        return self.inputs + REPETITIONS * self.products.length

    @property
    def seen_bytes(self) -> int:
        """Bytes of what a server says of a contribution."""
        return REPETITIONS * self.products.seen * ELEMENT_BYTES

    @cached_property
    def reach(self) -> float:
        """The norm of the longest vector that a liar can have believed, but for `SECURITY`."""
        longest = 2.0**self.cut * (math.sqrt(self.limit) + self._rounding)
        if self.exact:
            return longest
        length, most = longest / math.sqrt(self.squares / 2), 2.0 ** (self.bits - 1)
        while length < most and not self._caught(length, longest):
            length *= 1.002
        return min(length, most)

    def _caught(self, length: float, longest: float) -> bool:
        """Whether vectors of that norm, and all longer ones, pass with less than 2^-SECURITY."""
        slopes = (_MOST_SLOPE * i / 100 for i in range(1, 101))
        least = min(self.log_chance(length, longest, a) for a in slopes)
        return least <= -SECURITY * math.log(2)

    def log_chance(self, length: float, longest: float, a: float) -> float:
        """Logarithm of the bound on the chance that images are at most `longest` together."""
        each = self.image(length, a)
        return min(0.0, 2 * a * (longest / length) ** 2 + self.squares * math.log(each))

    def image(self, length: float, a: float) -> float:
        """The bound on E F(y), for one image of any vector of that norm or a larger one."""
        ratio = 2.0**self.bits / length
        width = 2 * a * ratio**2  # t 4^bits
        around = 2 * sum(math.exp(-width * (m - 0.5) ** 2) for m in range(1, 9))
        wrapped = around + 2 * (1 + around) * math.exp(-(ratio**2) / 8)
        return min(1.0, 1 - a + 1.5 * a * a + wrapped)

    @property
    def query_error(self) -> float:
        """Chance that one false proof passes at a point that its maker did not know."""
        size = 2 * self.products.size
        return size / (MODULUS - size)

    def soundness(self, hashes: float = 1.0) -> float:
        """Chance that a longer vector is believed, for a liar that computes so many hashes.

        It can try what is hashed for signs that hide its vector, and for coefficients that hide
        the lie from some of the repetitions; the points it cannot try.
        """
        found = 0.0 if self.exact else hashes * 2.0**-SECURITY
        for hidden in range(REPETITIONS + 1):
            lucky = math.comb(REPETITIONS, hidden) * (1 / MODULUS) ** hidden
            tries = hashes if hidden else 1.0
            found += min(1.0, tries * lucky) * self.query_error ** (REPETITIONS - hidden)
        return min(1.0, found)

    def write(self, writer: Writer) -> None:
        """Append the fields."""
        writer.uint(self.bits, 1).uint(self.values, 8).uint(self.counters, 4).uint(self.norm, 8)

    def to_bytes(self) -> bytes:
        """The fields as they are written."""
        writer = Writer()
        self.write(writer)
        return bytes(writer.done())

    @classmethod
    def read(cls, reader: Reader) -> NormBound:
        """Take the fields; `ValueError` where nothing can be proved by them."""
        bits, values, counters = reader.uint(1), reader.uint(8), reader.uint(4)
        return cls(bits=bits, values=values, counters=counters, norm=reader.uint(8))
