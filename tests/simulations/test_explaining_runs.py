"""`fedlearn report DIR --explain`: from records that may be shown to a section of the report."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlearn.cli import main
from fedlearn.config import decode
from fedlearn.report.explanations import Explanations, RecordExplained, write_explanations
from tests.simulations.small import table

pytestmark = pytest.mark.slow

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a linear model on two columns, one of them of categories."""
    pytest.importorskip("captum", reason="fedlearn[explain] is not installed")
    folder = tmp_path_factory.mktemp("run")
    base = [o for o in table(folder) if not o.startswith("model.")]
    out = folder / "run"
    assert main(["simulate", *base, "model.architecture=linear", "privacy=none",
                 "scenario.scaling.columns.age=[20,80]",
                 f"out={out}"]) == 0  # fmt: skip
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoiled."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def explained(run: Path) -> Explanations:
    return decode(Explanations, (run / "explanations.json").read_text())


def records(folder: Path) -> Path:
    path = folder / "records.npz"
    np.savez(path, features=np.array([[0.5, 1], [-0.5, 2], [0.0, 0]], np.float32))
    return path


def test_explain__adds_what_the_model_goes_by_to_the_report(copy: Path, tmp_path: Path) -> None:
    assert main(["report", str(copy), "--explain", str(records(tmp_path))]) == 0
    found = explained(copy)
    assert found.names == ["age", "smoker"]
    assert found.count == 3
    result = json.loads((copy / "result.json").read_text())
    assert found.model_sha256 == result["model"]["sha256"]
    by_record = {one.record: one for one in found.records}
    # A linear model: half the value, half the reason, with the other sign.
    assert by_record[2].attributions == [0.0, 0.0]
    one, other = by_record[0].attributions[0], by_record[1].attributions[0]
    same = by_record[0].predicted == by_record[1].predicted
    assert one == pytest.approx(-other if same else other, rel=1e-4)
    assert one != 0
    page = (copy / "report.html").read_text()
    assert "What it goes by" in page
    assert "a release of data that no epsilon covers" in page
    assert f"age {one:+.2f} (is 0.5)" in page
    assert found.source in page
    # A report made anew keeps the section, from the files alone.
    assert main(["report", str(copy)]) == 0
    assert f"age {one:+.2f} (is 0.5)" in (copy / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ("public", "the records of scenario=csv are not public", 2),
        ("records.txt", "or a file .npz or .csv", 2),
        ("records.csv", "tables of numbers with public ranges alone", 2),
        ("wide.npz", "is [1, 3]; wanted: [n, 2]", 5),
        ("none.npz", "holds no array 'features'", 5),
        ("broken.npz", "holds no array 'features'", 5),
        ("infinite.npz", "must be finite numbers", 5),
        ("missing.npz", "cannot be read", 5),
    ],
)
def test_explain__refuses_records_that_may_not_or_cannot_be_explained(
    copy: Path, tmp_path: Path, words: str, said: str, code: int, capsys: Output
) -> None:
    np.savez(tmp_path / "wide.npz", features=np.zeros((1, 3)))
    np.savez(tmp_path / "none.npz", other=np.zeros((1, 2)))
    np.savez(tmp_path / "infinite.npz", features=np.array([[np.inf, 0.0]]))
    for name in ("broken.npz", "records.txt", "records.csv"):
        (tmp_path / name).write_text("age,smoker\n50,yes\n")
    source = words if words == "public" else str(tmp_path / words)
    assert main(["report", str(copy), "--explain", source]) == code
    assert said in capsys.readouterr().err
    assert not (copy / "explanations.json").exists()


def test_explain__refuses_a_run_whose_model_was_changed(
    copy: Path, tmp_path: Path, capsys: Output
) -> None:
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["report", str(copy), "--explain", str(records(tmp_path))]) == 5
    assert "was altered" in capsys.readouterr().err


def test_explain__without_captum_says_what_to_install(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.delitem(sys.modules, "simulations.explaining", raising=False)
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main(["report", str(copy), "--explain", str(records(tmp_path))]) == 2
    assert "pip install 'fedlearn[explain]'" in capsys.readouterr().err


def test_report__shows_images_and_where_the_model_looked_and_nothing_of_another_model(
    copy: Path,
) -> None:
    result = json.loads((copy / "result.json").read_text())
    image = RecordExplained(record=4, predicted="<ill>", score=0.75, values=[0.0, 1.0] * 8,
                              attributions=[0.5] * 16)  # fmt: skip
    found = Explanations(
        source="public", model_sha256=result["model"]["sha256"], method="grad_cam", of="pixels",
        names=[], size=[4, 4], count=5, overall=[], remainder=0.0, records=[image],
    )  # fmt: skip
    write_explanations(copy, found)
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    assert "Record 5, taken for &lt;ill&gt; with probability 0.750" in page
    assert page.count("data:image/png;base64") == 2
    assert "img-src data:" in page
    changed = decode(Explanations, json.dumps({**json.loads(
        (copy / "explanations.json").read_text()), "model_sha256": "0" * 64}))  # fmt: skip
    write_explanations(copy, changed)
    assert main(["report", str(copy)]) == 0
    page = (copy / "report.html").read_text()
    assert "are of another model" in page
    assert "data:image/png;base64" not in page
