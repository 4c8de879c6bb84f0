"""Sites of very different sizes that disagree: a sum weighs them as an average in clear does."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fedlearn as fl

SIZES = {"large": 600, "north": 30, "south": 30}
"""Records; the small sites say the opposite of the large one."""
PLAIN = ["privacy=none", "transport=plain", "model.architecture=linear", "rounds=2", "seed=3",
         "training.optimizer=sgd", "training.learning_rate=0.5", "training.local_steps=10",
         "training.sample_rate=0.2"]  # fmt: skip
KINDS = ["ring", "masked", "two_server"]


def table(folder: Path) -> list[str]:
    rng, path = np.random.default_rng(5), folder / "sizes.csv"
    with path.open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["dose", "age", "site", "ill"])
        for site, size in SIZES.items():
            for _ in range(size):
                dose, age = rng.integers(0, 100), rng.integers(0, 100)
                ill = (dose > 50) == (site == "large")
                sheet.writerow([dose, age, site, "yes" if ill else "no"])
    columns = ["scenario.scaling.columns.dose=[0,100]", "scenario.scaling.columns.age=[0,100]"]
    return ["scenario=csv", f"scenario.path={path}", "scenario.label=ill", "scenario.site=site",
            *columns, *PLAIN]  # fmt: skip


def values(result: fl.Result) -> np.ndarray:
    parts = [one.detach().numpy().ravel() for one in result.model.parameters()]
    return np.concatenate(parts)


@pytest.mark.slow
@pytest.mark.parametrize("most", [8, 64, 1024])
def test_weights__of_a_sum_are_those_of_an_average_in_clear(tmp_path: Path, most: int) -> None:
    words = table(tmp_path)
    clear = fl.simulate(*words, "secagg=off", out=tmp_path / "off")
    scaled = most < max(SIZES.values()) / 2
    sums = {}
    for kind in KINDS:
        bits = "secagg.bits=36"
        summed = fl.simulate(
            *words, f"secagg={kind}", f"secagg.max_weight={most}", bits, out=tmp_path / kind
        )
        sums[kind] = values(summed)
        assert any("secagg.max_weight" in note for note in summed.notes) == scaled
        # A weight is off by half a step at most, of a sum of `most` and more.
        size = float(np.abs(values(clear)).max())
        np.testing.assert_allclose(sums[kind], values(clear), atol=size * 4 / most + 1e-3)
        assert summed.metrics["accuracy"] == pytest.approx(clear.metrics["accuracy"], abs=0.03)
    assert clear.metrics["accuracy"] > 0.75  # counted alike, the two small sites would decide
    assert Counter(one.tobytes() for one in sums.values()).most_common() == [
        (sums["ring"].tobytes(), len(KINDS))
    ]


@pytest.mark.slow
def test_weights__of_sites_that_fit_are_not_touched(tmp_path: Path) -> None:
    words = [*table(tmp_path), "secagg=ring", "rounds=1"]
    one = fl.simulate(*words, "secagg.max_weight=600", out=tmp_path / "fits")
    other = fl.simulate(*words, "secagg.max_weight=700", out=tmp_path / "larger")
    assert values(one).tobytes() == values(other).tobytes()
    assert not [note for note in (*one.notes, *other.notes) if "secagg.max_weight" in note]
