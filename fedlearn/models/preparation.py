"""How a folder's model wants its images: size and range, out of preprocessor_config.json.

What it says is done as it says, or refused by name: a model that sees other numbers than it was
trained on is silently worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedlearn.tasks import ImageInput

_FILE: Final = "preprocessor_config.json"
_MODES: Final = {2: "bilinear", 3: "bicubic"}
"""Of resizing, by the numbers that Pillow has for them."""
_MOST: Final = 2**24
"""What no number of an image reaches."""
_DONE: Final = frozenset({"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"})


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Side and channels of what the model sees, and how it is made of pixels in [0, 1]."""

    side: int
    channels: int
    mode: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def preparation_of(stated: Mapping[str, Any], about: Mapping[str, Any]) -> Preparation:
    """What preprocessor_config.json says to a model of that config.json.

    A pixel of 0 to 255 times `rescale_factor`, less `image_mean`, over `image_std` is a pixel in
    [0, 1] less one number over another.
    """
    channels, side = about.get("num_channels", 3), about.get("image_size", 224)
    factor = stated.get("rescale_factor", 1 / 255) if stated.get("do_rescale", True) else 1.0
    normal = stated.get("do_normalize", True)
    mean, deviation = (
        _per_channel(stated.get(name, 0.5) if normal else plain, channels)
        for name, plain in (("image_mean", 0.0), ("image_std", 1.0))
    )
    return Preparation(
        side=side,
        channels=channels,
        mode=_MODES[stated.get("resample", 2)] if stated.get("do_resize", True) else "",
        mean=tuple(value / (255 * factor) for value in mean),
        deviation=tuple(value / (255 * factor) for value in deviation),
    )


def unprepared(
    naming: str, stated: Mapping[str, Any], about: Mapping[str, Any], image: ImageInput
) -> Iterator[str]:
    """What of it cannot be done, or not to such images."""
    side, channels = about.get("image_size", 224), about.get("num_channels", 3)
    patch = about.get("patch_size", 16)
    counts = all(isinstance(n, int) and n > 0 for n in (side, channels, patch))
    if not counts or side % patch:
        yield (
            f"{naming}: config.json has image_size={side}, patch_size={patch}, "
            f"num_channels={channels}; models of square images in square patches are read"
        )
        return
    if not stated:
        yield (
            f"{naming}: has no {_FILE}, so nothing says what numbers the model was trained on; "
            "with transformers, AutoImageProcessor.from_pretrained(folder).save_pretrained(folder) "
            "writes it"
        )
    yield from (f"{naming}: {_FILE} {problem}" for problem in _odd(stated, side, channels))
    if image.channels not in (1, channels):
        yield (
            f"{naming}: sees images of {channels} channels, and the scenario's have "
            f"{image.channels}"
        )
    if stated and not stated.get("do_resize", True) and (image.height, image.width) != (side, side):
        yield (
            f"{naming}: takes images of {side} x {side} as they are ({_FILE}: do_resize), and the "
            f"scenario's are {image.height} x {image.width}; set scenario.size={side}"
        )


def _odd(stated: Mapping[str, Any], side: int, channels: int) -> Iterator[str]:
    for name, value in stated.items():
        if name.startswith("do_") and value and name not in _DONE:
            yield f"asks for {name}, which is not done here"
    if stated.get("do_resize", True):
        if (filters := stated.get("resample", 2)) not in [*_MODES]:
            yield f"resizes with resample={filters}; 2 (bilinear) and 3 (bicubic) are known"
        if (size := stated.get("size", side)) not in (side, {"height": side, "width": side}):
            yield f"resizes to {size}, and the model of config.json sees {side} x {side}"
    for name in ("image_mean", "image_std"):
        values = _per_channel(stated.get(name, 0.5), channels)
        if len(values) != channels or not all(_is_number(v) for v in values):
            yield f"has {name}={stated[name]}, and not a number for each of {channels} channels"
        elif name == "image_std" and not all(values):
            yield "has image_std with a zero in it"
    if not _is_number(factor := stated.get("rescale_factor", 1 / 255)) or not factor:
        yield f"has rescale_factor={factor}"


def _per_channel(value: object, channels: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,) * channels


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return abs(value) < _MOST
    return isinstance(value, float) and math.isfinite(value)
