"""What counts as a sweep, and in which order its combinations come."""

from __future__ import annotations

import pytest

from fedlearn.core.errors import ConfigError
from simulations.sweeps.product import product


def texts(*overrides: str) -> list[str]:
    return [" ".join(combination.overrides) for combination in product(overrides)]


def test_product__changes_the_last_key_fastest_and_keeps_the_order_of_the_overrides() -> None:
    assert texts("seed=0,1", "rounds=3", "strategy=fedavg,fedyogi") == [
        "seed=0 rounds=3 strategy=fedavg",
        "seed=0 rounds=3 strategy=fedyogi",
        "seed=1 rounds=3 strategy=fedavg",
        "seed=1 rounds=3 strategy=fedyogi",
    ]


def test_product__names_the_swept_keys_alone() -> None:
    assert [c.swept for c in product(["privacy.epsilon=0.5,1", "rounds=3"])] == [
        {"privacy.epsilon": "0.5"},
        {"privacy.epsilon": "1"},
    ]


@pytest.mark.parametrize(
    "override",
    ["scenario.path='a,b.csv'", 'experiment="a,b"', "scenario.columns=[a,b]", "x={a:1,b:2}"],
)
def test_product__leaves_quoted_texts_and_brackets_whole(override: str) -> None:
    assert texts(override) == [override]


def test_product__splits_between_brackets_but_not_in_them() -> None:
    assert texts("x=[1,2],[3]") == ["x=[1,2]", "x=[3]"]


def test_product__takes_hydras_functions() -> None:
    assert texts("seed=range(3)") == ["seed=0", "seed=1", "seed=2"]
    assert texts("seed=choice(4,7)") == ["seed=4", "seed=7"]


def test_product__drops_a_value_that_is_given_again() -> None:
    assert texts("seed=1,1,2") == ["seed=1", "seed=2"]
    assert texts("seed=1,1") == ["seed=1"]


def test_product__of_nothing_swept_is_one() -> None:
    assert product(["rounds=3"])[0].swept == {}
    assert texts() == [""]


def test_product__refuses_what_has_no_list_of_values() -> None:
    with pytest.raises(ConfigError, match=r"interval.*has no list of values"):
        product(["privacy.epsilon=interval(0.5, 8)"])


def test_product__refuses_a_key_that_is_given_twice() -> None:
    with pytest.raises(ConfigError, match=r"seed: given 2 times"):
        product(["seed=0", "rounds=2", "seed=1"])


def test_product__passes_on_what_hydra_cannot_read() -> None:
    assert texts("seed", "=3", "a=[1") == ["seed =3 a=[1"]
