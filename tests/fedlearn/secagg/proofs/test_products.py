import os

import numpy as np
import pytest

from fedlearn.secagg.proofs import field
from fedlearn.secagg.proofs.field import MODULUS as P
from fedlearn.secagg.proofs.field import drawn
from fedlearn.secagg.proofs.products import Products, Terms


def random(count: int) -> np.ndarray:
    return drawn(os.urandom(32), count)


def statement(count: int) -> Terms:
    """A true one."""
    a, b = random(count), random(count)
    return Terms(a, b, field.sub(np.zeros(1, np.uint64), field.dot(a, b)[None]))


def without(terms: Terms, share: Terms) -> Terms:
    pairs = ((terms.a, share.a), (terms.b, share.b), (terms.c, share.c))
    return Terms(*(field.sub(one, two) for one, two in pairs))


def seen(form: Products, terms: Terms, proof: np.ndarray, point: int) -> np.ndarray:
    """What both servers see, added up."""
    share = Terms(random(form.count), random(form.count), random(1))
    own = random(form.length)
    one = form.query(share, own, point)
    return field.add(one, form.query(without(terms, share), field.sub(proof, own), point))


@pytest.mark.parametrize("count", [1, 2, 3, 30, 31, 500, 8300])
def test_true_statement__is_believed_whatever_the_shares(count: int) -> None:
    form, terms = Products(count), statement(count)
    proof = form.prove(terms, random(2 * form.rows))
    assert proof.shape == (form.length,)
    for point in (3, P - 5):
        found = seen(form, terms, proof, point)
        assert found.shape == (form.seen,)
        assert form.decide(found)


def test_size__makes_proofs_as_short_as_they_can_be() -> None:
    for count in (*range(1, 300), 8300, *range(8900, 20_000, 37), 10**6):
        form = Products(count)
        others = (2 * n + 2 * -(-count // (n - 1)) for n in (2**b for b in range(1, 17)))
        assert form.length == min(others)
    assert Products(8300).length < 5 * 8300**0.5


@pytest.mark.parametrize("wrong", ["a", "b", "c"])
def test_false_statement__is_not_believed_by_its_honest_proof(wrong: str) -> None:
    form, terms = Products(50), statement(50)
    parts = {name: getattr(terms, name).copy() for name in "abc"}
    parts[wrong][0] = field.add(parts[wrong][:1], np.uint64(1))[0]
    false = Terms(**parts)
    proof = form.prove(false, random(2 * form.rows))
    assert not form.decide(seen(form, false, proof, 3))


def test_proof__of_which_any_element_is_another_is_not_believed() -> None:
    form, terms = Products(20), statement(20)
    proof = form.prove(terms, random(2 * form.rows))
    for i in range(form.length):
        other = proof.copy()
        other[i] = field.add(other[i : i + 1], np.uint64(1))[0]
        assert not form.decide(seen(form, terms, other, 3)), i


@pytest.mark.slow
def test_forged_products__pass_at_points_that_the_forger_knew_and_at_no_others() -> None:
    """P + d, where d is zero at one known point and its values at the rows' roots add up to -1."""
    form, terms = Products(3), statement(3)
    false = Terms(terms.a, terms.b, field.add(terms.c, np.uint64(1)))
    proof = form.prove(false, random(2 * form.rows))
    known, size = 12345, 2 * form.size
    at_roots = field.sub(field.roots(size), np.uint64(known))
    total = field.total(at_roots[2::2])[None]
    scale = field.sub(np.zeros(1, np.uint64), field.inverse(total))
    forged = field.add(proof[2 * form.rows :], field.mul(at_roots, scale))
    proof[2 * form.rows :] = forged
    assert form.decide(seen(form, false, proof, known))
    assert not any(form.decide(seen(form, false, proof, point)) for point in range(2, 30))


def test_servers__see_what_they_could_have_made_up_themselves() -> None:
    """For any values of the rows at the point there is randomness that gives them, and just one.

    So they are uniform whatever was proved, and the other two numbers follow from them.
    """
    form, point = Products(40), 99
    first = field.lagrange(form.size, point)[:1]
    for terms in (statement(40), statement(40)):
        wanted = random(2 * form.rows)
        zero = form.prove(terms, np.zeros(2 * form.rows, np.uint64))
        found = seen(form, terms, zero, point)[:-2]
        needed = field.mul(field.sub(wanted, found), field.inverse(first))
        shown = seen(form, terms, form.prove(terms, needed), point)
        assert np.array_equal(shown[:-2], wanted)
        assert shown[-2] == field.dot(wanted[: form.rows], wanted[form.rows :])
        assert shown[-1] == 0


def test_points__at_which_a_value_would_be_seen_are_not_taken() -> None:
    form = Products(40)
    assert not any(form.takes(int(root)) for root in field.roots(2 * form.size))
    assert form.takes(2)
