"""At a site, what is wrong with its table is said in the words of its own file."""

from __future__ import annotations

from dataclasses import fields

import pytest

from clients.advice import at_site, in_words_of_site, owned
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Csv, Heart, Images, OwnText, Scenario
from fedlearn.data.tables.deidentify import Deidentify
from fedlearn.data.tables.scaling import Unscaled

OWN = Csv(path="mine.csv", label="ill")
OTHER = Csv(
    path="x", label="y", site="z", separator="tab", encoding="latin-1", names=("a",), decimal=",",
    header="first", written={"a": "limits"}, buckets={"h": 8}, missing=("-",),
    rename={"a": "b"}, map={"a": {"b": "c"}}, units={"a": 2.0},
    drop=("d",), numeric=("n",), categories={"c": ("1",)}, allow_identifiers=("i",),
    deidentify=Deidentify(hash=("h",)), gaps=("n",), classes=("0", "1"), time="", times="numbers",
    steps=3, keep="first", max_categories=7, test_fraction=0.5, scaling=Unscaled(),
    person="p", records_per_person=3, event="e", part="f", sheet="s",
    validation_fraction=0.5, labels=("l",), split="time", validate_from="1", test_from="2",
)  # fmt: skip


def test_settings__that_stay_with_a_site_are_those_that_no_run_changes() -> None:
    agreed = OWN.agreed(OTHER)
    for setting in fields(Csv):
        mine, theirs = getattr(OWN, setting.name), getattr(OTHER, setting.name)
        if setting.name in ("kind", "record", "time"):  # must be the same on both sides
            continue
        assert mine != theirs, f"{setting.name} is not tried"
        stays = getattr(agreed, setting.name) == mine
        assert stays == (setting.name in owned(OWN, OTHER)), setting.name


@pytest.mark.parametrize("of_run", [Heart(), None])
def test_settings__of_another_kind_of_records_are_all_the_sites(of_run: Scenario | None) -> None:
    names = owned(OWN, of_run)
    assert {"drop", "rename", "units"} < {*names}
    assert ("numeric" in names) == (of_run is not None)
    images = Images(path="x"), Images(path="y", classes=("a",), size=8, max_gigabytes=1.0)
    assert {*owned(*images)} == {"path", "sites", "test_fraction", "max_gigabytes"}
    texts = OwnText(path="x", label="l"), OwnText(path="y", label="m")
    assert {"text", "label", "separator"} < {*owned(*texts)}
    assert "tokenizer" not in owned(*texts)


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_error__keeps_its_kind_and_names_each_setting_where_it_is_set(
    kind: type[ConfigError] | type[DataError],
) -> None:
    lines = ["scenario.drop: a; see scenario.gaps", "table.csv: scenario.deidentify.hash"]
    with pytest.raises(kind) as caught, in_words_of_site(("drop", "deidentify")):
        raise kind(lines)
    assert caught.value.problems == (
        "data.drop: a; see scenario.gaps", "table.csv: data.deidentify.hash",
    )  # fmt: skip
    assert at_site("otherscenario.drop", ("drop",)) == "otherscenario.drop"
