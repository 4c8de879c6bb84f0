"""The checklist passes nothing that a result does not show, and follows what it does show."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from fedlearn.auditing.findings import Findings
from fedlearn.cli import main
from fedlearn.report.facts import Facts
from fedlearn.report.page import write_report
from fedlearn.report.texts import TEMPLATES
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from tests.simulations.small import table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = [*table(folder), "rounds=1", "privacy.epsilon=3", "privacy.delta=1e-4"]
    assert main(["simulate", *words, f"out={folder / 'run'}"]) == 0
    return folder / "run"


def rows(result: ResultFile, block: str = "checks") -> tuple[tuple[str, ...], ...]:
    found: tuple[tuple[str, ...], ...] = (
        Facts(result=result, hashes={}).texts["checklist"].rows(block)
    )
    return found


def state(result: ResultFile, start: str) -> str:
    (found,) = (state for question, state, _ in rows(result) if question.startswith(start))
    return found


def with_privacy(result: ResultFile, **changes: object) -> ResultFile:
    return replace(result, privacy=replace(result.privacy, **changes))


def test_checklist__never_passes_what_a_result_cannot_show(run: Path) -> None:
    result = read_result(run)
    for start in ("Time and power", "A record is", "Settings were", "Other runs"):
        assert state(result, start) == "not checked"
    assert state(result, "Nothing else") == "does not hold"
    assert all(why for _, _, why in rows(result))


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.5, "holds"), (9.9, "holds"), (10.1, "does not hold")]
)
def test_checklist__weighs_epsilon(run: Path, epsilon: float, expected: str) -> None:
    assert state(with_privacy(read_result(run), epsilon=epsilon), "Epsilon is") == expected


@pytest.mark.parametrize(("delta", "expected"), [(1e-4, "holds"), (1e-2, "does not hold")])
def test_checklist__weighs_delta_by_the_records(run: Path, delta: float, expected: str) -> None:
    assert state(with_privacy(read_result(run), delta=delta), "Delta is") == expected


def test_checklist__of_a_run_without_privacy_asks_no_more(run: Path) -> None:
    ((_, only, _),) = rows(with_privacy(read_result(run), epsilon=None))
    assert only == "does not hold"


def test_checklist__takes_the_verdict_of_an_audit(run: Path) -> None:
    result = read_result(run)
    assert state(result, "A measurement") == "not checked"
    findings = Findings(
        kind="slots", estimator="one_run", canaries=10, alpha=0.05, lower_bound=9.0, ceiling=9.0,
        verdict="PROMISE BROKEN", seat="update", delta=1e-4, promised=3.0, p_value=1e-9, views=[],
        attacks=[], notes=[],
    )  # fmt: skip
    assert state(replace(result, audit=findings), "A measurement") == "does not hold"
    fine = replace(findings, verdict="consistent with the promise")
    assert state(replace(result, audit=fine), "A measurement") == "holds"
    assert state(replace(result, audit=replace(fine, canaries=0)), "A measurement") == "not checked"


def test_asked__names_sections_that_reports_have(run: Path) -> None:
    source = "".join(path.read_text() for path in TEMPLATES.rglob("*.html.j2"))
    titles = set(re.findall(r'<(?:h2|summary)[^>]*>\{\{ _\("([^"]*)"\) \}\}</', source))
    for _, _, sections, absent in rows(read_result(run), "asked"):
        assert set(sections.split("; ")) <= titles
        assert absent


def test_report__shows_every_check_and_its_answer(run: Path) -> None:
    text = unescape(write_report(run).read_text())
    checks = rows(read_result(run))
    for question, _, why in checks:
        assert question in text
        assert why in text
    section = text.split("Before relying on it</h2>")[1].split("<h2>")[0]
    found = re.findall(r">(holds|does not hold|not checked)<", section)
    assert found == [state for _, state, _ in checks]
