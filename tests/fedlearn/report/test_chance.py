"""What chance does in a run of groups is said at its start, in its card and in its statement."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.report.facts import Facts
from fedlearn.results.reading import read_result
from tests.simulations.small import table

TWELVE = tuple(f"{letter}-site" for letter in "abcdefghijkl")
NINE = TWELVE[:9]
SAID = "of {} sites that work with the coordinator more than {} share a group in some of"
SHARES = ("privacy=distributed", "privacy.unit=record", "training.local_steps=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sites", "how", "withstood"),
    [
        (NINE, ["secagg=masked", "robust=groups", "privacy=none"], 1),
        (NINE, ["secagg=masked", "robust=bounded", "privacy=none"], None),
        # Of a group of four the coordinator may leave out one.
        (TWELVE, ["secagg=two_server", "robust=groups", "robust.size=4", "privacy=none"], 1),
        # But none where the noise counts on all four.
        (TWELVE, ["secagg=two_server", "robust=groups", "robust.size=4", *SHARES], 2),
    ],
)
def test_exposure_by_chance__is_in_log_card_and_statement_of_a_run_of_groups(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    sites: tuple[str, ...],
    how: list[str],
    withstood: int | None,
) -> None:
    caplog.set_level("INFO")
    out, words = tmp_path / "run", table(tmp_path, sites=sites)
    assert main(["simulate", *words, *how, "rounds=1", f"out={out}"]) == 0
    texts = Facts(result=read_result(out), hashes={}).texts
    logged = (out / "run.log").read_text() + caplog.text
    for fewer in (1, 2):
        sentence, said = SAID.format(fewer + 1, fewer), fewer == withstood
        assert any(sentence in line for line in texts["card"].lines("limits")) == said
        assert any(sentence in line for line in texts["statement"].lines("assumed")) == said
        assert (sentence in logged) == said
