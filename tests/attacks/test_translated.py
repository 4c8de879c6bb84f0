"""Hospitals that keep their tables otherwise take part in one run, and nobody hears of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from clients import sitefile
from clients.ledger.ledger import load
from clients.records import own_data
from fedlearn.core.errors import ConfigError, DataError, PrivacyError
from tests.attacks.lab import SITES, Lab

VICTIM = SITES[0]
OWN = (
    "rename: {alter: age, druck: pressure, geschlecht: sex, befund: ill, who: name}, "
    "map: {sex: {w: f, h: m}, ill: {neg: '0', pos: '1'}}, units: {pressure: kPa to mmHg}"
)
HEADER = "befund,druck,geschlecht,who,alter"


def in_own_words(lab: Lab, own: str = OWN) -> None:
    """The victim's table with other columns, in another order, in other codes and units."""
    table = lab.world.root / VICTIM / "table.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    lines = [
        ",".join(
            [["neg", "pos"][int(ill)], repr(int(pressure) * 0.133322387415),
             {"f": "w", "m": "h"}[sex], name, age]
        )
        for name, age, pressure, sex, ill in rows
    ]  # fmt: skip
    table.write_text("\n".join([HEADER, *lines]) + "\n")
    path = lab.world.site_file(VICTIM)
    path.write_text(path.read_text().replace("drop: [name]", f"drop: [name], {own}"))


def test_hospital__that_keeps_its_table_otherwise_is_not_told_from_one_that_does_not(
    tmp_path: Path,
) -> None:
    plain = Lab.make(tmp_path / "plain").federate().enrolment
    lab = Lab.make(tmp_path / "other")
    in_own_words(lab)
    federation = lab.federate()
    assert federation.enrolment.task == plain.task
    mine, usual = federation.enrolment.sites[VICTIM], plain.sites[VICTIM]
    assert (mine.task, mine.schema) == (usual.task, usual.schema)
    for word in (b"befund", b"druck", b"geschlecht", b"kPa", b"alter"):
        assert not any(word in one for one in lab.carried)
    federation.run_round(1)
    assert lab.spent_at(VICTIM) == 1


def test_translation__is_frozen_with_the_form_and_one_of_before_there_was_any_still_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab.make(tmp_path)
    lab.federate()
    form = lab.world.ledger(VICTIM).with_suffix(".form.json")
    older = json.loads(form.read_text())
    for setting in ("rename", "map", "units"):
        del older["scenario"][setting]
    form.write_text(json.dumps(older))
    lab.again().federate()
    path = lab.world.site_file(VICTIM)
    path.write_text(path.read_text().replace("[name]", "[name], units: {age: 0.5}"))
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(PrivacyError, match="its owner does not allow it"),
    ):
        lab.again().federate()
    assert "scenario.units differ from" in caplog.text


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (OWN.replace("alter: age, ", ""), "no column 'age'"),
        (OWN.replace("alter: age", "alter: age, gone: else"), "data.rename: no column 'gone'"),
    ],
)
def test_missing_column__is_said_in_full_at_home_and_nothing_of_it_outside(
    tmp_path: Path, own: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab.make(tmp_path)
    in_own_words(lab, own)
    with caplog.at_level(logging.INFO), pytest.raises(DataError) as refused:
        lab.federate()
    assert reason in caplog.text
    for word in ("age", "alter", "pressure", "druck", "table.csv", "rename", "else"):
        assert word not in str(refused.value)


def test_site_file__with_units_that_are_none_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    lab = Lab.make(tmp_path)
    in_own_words(lab, OWN.replace("kPa", "mg/dl"))
    with pytest.raises(ConfigError, match=r"data\.units\.pressure: mg/dl and mmhg measure"):
        sitefile.load(lab.world.site_file(VICTIM))


def test_advice__at_a_site_names_what_its_owner_writes_in_its_file(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    path = lab.world.site_file(VICTIM)
    path.write_text(path.read_text().replace("label: ill", "label: sick"))
    with pytest.raises(ConfigError, match=r"^data\.label: no column 'sick'"):
        own_data(sitefile.load(path))
    path.write_text(path.read_text().replace("label: sick, drop: [name]", "label: ill"))
    with pytest.raises(DataError, match=r"data\.drop\b") as found:
        own_data(sitefile.load(path))
    assert "scenario.drop" not in str(found.value)


def test_data__that_grows_between_runs_is_an_entry_of_its_ledger_and_no_fresh_budget(
    tmp_path: Path,
) -> None:
    lab = Lab.make(tmp_path)
    lab.federate().run_round(1)
    path = lab.world.ledger(VICTIM)
    before = load(path)[1]
    table = lab.world.root / VICTIM / "table.csv"
    table.write_text(table.read_text() + "Somebody new,44,120,f,1\n" * 30)
    lab.again().federate(bytes(16)).run_round(1)
    after = load(path)[1]
    assert after.records != before.records
    assert after.data == before.data
    assert sum(event.steps for event in after.spent) == 2 * sum(e.steps for e in before.spent)
