"""Folders of images as people have them, drawn at random, and what is right for each file.

An image is drawn as an array first. How it is stored (format, depth, palette, layer of
transparency, turn, frames) is drawn apart, and PNGs are put together here, byte by byte, so that
what is right is known without a reader; where a format is lossy, Pillow's reading of it is right.
"""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rng = np.random.Generator
Pixels = NDArray[np.uint8]

SIDE: Final = 8
"""Images are square and of this side, so that nothing is resized."""


@dataclass(frozen=True, kw_only=True)
class Right:
    """What is right for a file: its pixels `[side, side, 3]` within `off`, or why it is refused."""

    pixels: Pixels | None = None
    off: int = 1
    refused: str = ""
    frames: bool = False
    """Whether there are more images in the file than the first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OddImages:
    """A folder of images by class, or by site and class."""

    path: Path
    files: dict[Path, Right]
    classes: tuple[str, ...]
    sites: tuple[str, ...]
    alike: bool
    """Whether two classes differ in case alone."""
    ways: list[str] = field(default_factory=list)


def png(pixels: NDArray[Any], kind: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples `[height, width, channels]`, each of `depth` bits, of that colour type."""
    height, width = pixels.shape[:2]
    lines = []
    for row in pixels.reshape(height, -1).astype(np.uint64):
        bits = "".join(f"{int(sample):0{depth}b}" for sample in row)
        bits += "0" * (-len(bits) % 8)
        lines.append(b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def _saved(image: Image.Image, form: str, **how: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **how)
    return content.getvalue()


def _drawn(rng: Rng, channels: int, top: int = 256) -> NDArray[np.int64]:
    return rng.integers(0, top, (SIDE, SIDE, channels))


def _grey(rng: Rng) -> tuple[bytes, Right]:
    depth = int(rng.choice([1, 2, 4, 8, 16]))
    values = _drawn(rng, 1, 2**depth)
    shown = np.round(values * (255 / (2**depth - 1)))
    return png(values, 0, depth), Right(pixels=_three(shown))


def _twelve_bits(rng: Rng) -> tuple[bytes, Right]:
    values = _drawn(rng, 1, 4096)
    return png(values, 0, 16), Right(pixels=_three(values / 257))


def _grey_with_a_clear_value(rng: Rng) -> tuple[bytes, Right]:
    depth = int(rng.choice([8, 16]))
    values = _drawn(rng, 1, 2**depth)
    clear = int(values[0, 0, 0])
    shown = np.where(values == clear, 0, values * (255 / (2**depth - 1)))
    content = png(values, 0, depth, (b"tRNS", struct.pack(">H", clear)))
    return content, Right(pixels=_three(shown))


def _colours(rng: Rng) -> tuple[bytes, Right]:
    depth = int(rng.choice([8, 16]))
    values = _drawn(rng, 3, 2**depth)
    return png(values, 2, depth), Right(pixels=_three(values / (2 ** (depth - 8))))


def _palette(rng: Rng) -> tuple[bytes, Right]:
    depth = int(rng.choice([2, 4, 8]))
    colours = rng.integers(0, 256, (2**depth, 3))
    values = _drawn(rng, 1, 2**depth)
    chunks, shown = [(b"PLTE", colours.astype(np.uint8).tobytes())], colours[values[..., 0]]
    if rng.random() < 0.4:
        opaque = rng.integers(0, 256, 2**depth)
        chunks.append((b"tRNS", opaque.astype(np.uint8).tobytes()))
        shown = shown * opaque[values] / 255
    return png(values, 3, depth, *chunks), Right(pixels=_three(shown))


def _layered(rng: Rng) -> tuple[bytes, Right]:
    """Transparency lies over black; there may be nothing to see but in that layer."""
    grey, depth = bool(rng.random() < 0.5), int(rng.choice([8, 16]))
    top = 2**depth
    colour, alpha = _drawn(rng, 1 if grey else 3, top), _drawn(rng, 1, top)
    if rng.random() < 0.3:
        colour = np.zeros_like(colour)
    content = png(np.concatenate([colour, alpha], 2), 4 if grey else 6, depth)
    eight = 2 ** (depth - 8)
    return content, Right(pixels=_three((colour // eight) * (alpha // eight) / 255))


def _lossless(rng: Rng) -> tuple[bytes, Right]:
    values = _drawn(rng, 3).astype(np.uint8)
    form, how = [("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {}),
                 ("TIFF", {"compression": "tiff_lzw"})][rng.integers(5)]  # fmt: skip
    return _saved(Image.fromarray(values), str(form), **dict(how)), Right(pixels=values)  # type: ignore[call-overload]


def _photograph(rng: Rng) -> tuple[bytes, Right]:
    """With the turn that a camera notes, as the standard (Exif 2.32, 4.6.4 A) has it."""
    image = Image.fromarray(_drawn(rng, 3).astype(np.uint8))
    mode = str(rng.choice(["RGB", "L", "CMYK"]))
    exif, turn = Image.Exif(), int(rng.integers(1, 9))
    exif[0x0112] = turn
    content = _saved(image.convert(mode), "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        stored = np.asarray(opened.convert("RGB"))
    turned: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90,
    }  # fmt: skip
    return content, Right(pixels=np.ascontiguousarray(turned[turn](stored)), off=3)


def _frames(rng: Rng) -> tuple[bytes, Right]:
    first, second = (_drawn(rng, 1, 250)[..., 0].astype(np.uint8) for _ in range(2))
    form = str(rng.choice(["GIF", "TIFF", "PNG"]))
    content = _saved(Image.fromarray(first), form, save_all=True,
                     append_images=[Image.fromarray(second)])  # fmt: skip
    return content, Right(pixels=_three(first[..., None]), frames=True)


def _unknown_range(rng: Rng) -> tuple[bytes, Right]:
    kind = np.float32 if rng.random() < 0.5 else np.int32
    content = _saved(Image.fromarray(_drawn(rng, 1)[..., 0].astype(kind)), "TIFF")
    return content, Right(refused="without a known range")


def _cut(rng: Rng) -> tuple[bytes, Right]:
    whole = png(_drawn(rng, 3), 2, 8)
    if rng.random() < 0.5:
        whole = _saved(Image.fromarray(_drawn(rng, 3).astype(np.uint8)), "JPEG")
    return whole[: int(rng.integers(12, len(whole) // 2))], Right(refused="is damaged")


def _no_image(rng: Rng) -> tuple[bytes, Right]:
    content, why = [
        (b"", "is empty"), (b"a,b\n1,2\n", "is not an image"), (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"), (b"<?xml?><svg></svg>", "SVG"),
        (b"\0" * 128 + b"DICM" + b"\0" * 9, "DICOM"),
    ][rng.integers(6)]  # fmt: skip
    return content, Right(refused=why)


_KINDS: Final = (
    *(_grey, _twelve_bits, _grey_with_a_clear_value, _colours, _palette, _layered, _lossless),
    *(_photograph, _frames),
)
_REFUSED: Final = (_unknown_range, _cut, _no_image)
_SUFFIXES: Final = (".png", ".PNG", ".jpg", ".JPEG", ".tif", "", ".bmp", ".v2.png")
_NAMES: Final = ("cat", "Größe", "健康", "ill (1)", "a,b", "больной", "café", "x=y")


def _three(values: NDArray[Any]) -> Pixels:
    """Grey as three equal channels; of fractions the nearest number."""
    rounded = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return np.broadcast_to(rounded, (SIDE, SIDE, 3)).copy()


def drawn(seed: int, folder: Path) -> OddImages:
    """A folder of that seed, below the given one, which is empty."""
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.permutation(_NAMES)[: rng.integers(2, 4)]]
    if alike := bool(rng.random() < 0.15):
        names[0], names[1] = "Mole", "mole"
    sites = ["north", "süd", "東"][: rng.integers(2, 4)] if rng.random() < 0.4 else [""]
    bad = rng.random() < 0.4
    files: dict[Path, Right] = {}
    ways: list[str] = []
    for site in sites:
        for name in names:
            form = "NFD" if rng.random() < 0.3 else "NFC"
            place = folder / site / unicodedata.normalize(form, name)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(int(rng.integers(1, 4))):
                make = _KINDS[rng.integers(len(_KINDS))]
                if bad and rng.random() < 0.4:
                    make = _REFUSED[rng.integers(len(_REFUSED))]
                content, right = make(rng)
                ways.append(make.__name__)
                path = place / f"{number}{_SUFFIXES[rng.integers(len(_SUFFIXES))]}"
                path.write_bytes(content)
                files[path] = right
            if rng.random() < 0.2:
                (place / str(rng.choice([".DS_Store", "Thumbs.db", "desktop.ini"]))).touch()
    classes = tuple(sorted(unicodedata.normalize("NFC", name) for name in names))
    return OddImages(path=folder, files=files, classes=classes, ways=ways, alike=alike,
                     sites=tuple(sorted(filter(None, sites))))  # fmt: skip
