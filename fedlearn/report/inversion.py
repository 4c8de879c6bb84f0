"""What a demonstration of reconstruction found: the contents of `inversion.json`.

Plain data, schema `fedlearn/inversion/v1`; keys may be added but never renamed.
`simulations.attacks.inversion` measures it; a report shows it where its folder has one.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, Field

from fedlearn.core.errors import DataError
from fedlearn.results.folder import write_json
from fedlearn.results.reading import read_beside

SCHEMA: Final = "fedlearn/inversion/v1"
FILE: Final = "inversion.json"

_AS_IN_THE_FILE: Final = ConfigDict(
    serialize_by_alias=True, extra="forbid", strict=True, allow_inf_nan=False
)
"""The schema calls an image a picture, and its names never change; as strict as all files are."""

Seat = Literal["network", "members", "coordinator", "malicious"]

SEATS: Final[dict[Seat, str]] = {
    "network": "a listener on the network",
    "members": "the other sites, and whoever sees the model of two rounds",
    "coordinator": "a coordinator that keeps to the protocol",
    "malicious": "a coordinator that plants weights",
}
"""Who looks, in the order of the table: from the outside in."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """An image and how near it comes to the original."""

    __pydantic_config__: ClassVar[ConfigDict] = _AS_IN_THE_FILE
    image: Annotated[str, Field(alias="picture")]
    """`uint8[height, width, channels]` in base64."""
    psnr: float
    """Decibels, at most 100."""
    ssim: float
    place: int
    """Where the original stands among all images of the set, by nearness to this one."""

    @property
    def figures(self) -> str:
        """How near it comes to the original, in one line."""
        return f"SSIM {max(0.0, self.ssim):.2f}, {self.psnr:.0f} dB"


Finding = Literal["recovered", "alike", "nothing"]


@dataclass(frozen=True, kw_only=True)
class SeatView:
    """What one seat makes of one kind of update."""

    seat: Seat
    sees: str
    best: Likeness
    """Of all that the attack found, what is nearest to the original."""
    recovered: int
    """How many of all images the attack found, within `Inversion.recovered_at`."""
    alike: int
    """To how many it came nearer than the average image does; the recovered ones among them."""

    @property
    def finding(self) -> Finding:
        """The worst that the seat has got."""
        if self.recovered:
            return "recovered"
        return "alike" if self.alike else "nothing"


@dataclass(frozen=True, kw_only=True)
class Protected:
    """One way to protect updates, and what every seat makes of it."""

    name: str
    transport: str
    secagg: str
    privacy: str
    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    views: list[SeatView]


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """The whole of `inversion.json`."""

    __pydantic_config__: ClassVar[ConfigDict] = _AS_IN_THE_FILE
    schema: str = SCHEMA
    version: str
    images: Annotated[str, Field(alias="pictures")]
    """Which set they are of."""
    line_up: int
    """Images in the set."""
    height: int
    width: int
    channels: int
    sites: int
    records: int
    """Images that every site trains on."""
    seed: int
    recovered_at: float
    """Decibels from which an image counts as recovered."""
    original: str
    """`uint8[height, width, channels]` in base64."""
    average: Likeness
    """What who has seen no update could show: the mean of images that no site holds."""
    ways: list[Protected]
    seconds: float

    @property
    def total(self) -> int:
        """Images that were trained on."""
        return self.sites * self.records

    @property
    def each(self) -> str:
        """What every site trains on, in words."""
        return "one image" if self.records == 1 else f"{self.records} images"

    @property
    def tolerance(self) -> float:
        """The largest error (root mean square, of the range) of an image that is recovered."""
        return float(10 ** (-self.recovered_at / 20))

    def seat(self, view: SeatView) -> str:
        """Who looks, as a heading."""
        name = SEATS[view.seat]
        return name[0].upper() + name[1:]

    def in_words(self, view: SeatView) -> str:
        """What a seat has got, in a few words."""
        recovered = f"{view.recovered} of {self.total} recovered"
        alike = view.alike - view.recovered
        return f"{recovered}, {alike} alike" if alike > 0 else recovered

    def uri(self, text: str) -> str:
        """An image of this file as a PNG that a page can hold whole; raises as `pixels` does."""
        data = io.BytesIO()
        Image.fromarray(pixels(self, text)).save(data, "PNG")
        return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def to_text(image: NDArray[np.floating]) -> str:
    """An image with values in [0, 1] as base64 of its bytes."""
    return base64.b64encode(np.rint(255 * image).astype(np.uint8).tobytes()).decode()


def pixels(inversion: Inversion, text: str) -> NDArray[np.uint8]:
    """The inverse of `to_text`: `uint8[height, width, 3]`.

    Raises:
        DataError: not an image of that size.
    """
    shape = inversion.height, inversion.width, inversion.channels
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(shape)
    except ValueError as error:
        raise DataError(f"{FILE}: holds an image that is not one ({error})") from None
    return np.broadcast_to(values, (*shape[:2], 3)) if shape[2] == 1 else values


def write_inversion(folder: Path, inversion: Inversion) -> None:
    """Write `inversion.json`."""
    write_json(folder / FILE, inversion)


def read_inversion(folder: Path) -> Inversion | None:
    """What a demonstration has left in `folder`; None where there was none.

    Raises:
        DataError: the file is not one that this version reads.
    """
    path = folder / FILE
    inversion = read_beside(Inversion, path, schema=SCHEMA, what="a demonstration")
    if inversion and (
        inversion.channels not in (1, 3) or min(inversion.height, inversion.width) < 1
    ):
        raise DataError(f"{path}: images of an impossible size")
    return inversion
