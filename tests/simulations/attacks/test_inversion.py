"""The demonstration through the real apps: who gets an image back, and who does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.site import TEST_NOISE
from fedlearn.cli import main
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.mechanisms import RecordPrivacy
from fedlearn.report.inversion import Inversion, Protected, SeatView, pixels, read_inversion
from simulations.attacks.inversion import Watched, attacked, demonstrate
from simulations.attacks.inversion_command import read_words, write
from simulations.attacks.inversion_scene import Scene, Settings, Way, make_scene, ways, write_table
from tests.simulations.small import table

FOUR = Settings(sites=4)

# --- the words of the command ------------------------------------------------------


def test_words__that_are_wrong_are_refused_all_at_once() -> None:
    words = ["sites=2", "epsilon=-1", "colour=red", "seed=x", "runs/a", "runs/b", "out=c"]
    with pytest.raises(ConfigError) as refused:
        read_words(words)
    text = str(refused.value)
    for start in ("sites=2:", "epsilon=-1", "colour=red", "seed=x", "runs/b:", "out=c:"):
        assert any(line.startswith(start) for line in text.splitlines()), (start, text)


def test_words__have_their_types() -> None:
    settings, result = read_words(["sites=4", "epsilon=2", "out=7", "images=3"])
    assert (settings.sites, settings.epsilon, settings.out, settings.images) == (4, 2.0, "7", "3")
    assert result is None


def test_words__name_a_run_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder of a run"):
        read_words([str(tmp_path)])


def test_command__overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inversion.json").write_text("kept")
    assert main(["audit", "demo=inversion", f"out={tmp_path}"]) == 2
    assert "holds a demonstration already" in capsys.readouterr().err
    assert (tmp_path / "inversion.json").read_text() == "kept"


# --- what every seat gets ----------------------------------------------------------


@pytest.fixture(scope="module")
def shown() -> Inversion:
    return demonstrate(FOUR)


def views(shown: Inversion, way: str) -> dict[str, SeatView]:
    found = next(one for one in shown.ways if one.name == way)
    return {view.seat: view for view in found.views}


def recovered(shown: Inversion, way: str) -> dict[str, int]:
    return {seat: view.recovered for seat, view in views(shown, way).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "network", "coordinator", "malicious"),
    [
        ("in clear", 4, 4, 4),
        ("sealed", 0, 4, 4),
        ("masked", 0, 0, 4),
        ("private", 0, 0, 0),
        ("masked and private", 0, 0, 0),
    ],
)
def test_demonstration__recovers_what_the_threat_model_says(
    shown: Inversion, way: str, network: int, coordinator: int, malicious: int
) -> None:
    expected = {
        "network": network,
        "members": 0,
        "coordinator": coordinator,
        "malicious": malicious,
    }
    assert recovered(shown, way) == expected


@pytest.mark.slow
def test_demonstration__gives_the_very_pixels_back(shown: Inversion) -> None:
    scene = make_scene(FOUR)
    original = np.rint(scene.original * 255).astype(np.uint8)
    assert np.array_equal(pixels(shown, shown.original)[..., :1], original)
    for way, seat in (("in clear", "network"), ("sealed", "coordinator"), ("masked", "malicious")):
        best = views(shown, way)[seat].best
        got = pixels(shown, best.image)[..., :1]
        assert np.abs(got.astype(int) - original).max() <= 1, f"{way}: but for rounding to a byte"
        assert (best.place, round(best.ssim, 3)) == (1, 1.0)


@pytest.mark.slow
def test_demonstration__of_a_sum_is_a_mixture_and_says_so(shown: Inversion) -> None:
    mixture = views(shown, "masked")["coordinator"]
    assert mixture.alike > 0, "a sum over four is nearer than the average of all digits"
    assert mixture.best.psnr < shown.recovered_at
    same = views(shown, "sealed")["members"]
    assert abs(mixture.best.psnr - same.best.psnr) < 0.5, "masks hide no more than the sum does"


@pytest.mark.slow
def test_demonstration__under_privacy_is_no_nearer_than_the_average(shown: Inversion) -> None:
    for way in ("private", "masked and private"):
        assert all(view.alike == 0 for view in views(shown, way).values())
        found = next(one for one in shown.ways if one.name == way)
        assert found.epsilon is not None
        assert 7.5 < found.epsilon <= 8.0


@pytest.mark.slow
def test_demonstration__is_written_and_read_back(shown: Inversion, tmp_path: Path) -> None:
    assert [path.name for path in write(tmp_path / "a" / "b", shown)] == [
        "inversion.json",
        "inversion.png",
    ]
    assert read_inversion(tmp_path / "a" / "b") == shown
    image = (tmp_path / "a" / "b" / "inversion.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) < 200_000


# --- that it could have come out otherwise --------------------------------------------


def one_way(folder: Path, name: str, settings: Settings, **privacy: float) -> tuple[Scene, Way]:
    scene = make_scene(settings)
    scenario = write_table(folder / "a.csv", scene.images, scene.chosen, scene.sites)
    way = next(one for one in ways(settings) if one.name == name).within(folder / "out", scenario)
    if privacy:
        noise = RecordPrivacy(epsilon=None, clip_norm=1.0, **privacy)
        way = replace(way, config=replace(way.config, privacy=noise))
    return scene, way


def of(found: Protected) -> dict[str, int]:
    return {view.seat: view.recovered for view in found.views}


@pytest.mark.slow
def test_private__without_noise_hides_nothing_by_clipping(tmp_path: Path) -> None:
    found = attacked(*one_way(tmp_path, "private", FOUR, noise_multiplier=0.0))
    assert of(found) == {"network": 0, "members": 0, "coordinator": 4, "malicious": 4}


@pytest.mark.slow
def test_masked__of_several_images_at_each_site_still_falls_to_planted_weights(
    tmp_path: Path,
) -> None:
    found = of(attacked(*one_way(tmp_path, "masked", Settings(sites=4, records=3))))
    assert found["coordinator"] == 0
    # Each is missed with a chance of about 11 / 256, and the seed is fixed.
    assert found["malicious"] >= 9


@pytest.mark.slow
def test_watched__sees_on_the_network_what_the_run_sends(tmp_path: Path) -> None:
    _, way = one_way(tmp_path, "sealed", FOUR)
    watched = Watched.start(way.config, 4, bytes(16))
    before = watched.model
    seen = watched.next_round()
    assert seen.sealed is not None
    assert seen.single is not None
    for site, data in seen.sealed.items():
        assert (before + seen.single[site]).astype("<f4").tobytes()[:64] not in data
    mean = np.mean(list(seen.single.values()), axis=0)
    np.testing.assert_allclose(seen.common, mean, atol=1e-6)


# --- of a run ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "coordinator"),
    [
        (["privacy=none", "secagg=masked", "transport=sealed"], 0),
        (["privacy=client", "privacy.epsilon=8", "privacy.clip_norm=1.0"], 4),
        (["privacy=distributed", "secagg=two_server", "privacy.delta=1e-3"], 0),
    ],
)
def test_run__is_shown_with_its_own_protection(
    tmp_path: Path, overrides: list[str], coordinator: int
) -> None:
    words = [*table(tmp_path, sites=("a", "b", "c")), "privacy.delta=1e-3", *overrides]
    words = [word for word in words if "privacy=none" not in overrides or "delta" not in word]
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    assert main(["audit", str(tmp_path / "run"), "demo=inversion"]) == 0
    shown = read_inversion(tmp_path / "run")
    assert shown is not None
    assert recovered(shown, "as in this run")["coordinator"] == coordinator
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (way,) = shown.ways
    protection = result["protection"]
    assert (way.transport, way.secagg) == (protection["transport"], protection["secagg"])
    assert way.epsilon == result["privacy"]["epsilon"]
    noise = result["privacy"]["noise_multiplier"]
    assert way.noise_multiplier == (None if noise is None else pytest.approx(noise, rel=0.05))


@pytest.mark.slow
def test_run__that_sums_without_masks_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*table(tmp_path), "privacy=none", "secagg=ring"]
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    assert main(["audit", str(tmp_path / "run"), "demo=inversion"]) == 2
    assert "arithmetic of masked without masks" in capsys.readouterr().err


@pytest.mark.slow
def test_run__whose_noise_could_be_repeated_promises_nothing_here_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEST_NOISE, "7")
    words = [*table(tmp_path), "privacy.delta=1e-3", f"out={tmp_path / 'run'}"]
    assert main(["simulate", *words]) == 0
    assert main(["audit", str(tmp_path / "run"), "demo=inversion"]) == 0
    shown = read_inversion(tmp_path / "run")
    assert shown is not None
    assert shown.ways[0].epsilon is None
    assert shown.ways[0].noise_multiplier is not None
