"""Images as records: their form, their number range, and how much memory they take.

Every scenario of images ends here: `uint8[n, height, width]` or with channels
last becomes `float32[n, channels, height, width]` of [0, 1], which reads
nothing but the pixel itself. How large that would be is known before any
image is unpacked, and too large a set is refused then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.tasks import ImageInput

_GIGABYTE = 10**9


def as_records(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`uint8[n, height, width]` or `[n, height, width, channels]`, channels first, in [0, 1]."""
    apart = images[..., None] if images.ndim == 3 else images
    scaled = np.ascontiguousarray(apart.transpose(0, 3, 1, 2), np.float32)
    scaled /= 255
    return scaled


def check_memory(name: str, count: int, form: ImageInput, max_gigabytes: float) -> None:
    """Raises `DataError` where `count` images would take more than `max_gigabytes` as records."""
    needed = count * form.channels * form.height * form.width * 4 / _GIGABYTE
    if needed > max_gigabytes:
        raise DataError(
            f"{name}: {count:,} images of {form.height} x {form.width} x {form.channels} take "
            f"{needed:.1f} GB of memory as float32, and scenario.max_gigabytes={max_gigabytes:g}; "
            "use fewer or smaller images, or raise it where there is memory for training too"
        )
