"""Images as records: their form, their number range, and how much memory they take.

Every scenario of images ends here: `uint8[n, height, width]` or with channels
last becomes `float32[n, channels, height, width]` of [0, 1], which reads
nothing but the pixel itself. How large that would be is known before any
image is unpacked, and too large a set is refused then.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.tasks import ImageInput

_GIGABYTE = 10**9
_DARK = 64
_DEEP = 17
"""Above what 12 bits in 16 come to: a single image among brighter ones may well be dark."""
"""A largest value below which images have not the range of their format."""


def as_records(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`uint8[n, height, width]` or `[n, height, width, channels]`, channels first, in [0, 1]."""
    apart = images[..., None] if images.ndim == 3 else images
    scaled = np.ascontiguousarray(apart.transpose(0, 3, 1, 2), np.float32)
    scaled /= 255
    return scaled


def pixel_notes(where: str, images: NDArray[np.uint8]) -> Iterator[str]:
    """What is unusual in images `uint8[n, height, width, ...]`, 255 being the largest value.

    They are dark where 12 bits were stored in 16, or classes were stored as pixels; of one value
    where what is to be seen was in a layer that is not there any more.
    """
    if not images.size:
        return
    flat = images.reshape(len(images), -1, images.shape[3] if images.ndim == 4 else 1)
    one_colour = (flat == flat[:, :1]).all(axis=(1, 2))
    brightest, largest = flat.max(axis=(1, 2)), int(images.max())
    dark = (brightest < _DEEP) & ~one_colour
    if largest < _DARK:
        yield (
            f"{where}: no pixel is above {largest} of 255, so that all are nearly black; scale "
            "them to the range of their format, as where 12 bits are stored in 16"
        )
    elif dark.any():
        yield (
            f"{where}: {int(dark.sum())} of {len(images)} images are nearly black, with no pixel "
            f"above {int(brightest[dark].max())} of 255 beside {largest} in others; scale them to "
            "the range of their format, as where 12 bits are stored in 16"
        )
    if constant := int(one_colour.sum()):
        yield (
            f"{where}: {constant} of {len(images)} images are of one colour throughout; what is "
            "drawn in transparency alone is lost, as it is laid over black"
        )


def check_memory(name: str, count: int, form: ImageInput, max_gigabytes: float) -> None:
    """Raises `DataError` where `count` images would take more than `max_gigabytes` as records."""
    needed = count * form.channels * form.height * form.width * 4 / _GIGABYTE
    if needed > max_gigabytes:
        raise DataError(
            f"{name}: {count:,} images of {form.height} x {form.width} x {form.channels} take "
            f"{needed:.1f} GB of memory as float32, and scenario.max_gigabytes={max_gigabytes:g}; "
            "use fewer or smaller images, or raise it where there is memory for training too"
        )
