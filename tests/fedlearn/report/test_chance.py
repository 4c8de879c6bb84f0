"""What chance does in a run of groups is said at its start, in its card and in its statement."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.report.facts import Facts
from fedlearn.results.reading import read_result
from tests.simulations.small import table

NINE = tuple(f"{letter}-site" for letter in "abcdefghi")
SAID = "of 2 sites that work with the coordinator more than 1 share a group in some of"


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "said"), [("groups", True), ("bounded", False)])
def test_exposure_by_chance__is_in_log_card_and_statement_of_a_run_of_groups(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rule: str, said: bool
) -> None:
    caplog.set_level("INFO")
    out, words = tmp_path / "run", table(tmp_path, sites=NINE)
    how = ["secagg=masked", f"robust={rule}", "privacy=none", "rounds=1", f"out={out}"]
    assert main(["simulate", *words, *how]) == 0
    texts = Facts(result=read_result(out), hashes={}).texts
    assert any(SAID in line for line in texts["card"].lines("limits")) == said
    assert any(SAID in line for line in texts["statement"].lines("assumed")) == said
    assert (SAID in (out / "run.log").read_text() + caplog.text) == said
