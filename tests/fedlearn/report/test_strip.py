"""The demonstration of reconstruction in a report: shown where there is one, and never invented."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedlearn.cli import main
from fedlearn.core.errors import DataError
from fedlearn.report.inversion import (
    SEATS,
    Inversion,
    Likeness,
    Protected,
    SeatView,
    pixels,
    read_inversion,
    to_text,
    write_inversion,
)
from fedlearn.report.page import write_report
from tests.simulations.small import table


def image(number: int, channels: int = 1) -> str:
    return to_text(np.random.default_rng(number).random((8, 9, channels)))


def likeness(number: int) -> Likeness:
    return Likeness(image=image(number), psnr=10.25 + number, ssim=number / 7, place=number)


def shown() -> Inversion:
    views = [
        SeatView(
            seat=seat, sees="something", best=likeness(number), recovered=number, alike=number + 1
        )
        for number, seat in enumerate(SEATS)
    ]
    way = Protected(
        name="<b>masked</b>", transport="sealed", secagg="masked", privacy="record",
        epsilon=2.5, delta=1e-5, noise_multiplier=3.25, views=views,
    )  # fmt: skip
    return Inversion(
        version="0", images="random dots", line_up=321, height=8, width=9, channels=1, sites=5,
        records=1, seed=0, recovered_at=30.0, original=image(100), average=likeness(5),
        ways=[way], seconds=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["simulate", *table(folder), f"out={folder / 'run'}"]) == 0
    return folder / "run"


def test_inversion__is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_inversion(tmp_path) is None
    write_inversion(tmp_path, shown())
    assert read_inversion(tmp_path) == shown()


@pytest.mark.parametrize("channels", [1, 3])
def test_image__keeps_its_values_to_half_a_step(channels: int) -> None:
    values = np.random.default_rng(0).random((8, 9, channels))
    found = pixels(replace(shown(), channels=channels), to_text(values))
    assert found.shape == (8, 9, 3)
    assert np.abs(found / 255 - values).max() <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": "fedlearn/inversion/v9"}, "this version reads"),
        ({"channels": 2}, "impossible size"),
        ({"colour": "red"}, "colour"),
        ({"ways": None}, "ways"),
    ],
)
def test_inversion__of_another_form_is_refused(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    write_inversion(tmp_path, shown())
    path = tmp_path / "inversion.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=problem):
        read_inversion(tmp_path)


@pytest.mark.parametrize("text", ["not base64!", "AAAA"])
def test_inversion__with_a_broken_image_is_refused(run: Path, text: str) -> None:
    write_inversion(run, replace(shown(), original=text))
    try:
        with pytest.raises(DataError, match="an image that is not one"):
            write_report(run)
    finally:
        (run / "inversion.json").unlink()


def test_strip__has_the_pixels_of_every_view() -> None:
    (way,) = shown().ways
    assert len(way.views) == len(SEATS)
    for number, view in enumerate(way.views):
        uri = shown().uri(view.best.image)
        data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        drawn = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.array_equal(drawn, pixels(shown(), image(number)))


def test_report__shows_a_demonstration_with_words_for_every_image(run: Path) -> None:
    write_inversion(run, shown())
    text = write_report(run).read_text()
    (run / "inversion.json").unlink()
    images = re.findall(r'<img src="([^"]{40})[^"]*" alt="([^"]*)">', text)
    assert len(images) == 2 + len(SEATS)
    assert all(start.startswith("data:image/png;base64,") for start, _ in images)
    for view in shown().ways[0].views:
        assert f"place {view.best.place} of 321 in a line-up" in unescape(text)
        assert shown().in_words(view) in text
    assert "random dots" in text
    assert "noise multiplier 3.25, epsilon 2.5" in text
    assert "<b>masked" not in text, "a name is no markup"
    assert "not on the records of a run" in text


def test_report__without_a_demonstration_says_how_to_make_one(run: Path) -> None:
    text = write_report(run).read_text()
    assert "<img" not in text
    assert "Not measured. The command <code>fedlearn audit DIR demo=inversion</code>" in unescape(
        text
    )
