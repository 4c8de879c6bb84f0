"""A report for every reader: contrast in light, dark and print, headings in order, table heads."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from fedlearn.report.texts import TEMPLATES

STYLE = (TEMPLATES / "style.css.j2").read_text()
PALETTES = re.findall(r":root \{(.*?)\}", STYLE, re.S)


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    digits = colour if len(colour) == 6 else "".join(2 * one for one in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast__is_that_of_the_standard() -> None:
    assert contrast("000", "ffffff") == pytest.approx(21)
    assert contrast("767676", "ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("palette", PALETTES, ids=["light", "dark", "print"])
def test_text__has_enough_contrast(palette: str) -> None:
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]{3,6})", palette))
    for name in ("ink", "muted", "accent", "bad", "good", "warn"):
        for back in ("page", "card"):
            assert contrast(colours[name], colours[back]) >= 4.5, (name, back)
    assert contrast(colours["warn"], colours["warn-back"]) >= 4.5
    for number in range(1, 7):
        assert contrast(colours[f"series-{number}"], colours["page"]) >= 3, "lines of plots"


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html.j2")), ids=lambda path: path.name)
def test_tables__have_captions_and_heads_with_a_scope_and_headings_leave_out_no_level(path) -> None:  # type: ignore[no-untyped-def]
    source = path.read_text()
    for table in re.findall(r"<table.*?</table>", source, re.S):
        assert "<caption>" in table
        assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", table))
    levels = [int(level) for level in re.findall(r"<h([1-6])", source)]
    assert all(later - level <= 1 for level, later in pairwise(levels))
