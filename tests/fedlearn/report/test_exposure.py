"""What is shown of an audit of repeated secrets, from its figures alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedlearn.auditing.exposure import by_chance, edge_of_chance, exposure, mean_by_chance
from fedlearn.core.errors import DataError
from fedlearn.report.exposure import (
    FILE,
    ExposedRun,
    Exposure,
    RankedView,
    Repeated,
    read_exposure,
    write_exposure,
)
from fedlearn.report.exposure_page import ExposurePage
from fedlearn.report.exposure_plot import alternative, plot, png
from fedlearn.report.page import write_report


def level(repetitions: int, ranks: list[int], *, promised: bool) -> Repeated:
    found = np.array(ranks)
    bits = exposure(found, 1000)
    views = [
        RankedView(
            seat=seat, score=score, ranks=ranks, exposure=float(bits.mean()),
            low=None if len({*ranks}) == 1 else float(bits.min()),
            high=None if len({*ranks}) == 1 else float(bits.max()),
            chance=by_chance(found, 1000), auc=0.75 if repetitions else None,
        )
        for seat in ("model", "rounds") for score in ("loss", "reference")
    ]  # fmt: skip
    allowed = 4.5 if promised and repetitions else None
    return Repeated(
        repetitions=repetitions, views=views, greedy=ranks.count(1), sampled=0.125,
        exposure_allowed=allowed, greedy_allowed=allowed and 0.01,
        sampled_allowed=allowed and 0.3, auc_allowed=allowed and 0.9,
    )  # fmt: skip


def run(name: str, privacy: str, epsilon: float | None, ranks: list[list[int]]) -> ExposedRun:
    return ExposedRun(
        name=name, privacy=privacy, unit="record" if epsilon else "none", epsilon=epsilon,
        delta=1e-5 if epsilon else None, noise_multiplier=None, rounds=3, metrics={},
        verdict="consistent with the promise" if epsilon else "no promise was made",
        p_value=0.25 if epsilon else None,
        repeated=[level(k, own, promised=epsilon is not None)
                  for k, own in zip((0, 1, 10), ranks, strict=True)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Exposure:
    private = run("private", "record", 8.0, [[300, 900], [700, 40], [500, 499]])
    plain = run("plain", "none", None, [[310, 800], [20, 3], [1, 1]])
    return Exposure(
        version="1", experiment="<letters>", command="fedlearn audit demo=exposure", model="tiny",
        sites=2, site="o1", records=40, inserted=22, example="The number of Bado is 123", digits=3,
        candidates=1000, exact=True, tries=100, edge=edge_of_chance(2, 1000),
        by_chance=mean_by_chance(1000), runs=[private, plain],
    )  # fmt: skip


def test_file__is_read_as_it_was_written_and_by_nobody_else(
    tmp_path: Path, found: Exposure
) -> None:
    assert read_exposure(tmp_path) is None
    write_exposure(tmp_path, found)
    assert read_exposure(tmp_path) == found
    tree = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(tree | {"schema": "fedlearn/exposure/v9"}))
    with pytest.raises(DataError, match="this version reads"):
        read_exposure(tmp_path)


def test_report__of_a_folder_with_the_figures_alone_has_all_of_them(
    tmp_path: Path, found: Exposure
) -> None:
    write_exposure(tmp_path, found)
    page = write_report(tmp_path).read_text()
    assert "<letters>" not in page
    assert "privacy=record, epsilon 8: consistent with the promise (p = 0.250)" in page
    for text in ("2 of 2", "9.97", "4.50", "30%", "0.90", "the final model"):
        assert text in page, text
    assert "The promise is to one record" in page


def test_table__shows_nothing_where_nothing_is_promised(found: Exposure) -> None:
    page = ExposurePage(found=found)
    private, plain = (page.rows(one) for one in found.runs)
    assert [row[0] for row in private] == ["none", "1", "10"]
    assert private[1][4] == "4.50"
    assert private[0][4] == plain[1][4] == ""
    assert plain[2][1:3] == ("9.97", "")
    assert len(page.columns) == len(private[0])
    assert len(page.views) == 8
    assert "all repetitions, and all canaries, are one" not in page.texts["units"]
    of_clients = replace(found, runs=[replace(found.runs[0], unit="client")])
    assert "are one" in ExposurePage(found=of_clients).texts["units"]
    alone = replace(found, runs=found.runs[1:])
    assert "Nothing is promised here" in ExposurePage(found=alone).texts["units"]


def test_picture__is_one_in_words_on_a_page_and_in_a_file(found: Exposure) -> None:
    words = alternative(found)
    assert "without privacy: none: " in words
    assert "10: 10.0 bits" in words
    drawn = plot(found)
    assert drawn.startswith("<svg role=")
    assert drawn.count("the most that its promise allows") == 1
    with Image.open(io.BytesIO(png(found))) as image:
        assert image.width > 500
