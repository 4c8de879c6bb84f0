"""How alike two images are, three ways; all of them for values in [0, 1].

`psnr` and `ssim` are what papers report. Neither says whether a person was
recognised: images of one kind are alike (the mean of all scans looks like
every scan). So `place` asks what an attacker would ask: who of a line-up is it?

Sources: Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from
error visibility to structural similarity", equation 13, with the uniform window
and the unbiased covariances that are usual in software.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.floating]
"""One image, `[height, width, channels]`."""

MOST_DECIBELS = 100.0
"""What `psnr` says of images that are equal to five digits."""

WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2


def psnr(original: Floats, image: Floats) -> float:
    """Peak signal-to-noise ratio in decibels: `-10 log10` of the mean squared error.

    At most `MOST_DECIBELS`, so that it stays a number when nothing differs.
    """
    error = float(np.mean((original.astype(np.float64) - image) ** 2))
    return float(-10 * np.log10(max(error, 10 ** (-MOST_DECIBELS / 10))))


def ssim(original: Floats, image: Floats) -> float:
    """Structural similarity: 1 for equal images, near 0 for unrelated ones.

    The mean over all windows of 7 x 7 pixels that lie inside, and over the channels.

    Raises:
        ValueError: a side is shorter than the window.
    """
    a, b = _windows(original), _windows(image)
    mean_a, mean_b = a.mean(-1), b.mean(-1)
    var_a, var_b = a.var(-1, ddof=1), b.var(-1, ddof=1)
    centred = (a - mean_a[..., None]) * (b - mean_b[..., None])
    covariance = centred.sum(-1) / (a.shape[-1] - 1)
    light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return float((light * structure).mean())


def place(original: Floats, image: Floats, line_up: Floats) -> int:
    """Of `line_up: [n, height, width, channels]`, how many are nearer to `image`, plus one.

    One means that the attacker would point at the right one. The original is in
    the line-up; equal copies of it do not count against it.
    """
    distances = _squared_distances(line_up, image)
    own = _squared_distances(original[None], image)[0]
    return 1 + int(np.count_nonzero(distances < own * (1 - 1e-9)))


def _squared_distances(images: Floats, image: Floats) -> Floats:
    differences = (images.astype(np.float64) - image).reshape(len(images), -1)
    return np.asarray((differences**2).sum(1))


def _windows(image: Floats) -> Floats:
    """`[rows, columns, channels, WINDOW^2]`."""
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"an image of {image.shape[:2]}: shorter than {WINDOW} pixels")
    seen = sliding_window_view(image.astype(np.float64), (WINDOW, WINDOW), axis=(0, 1))
    return seen.reshape(*seen.shape[:3], WINDOW * WINDOW)
