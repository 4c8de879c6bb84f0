"""A proof on shares that a sum of products is zero: sum_i a_i b_i + c = 0.

`a`, `b` and `c` are held in two shares that add up. The products are dealt into rows of `calls`;
each row of `a` and of `b` becomes a polynomial through its values at the roots w^1, w^2, ... and
through a random value at w^0. The prover sends shares of these random values, and of the values
of the polynomial P = sum over rows of A B at twice as many roots. Each server evaluates its
shares of all of them at a secret point r; together they see that P(r) = sum A(r) B(r), and that
the values of P at w^1, w^2, ... add up to -c.

Guarantees: what the two servers see is, for a true statement, the same whatever the products
are. A false statement passes with a chance of at most `2 size / (p - 2 size)` over r.

Source: Boneh et al. 2019, section 4.2 (sums of products in O(sqrt n)); draft-irtf-cfrg-vdaf,
section 7.3. P is sent by its values, not by its coefficients: no server needs a transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlearn.secagg.proofs import field
from fedlearn.secagg.proofs.field import Elements


@dataclass(frozen=True)
class Terms:
    """The numbers in the statement, or one share of them: `a, b: [n]`, `c: [1]`."""

    a: Elements
    b: Elements
    c: Elements

    def __add__(self, other: Terms) -> Terms:
        pairs = ((self.a, other.a), (self.b, other.b), (self.c, other.c))
        return Terms(*(field.add(one, two) for one, two in pairs))


@dataclass(frozen=True)
class Products:
    """The form of a proof about `count` products."""

    count: int

    @property
    def size(self) -> int:
        """Roots that the polynomials of rows go through: where proofs are shortest."""
        sizes = (1 << bits for bits in range(1, 17))
        return min((2 * size + 2 * -(-self.count // (size - 1)), size) for size in sizes)[1]

    @property
    def rows(self) -> int:
        """Pairs of polynomials."""
        return -(-self.count // (self.size - 1))

    @property
    def length(self) -> int:
        """Elements of a proof."""
        return 2 * self.rows + 2 * self.size

    @property
    def seen(self) -> int:
        """Elements that a server says of its share: rows of a, of b, P, and the sum."""
        return 2 * self.rows + 2

    def prove(self, terms: Terms, random: Elements) -> Elements:
        """A proof: `[length]`, from as many as `2 rows` random elements."""
        polynomials = field.interpolated(self._values(terms, random[: 2 * self.rows]))
        padded = np.concatenate([polynomials, np.zeros_like(polynomials)], axis=-1)
        values = field.transformed(padded)
        products = field.mul(values[: self.rows], values[self.rows :])
        return np.concatenate([random[: 2 * self.rows], field.total(products, axis=0)])

    def query(self, terms: Terms, proof: Elements, point: int) -> Elements:
        """What a server says of its shares of the statement and of a proof: `[seen]`."""
        random, products = proof[: 2 * self.rows], proof[2 * self.rows :]
        at_point = field.dot(self._values(terms, random), field.lagrange(self.size, point))
        product = field.dot(products, field.lagrange(2 * self.size, point))
        # Every second root is one of the rows'; the first holds the random values.
        total = field.add(terms.c, field.total(products[2::2]))
        return np.concatenate([at_point, product[None], total])

    def decide(self, seen: Elements) -> bool:
        """Whether what both servers said, added up, is that of a true statement."""
        a, b = seen[: self.rows], seen[self.rows : 2 * self.rows]
        return bool(field.dot(a, b) == seen[-2] and seen[-1] == 0)

    def takes(self, point: int) -> bool:
        """Whether nothing is told at a point: it is none of the roots."""
        return pow(point, 2 * self.size, field.MODULUS) != 1

    def _values(self, terms: Terms, random: Elements) -> Elements:
        """At the roots, the random value first: `[2 rows, size]`, those of a above those of b."""
        dealt = np.zeros((2, self.rows * (self.size - 1)), np.uint64)
        dealt[0, : self.count], dealt[1, : self.count] = terms.a, terms.b
        return np.concatenate([random[:, None], dealt.reshape(2 * self.rows, -1)], axis=1)
