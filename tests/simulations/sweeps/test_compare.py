"""`fedlearn compare`: from one command to a table, whatever happens to single runs."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.results.reading import read_result
from simulations.sweeps.compare import CompareSettings, plan
from simulations.sweeps.compare import SweepFolder as Sweep
from tests import warm
from tests.simulations.small import command, compare, environment, points, table

# Whole sweeps: too long for the fast gate.
pytestmark = pytest.mark.slow

Output = pytest.CaptureFixture[str]

GOOD = ("seed=0,training.learning_rate=0.1", "seed=1,training.learning_rate=0.1")
BAD = ("seed=0,training.learning_rate=1e+38", "seed=1,training.learning_rate=1e+38")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int, str]:
    """A sweep of four runs of which two diverge: folder, overrides, exit code, output."""
    folder = tmp_path_factory.mktemp("study")
    out = folder / "sweep"
    overrides = [*table(folder), "privacy=none", "training.learning_rate=0.1,1e+38", "seed=0,1",
                 f"out={out}"]  # fmt: skip
    done = compare(*overrides)
    return out, overrides, done.returncode, done.stdout + done.stderr


SweepFolder = tuple[Path, list[str], int, str]


def test_compare__leaves_a_run_for_every_point_and_the_files_of_the_contract(
    study: SweepFolder,
) -> None:
    out, _, _, said = study
    assert {"compare.json", "compare.csv", "report.html", *GOOD} <= {p.name for p in out.iterdir()}
    for name in GOOD:
        assert (out / name / "report.html").is_file(), said
        result = json.loads((out / name / "result.json").read_text())
        point = points(out)[name]
        assert point["status"] == result["status"] == "finished"
        assert point["evaluate"] == result["final"]["evaluate"]
        assert point["seconds"] == result["seconds"]
        assert point["bytes"]["up"] == sum(r["bytes"]["up"] for r in result["rounds"]) > 0
        assert point["epsilon"] is None
        assert point["audit"] is None


def test_compare__loses_no_run_to_the_failure_of_another_and_ends_with_its_code(
    study: SweepFolder,
) -> None:
    out, _, code, said = study
    assert code == 4, said
    for name in BAD:
        assert points(out)[name]["status"] == "failed"
        assert "diverged" in points(out)[name]["reason"]
        assert name in said
    report = (out / "report.html").read_text()
    assert "Not finished" in report
    assert "diverged" in report


def test_compare__says_how_to_repeat_a_point(study: SweepFolder, tmp_path: Path) -> None:
    out = study[0]
    overrides = points(out)[GOOD[1]]["overrides"]
    assert main(["simulate", *overrides, f"out={tmp_path / 'again'}"]) == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["final"] == json.loads((out / GOOD[1] / "result.json").read_text())["final"]


def test_compare__csv_has_the_numbers_of_the_json(study: SweepFolder) -> None:
    out = study[0]
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == list(points(out))
    for row in rows:
        point = points(out)[row["name"]]
        assert row["seed"] == point["values"]["seed"]
        if point["status"] == "finished":
            assert float(row["accuracy"]) == point["evaluate"]["accuracy"]
            assert int(row["bytes_down"]) == point["bytes"]["down"]


def test_compare__refuses_everything_wrong_before_its_first_run(
    tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "sweep"
    overrides = ["experiment=medical_heart", "privacy.epsilon=1,-1", "rounds_=3,4"]
    assert main(["compare", *overrides, f"out={out}"]) == 2
    said = capsys.readouterr().err
    assert said.count("privacy.epsilon=-1: must be > 0") == 1
    assert "rounds_=3: unknown key; did you mean rounds?" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["secagg=masked", "seed=0,1"], "a round has 2 of 2 sites"),
        (["privacy.epsilon=1,2", "privacy.delta=0.5"], "privacy.delta=0.5: must be at most"),
        (["compare.baseline=true"], "compare.baseline=true: unknown key"),
        (["compare.workers=0"], "compare.workers=0: must be > 0"),
        (["seed=0", "scenario.label=nothing,ill"], "nothing"),
    ],
)
def test_compare__refuses_what_only_sites_and_protocol_can_know_before_its_first_run(
    overrides: list[str], reason: str, tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "sweep"
    given = {o.partition("=")[0] for o in overrides}
    base = [o for o in table(tmp_path) if o.partition("=")[0] not in given]
    assert main(["compare", *base, *overrides, f"out={out}"]) in (2, 5)
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_compare__refuses_a_folder_that_is_no_comparison(tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "other"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert main(["compare", *table(tmp_path), f"out={out}", "seed=0,1"]) == 2
    assert "exists and holds no comparison" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_compare__refuses_a_folder_that_holds_other_runs_under_the_same_names(
    study: SweepFolder, capsys: Output
) -> None:
    out, overrides, *_ = study
    before = (out / "compare.json").read_bytes()
    assert main(["compare", *[o for o in overrides if o != "rounds=2"], "rounds=3"]) == 2
    said = capsys.readouterr().err
    assert f"holds {GOOD[0]} with another config; choose another folder" in said
    assert (out / "compare.json").read_bytes() == before


def test_compare__runs_again_what_failed_or_is_half_written_and_nothing_else(
    study: SweepFolder, tmp_path: Path
) -> None:
    out, overrides, *_ = study
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    path = copy / GOOD[1] / "result.json"
    path.write_text(path.read_text().replace('"status": "finished"', '"status": "running"'))
    found, folder = plan(CompareSettings(), [*overrides[:-1], f"out={copy}"])
    half = Sweep(folder, found)
    half.check()
    todo = half.prepare()
    assert {point.name for point in todo} == {GOOD[1], *BAD}
    assert not any(point.config.resume for point in todo)
    # What a half-written run spent stays on record.
    assert (copy / "unfinished" / f"{GOOD[1]}-1" / "config.yaml").is_file()
    assert not (copy / GOOD[1]).exists()


@pytest.mark.slow
def test_compare__runs_a_half_written_point_again_and_keeps_what_it_had(
    study: SweepFolder, tmp_path: Path
) -> None:
    out, overrides, *_ = study
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    whole, half = GOOD
    path = copy / half / "result.json"
    path.write_text(path.read_text().replace('"status": "finished"', '"status": "running"'))
    before = (copy / whole / "result.json").read_bytes()
    kept = [o for o in overrides if not o.startswith(("out=", "training."))]
    done = compare(*kept, "training.learning_rate=0.1,0.2", f"out={copy}")
    assert done.returncode == 0, done.stderr
    assert (copy / whole / "result.json").read_bytes() == before
    assert json.loads(path.read_text())["status"] == "finished"
    assert (copy / "unfinished" / f"{half}-1" / "result.json").is_file()
    # Points of the earlier command stay in the table, and a new value joined them.
    assert {*GOOD, *BAD, "seed=0,training.learning_rate=0.2"} <= set(points(copy))


@pytest.mark.slow
def test_compare__ends_cleanly_on_an_interrupt_and_goes_on_from_there(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    overrides = [*[o for o in table(tmp_path) if o != "rounds=2"], "rounds=30", "privacy=none",
                 "seed=0,1,2,3,4,5", f"out={out}", "compare.workers=2"]  # fmt: skip
    running = warm.Popen(
        command(*overrides), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(),
    )  # fmt: skip
    assert running.stdout is not None
    said = ""
    while "seed=1 finished" not in said and "seed=0 finished" not in said:
        said += running.stdout.readline()
    running.send_signal(signal.SIGINT)
    said += running.communicate(timeout=120)[0]
    assert running.returncode == 130, said
    first = points(out)
    finished = {n: p for n, p in first.items() if p["status"] == "finished"}
    assert 1 <= len(finished) < 6, said
    assert {p["status"] for p in first.values()} <= {"finished", "interrupted", "planned"}
    done = compare(*overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    after = points(out)
    assert {p["status"] for p in after.values()} == {"finished"}
    assert all(after[name] == point for name, point in finished.items())
    # An interrupted run was continued, not run anew: set aside is what had finished no round.
    left = [read_result(folder) for folder in (out / "unfinished").glob("*")]
    assert not [result.rounds for result in left if result.rounds]


@pytest.mark.slow
@pytest.mark.usefixtures("heart_archive")
def test_compare__puts_reference_lines_beside_private_runs(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = compare("experiment=medical_heart", "privacy.epsilon=1,8", "rounds=2",
                   "compare.baselines=true", f"out={out}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = points(out)
    assert [p["epsilon"] for p in found.values() if not p["reference"]] == pytest.approx(
        [1, 8], rel=0.01
    )
    assert {p["reference"] for p in found.values()} == {
        None, "non_private", "local_only", "centralised",
    }  # fmt: skip
    alone = json.loads((out / "local-only,site=hungary" / "result.json").read_text())
    assert list(alone["data"]["sites"]) == ["hungary"]
    central = json.loads((out / "centralised" / "result.json").read_text())
    assert central["data"]["sites"] == {"site-000": {"train": 486, "test": 254}}
    report = (out / "report.html").read_text()
    assert "each site by itself, no privacy" in report
