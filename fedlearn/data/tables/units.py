"""Units that owners of tables name, and what a number in one of them is in another.

A pair is a text, `FROM to TO` or `FROM to TO of SUBSTANCE`: `F to C`, `mg/dl to mmol/l of glucose`.
A mass is no amount of substance until it is known of what, so that such a pair needs the third
word. All factors are exact fractions; a number is converted by their nearest float64.

Source: SI Brochure (9th edition) and NIST SP 811 for units; atomic weights of IUPAC (2021), summed
up, for molar masses; for HbA1c the master equation of IFCC and NGSP (Hoelzel et al., 2004).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from fedlearn.core.errors import ConfigError


@dataclass(frozen=True)
class Affine:
    """`scale * x + offset`."""

    scale: Fraction
    offset: Fraction = Fraction(0)

    def after(self, first: Affine) -> Affine:
        """`first`, then this."""
        return Affine(self.scale * first.scale, self.scale * first.offset + self.offset)

    @property
    def inverse(self) -> Affine:
        """The way back."""
        return Affine(1 / self.scale, -self.offset / self.scale)


def _exact(scale: str | int, offset: str | int = 0) -> Affine:
    return Affine(Fraction(scale), Fraction(offset))


def _per_litre(quantity: str) -> dict[str, Affine]:
    """Grams or moles in a volume, in the base per litre."""
    parts = {"": 0, "m": -3, "u": -6, "n": -9, "p": -12}
    volumes = {"l": 0, "dl": -1, "ml": -3, "ul": -6}
    return {
        f"{part}{quantity}/{volume}": Affine(Fraction(10) ** (size - of))
        for part, size in parts.items()
        for volume, of in volumes.items()
    }


_DIMENSIONS: Final[Mapping[str, Mapping[str, Affine]]] = {
    "mass": {
        "kg": _exact(1), "g": _exact("0.001"), "mg": _exact("0.000001"),
        "lb": _exact("0.45359237"), "oz": _exact("0.028349523125"), "st": _exact("6.35029318"),
    },
    "length": {
        "m": _exact(1), "cm": _exact("0.01"), "mm": _exact("0.001"),
        "in": _exact("0.0254"), "ft": _exact("0.3048"),
    },
    "temperature": {
        "c": _exact(1), "k": _exact(1, "-273.15"), "f": Affine(Fraction(5, 9), Fraction(-160, 9)),
    },
    "pressure": {
        "kpa": _exact(1), "pa": _exact("0.001"), "hpa": _exact("0.1"), "bar": _exact(100),
        "mmhg": _exact("0.133322387415"), "cmh2o": _exact("0.0980665"),
    },
    "time": {
        "s": _exact(1), "min": _exact(60), "h": _exact(3600), "days": _exact(86400),
        "weeks": _exact(604800), "months": _exact(2629800), "years": _exact(31557600),
    },
    "energy": {"kj": _exact(1), "kcal": _exact("4.184")},
    "share": {"%": _exact(1), "fraction": _exact(100)},
    "mass concentration": _per_litre("g"),
    "molar concentration": _per_litre("mol"),
    "molar share": {"mmol/mol": _exact(1)},
}  # fmt: skip
"""By what they measure: what a number in each unit is in the base of its kind."""

_UNITS: Final = {
    name: (kind, to_base) for kind, units in _DIMENSIONS.items() for name, to_base in units.items()
}

_ALIASES: Final = {
    "°c": "c", "℃": "c", "°f": "f", "℉": "f", "lbs": "lb", "pounds": "lb", "kgs": "kg",
    "grams": "g",
    "mm hg": "mmhg", "cm h2o": "cmh2o", "meters": "m", "inches": "in", "feet": "ft",
    "sec": "s", "seconds": "s", "mins": "min", "minutes": "min", "hr": "h", "hrs": "h",
    "hour": "h", "hours": "h", "d": "days", "day": "days", "week": "weeks", "month": "months",
    "mo": "months",
    "year": "years", "yr": "years", "yrs": "years", "jahre": "years", "mcg": "ug",
    "€": "eur", "£": "gbp", "₹": "inr", "₽": "rub", "zł": "pln", "元": "cny",
    "kg/m²": "kg/m2", "岁": "years", "歳": "years",
}  # fmt: skip
"""How people write units beside numbers, folded, and what these are called here."""
_COUNTED: Final = frozenset(
    ("eur", "usd", "gbp", "chf", "cny", "jpy", "inr", "rub", "pln", "sek", "nok", "dkk", "krw",
     "try", "brl", "$", "us$", "¥", "₩", "kg/m2", "iu/l", "u/l", "mmol", "ml/min", "l/min", "bpm",
     "/min", "beats/min", "l", "ml", "dl", "ug", "ng", "km", "km/h", "w", "kw", "kwh", "mosm/kg")
)  # fmt: skip
"""Units that are known as such, and are converted into no other."""

_GRAMS_PER_MOLE: Final = {
    "glucose": "180.156", "cholesterol": "386.664", "triglycerides": "885.4",
    "creatinine": "113.12", "urea": "60.056", "urea nitrogen": "28.014",
    "uric acid": "168.112", "bilirubin": "584.673", "calcium": "40.078",
    "magnesium": "24.305", "phosphorus": "30.974", "iron": "55.845",
    "sodium": "22.990", "potassium": "39.098", "haemoglobin": "16114.5",
    "hemoglobin": "16114.5", "lactate": "89.07", "cortisol": "362.466",
    "testosterone": "288.431", "thyroxine": "776.874", "vitamin d": "400.647",
}  # fmt: skip
"""Of haemoglobin the monomer, of vitamin D 25-hydroxycholecalciferol, as laboratories count them;
of triglycerides the mean that they have agreed on."""

_BRIDGES: Final = {
    name: ("mass concentration", "molar concentration", Affine(1 / Fraction(grams)))
    for name, grams in _GRAMS_PER_MOLE.items()
} | {"hba1c": ("share", "molar share", _exact("0.09148", "2.152").inverse)}
"""Of each substance which kinds are one thing, and the second's base from the first's."""

_PAIR: Final = re.compile(r"(?P<of>\S+)\s+to\s+(?P<to>\S+)(?:\s+of\s+(?P<what>\S[\S ]*))?")
_MOST: Final = 80
"""Characters of a pair."""


def conversion(pair: str) -> tuple[float, float]:
    """Factor and offset of a pair, `y = factor * x + offset`, each the nearest float64.

    Capital letters count for nothing, and `µ` is `u`.

    Raises:
        ConfigError: a unit or a substance is unknown, or they do not fit; with those that are.
    """
    found = _PAIR.fullmatch(_folded(pair)) if len(pair) <= _MOST else None
    if found is None:
        raise ConfigError(
            f"{pair[:_MOST]!r} is no pair of units: write 'mg/dl to mmol/l of glucose', "
            "'lb to kg', or the factor itself"
        )
    (first, to_base), (second, other) = _unit(found["of"]), _unit(found["to"])
    between = Affine(Fraction(1)) if first == second else _bridge(found, first, second)
    whole = other.inverse.after(between).after(to_base)
    return float(whole.scale), float(whole.offset)


def _folded(text: str) -> str:
    return " ".join(text.casefold().replace("μ", "u").split())


def canonical(unit: str) -> str:
    """What a unit that people write beside a number is called here; an unknown one as it is."""
    folded = _folded(unit).removesuffix(".")
    folded = _ALIASES.get(folded, folded)
    return folded if is_known(folded) else unit.strip()


def is_known(unit: str) -> bool:
    """Whether a canonical unit is one that people measure in, or pay with."""
    return unit in _UNITS or unit in _COUNTED


def _unit(name: str) -> tuple[str, Affine]:
    if name not in _UNITS:
        raise ConfigError(f"{name!r} is no unit that is known: {', '.join(_UNITS)}")
    return _UNITS[name]


def _bridge(found: re.Match[str], first: str, second: str) -> Affine:
    """From the base of one kind to that of another, of a substance."""
    what = found["what"]
    if what is None:
        ways = [name for name, (one, two, _) in _BRIDGES.items() if {one, two} == {first, second}]
        hint = f"; say of what, as 'of {ways[0]}' (or {', '.join(ways[1:])})" if ways else ""
        raise ConfigError(f"{found['of']} and {found['to']} measure different things{hint}")
    if what not in _BRIDGES:
        raise ConfigError(f"{what!r} is no substance that is known: {', '.join(_BRIDGES)}")
    one, two, forth = _BRIDGES[what]
    if {first, second} != {one, two}:
        raise ConfigError(f"{found['of']} and {found['to']} are not two ways to measure {what}")
    return forth if first == one else forth.inverse
