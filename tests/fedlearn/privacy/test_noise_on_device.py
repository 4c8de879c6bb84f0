"""Noise on a device: draw by draw that of the CPU."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedlearn.privacy import noise_on_device
from fedlearn.privacy.noise import WORDS, SeededNoise, SystemNoise
from fedlearn.privacy.noise_on_device import normals
from tests.far import CUDA, far_device

SIZES = [
    [0], [1], [2, 3, 1], [WORDS - 1, 5], [WORDS + 1, 0, 7], [3 * WORDS + 5, 100, 2],
    [noise_on_device._AT_ONCE + 3 * WORDS + 11, 4],
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_normals__are_those_of_the_cpu(sizes: list[int]) -> None:
    one = SeededNoise(b"there")
    expected = [one.normal(size, 3.0) for size in sizes]
    with far_device():
        found = normals(SeededNoise(b"there"), sizes, 3.0, CUDA)
        assert [part.device for part in found] == [CUDA] * len(sizes)
        near = [part.cpu().numpy() for part in found]
    for mine, wanted in zip(near, expected, strict=True):
        assert mine.dtype == np.float32
        # The device's logarithm may differ in its last bit of float64, and so one of float32.
        np.testing.assert_allclose(mine, wanted, rtol=2e-7, atol=0)
        assert (mine == wanted).mean() > 0.999 if len(wanted) else True


def test_normals__on_the_cpu_are_the_sources_own() -> None:
    sizes = [4, 3]
    found = normals(SeededNoise(b"here"), sizes, 2.0, torch.device("cpu"))
    one = SeededNoise(b"here")
    for part, size in zip(found, sizes, strict=True):
        np.testing.assert_array_equal(part.numpy(), one.normal(size, 2.0))


def test_normals__use_all_64_bits_of_the_tail() -> None:
    """The smallest radius word is the largest normal: sqrt(-2 ln 2^-65) = 9.49."""
    words = torch.tensor([[0, 1, -1, 1 << 62], [0, 0, 0, 0]])
    found = noise_on_device._box_muller(words, (8,), 1.0)[:4].double()
    chances = [(word + 0.5) * 2.0**-64 for word in (0, 1, 2**64 - 1, 2**62)]
    expected = [math.sqrt(max(0.0, -2 * math.log(chance))) for chance in chances]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_normals__never_repeat() -> None:
    with far_device():
        first, second = (normals(SystemNoise(), [50, 50], 1.0, CUDA) for _ in range(2))
        drawn = torch.cat([*first, *second]).cpu()
    assert len(set(drawn.tolist())) > 190  # 200 draws of float32; ten alike: below 1e-30


@pytest.mark.parametrize(("sizes", "stddev"), [([-1], 1.0), ([1], -1.0), ([1], math.inf)])
def test_normals__refuse_what_the_source_refuses(sizes: list[int], stddev: float) -> None:
    with far_device(), pytest.raises(ValueError, match="must be"):
        normals(SystemNoise(), sizes, stddev, CUDA)


REAL = pytest.mark.skipif(
    not torch.cuda.device_count(), reason="this machine has no CUDA device that torch can use"
)


@REAL
def test_normals__of_a_gpu_are_those_of_the_cpu() -> None:
    one, sizes = SeededNoise(b"real"), [3 * WORDS + 5, 100, 1]
    found = normals(SeededNoise(b"real"), sizes, 3.0, torch.device("cuda", 0))
    for part, size in zip(found, sizes, strict=True):
        np.testing.assert_allclose(part.cpu().numpy(), one.normal(size, 3.0), rtol=1e-6, atol=1e-12)
