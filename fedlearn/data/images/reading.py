"""One file of an image as pixels, whatever format and depth it has.

- The first frame, turned as its camera noted (EXIF);
- transparency is laid over black; palettes become their colours; 16-bit grey is
  scaled to 8 bits; then `colour` gives three channels and `grey` one;
- resized to `size` x `size` without keeping proportions, bilinearly with
  smoothing (as if seen from afar).

What cannot be read is named by what it is: no image, one of another kind, a damaged one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_DEEP_GREY: Final = ("I;16", "I;16L", "I;16B", "I;16N")
_HEAD: Final = 512
"""Bytes that tell what a file is."""
_CUT: Final = "is damaged (it ends within its header); remove or restore it"
_RAW: Final = "is damaged, or raw as a camera has it; restore it, or save it as PNG"
_BEGINNINGS: Final = {
    b"\x89PNG": _CUT,
    b"\xff\xd8\xff": _CUT,
    b"GIF8": _CUT,
    b"II*\0": _RAW,
    b"MM\0*": _RAW,
    b"%PDF": "is PDF; save its pages as PNG or JPEG",
    b"\x1f\x8b": "is packed (gzip, as NIfTI is); unpack it, and save slices as PNG",
    b"\x93NUMPY": "is an array of NumPy; save it as PNG, or all as one .npz (scenario=medmnist)",
}
"""What is said of a file that begins so and that Pillow does not know."""


def read_image(path: Path, size: int, colour: Literal["colour", "grey"]) -> NDArray[np.uint8]:
    """One image as the module's text says: `uint8[size, size, 3 or 1]`.

    Raises:
        DataError: it is none, is damaged, or claims so many pixels that it may be an attack.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    bombs = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    try:
        with catch_warnings():
            simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            flat = _flat(image).convert("RGB" if colour == "colour" else "L")
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: {_no_image(path)}") from error
    except bombs as error:
        raise DataError(
            f"{path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels, all of which would be in "
            "memory at once; make it smaller or remove it"
        ) from error
    except _UnknownRangeError as error:
        raise DataError(
            f"{path}: holds numbers without a known range ({opened.mode}: 32 bits or floating "
            "point, as of a scanner); convert it to 8 or 16 bits of grey by a range that is the "
            "same for all"
        ) from error
    except Exception as error:  # each of Pillow's readers has errors of its own
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: is damaged ({reason}); remove or restore it") from error
    small = flat.resize((size, size), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.asarray(small, np.uint8).reshape(size, size, -1)
    return pixels


class _UnknownRangeError(ValueError):
    """An image whose values have no largest one."""


def _no_image(path: Path) -> str:
    """What is said of a file that Pillow does not know."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is empty; remove or restore it"
    if head[128:132] == b"DICM":
        return "is DICOM; convert it to PNG (8 or 16 bits of grey, by one window for all)"
    if head[8:12] == b"WEBP":
        return _CUT
    if head[4:8] == b"ftyp":
        return "is HEIC or a video, which are not read; convert it to PNG or JPEG"
    if b"<svg" in head.lower():
        return "is SVG, which has no pixels; save it as PNG"
    known = (what for begins, what in _BEGINNINGS.items() if head.startswith(begins))
    return next(known, "is not an image; remove it from the folder")


def _flat(image: Image) -> Image:
    """Without depth and transparency, so that `convert` does what its name says."""
    from PIL.Image import alpha_composite, fromarray, new

    if image.mode in _DEEP_GREY:
        deep = np.asarray(image)
        clear = image.info.get("transparency")  # a value, as grey has it
        return fromarray(np.where(deep == clear, 0, deep // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _UnknownRangeError
    if "A" in image.mode or "transparency" in image.info:
        layered = image.convert("RGBA")
        black = new("RGBA", layered.size, (0, 0, 0, 255))
        return alpha_composite(black, layered)
    return image
