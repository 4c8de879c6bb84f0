"""Overrides mean what Hydra says they mean, without composing the files for each of them."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlearn import overrides as ours
from fedlearn.overrides import CONFIGS, compose_tree, sift
from simulations.points import points_of

REFUSED = (HydraException, OmegaConfBaseException, ValueError)


def by_hydra(*texts: str) -> dict[str, Any]:
    """The oracle: Hydra composes everything itself."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        tree = OmegaConf.to_container(compose("run", list(texts)), resolve=True)
    assert isinstance(tree, dict)
    return {key: value for key, value in tree.items() if key != "tuned"}


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["seed=3", "rounds=2", "seed=4"],
        ["experiment=medical_heart", "privacy.epsilon=1", "training.learning_rate=0.5"],
        ["training.local_steps=7", "experiment=medical_heart"],  # a value wins in any order
        ["tuned.clip_norm=3.5"],  # what refers to it must follow
        ["privacy=none", "tuned.learning_rate.none=9"],
        ["scenario=csv", "scenario.path='a, b'", "scenario.drop=[x,y]", "scenario.label=z"],
        ["scenario=csv", "scenario.categories={a:[b,c]}", "+scenario.categories.d=[e]"],
        ["++seed=5", "rounds=3"],
        ["out=x/${experiment}", "experiment=medical_heart"],
        ["privacy={kind:none}"],
        ["strategy.fraction=null", "secagg.bits=1e-3"],
    ],
)
def test_compose_tree__gives_what_hydra_gives(texts: list[str]) -> None:
    try:
        expected = by_hydra(*texts)
    except REFUSED:
        with pytest.raises(REFUSED):
            compose_tree(texts)
        assert sift(texts)[1]
    else:
        assert compose_tree(texts) == expected


@pytest.mark.parametrize(
    "text", ["nothing=1", "privacy.epsylon=1", "seed.x=1", "rounds=", "seed", "=3", "a=[1",
             "seed=1,2", "~seed=4", "+seed=1", "strategy=fedfoo", "strategy=3", "scenario@x=csv"],
)  # fmt: skip
def test_sift__refuses_what_hydra_refuses_and_keeps_the_rest(text: str) -> None:
    try:
        by_hydra(text)
        refused = False
    except REFUSED:
        refused = True
    good, found = sift(["rounds=3", text, "privacy.delta=1e-6"])
    assert len(found) == refused
    assert good == [t for t in ("rounds=3", text, "privacy.delta=1e-6") if t != text or not refused]


def test_compose_tree__of_one_call_does_not_change_the_next() -> None:
    before = compose_tree([])
    compose_tree(["seed=77", "privacy.epsilon=0.5", "scenario.scaling.columns.age=[0,1]"])
    assert compose_tree([]) == before


def test_sweep__reads_the_files_once_for_each_choice_of_groups() -> None:
    ours._composed.cache_clear()
    points = points_of(["privacy.epsilon=1,2,4", "seed=range(8)", "strategy=fedavg,fedyogi"])
    assert len(points) == 48
    assert ours._composed.cache_info().misses == 2


OWN = ["scenario=csv", "scenario.path=my.csv", "scenario.label=y"]


def test_compose__takes_the_names_of_ones_own_columns() -> None:
    tree = compose_tree(
        [*OWN, "scenario.scaling.columns.age=[20,90]", "scenario.scaling.columns.dose=[0,1]",
         "scenario.categories={ward: [A, B]}"]
    )  # fmt: skip
    assert tree["scenario"]["scaling"]["columns"] == {"age": [20, 90], "dose": [0, 1]}
    assert tree["scenario"]["categories"] == {"ward": ["A", "B"]}


def test_sift__still_refuses_keys_that_no_mapping_is_open_for() -> None:
    wrong = ["scenario.scaling.colums.age=[0,1]", "scenario.labl=x", "training.own.x=1"]
    good, found = sift([*OWN, *wrong])
    assert good == OWN
    assert len(found) == 3
    assert all("unknown key" in problem for problem in found)
