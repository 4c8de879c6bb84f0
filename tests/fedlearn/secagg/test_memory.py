"""The sum of the survivors, exactly, whoever vanishes; nothing at all below the threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ProtocolError
from fedlearn.secagg.memory import Dropouts, run_round
from tests.effort import examples
from tests.fedlearn.secagg.federation import Federation, federation

STEPS = ("advertise", "share", "mask", "agree", "unmask")


def check(fed: Federation, drop: dict[str, frozenset[str]]) -> None:
    outcome = run_round(fed.params(), fed.settings, fed.parties(), Dropouts(**drop))
    gone = set().union(*(drop.get(step, frozenset()) for step in STEPS[:3]))
    assert outcome.survivors == tuple(name for name in fed.names if name not in gone)
    assert np.array_equal(outcome.total, fed.sum_of(outcome.survivors))


@pytest.mark.parametrize("bits", [8, 16, 20, 32, 47, 64])
@pytest.mark.parametrize("count", [3, 4, 9])
def test_round__gives_the_exact_sum(bits: int, count: int) -> None:
    check(federation(count, bits=bits), {})


@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_round__any_dropouts_within_the_threshold_leave_the_exact_sum(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 12), label="clients")
    fed = federation(count, bits=data.draw(st.sampled_from([16, 20, 32, 64]), label="bits"))
    params = fed.params()
    # A survivor's secret is reopened by `threshold` others.
    room = count - 1 - params.threshold
    least = fed.settings.min_cohort
    gone = data.draw(st.permutations(fed.names))[
        : data.draw(st.integers(0, min(room, count - least)))
    ]
    steps = data.draw(st.lists(st.sampled_from(STEPS), min_size=len(gone), max_size=len(gone)))
    drop = {
        step: frozenset(n for n, s in zip(gone, steps, strict=True) if s == step) for step in STEPS
    }
    check(fed, drop)


@pytest.mark.parametrize("step", STEPS)
def test_round__one_dropout_too_many_releases_nothing(step: str) -> None:
    fed = federation(9)
    too_many = len(fed.names) - fed.params().threshold
    if step in ("agree", "unmask"):
        too_many += 1  # all vectors arrived; fewer than threshold replies are too few
    drop = Dropouts(**{step: frozenset(fed.names[:too_many])})
    with pytest.raises(ProtocolError):
        run_round(fed.params(), fed.settings, fed.parties(), drop)


@pytest.mark.slow
def test_round__on_a_regular_graph_survives_dropouts_at_every_step() -> None:
    fed = federation(70, bits=20)
    params = fed.params()
    assert params.neighbours < 69
    drop = {
        "advertise": frozenset(fed.names[:2]),
        "share": frozenset(fed.names[10:12]),
        "mask": frozenset(fed.names[20:24]),
        "agree": frozenset(fed.names[30:31]),
        "unmask": frozenset(fed.names[40:41]),
    }
    check(fed, drop)


def test_round__equals_the_sum_in_clear_bit_for_bit() -> None:
    fed = federation(5, bits=20, length=1000)
    outcome = run_round(fed.params(), fed.settings, fed.parties())
    clear = fed.ring.reduce(np.sum([fed.vector(name) for name in fed.names], axis=0))
    assert outcome.total.tobytes() == clear.tobytes()


def test_round__names_of_any_script_are_ordered_by_their_bytes() -> None:
    names = ("Zürich", "Ångström", "東京", "a", "Z", "é")
    check(Federation(tuple(sorted(names, key=str.encode)), federation(3).settings), {})
