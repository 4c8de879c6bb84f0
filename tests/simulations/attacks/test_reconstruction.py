"""The attacks, against gradients that torch computes for a network written down here.

Likeness of images: closed forms, the formula in plain loops, and other software.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from fedlearn.core.vector import Layout, Vector, layout_of, load_vector, to_vector
from simulations.attacks.reconstruction import (
    MOST_DECIBELS,
    WINDOW,
    Candidates,
    FirstLayer,
    harvest,
    invert,
    place,
    planted,
    psnr,
    ssim,
)

D, WIDTH, CLASSES = 40, 64, 5
Records = NDArray[np.float32]
Floats = NDArray[np.float64]


class Net(nn.Module):
    """The layers that the attacks name, and nothing of the project."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(rows))
        return logits


def a_net(seed: int) -> Net:
    net, draw = Net(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2, generator=draw)
    return net


def records(count: int, seed: int) -> Records:
    return np.random.default_rng(seed).random((count, D)).astype(np.float32)


def change(net: Net, rows: Records, labels: NDArray[np.int64]) -> Vector:
    """The change that one step of SGD at rate 0.3 makes."""
    loss = functional.cross_entropy(net(torch.from_numpy(rows)), torch.from_numpy(labels))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return -0.3 * torch.cat([g.reshape(-1) for g in gradients]).numpy()


def distance(found: Candidates, record: NDArray[np.float32]) -> float:
    """From the nearest candidate: the largest error of a value."""
    return float(np.abs(found - record).max(1).min())


def labels(count: int) -> NDArray[np.int64]:
    return np.arange(count) % CLASSES


def layout() -> Layout:
    return layout_of(Net())


@pytest.mark.parametrize("seed", range(5))
def test_invert__gives_one_record_back_exactly(seed: int) -> None:
    net, row = a_net(seed), records(1, seed)
    found = invert(FirstLayer.of(layout(), change(net, row, labels(1))))
    assert distance(found, row[0]) < 1e-4
    assert distance(found[-2:], (row[0] - row.min()) / (row.max() - row.min())) < 1e-3, (
        "the common direction alone, which survives noise, has it too"
    )


def test_invert__of_many_records_gives_none_of_them() -> None:
    net, rows = a_net(0), records(12, 0)
    found = invert(FirstLayer.of(layout(), change(net, rows, labels(12))))
    assert min(distance(found, row) for row in rows) > 0.1


def test_invert__of_no_change_at_all_claims_nothing_near() -> None:
    found = invert(FirstLayer.of(layout(), np.zeros(layout().size, np.float32)))
    assert distance(found, records(1, 0)[0]) > 0.3


def trapped(rows: Records, seed: int) -> Candidates:
    """What planted weights tell of `rows`, from the mean of their gradients alone."""
    question = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    net = a_net(seed)
    weights = planted(layout(), to_vector(net), question, records(2000, seed + 100))
    load_vector(net, weights)
    predictions = net(torch.from_numpy(rows)).softmax(1)
    assert predictions.max() < 0.9, "undecided, or nothing would flow back"
    return harvest(FirstLayer.of(layout(), change(net, rows, labels(len(rows)))))


@pytest.mark.parametrize("seed", range(5))
def test_harvest__gives_every_record_back_that_is_alone_between_two_thresholds(seed: int) -> None:
    rows = records(8, seed)
    question = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    answers = records(2000, seed + 100).astype(np.float64) @ question
    thresholds = np.quantile(answers, (np.arange(WIDTH) + 0.5) / WIDTH)
    bins = np.searchsorted(thresholds, rows.astype(np.float64) @ question)
    alone = [i for i in range(8) if (bins == bins[i]).sum() == 1 and bins[i] > 0]
    assert len(alone) >= 3, "else this seed shows nothing"
    found = trapped(rows, seed)
    assert all(distance(found, rows[i]) < 5e-3 for i in alone)


def test_harvest__of_no_change_finds_nothing() -> None:
    assert len(harvest(FirstLayer.of(layout(), np.zeros(layout().size, np.float32)))) == 0


def test_planted__changes_only_the_first_layer_and_the_head() -> None:
    class Deeper(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(3, 3)

    shape = layout_of(Deeper())
    before = np.arange(shape.size, dtype=np.float32)
    after = planted(shape, before, np.ones(D, np.float32), records(100, 0))
    same = {
        name: np.array_equal(part, shape.split(before)[name])
        for name, part in shape.split(after).items()
    }
    assert {name for name, kept in same.items() if kept} == {"other.weight", "other.bias"}
    assert np.array_equal(before, np.arange(shape.size)), "the model itself stays as it is"


# --- how alike two images are ---------------------------------------------------------------


def noise(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize("error", [0.1, 0.01, 0.001])
def test_psnr__of_a_constant_error_is_twenty_per_digit(error: float) -> None:
    image = noise(0, 9, 8, 1)
    assert psnr(image, image + error) == pytest.approx(-20 * np.log10(error))


def test_psnr__of_equal_images_is_the_most() -> None:
    image = noise(0, 9, 8, 1)
    assert psnr(image, image) == MOST_DECIBELS


def ssim_by_hand(a: Floats, b: Floats) -> float:
    """Wang et al. 2004, equation 13, window by window, in plain loops."""
    found = []
    for channel in range(a.shape[2]):
        for top in range(a.shape[0] - WINDOW + 1):
            for left in range(a.shape[1] - WINDOW + 1):
                x, y = (
                    [
                        float(p[top + i, left + j, channel])
                        for i in range(WINDOW)
                        for j in range(WINDOW)
                    ]
                    for p in (a, b)
                )
                n = len(x)
                mx, my = sum(x) / n, sum(y) / n
                vx = sum((v - mx) ** 2 for v in x) / (n - 1)
                vy = sum((v - my) ** 2 for v in y) / (n - 1)
                vxy = sum((v - mx) * (w - my) for v, w in zip(x, y, strict=True)) / (n - 1)
                light = (2 * mx * my + 0.0001) / (mx**2 + my**2 + 0.0001)
                found.append(light * (2 * vxy + 0.0009) / (vx + vy + 0.0009))
    return sum(found) / len(found)


@given(st.integers(0, 2**32), st.integers(7, 12), st.integers(7, 12), st.sampled_from([1, 3]))
def test_ssim__is_the_formula_in_plain_loops(
    seed: int, height: int, width: int, channels: int
) -> None:
    a, b = noise(seed, 2, height, width, channels)
    assert ssim(a, b) == pytest.approx(ssim_by_hand(a, b), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    # scikit-image 0.26.0, structural_similarity(a, b, data_range=1.0), on digits of scikit-learn.
    [(0, 1, 0.037417550592046), (0, 10, 0.845054862193728), (3, 13, 0.747631829400810)],
)
def test_ssim__agrees_with_scikit_image(first: int, second: int, expected: float) -> None:
    digits = load_digits().images[..., None] / 16
    assert ssim(digits[first], digits[second]) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0, 1), st.floats(0, 1))
def test_ssim__of_flat_images_has_a_closed_form(a: float, b: float) -> None:
    flat = np.ones((8, 8, 1))
    expected = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    assert ssim(a * flat, b * flat) == pytest.approx(expected)


def test_ssim__refuses_a_image_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="shorter than 7"):
        ssim(np.zeros((6, 9, 1)), np.zeros((6, 9, 1)))


@given(st.integers(0, 2**32), st.integers(0, 19))
def test_place__is_the_rank_by_distance(seed: int, own: int) -> None:
    line_up, image = noise(seed, 20, 7, 7, 1), noise(seed + 1, 7, 7, 1)
    order = sorted(range(20), key=lambda i: float(np.linalg.norm(line_up[i] - image)))
    assert place(line_up[own], image, line_up) == 1 + order.index(own)


def test_place__of_the_original_itself_is_first_even_among_copies() -> None:
    line_up = noise(0, 5, 7, 7, 1)
    line_up[3] = line_up[1]
    assert place(line_up[1], line_up[1], line_up) == 1
    assert place(line_up[1], line_up[1] + 0.01, line_up) == 1
