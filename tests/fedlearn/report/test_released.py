"""What a run says that it lets out beside the model, against what it really sends."""

from __future__ import annotations

from dataclasses import fields

import pytest

from fedlearn.config import compose
from fedlearn.data.tables.schema import ColumnShape, reported
from fedlearn.report.setup import Setup
from fedlearn.report.statement import beside_the_model, record_of
from fedlearn.tasks import ImageInput, SeriesInput, TableInput

OWN = ["scenario=csv", "scenario.path=my.csv", "scenario.label=died"]

WORDS = {
    "name": "its name",
    "kind": "whether it holds numbers or categories, whether it has gaps",
    "categories": "how many categories there are",
    "digest": "64 bits of a hash of their names",
    "magnitude": "the magnitude of its numbers",
}
"""How the statement calls what a column's description holds."""


def before_training(words: list[str]) -> str:
    text: str = Setup.of(compose(words)).texts({})["released"]["before_training"]
    return text


@pytest.mark.parametrize("privacy", ["none", "record", "distributed", "client"])
def test_before_training__names_all_that_is_told_of_a_column_and_nothing_else(
    privacy: str,
) -> None:
    column = ColumnShape(name="age", kind="numeric", categories=2, digest="ab", magnitude=5)
    (sent,) = reported((column,), private=privacy != "none")
    assert {field.name for field in fields(ColumnShape)} == WORDS.keys()
    sentence = before_training([*OWN, f"privacy={privacy}"])
    for name, words in WORDS.items():
        assert (words in sentence) == (getattr(sent, name) is not None), name


def test_before_training__is_silent_on_public_data_and_names_classes_of_ones_own() -> None:
    assert before_training(["scenario=heart"]) == ""
    texts = ["scenario=text", "scenario.path=a.csv", "scenario.label=kind", "model=text"]
    assert "the names of the classes" in before_training(texts)


def test_before_training__claims_no_classes_where_a_number_is_learned() -> None:
    number = ["task=regression", "task.low=0", "task.high=9"]
    assert "the names of the classes; no value" in before_training([*OWN])
    said = before_training([*OWN, *number])
    assert "64 bits of a hash of their names; no value" in said
    assert "classes" not in said


def test_public_records__that_are_taken_from_those_of_the_run_are_outside_of_its_promise() -> None:
    said = beside_the_model(compose(["experiment=medical_heart", "robust=fltrust"]))
    assert "10 percent of all training records were taken as public" in said
    assert "no promise is for them" in said
    of_a_file = ["experiment=medical_heart", "robust=fltrust", "robust.public_file=public.csv"]
    for words in (of_a_file, ["experiment=medical_heart"]):
        assert "taken as public" not in beside_the_model(compose(words))


def test_record_of__says_that_a_record_over_time_is_protected_as_a_whole() -> None:
    row = TableInput(numeric=2)
    assert record_of(compose(OWN), row) == "a row"
    over_time = [*OWN, "scenario.record=patient_id", "scenario.time=hour", "model=sequence"]
    found = record_of(compose(over_time), SeriesInput(steps=3, row=row))
    assert found == "all rows of one 'patient_id'"
    image = ImageInput(channels=1, height=8, width=8)
    assert record_of(compose(["scenario=fashion", "model=cnn"]), image) == "an image"
