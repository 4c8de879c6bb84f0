"""The functions of an additive model: exported for plain numpy and interpret, and in the report."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlearn import models
from fedlearn.config import compose
from fedlearn.core.language import language_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import load_vector, to_vector
from fedlearn.data import Csv
from fedlearn.data.tables.scaling import Ranges
from fedlearn.models.bins import axes_of, scaled
from fedlearn.models.ebm import Ebm
from fedlearn.prediction import ModelFile, read_rows_of
from fedlearn.report import plain
from fedlearn.report.export import PLAIN, SHAPES, export, open_model
from fedlearn.report.page import write_report
from fedlearn.report.shape_plots import shapes_shown
from fedlearn.report.shapes import Shapes, shapes_of
from fedlearn.tasks import ClassificationTask, TableInput, TaskForm
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

TABLE = TableInput(
    numeric=3, cardinalities=(4,), names=("age", "dose", "dose_missing", "ward"), squashed=(1,)
)
WARDS = ("east", "north", "west")
RANGES = {"age": (20.0, 100.0)}


def made(classes: int, seed: int = 0) -> tuple[ModelFile, NDArray[np.float32], torch.nn.Module]:
    """A model with values as a run may leave them."""
    config = Ebm(bins=8, levels=3, ranges=RANGES)
    names = tuple("abc"[:classes])
    task = ClassificationTask(input=TABLE, classes=names)
    model = models.build(config, task, Streams(0)).model
    vector = np.random.default_rng(seed).normal(size=to_vector(model).size).astype(np.float32)
    load_vector(model, vector)
    scenario = Csv(path="-", label="-", scaling=Ranges(columns=dict(RANGES)),
                   categories={"ward": WARDS})  # fmt: skip
    file = ModelFile(
        task=TaskForm(input=TABLE, classes=names), scenario=scenario, model=config,
        finetune=models.Finetune(), seed=0, sha256="",
    )  # fmt: skip
    return file, vector, model


def table(path: Path, count: int = 400) -> dict[str, list[str]]:
    """A file with gaps, unknown wards, values beyond a range, and values on the edges of bins."""
    rng = np.random.default_rng(5)
    age = np.round(rng.uniform(0, 120, count), 1)
    dose = np.round(rng.normal(size=count) * 10.0 ** rng.integers(-4, 6, count), 4)
    file, _, _ = made(2)
    cuts = [axis.own_cuts() for axis in file.model.axes(file.learned.of(file.task)) or ()]
    age[: len(cuts[0])], dose[: len(cuts[1])] = cuts[0], cuts[1][:count]
    below = slice(len(cuts[1]), 2 * len(cuts[1]))
    dose[below] = np.nextafter(cuts[1], -np.inf)[: len(dose[below])]
    wards = [*WARDS, "", "nowhere"]
    cells = {
        "age": [repr(float(v)) for v in age],
        "dose": [repr(float(v)) if rng.random() > 0.1 else "" for v in dose],
        "ward": [wards[i] for i in rng.integers(0, 5, count)],
    }
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
    return cells


def read(file: ModelFile, path: Path) -> torch.Tensor:
    """The records of a file as a run makes them."""
    assert isinstance(file.scenario, Csv)
    rows = replace(file.scenario, path=str(path))
    return torch.from_numpy(read_rows_of(rows, TABLE, {"ward": WARDS}).features)


def expected(model: torch.nn.Module, rows: torch.Tensor) -> NDArray[np.float64]:
    """Its chances in float64."""
    places = model.bins(rows)  # type: ignore[operator]
    found: torch.Tensor = model.head.double()(places).softmax(1)  # type: ignore[union-attr, operator]
    return found.detach().numpy()


def as_json(shapes: Shapes | None) -> dict[str, Any]:
    assert shapes is not None
    found: dict[str, Any] = json.loads(json.dumps(shapes.tree()))
    return found


@pytest.mark.parametrize("classes", [2, 3])
def test_plain_numpy__says_what_the_model_says_of_every_record(
    tmp_path: Path, classes: int
) -> None:
    file, vector, model = made(classes)
    cells = table(tmp_path / "new.csv")
    found = plain.answers(as_json(shapes_of(file, vector, None)), cells)
    assert np.abs(found - expected(model, read(file, tmp_path / "new.csv"))).max() < 1e-9


def test_own_cuts__part_the_numbers_of_the_table_as_the_model_parts_records() -> None:
    axes = axes_of(TABLE, bins=32, levels=2, ranges=RANGES, edges={})
    for axis in axes[:2]:
        cuts = axis.own_cuts()
        assert (np.diff(cuts) > 0).all()
        for values, shift in ((cuts, 1), (np.nextafter(cuts, -np.inf), 0)):
            there = axis.fine(scaled(values, axis.own, axis.squashed))
            assert (there == np.arange(len(cuts)) + shift).all()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_interprets_own_class__says_the_same(tmp_path: Path, classes: int) -> None:
    pytest.importorskip("interpret", reason="interpret-core is not installed (extra interpret)")
    file, vector, _ = made(classes)
    model, cells = as_json(shapes_of(file, vector, None)), table(tmp_path / "new.csv")
    theirs = plain.interpreted(model)
    rows = np.array([
        [float(age), float(dose) if dose else np.nan, ward or None]
        for age, dose, ward in zip(*cells.values(), strict=True)
    ], dtype=object)  # fmt: skip
    assert np.abs(theirs.predict_proba(rows) - plain.answers(model, cells)).max() < 1e-9
    shown = theirs.explain_global().data(0)["scores"]
    bins = len(model["columns"][0]["cuts"]) + 1
    assert (shown[:bins] == theirs.term_scores_[0][1 : bins + 1]).all(), "its plots have them"


def test_shapes__move_a_constant_and_no_answer() -> None:
    file, vector, _ = made(3)
    found = shapes_of(file, vector, None)
    assert found is not None
    for column in found.columns:
        assert column.values[column.shown].mean(0) == pytest.approx(np.zeros(3), abs=1e-12)
        assert column.values.mean(1) == pytest.approx(np.zeros(len(column.values)), abs=1e-12)


@pytest.mark.slow
def test_band__is_the_deviation_of_the_sum_over_all_widths() -> None:
    file, vector, _ = made(2)
    rng, spread = np.random.default_rng(0), np.full_like(vector, 0.5)
    base = shapes_of(file, vector, spread)
    assert base is not None
    drawn = [
        shapes_of(file, vector + spread * rng.normal(size=vector.size).astype(np.float32), None)
        for _ in range(60)
    ]
    # Before the constant that each plot is moved by.
    steps = np.array([np.diff(one.columns[0].values[:, 1] - one.columns[0].values[:, 0])
                      for one in drawn if one])  # fmt: skip
    fine = 0.5 / np.sqrt(3 * 3) * np.sqrt(2) * np.sqrt(2)
    assert steps.std(0)[0] == pytest.approx(fine, rel=0.25), "two bins of one pair differ by two"
    promised = base.columns[0].deviation
    assert promised is not None
    assert promised == pytest.approx(np.full_like(promised, 0.5 / np.sqrt(3)), rel=1e-6)


def test_columns_that_drown_in_noise__are_named_and_not_drawn() -> None:
    file, vector, _ = made(2)
    loud = np.full_like(vector, 100)
    found = shapes_of(file, vector, loud)
    assert found is not None
    shown = shapes_shown(found, language_of("en"))
    assert shown.lost == ("dose",), "a range and categories end somewhere, and are drawn"
    assert {one.name for one in shown.shapes} == {"age", "ward"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation of two sites under shared noise, one of which has positives alone."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(2)
    rows = [("age", "flat", "ward", "site", "ill")]
    for i in range(240):
        age, one = rng.uniform(20, 100), i % 2
        ill = one or rng.random() < (age > 60)
        rows.append((f"{age:.1f}", "7", WARDS[i % 3], "ab"[one], "yes" if ill else "no"))  # type: ignore[arg-type]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    words = [
        "scenario=csv", f"scenario.path={folder / 'table.csv'}", "scenario.label=ill",
        "scenario.site=site", "scenario.scaling.columns.age=[20,100]", "model=ebm", "model.bins=8",
        "privacy=distributed", "privacy.epsilon=8", "privacy.delta=1e-4", "secagg=ring",
        "transport=plain", "training.nominal_records=100", "rounds=4", "evaluate_every=4",
        "privacy.max_colluders=0", f"out={folder / 'run'}",
    ]  # fmt: skip
    simulate(compose(words), Silent(), Stop())
    return folder


@pytest.mark.slow
def test_run__with_a_site_of_positives_alone_and_a_flat_column_learns(run: Path) -> None:
    result = json.loads((run / "run" / "result.json").read_text())
    assert result["config"]["strategy"]["kind"] == "boosting", "it comes with the model"
    assert result["config"]["model"]["ranges"] == {"age": [20.0, 100.0]}
    assert result["final"]["evaluate"]["auc"] > 0.6
    assert result["privacy"]["epsilon"] <= 8


@pytest.mark.slow
def test_report__shows_a_plot_for_every_column_with_its_band(run: Path) -> None:
    text = write_report(run / "run").read_text()
    section = text[text.index('aria-labelledby="shapes"') :]
    section = section[: section.index("</section>")]
    assert "What age adds" in section
    assert "What ward adds" in section
    assert "at the most, in 19 of 20 cases" in section


@pytest.mark.slow
def test_export__answers_in_a_process_that_has_numpy_alone(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export(run / "run", target)
    rows = tmp_path / "new.csv"
    rows.write_text("age,flat,ward\n30,7,1\n,7,2\n250,7,3\n61.5,x,9\n")
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('torch','fedlearn','pandas','sklearn')));"
        f"sys.argv=['predict.py', {str(rows)!r}];"
        f"import runpy; runpy.run_path({str(target / PLAIN)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    header, *lines = done.stdout.splitlines()
    assert header == "chance of no,chance of yes"
    found = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    assert found.sum(1) == pytest.approx(np.ones(4), abs=1e-12)
    # As the run's own model says it of records in its own form; ward 9 was never seen.
    model = open_model(run / "run")
    place = {30.0: -0.75, 0.0: 0.0, 250.0: 1.0, 61.5: 41.5 / 80 * 2 - 1}
    flat = np.log1p(7) / np.log(1001)
    inputs = [[place[30.0], flat, 1], [0, flat, 2], [1, flat, 3], [place[61.5], 0, 0]]
    ours = model.answers(np.array(inputs, np.float32))
    assert found == pytest.approx(ours, abs=1e-6)
    assert (target / SHAPES).is_file()


def test_model_without_functions__has_no_shapes() -> None:
    config = compose(["model=tabular"]).model
    file, vector, _ = made(2)
    assert shapes_of(replace(file, model=config), vector, None) is None
