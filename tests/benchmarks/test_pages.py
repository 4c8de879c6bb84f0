"""Pages of experiments: made from runs by one command; what was changed by hand is found."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.page_figures import read_figures, standard_error
from benchmarks.pages import BEGIN, DOCS, END, EXPERIMENTS, figures_of, main, problems
from fedlearn.cli import main as fedlearn
from fedlearn.metrics.intervals import Measured
from tests.simulations.small import table

FIGURES = sorted(path.stem for path in (DOCS / EXPERIMENTS / "figures").glob("*.json"))
SENTENCE = re.compile(
    r"On ([\d,]+) records(?:, ([\d,]+) of them positive)?,? an (accuracy|AUC) of (\.\d+) has a "
    r"standard error of (\.\d+)"
)


def pages() -> list[Path]:
    return sorted((DOCS / EXPERIMENTS).glob("*.md"))


def of_share(share: float, records: int) -> float:
    return math.sqrt(share * (1 - share) / records)


def of_area(area: float, positive: int, negative: int) -> float:
    """Hanley and McNeil 1982."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    of_positive = (positive - 1) * (first - area**2)
    of_negative = (negative - 1) * (second - area**2)
    return math.sqrt((area * (1 - area) + of_positive + of_negative) / (positive * negative))


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of the committed pages, to be spoiled."""
    shutil.copytree(DOCS / EXPERIMENTS, tmp_path / EXPERIMENTS)
    shutil.copy(DOCS / "results.md", tmp_path)
    return tmp_path


# --- what is committed ------------------------------------------------------------------------


def test_pages__show_what_their_figures_say() -> None:
    assert list(problems(DOCS)) == []


def test_experiments__have_a_page_each() -> None:
    experiments = {path.stem for path in (DOCS.parent / "configs" / "experiment").glob("*.yaml")}
    assert experiments == {page.stem for page in pages()}
    overview = (DOCS / "results.md").read_text("utf-8")
    assert {name for name in experiments if f"(experiments/{name}.md)" not in overview} == set()


@pytest.mark.parametrize("name", FIGURES)
def test_figures__are_such_as_records_can_give(name: str) -> None:
    """Accuracies are whole numbers of records, and errors those of a share: by no code of ours."""
    figures = figures_of(DOCS, name)
    assert figures is not None
    assert figures.rows
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in figures.results.values())
    counted = sum(row.runs for row in [*figures.rows, *figures.references])
    assert counted + len(figures.audits) == len(figures.results)
    records = sum(size.test or 0 for size in figures.sites.values())
    for row in [] if figures.drawn else figures.rows:
        found = row.metrics.get("accuracy")
        assert all(len(one.values) == row.runs for one in row.metrics.values())
        for value in found.values if found else []:
            assert value * records == pytest.approx(round(value * records), abs=records * 1e-6)
        if found and found.error and 0.02 < found.mean < 0.98:
            assert found.error == pytest.approx(of_share(found.mean, records), rel=0.15)


def test_errors__that_pages_state_follow_from_the_size_of_the_test_part() -> None:
    said = 0
    for page in sorted(DOCS.rglob("*.md")):
        text = re.sub(r"\s+", " ", page.read_text("utf-8"))
        for size, positive, _, value, error in SENTENCE.findall(text):
            said += 1
            records, events = int(size.replace(",", "")), int(positive.replace(",", "") or 0)
            share = float(value)
            wanted = (
                of_area(share, events, records - events) if events else of_share(share, records)
            )
            assert float(error) == pytest.approx(wanted, abs=0.6 * 10 ** -len(error[1:])), page
    assert said >= 10


def test_pages_with_figures_of_earlier_versions__state_an_error() -> None:
    silent = []
    for page in pages():
        _, _, earlier = page.read_text("utf-8").partition("## Figures of earlier versions")
        flat = re.sub(r"\s+", " ", earlier)
        if "| epsilon" in earlier and not re.search(r"standard error|error of the test part", flat):
            silent.append(page.name)
    assert silent == []


# --- what is found ----------------------------------------------------------------------------


def test_check__finds_a_figure_that_was_changed_by_hand(docs: Path) -> None:
    page = docs / EXPERIMENTS / "medical_heart.md"
    text = page.read_text("utf-8")
    before, begin, after = text.partition(BEGIN)
    changed = after.replace(".8", ".9", 1)
    assert changed != after
    page.write_text(before + begin + changed)
    assert list(problems(docs)) == [
        "medical_heart.md: what stands between the markers is not what its figures say"
    ]
    assert main(["--check", f"--docs={docs}"]) == 1


def test_check__finds_a_figure_that_was_changed_in_the_overview(docs: Path) -> None:
    page = docs / "results.md"
    text = page.read_text("utf-8")
    page.write_text(text.replace("| 254 |", "| 2,540 |"))
    assert [one.partition(":")[0] for one in problems(docs)] == ["results.md"]


def test_check__finds_a_page_without_markers_or_sections_or_with_another_curve(docs: Path) -> None:
    folder = docs / EXPERIMENTS
    heart, credit = folder / "medical_heart.md", folder / "financial_credit.md"
    heart.write_text(heart.read_text("utf-8").replace(END, ""))
    credit.write_text(credit.read_text("utf-8").replace("## Question", "## Questions"))
    curve = folder / "figures" / "medical_heart-epsilon.svg"
    curve.write_text(curve.read_text("utf-8").replace("0.8", "0.9"))
    shutil.copy(folder / "figures" / "medical_heart.json", folder / "figures" / "lost.json")
    assert {one.partition(":")[0].rpartition("/")[2] for one in problems(docs)} == {
        "medical_heart.md", "financial_credit.md", "medical_heart-epsilon.svg", "lost.json",
    }  # fmt: skip


def test_command__mends_figures_and_leaves_words(docs: Path) -> None:
    page = docs / EXPERIMENTS / "medical_heart.md"
    text = page.read_text("utf-8")
    spoiled = text.replace("## Question", "## Question\n\nA word of mine.").replace(".807", ".907")
    page.write_text(spoiled)
    assert main([f"--docs={docs}"]) == 0
    mended = page.read_text("utf-8")
    assert "A word of mine." in mended
    block = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    assert block.findall(mended) == block.findall(text)


# --- from runs --------------------------------------------------------------------------------


def test_standard_error__is_that_of_an_interval_of_95_percent() -> None:
    one = Measured(value=0.5, low=0.5 - 1.959964 * 0.02, high=0.5 + 1.959964 * 0.02)
    assert standard_error(one) == pytest.approx(0.02, rel=1e-6)
    assert standard_error(replace(one, low=None)) is None
    assert standard_error(None) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs, at epsilon 2 and 8."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["simulate", *table(folder), "privacy.delta=1e-3"]
    for epsilon in (2, 8):
        at = [f"privacy.epsilon={epsilon}", f"out={folder / 'runs' / f'at{epsilon}'}"]
        assert fedlearn([*words, *at]) == 0
    return folder / "runs"


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs, to be spoiled."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Documentation without a page of an experiment."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text(f"# Results\n\n{BEGIN}\n{END}\n")
    return tmp_path / "docs"


@pytest.mark.slow
def test_command__makes_a_page_from_runs_and_knows_them_again(copied: Path, empty: Path) -> None:
    assert main([f"--docs={empty}", str(copied)]) == 0
    text = (empty / EXPERIMENTS / "custom.md").read_text("utf-8")
    result = json.loads((copied / "at8" / "result.json").read_text("utf-8"))
    accuracy = f"{result['final']['evaluate']['accuracy']:.3f}".lstrip("0")
    assert re.search(rf"\| epsilon 8, each site its own noise \| 1 \| {re.escape(accuracy)} ", text)
    assert "[`custom`](experiments/custom.md)" in (empty / "results.md").read_text("utf-8")
    figures = read_figures([copied])
    interval = result["fairness"]["all_sites"]["accuracy"]
    assert figures.rows[-1].metrics["accuracy"].error == pytest.approx(
        (interval["high"] - interval["low"]) / 3.919928, rel=1e-4
    )
    assert main([f"--docs={empty}", "--check", str(copied)]) == 0
    assert main([f"--docs={empty}", "--check", str(copied), "--by=auc"]) == 1
    assert main([f"--docs={empty}", str(copied), "--by=bleu"]) == 1
    changed(copied / "at8", "final.evaluate.accuracy", 0.999)
    assert main([f"--docs={empty}", "--check", str(copied)]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [("data.name", "another"), ("config.experiment", "medical_heart"), ("status", "failed")],
)
def test_runs_that_do_not_belong_together__make_no_page(
    copied: Path, empty: Path, key: str, value: str
) -> None:
    changed(copied / "at8", key, value)
    assert main([f"--docs={empty}", str(copied)]) == 1
    assert not (empty / EXPERIMENTS).exists()


@pytest.mark.slow
def test_sites_that_a_seed_has_dealt__are_not_compared(copied: Path) -> None:
    assert read_figures([copied]).rows[0].sites
    changed(copied / "at8", "data.sha256", "0" * 64)
    assert [row.sites for row in read_figures([copied]).rows] == [{}, {}]


def changed(run: Path, key: str, value: object) -> None:
    path = run / "result.json"
    result = json.loads(path.read_text("utf-8"))
    *parents, last = key.split(".")
    place = result
    for parent in parents:
        place = place[parent]
    place[last] = value
    path.write_text(json.dumps(result))
