"""The points of a sweep: composed and named before anything runs."""

from __future__ import annotations

import pytest

from fedlearn.core.errors import ConfigError
from simulations.sweeps.points import ALONE, baselines, points_of, product

HEART = "experiment=medical_heart"


def test_points__are_named_by_what_is_swept() -> None:
    names = [point.name for point in points_of([HEART, "privacy.epsilon=0.5,1", "seed=3,4"])]
    assert names == [
        "privacy.epsilon=0.5,seed=3",
        "privacy.epsilon=0.5,seed=4",
        "privacy.epsilon=1,seed=3",
        "privacy.epsilon=1,seed=4",
    ]
    assert [point.name for point in points_of([HEART])] == [ALONE]


def test_points__have_the_same_names_in_whatever_order_they_are_asked_for() -> None:
    one, other = (
        points_of([HEART, "seed=3,4", "rounds=2,3"]),
        points_of([HEART, "rounds=2,3", "seed=3,4"]),
    )
    assert {point.name: point.config for point in one} == {p.name: p.config for p in other}


def test_points__with_names_that_are_no_folders_stay_apart() -> None:
    paths = "scenario.path='a/b c.csv','a:b c.csv'"
    names = [point.name for point in points_of(["scenario=csv", "scenario.label=ill", paths])]
    assert len(set(names)) == 2
    assert not any(mark in name for name in names for mark in "/:'\\ ")


def test_points__hold_the_config_that_simulate_would_run() -> None:
    first, second = points_of([HEART, "privacy=none,record", "out=o", "resume=true"])
    assert (first.config.privacy.kind, second.config.privacy.kind) == ("none", "record")
    assert first.overrides == (HEART, "privacy=none")
    assert not first.config.resume


def test_points__report_every_problem_of_every_point_once() -> None:
    with pytest.raises(ConfigError) as refused:
        points_of([HEART, "privacy.epsilon=1,-2", "strategy=fedavg,fedfoo"])
    lines = refused.value.problems
    assert len(lines) == len(set(lines))
    for expected in ("privacy.epsilon=-2: must be > 0", "strategy=fedfoo: must be one of"):
        assert sum(expected in line for line in lines) >= 1, expected


def test_points__refuse_a_swept_folder() -> None:
    with pytest.raises(ConfigError, match="out: a comparison has one folder"):
        points_of([HEART, "out=a,b"])


@pytest.mark.slow
@pytest.mark.usefixtures("heart_archive")
def test_baselines__are_made_once_for_all_budgets_and_once_for_each_seed() -> None:
    points = points_of([HEART, "privacy.epsilon=1,2", "seed=0,1"])
    found = baselines(points)
    kinds = [point.reference for point in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "non_private": 2,
        "local_only": 8,
        "centralised": 2,
    }
    assert len({point.name for point in found}) == len(found)
    assert all(point.config.privacy.kind == "none" for point in found)
    alone = [point for point in found if point.reference == "local_only"]
    assert {p.site for p in alone} == {"cleveland", "hungary", "switzerland", "va_long_beach"}
    # The same learning as without privacy in the federation: only who takes part differs.
    assert len({repr(point.config.training) for point in found}) == 1


@pytest.mark.usefixtures("heart_archive")
def test_baselines__are_under_the_site_files_of_the_study() -> None:
    found = baselines(points_of([HEART, "sites=owners"]))
    assert {point.reference for point in found} == {"non_private", "local_only", "centralised"}
    assert {point.config.sites for point in found} == {"owners"}


# --- the product: what counts as a sweep, and in which order ------------------------------


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
