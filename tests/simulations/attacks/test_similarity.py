"""Likeness of images: closed forms, the formula in plain loops, and other software."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from simulations.attacks.similarity import MOST_DECIBELS, WINDOW, place, psnr, ssim

Floats = NDArray[np.float64]


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
