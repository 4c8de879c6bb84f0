"""What one row of a deployed site's table moves: one record, on its own side, and one clip norm.

The table is read as the site reads it, from its file, and the sum of clipped gradients is the one
that noise is added to, with every record in the batch. Nothing of the form of the table is left
to be found in it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from clients import records as reading
from clients import sitefile
from clients.records import Choice, own_data, read_simulated
from fedlearn.config import RunConfig, compose
from fedlearn.data import Records, SiteData
from fedlearn.mechanisms import RecordPlan
from fedlearn.privacy import SeededNoise
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.private import clipped_gradient_sum
from fedlearn.training.settings import Training
from tests.effort import examples

Row = tuple[str, ...]

CONFIG = Training(
    optimizer="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0, local_steps=1,
    sample_rate=1.0, nominal_records=300, dp_engine="fast", max_batch=64,
)  # fmt: skip
PLAN = RecordPlan(
    clip_norm=0.1, noise_multiplier=0.0, delta=1e-5, sample_rate=1.0, steps_per_round=1, rounds=1
)
DATA = """\
name: alder
data:
  kind: csv
  path: table.csv
  label: sick
  site: clinic
  drop: [person, hour]
  numeric: [age]
  categories: {ward: [a, b, c]}
  gaps: [age]
  classes: ["0", "1"]
  scaling: {kind: ranges, columns: {age: [20, 90]}}
keys: keys/alder
roster: roster.json
ledger: state/ledger.jsonl
policy: {epsilon_total: 8.0, unit: record}
"""
OVER_TIME = DATA.replace("drop: [person, hour]", "record: person\n  time: hour\n  steps: 3")
HEADER = ("person", "hour", "age", "ward", "sick", "clinic")

AGE = st.sampled_from(["", "30", "45.5", "60", "88"])
ROW = st.tuples(AGE, st.sampled_from("abc"), st.sampled_from("01"))
QUICK = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def row(person: int, hour: int, content: Row, sick: str | None = None) -> Row:
    age, ward, own = content
    return (f"p{person}", str(hour), age, ward, sick or own, "alder")


BASE = [row(i, 0, (str(20 + i % 50), "abc"[i % 3], "01"[i % 5 % 2])) for i in range(60)]
"""So that both classes, and training records, are there whatever else is."""


def site_data(folder: Path, rows: Sequence[Row], data: str = DATA) -> SiteData:
    """The records of the deployed site, read from its file and its table."""
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([HEADER, *rows])
    (folder / "site.yaml").write_text(data)
    reading.forget()
    return own_data(sitefile.load(folder / "site.yaml"))


def clipped_sum(train: Records) -> NDArray[np.float64]:
    """In clip norms: what the site would add its noise to."""
    width = int(np.prod(train.features.shape[1:]))
    model = nn.Sequential(nn.Flatten())
    model.add_module("head", nn.Linear(width, 2))
    for values in model.parameters():
        nn.init.normal_(values, generator=torch.Generator().manual_seed(0))
    total = clipped_gradient_sum(
        model, torch.from_numpy(train.features), torch.from_numpy(train.labels), CONFIG, PLAN,
        loss=cross_entropy, noise=SeededNoise(b"split"),
    )  # fmt: skip
    return total / PLAN.clip_norm


def content(part: Records) -> Counter[bytes]:
    labelled = zip(part.features, part.labels, strict=True)
    return Counter(features.tobytes() + label.tobytes() for features, label in labelled)


def moved(one: SiteData, other: SiteData) -> tuple[int, int, float]:
    """Training records and test records that differ, and how far the sum moves."""
    sizes = [
        sum(((content(a) - content(b)) + (content(b) - content(a))).values())
        for a, b in ((one.train, other.train), (one.test, other.test))
    ]
    far = float(np.linalg.norm(clipped_sum(one.train) - clipped_sum(other.train)))
    return sizes[0], sizes[1], far


@QUICK
@given(st.lists(ROW, max_size=12), ROW, st.integers(0, 100))
def test_one_row_more_or_less__never_moves_another_or_the_sum_by_more_than_one_clip_norm(
    tmp_path: Path, contents: list[Row], extra: Row, place: int
) -> None:
    rows = [*BASE, *(row(100 + i, 0, found) for i, found in enumerate(contents))]
    at = place % (len(rows) + 1)
    more = [*rows[:at], row(999, 0, extra), *rows[at:]]
    trained, tested, far = moved(site_data(tmp_path, rows), site_data(tmp_path, more))
    assert trained + tested == 1
    assert far <= 1 + 1e-6
    assert trained or far == 0


@QUICK
@given(ROW, st.integers(0, len(BASE) - 1))
def test_one_row_replaced__never_moves_another(tmp_path: Path, other: Row, place: int) -> None:
    rows = [*BASE[:place], row(999, 0, other), *BASE[place + 1 :]]
    trained, tested, far = moved(site_data(tmp_path, BASE), site_data(tmp_path, rows))
    assert trained + tested == (0 if row(place, 0, other) == BASE[place] else 2)
    assert far <= trained + 1e-6


@QUICK
@given(st.lists(ROW, min_size=1, max_size=5), st.sampled_from("01"))
def test_one_person_more__never_moves_another_however_many_rows_are_theirs(
    tmp_path: Path, visits: list[Row], sick: str
) -> None:
    theirs = [row(999, hour, visit, sick) for hour, visit in enumerate(visits)]
    before = site_data(tmp_path, BASE, OVER_TIME)
    after = site_data(tmp_path, [*theirs, *BASE], OVER_TIME)
    trained, tested, far = moved(before, after)
    assert trained + tested == 1
    assert far <= 1 + 1e-6


@QUICK
@given(st.lists(ROW, min_size=2, max_size=5), ROW)
def test_one_visit_more__never_takes_a_person_to_the_other_side(
    tmp_path: Path, visits: list[Row], last: Row
) -> None:
    theirs = [row(999, hour, visit, "1") for hour, visit in enumerate([*visits, last])]
    before = site_data(tmp_path, [*BASE, *theirs[:-1]], OVER_TIME)
    after = site_data(tmp_path, [*BASE, *theirs], OVER_TIME)
    assert (len(before.train), len(before.test)) == (len(after.train), len(after.test))


@pytest.mark.parametrize("data", [DATA, OVER_TIME])
def test_order_of_rows__never_moves_a_record(tmp_path: Path, data: str) -> None:
    trained, tested, _ = moved(
        site_data(tmp_path, BASE, data), site_data(tmp_path, BASE[::-1], data)
    )
    assert (trained, tested) == (0, 0)


def asked(folder: Path, config: RunConfig) -> SiteData:
    """The site's records in a run that a coordinator asks for."""
    site = sitefile.load(folder / "site.yaml")
    return reading.read(Choice.own(site, config))[1]["alder"]


@pytest.mark.parametrize(
    "wish",
    ["scenario.classes=['1','0']", "scenario.test_fraction=0.9", "seed=77", "scenario.record=''"],
)
def test_coordinator__never_chooses_who_is_tested_on(tmp_path: Path, wish: str) -> None:
    """Two splits of one table show records of both parts, one in evaluations and one in sums."""
    before = site_data(tmp_path, BASE)
    study = ["scenario=csv", "scenario.path=x", "scenario.label=x", "scenario.numeric=[age]"]
    study += ["scenario.scaling.columns={age:[20,90]}", "scenario.gaps=[age]"]
    after = asked(tmp_path, compose([*study, "scenario.categories={ward:[a,b,c]}", wish]))
    for one, other in ((before.train, after.train), (before.test, after.test)):
        assert one.features.tobytes() == other.features.tobytes()


def test_row_at_one_site__never_moves_a_record_of_another(tmp_path: Path) -> None:
    def dealt(rows: Sequence[Row]) -> dict[str, SiteData]:
        site_data(tmp_path, rows)
        study = ["scenario=csv", f"scenario.path={tmp_path / 'table.csv'}", "scenario.label=sick"]
        study += ["scenario.site=clinic", "scenario.drop=[person,hour]", "scenario.gaps=[age]"]
        return read_simulated(compose([*study, "partition=natural"]))[1]

    others = [(*found[:-1], "birch") for found in BASE]
    before = dealt([*BASE, *others])
    after = dealt([*BASE, row(999, 0, ("30", "b", "0")), *others])
    assert moved(before["birch"], after["birch"]) == (0, 0, 0.0)
    assert sum(moved(before["alder"], after["alder"])[:2]) == 1


def test_site__says_nothing_and_takes_part_when_none_of_its_rows_is_trained_on(
    tmp_path: Path,
) -> None:
    """That it refused would tell on which side its few records are."""
    sizes = set()
    for i in range(12):
        data = site_data(tmp_path, [BASE[i]])
        sizes.add((len(data.train), len(data.test)))
        assert np.isfinite(clipped_sum(data.train)).all()
    assert sizes == {(1, 0), (0, 1)}
