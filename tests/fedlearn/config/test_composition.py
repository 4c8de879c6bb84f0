"""Overrides mean what Hydra says they mean, without composing the files for each of them."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlearn.config import groups, layers
from fedlearn.config.composition import compose_tree, sift
from fedlearn.config.layers import CONFIGS
from simulations.sweeps.points import points_of
from tests.effort import thinned

REFUSED = (HydraException, OmegaConfBaseException, ValueError)


def by_hydra(*texts: str) -> dict[str, Any]:
    """The oracle: Hydra composes everything itself."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        tree = OmegaConf.to_container(compose("run", list(texts)), resolve=True)
    assert isinstance(tree, dict)
    return {key: value for key, value in tree.items() if key != "tuned"}


@pytest.mark.parametrize(
    "texts",
    thinned(
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
        ]
    ),
)
def test_compose_tree__gives_what_hydra_gives(texts: list[str]) -> None:
    try:
        expected = by_hydra(*texts)
    except REFUSED:
        with pytest.raises(REFUSED):
            compose_tree(texts)
        assert sift(texts).found
    else:
        assert compose_tree(texts) == expected


@pytest.mark.parametrize(
    "text",
    thinned(
        ["nothing=1", "privacy.epsylon=1", "seed.x=1", "rounds=", "seed", "=3", "a=[1", "seed=1,2",
         "~seed=4", "strategy=fedfoo", "+seed=1", "scenario@x=csv", "strategy=3"],
    ),
)  # fmt: skip
def test_sift__refuses_what_hydra_refuses_and_keeps_the_rest(text: str) -> None:
    try:
        by_hydra(text)
        refused = False
    except REFUSED:
        refused = True
    _, good, found = sift(["rounds=3", text, "privacy.delta=1e-6"])
    assert len(found) == refused
    assert good == [t for t in ("rounds=3", text, "privacy.delta=1e-6") if t != text or not refused]


def test_compose_tree__of_one_call_does_not_change_the_next() -> None:
    before = compose_tree([])
    compose_tree(["seed=77", "privacy.epsilon=0.5", "scenario.scaling.columns.age=[0,1]"])
    assert compose_tree([]) == before


def test_sweep__reads_the_files_once_for_each_choice_of_groups() -> None:
    layers.composed.cache_clear()
    points = points_of(["privacy.epsilon=1,2,4", "seed=range(2)", "strategy=fedavg,fedyogi"])
    assert len(points) == 12
    assert layers.composed.cache_info().misses == 2


OWN = ["scenario=csv", "scenario.path=my.csv", "scenario.label=y"]


def test_compose__takes_the_names_of_ones_own_columns() -> None:
    tree = compose_tree(
        [*OWN, "scenario.scaling.columns.age=[20,90]", "scenario.scaling.columns.dose=[0,1]",
         "scenario.categories={ward: [A, B]}"]
    )  # fmt: skip
    assert tree["scenario"]["scaling"]["columns"] == {"age": [20, 90], "dose": [0, 1]}
    assert tree["scenario"]["categories"] == {"ward": ["A", "B"]}


NAMES = ["Blutdruck (mmHg)", "Größe", "a.b", "50%", "[x]", "Crohn's", 'the "old" one', "1st", "x:y"]


@pytest.mark.parametrize("name", NAMES)
def test_compose__takes_names_that_hydra_cannot_read(name: str) -> None:
    text = f"scenario.scaling.columns.{name}=[60,2.5e2]"
    columns = compose_tree([*OWN, text])["scenario"]["scaling"]["columns"]
    assert columns == {name: [60, 250.0]}
    assert sift([*OWN, text])[1:] == ([*OWN, text], [])


@pytest.mark.parametrize("name", [*NAMES, "a=b", "age", "x = 'y'"])
def test_compose__takes_any_name_in_quotes(name: str) -> None:
    mark = "'" if '"' in name else '"'
    text = f"scenario.categories.{mark}{name}{mark}=['=', b]"
    assert compose_tree([*OWN, text])["scenario"]["categories"] == {name: ["=", "b"]}


def test_compose__takes_own_names_in_any_order_and_beside_others() -> None:
    tree = compose_tree(
        ["scenario.scaling.columns.Größe (cm)=[50,220]", "scenario.scaling.columns.age=[1,2]",
         *OWN, "scenario.scaling.columns.Größe (cm)=[40,230]"]
    )  # fmt: skip
    assert tree["scenario"]["scaling"]["columns"] == {"age": [1, 2], "Größe (cm)": [40, 230]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scenario.scaling.colums.Größe=[0,1]", "unknown key; did you mean"),
        ("training.Größe=1", "unknown key"),
        ("seed =3", "unknown key; did you mean seed?"),
        ("scenario.scaling.columns.Größe=[0,1", "Größe=[0,1: "),
        ("scenario.scaling.columns.Größe=[0,1],[0,2]", "several values are for fedlearn compare"),
    ],
)
def test_sift__says_what_is_wrong_with_an_own_name(text: str, said: str) -> None:
    _, good, (problem,) = sift([*OWN, text])
    assert good == OWN
    assert problem.startswith(text)
    assert said in problem


@pytest.mark.parametrize(
    "value", ["Größe", "Überlebt (ja/nein)", "Crohn's", "a=b.csv", "f(1)", "läufe/€ [2]"]
)
def test_compose__takes_a_text_that_hydra_cannot_read_as_it_is(value: str) -> None:
    with pytest.raises(REFUSED):
        by_hydra(*OWN, f"scenario.site={value}")
    assert compose_tree([*OWN, f"scenario.site={value}"])["scenario"]["site"] == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[Größe]", ["Größe"]),
        ("[Innere, Gynäkologie,1,null]", ["Innere", "Gynäkologie", 1, None]),
        ("""[ä,"a (b)",'c,d',e]""", None),
        ("""[ä (x),"a (b)",'c']""", ["ä (x)", "a (b)", "c"]),
    ],
)
def test_lists__of_words_of_any_language_are_read(value: str, words: list[Any] | None) -> None:
    override = f"scenario.drop={value}"
    if words is None:  # a comma in quotes beside such a word: the whole list is for quotes
        assert sift(["scenario=csv", override]).found
        return
    assert compose_tree(["scenario=csv", override])["scenario"]["drop"] == words


@pytest.mark.parametrize("value", ["'Größe", "[Größe", "[ö,[a]]", "a,ö", "{ö: 1}", "ö\\"])
def test_sift__guesses_nothing_about_quotes_lists_and_several_values(value: str) -> None:
    _, good, (problem,) = sift([*OWN, f"scenario.site={value}"])
    assert good == OWN
    assert f"scenario.site={value}: cannot be read" in problem


def test_sift__knows_the_keys_of_what_is_chosen_wherever_that_stands() -> None:
    late = ["scenario.label=y", "scenario.lable=z", "scenario.path=my.csv", "scenario=csv"]
    _, good, (problem,) = sift(late)
    assert good == [late[0], *late[2:]]
    assert problem == "scenario.lable=z: unknown key; did you mean scenario.label?"


def test_sift__says_how_a_mapping_is_written_where_there_is_a_list() -> None:
    (found,) = sift(["scenario=csv", "scenario.deidentify.years=[born]"]).found
    assert found.endswith("written name by name ('scenario.deidentify.years.NAME=...')")
    assert (
        "scenario.deidentify.years.born=1"
        in sift(["scenario=csv", "scenario.deidentify.years.born=1"]).good
    )


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("model=linear", "model=tabular model.architecture=linear"),
        ("model=ft_transformer", "model=tabular model.architecture=ft_transformer"),
        ("model=tabula", "tabular"),
    ],
)
def test_sift__of_a_value_of_a_setting_names_the_setting(word: str, meant: str) -> None:
    (found,) = sift([word]).found
    assert found.endswith(f"; did you mean {meant}?")
    if "=" in meant:
        (setting, _, value) = meant.split()[1].rpartition("=")
        assert compose_tree(meant.split())["model"][setting.split(".")[1]] == value


def test_values_of_settings__are_looked_for_in_every_family() -> None:
    for family in groups.FAMILIES:
        assert [*groups.with_value(family, "no such value")] == []


def test_sweep__of_an_own_name_has_a_point_for_each_value() -> None:
    key = "scenario.scaling.columns.Größe (cm)"
    points = points_of([*OWN, f"{key}=[0,200],[0,250]"])
    assert [dict(point.swept) for point in points] == [{key: "[0,200]"}, {key: "[0,250]"}]
    ranges = [point.config.scenario.scaling.columns for point in points]  # type: ignore[union-attr]
    assert ranges == [{"Größe (cm)": (0, 200)}, {"Größe (cm)": (0, 250)}]


def test_sift__still_refuses_keys_that_no_mapping_is_open_for() -> None:
    wrong = ["scenario.scaling.colums.age=[0,1]", "scenario.labl=x", "training.own.x=1"]
    _, good, found = sift([*OWN, *wrong])
    assert good == OWN
    assert len(found) == 3
    assert all("unknown key" in problem for problem in found)


def test_names_of_other_frameworks__are_answered_with_ours() -> None:
    asked = ["lr=1", "scenario.sep=tab", "num_clients=4", "epochs=3", "training.batch_size=8"]
    found = dict(zip(asked, sift(asked).found, strict=True))
    assert found["lr=1"].endswith("; did you mean training.learning_rate?")
    assert "did you mean scenario.separator? scenario=csv" in found["scenario.sep=tab"]
    assert found["num_clients=4"].endswith("partition.num_sites? partition=dirichlet, iid, "
                                           "quantity have it")  # fmt: skip
    assert found["epochs=3"].endswith("did you mean rounds?")
    assert found["training.batch_size=8"].endswith("did you mean training.sample_rate?")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epsilon=3", "privacy.epsilon"),
        ("training.epsilon=3", "privacy.epsilon"),
        ("clip_norm=2", "privacy.clip_norm"),
        ("local_steps=3", "training.local_steps"),
    ],
)
def test_key__in_another_group_is_what_was_meant(override: str, meant: str) -> None:
    (found,) = sift([override]).found
    assert found == f"{override}: unknown key; did you mean {meant}?"
