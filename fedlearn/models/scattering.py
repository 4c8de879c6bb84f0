"""Scattering features (Bruna and Mallat 2013) with a linear head: what trains best under DP.

Wavelets are convolved with an image, the modulus is taken, once more so, and
the result is averaged; the filters are given by formulas, so nothing but the
head is learned, travels or is noised. Handcrafted features of this kind beat
networks trained from scratch at every epsilon of practical interest (Tramer
and Boneh 2021, whose normalisation by groups of channels is used here).

Filters are Morlet wavelets as in Andreux et al. 2020 (kymatio), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.settings import Count, config
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model, input_as
from fedlearn.tasks import ImageInput, Task


@config
class Scattering(Model):
    """Two orders of a scattering transform, normalised within each record; a linear head."""

    kind: Literal["scattering"] = "scattering"
    input = (ImageInput,)
    scales: Count
    """Wavelets see up to about 2^scales pixels, and the maps are that many times smaller."""
    angles: Count
    """Directions of the wavelets, over a half turn."""
    groups: Count
    """Groups of maps that are normalised together, per channel of the image."""

    @property
    def maps(self) -> int:
        """Maps per channel: the mean, one per wavelet, one per pair of falling scale."""
        pairs = self.scales * (self.scales - 1) // 2
        return 1 + self.scales * self.angles + pairs * self.angles**2

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself or the size of an image."""
        image = input_as(ImageInput, task)
        if self.maps % self.groups:
            yield (
                f"model.groups={self.groups}: must divide the {self.maps} maps of "
                f"model.scales={self.scales} and model.angles={self.angles}"
            )
        least = 5 * 2 ** (self.scales - 1)  # what mirrored margins need
        if min(image.height, image.width) < least:
            yield (
                f"model.scales={self.scales}: takes images of at least {least} x {least}, not "
                f"{image.height} x {image.width}; set model.scales lower"
            )

    @property
    def learns_head_alone(self) -> bool:
        """Always: the filters are given."""
        return True

    def network(self, task: Task) -> nn.Sequential:
        """`float32[batch, channels, height, width]` -> logits."""
        image = input_as(ImageInput, task)
        maps = self.maps * image.channels
        size = maps * (image.height >> self.scales) * (image.width >> self.scales)
        return stages(
            transform=Transform(self),
            norm=nn.GroupNorm(self.groups * image.channels, maps, affine=False),
            flat=nn.Flatten(),
            head=nn.Linear(size, task.num_outputs),
        )


class Transform(nn.Module):
    """The scattering transform; has no parameters and no buffers, so nothing of it travels."""

    def __init__(self, config: Scattering) -> None:
        super().__init__()
        self.scales, self.angles, self.maps = config.scales, config.angles, config.maps

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, channels * maps, height >> scales, ...]`.

        The maps of a channel stand together: the mean, then every wavelet from
        fine to coarse, each followed by its pairs with coarser ones.
        """
        step = 2**self.scales
        height, width = images.shape[-2:]
        if not len(images):  # no Fourier transform knows what that is
            return images.new_zeros(0, self.maps * images.shape[1], height // step, width // step)
        margin = step + step // 2
        sides = tuple(math.ceil((side + 2 * margin) / step) * step for side in (height, width))
        after = [total - side - margin for total, side in zip(sides, (height, width), strict=True)]
        padded = functional.pad(images, (margin, after[1], margin, after[0]), mode="reflect")
        low, waves = _filters(sides[0], sides[1], self.scales, self.angles)
        maps = self._maps(torch.fft.fft2(padded), low.to(images.device), waves.to(images.device))
        # Sample i lies `i * step - margin` pixels into the image: the first inside it is the 2nd.
        kept = maps[..., 2 : 2 + height // step, 2 : 2 + width // step]
        return kept.flatten(1, 2)

    def _maps(self, spectrum: Tensor, low: Tensor, waves: Tensor) -> Tensor:
        """`complex[batch, channels, h, w]` -> `[batch, channels, maps, h / step, w / step]`."""
        first = torch.fft.fft2(torch.fft.ifft2(spectrum[:, :, None] * waves.flatten(0, 1)).abs())
        parts = [self._smooth(spectrum[:, :, None], low)]
        for scale in range(self.scales):
            here = first[:, :, scale * self.angles : (scale + 1) * self.angles]
            parts.append(self._smooth(here, low))
            for coarser in waves[scale + 1 :]:
                for angle in range(self.angles):
                    pair = torch.fft.ifft2(here[:, :, angle, None] * coarser).abs()
                    parts.append(self._smooth(torch.fft.fft2(pair), low))
        return torch.cat(parts, dim=2)

    def _smooth(self, spectrum: Tensor, low: Tensor) -> Tensor:
        """Low pass and every `step`-th pixel, by folding the spectrum: the rest is never made."""
        step = 2**self.scales
        *lead, height, width = spectrum.shape
        folded = (spectrum * low).reshape(*lead, step, height // step, step, width // step)
        smooth: Tensor = torch.fft.ifft2(folded.mean((-4, -2))).real
        return smooth


@lru_cache(maxsize=8)
def _filters(height: int, width: int, scales: int, angles: int) -> tuple[Tensor, Tensor]:
    """Spectra of the low pass, `[height, width]`, and waves, `[scales, angles, height, width]`."""
    low = gabor(height, width, deviation=0.8 * 2 ** (scales - 1), angle=0.0, frequency=0, slant=1)
    waves = [
        [morlet(height, width, scale, math.pi * k / angles, angles) for k in range(angles)]
        for scale in range(scales)
    ]
    return _spectrum(low), _spectrum(np.array(waves))


def _spectrum(filters: NDArray[np.complex128]) -> Tensor:
    return torch.from_numpy(np.fft.fft2(filters).astype(np.complex64))


def morlet(
    height: int, width: int, scale: int, angle: float, angles: int
) -> NDArray[np.complex128]:
    """A Gabor function less as much of its bell as makes its mean zero: blind to brightness."""
    deviation, slant = 0.8 * 2.0**scale, 4 / angles
    wave = gabor(
        height, width, deviation=deviation, angle=angle, frequency=0.75 * math.pi / 2**scale,
        slant=slant,
    )  # fmt: skip
    bell = gabor(height, width, deviation=deviation, angle=angle, frequency=0, slant=slant)
    balanced: NDArray[np.complex128] = wave - bell * (wave.sum() / bell.sum())
    return balanced


def gabor(
    height: int, width: int, *, deviation: float, angle: float, frequency: float, slant: float
) -> NDArray[np.complex128]:
    """A wave under a bell, on a torus: `complex128[height, width]`, with the origin at [0, 0].

    `frequency` in radians per pixel along `angle`; the bell has `deviation`
    along it and `deviation / slant` across. Without a wave it sums to about 1.
    """
    down, right = (np.arange(-2 * side, 3 * side) for side in (height, width))
    y, x = np.meshgrid(down, right, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    bell = np.exp(-(along**2 + (slant * across) ** 2) / (2 * deviation**2))
    plane = bell * np.exp(1j * frequency * along) * slant / (2 * math.pi * deviation**2)
    wrapped: NDArray[np.complex128] = plane.reshape(5, height, 5, width).sum((0, 2))
    return wrapped
