"""The demonstration of reconstruction in a report: pictures, with texts in their place."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

from matplotlib import image

from fedlearn.report.inversion import (
    SEATS,
    Finding,
    Inversion,
    Likeness,
    Protected,
    figures,
    finding,
    in_words,
    pixels,
)


@dataclass(frozen=True, kw_only=True)
class StripCell:
    """One picture: `uri` holds it whole, `alternative` says what is to be seen."""

    name: str
    uri: str
    alternative: str
    words: str
    figures: str
    finding: Finding | None


@dataclass(frozen=True, kw_only=True)
class StripWay:
    """One way to protect updates, seat by seat."""

    name: str
    settings: str
    cells: tuple[StripCell, ...]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The section, in the order of the page."""

    about: str
    original: StripCell
    average: StripCell
    ways: tuple[StripWay, ...]
    limits: tuple[str, ...]


def strip(inversion: Inversion) -> Strip:
    """The section of a demonstration.

    Raises:
        DataError: a picture is not one.
    """
    original = "What a site holds"
    return Strip(
        about=_about(inversion),
        original=StripCell(
            name=original,
            uri=_uri(inversion, inversion.original),
            alternative=original,
            words="",
            figures="",
            finding=None,
        ),
        average=_cell(inversion, inversion.average, "The average of all others", "", None),
        ways=tuple(_way(inversion, way) for way in inversion.ways),
        limits=LIMITS,
    )


def _way(inversion: Inversion, way: Protected) -> StripWay:
    return StripWay(
        name=way.name,
        settings=settings_of(way),
        cells=tuple(
            _cell(
                inversion,
                view.best,
                f"{SEATS[view.seat][0].upper()}{SEATS[view.seat][1:]}",
                in_words(inversion, view),
                finding(view),
            )
            for view in way.views
        ),
    )


def settings_of(way: Protected) -> str:
    """What protects updates, in a sentence."""
    noise = ", no noise"
    if way.noise_multiplier is not None:
        noise = f", noise multiplier {way.noise_multiplier:.3g}"
        noise += f", epsilon {way.epsilon:.3g}" if way.epsilon is not None else ""
    return f"Transport {way.transport}, secure aggregation {way.secagg}{noise}."


def _cell(
    inversion: Inversion, likeness: Likeness, name: str, words: str, found: Finding | None
) -> StripCell:
    place = f"place {likeness.place} of {inversion.line_up} in a line-up"
    said = ", ".join(filter(None, (words, figures(likeness), place)))
    return StripCell(
        name=name,
        uri=_uri(inversion, likeness.picture),
        alternative=f"{name}: {said}",
        words=words,
        figures=figures(likeness),
        finding=found,
    )


def _uri(inversion: Inversion, picture: str) -> str:
    data = io.BytesIO()
    image.imsave(data, pixels(inversion, picture), format="png", metadata={"Software": ""})
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _about(inversion: Inversion) -> str:
    return (
        f"Measured on pictures ({inversion.pictures}), not on the records of a run: "
        f"{inversion.sites} sites train on {inversion.each} each, through the real programs, "
        "with real keys, masks and noise. "
        "Shown is what comes nearest to the original of all that an attack has found. A picture is "
        "recovered if the error (root mean square) is at most "
        f"{inversion.tolerance:.1%} of the range of a value, and alike if it is "
        "nearer than the average of those that no site holds, which can be shown without an update."
    )


LIMITS: Final = (
    "The coordinator together with all sites but one sees what it would see without masks.",
    "The network is small, and its first layer can be inverted by division. Other networks are "
    "attacked by search, which is slower and less exact, not impossible.",
    "A picture that stays hidden does not prove that epsilon is small: far less noise than a "
    "promise needs hides a picture. The strict test is the audit by canaries.",
)
