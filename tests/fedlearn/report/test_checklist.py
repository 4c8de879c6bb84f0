"""The checklist passes nothing that a result does not show, and follows what it does show."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from fedlearn.audit.findings import Findings
from fedlearn.cli import main
from fedlearn.report.checklist import MAP, State, checklist
from fedlearn.report.page import TEMPLATES, write_report
from fedlearn.results.reading import read_result
from fedlearn.results.result import Result
from tests.simulations.small import table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = [*table(folder), "rounds=1", "privacy.epsilon=3", "privacy.delta=1e-4"]
    assert main(["simulate", *words, f"out={folder / 'run'}"]) == 0
    return folder / "run"


def state(result: Result, start: str) -> State:
    (found,) = (check for check in checklist(result) if check.question.startswith(start))
    return found.state


def with_privacy(result: Result, **changes: object) -> Result:
    return replace(result, privacy=replace(result.privacy, **changes))


def test_checklist__never_passes_what_a_result_cannot_show(run: Path) -> None:
    result = read_result(run)
    for start in ("Time and power", "A record is", "Settings were", "Other runs"):
        assert state(result, start) == "not checked"
    assert state(result, "Nothing else") == "does not hold"
    assert all(check.why for check in checklist(result))


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.5, "holds"), (9.9, "holds"), (10.1, "does not hold")]
)
def test_checklist__weighs_epsilon(run: Path, epsilon: float, expected: State) -> None:
    assert state(with_privacy(read_result(run), epsilon=epsilon), "Epsilon is") == expected


@pytest.mark.parametrize(("delta", "expected"), [(1e-4, "holds"), (1e-2, "does not hold")])
def test_checklist__weighs_delta_by_the_records(run: Path, delta: float, expected: State) -> None:
    assert state(with_privacy(read_result(run), delta=delta), "Delta is") == expected


def test_checklist__of_a_run_without_privacy_asks_no_more(run: Path) -> None:
    (only,) = checklist(with_privacy(read_result(run), epsilon=None))
    assert only.state == "does not hold"


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


def test_map__names_sections_that_reports_have(run: Path) -> None:
    source = "".join(path.read_text() for path in TEMPLATES.glob("*.j2"))
    titles = set(re.findall(r"<(?:h2|summary)>([^<]*)</", source))
    for line in MAP:
        assert set(line.sections) <= titles
        assert line.absent


def test_report__shows_every_check_and_its_answer(run: Path) -> None:
    text = unescape(write_report(run).read_text())
    for check in checklist(read_result(run)):
        assert check.question in text
        assert check.why in text
    section = text.split("Before relying on it</h2>")[1].split("<h2>")[0]
    found = re.findall(r">(holds|does not hold|not checked)<", section)
    assert found == [check.state for check in checklist(read_result(run))]
