"""Tables as people have them, drawn at random, and what is right for each: a frame of pandas.

A table is drawn as values first. How these are written (separator, encoding, quotes, decimal sign,
gaps, limits, shares, units, header) is drawn apart, so that what is right is known without reading
the file again.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd

Drawn = TypeVar("Drawn")

Rng = np.random.Generator

WORDS: Final = {
    "Latin": ["north", "south", "east", "west", "upper"],
    "German": ["Müller-Gang", "Größe", "Straße", "Ärzte", "Öl"],
    "Chinese": ["北京", "上海", "广州", "内科", "外科"],
    "Russian": ["север", "юг", "восток", "запад", "центр"],
    "Japanese": ["内科", "外科", "小児科", "東京", "大阪"],
}
ROLES: Final = {
    "Latin": ("hospital", "readmitted", ("yes", "no", "unknown")),
    "German": ("Klinik", "verstorben", ("ja", "nein", "unklar")),
    "Chinese": ("医院", "是否患病", ("是", "否", "不详")),
    "Russian": ("больница", "диагноз", ("да", "нет", "неясно")),
    "Japanese": ("病院", "転帰", ("はい", "いいえ", "不明")),
}
ENCODINGS: Final = {
    "Latin": ["utf-8", "utf-8-sig", "utf-16"],
    "German": ["utf-8", "utf-8-sig", "cp1252", "utf-16"],
    "Chinese": ["utf-8", "gb18030", "utf-8-sig"],
    "Russian": ["utf-8", "utf-16"],
    "Japanese": ["utf-8", "shift_jis"],
}
GAPS: Final = ["", "NA", "N/A", "NaN", "null", "?"]
UNITS: Final = ["mg/dl", "years", "mm Hg", "kg", "beats/min"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Odd:
    """A file, and what is right: `values` has numbers, and texts; NaN and None are gaps.

    `identifiers` are columns that must not be learned from. `ways` are what the writing was.
    """

    path: Path
    values: pd.DataFrame
    label: str
    site: str
    identifiers: tuple[str, ...]
    headless: bool
    ways: dict[str, Any]


def _ages(rng: Rng, n: int) -> Any:
    return rng.integers(18, 95, n).astype(float)


def _measured(rng: Rng, n: int) -> Any:
    return np.round(rng.gamma(3, 2, n) + 0.05, int(rng.integers(1, 3)))


def _large(rng: Rng, n: int) -> Any:
    return rng.integers(1_000, 900_000, n).astype(float)


def _signed(rng: Rng, n: int) -> Any:
    return np.round(rng.normal(0, 5, n), 2) + 0.0


def _shares(rng: Rng, n: int) -> Any:
    return rng.integers(1, 100, n) / 100


NUMBERS: Final[dict[str, Callable[[Rng, int], Any]]] = {
    "age": _ages, "crea": _measured, "cost": _large, "delta": _signed, "share": _shares,
    "dose": _measured, "pulse": _ages,
}  # fmt: skip


def _emails(rng: Rng, n: int) -> list[str]:
    return [f"p{i}.{rng.integers(99)}@example.org" for i in range(n)]


def _counted(rng: Rng, n: int) -> list[str]:
    return [str(i) for i in 4000 + rng.permutation(n)]


def _phones(rng: Rng, n: int) -> list[str]:
    return [f"+49 {rng.integers(30, 99)} {rng.integers(10**6, 10**7)}" for _ in range(n)]


def _days(rng: Rng, n: int) -> list[str]:
    days = zip(rng.integers(1, 29, n), rng.integers(1, 13, n), strict=True)
    return [f"{day:02}.{month:02}.{rng.integers(1930, 2010)}" for day, month in days]


def _chinese(rng: Rng, n: int) -> list[str]:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    made = []
    for _ in range(n):
        body = f"110101{rng.integers(1940, 2010)}{rng.integers(1, 13):02}{rng.integers(1, 29):02}"
        body += f"{rng.integers(1000):03}"
        total = sum(int(d) * w for d, w in zip(body, weights, strict=True))
        made.append(body + "10X98765432"[total % 11])
    return made


IDENTIFIERS: Final[dict[str, Callable[[Rng, int], list[str]]]] = {
    "contact": _emails, "nr": _counted, "reach": _phones, "since": _days, "code": _chinese,
}  # fmt: skip


def drawn(seed: int, folder: Path) -> Odd:
    """A table of that seed, written into the folder."""
    rng = np.random.default_rng(seed)
    script, n = str(rng.choice([*WORDS])), int(rng.integers(60, 140))
    site, label, classes = ROLES[script]
    values: dict[str, Any] = {}
    names = [str(name) for name in rng.permutation([*NUMBERS])[: rng.integers(1, 5)]]
    for name in names:
        values[name] = NUMBERS[name](rng, n)
    for i in range(int(rng.integers(0, 3))):
        few = int(rng.integers(2, 6))
        values[f"ward {i}"] = rng.choice(np.array(WORDS[script][:few], object), n)
    if rng.random() < 0.2:
        values["goods"] = np.array([f"K{i}" for i in rng.integers(0, 55, n)], object)
    hidden = [str(name) for name in rng.permutation([*IDENTIFIERS])[: rng.integers(0, 3)]]
    for name in hidden:
        values[name] = np.array(IDENTIFIERS[name](rng, n), object)
    order = [str(name) for name in rng.permutation([*values])]
    frame = pd.DataFrame({name: values[name] for name in order})
    if rng.random() < 0.6:
        frame[site] = rng.choice(np.array(["A", "B", "C"], object), n)
    frame[label] = rng.choice(np.array(classes[: rng.integers(2, 4)], object), n)
    return _written(rng, frame, folder, script, names, hidden, site, label)


def _written(
    rng: Rng, frame: pd.DataFrame, folder: Path, script: str, numbers: list[str],
    hidden: list[str], site: str, label: str,
) -> Odd:  # fmt: skip
    comma = bool(rng.random() < 0.3)
    separator = ";" if comma else str(rng.choice([",", ";", "\t", "|"]))
    decimal = "," if comma else "."
    ways: dict[str, Any] = {"script": script, "separator": separator, "decimal": decimal}
    cells = pd.DataFrame({name: frame[name] for name in frame}, dtype=object)
    for name in frame:
        if name in numbers:
            cells[name], frame[name] = _numbers(rng, name, frame[name].to_numpy(), decimal, ways)
        elif name.startswith("ward") and rng.random() < 0.4:
            gap, some = str(rng.choice(GAPS)), rng.random(len(frame)) < 0.1
            cells.loc[some, name], frame.loc[some, name] = gap, None
    if rng.random() < 0.15:
        cells = cells.map(lambda cell: unicodedata.normalize("NFD", cell))
        ways["form"] = "NFD"
    if rng.random() < 0.15:
        cells = cells.map(lambda cell: f" {cell} ")
        ways["spaces"] = True
    if comma and not any("," in cell for name in numbers for cell in cells[name]):
        ways["decimal"] = "."  # nothing tells
    path, headless = _file(rng, cells, folder, script, numbers, separator, ways)
    return Odd(path=path, values=frame, label=label, site=site if site in frame else "",
               identifiers=tuple(hidden), headless=headless, ways=ways)  # fmt: skip


def _numbers(
    rng: Rng, name: str, values: Any, decimal: str, ways: dict[str, Any]
) -> tuple[list[str], Any]:
    """The cells of a column of numbers, and the numbers that they stand for."""
    texts = [f"{v:.2f}".rstrip("0").rstrip(".").replace(".", decimal) for v in values.tolist()]
    right = values.copy()
    if name == "share" and rng.random() < 0.5:
        texts, ways[name] = [f"{round(v * 100)}%" for v in values.tolist()], "percent"
    elif name == "cost" and rng.random() < 0.5:
        group = str(rng.choice([".", " ", "'"] if decimal == "," else [",", " ", "'"]))
        texts = [f"{int(v):,}".replace(",", group) for v in values.tolist()]
        ways[name] = "thousands"
    elif name in ("delta", "pulse", "crea") and rng.random() < 0.3:
        texts, right, ways[name] = _with_units(rng, texts, values, decimal)
    elif name in ("crea", "dose") and rng.random() < 0.5:
        low = float(np.quantile(values, 0.2))
        low = round(low, 2)
        below = values < low
        text = f"<{low:g}".replace(".", decimal)
        texts = [text if b else t for b, t in zip(below, texts, strict=True)]
        right = np.where(below, low / 2, right)
        ways[name] = "limits" if below.any() else "plain"
    if rng.random() < 0.4:
        gap, some = str(rng.choice(GAPS)), rng.random(len(values)) < 0.1
        if rng.random() < 0.3 and some.sum() > 2:
            gap = "-999"
        texts = [gap if s else t for s, t in zip(some, texts, strict=True)]
        right = np.where(some, np.nan, right)
    return texts, right


def _with_units(
    rng: Rng, texts: list[str], values: Any, decimal: str
) -> tuple[list[str], Any, str]:
    """Cells with a unit each; perhaps a few of them in pounds, where the rest is in kilograms."""
    unit = str(rng.choice(["kg", "mmol/L", "°C", "mg/dl", "€", "Stück"]))
    apart = "" if rng.random() < 0.3 and unit != "Stück" else " "
    written = [f"€{apart}{t}" if unit == "€" else f"{t}{apart}{unit}" for t in texts]
    right = values.copy()
    if unit == "kg" and rng.random() < 0.5:
        pounds = rng.random(len(values)) < 0.2
        written = [f"{t} lb" if lb else w
                   for t, w, lb in zip(texts, written, pounds, strict=True)]  # fmt: skip
        right = np.where(pounds, right * 0.45359237, right)
    return written, right, f"in {unit}"


def _file(
    rng: Rng, cells: pd.DataFrame, folder: Path, script: str, numbers: list[str], separator: str,
    ways: dict[str, Any],
) -> tuple[Path, bool]:  # fmt: skip
    headless = bool(rng.random() < 0.07) and len(numbers) > 1
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if rng.random() < 0.2 else csv.QUOTE_MINIMAL
    end = str(rng.choice(["\n", "\r\n"]))
    writer = csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end)
    if not headless:
        if rng.random() < 0.1:
            text.write(f"sep={separator}{end}")
        elif rng.random() < 0.1:
            text.write(f"# made for a test{end}")
        writer.writerow(cells.columns)
        if rng.random() < 0.1:
            writer.writerow([str(rng.choice(UNITS)) if c in numbers else "" for c in cells])
            ways["units"] = True
    writer.writerows(cells.itertuples(index=False))
    encoding = str(rng.choice(ENCODINGS[script]))
    if ways.get("form") == "NFD" and encoding in ("cp1252", "gb18030", "shift_jis"):
        encoding = "utf-8"
    if ways["script"] == "Japanese" and any(one in text.getvalue() for one in "ü€°"):
        encoding = "utf-8"
    ways["encoding"], ways["headless"] = encoding, headless
    path = folder / "odd.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    return path, headless


def failing(
    drawn: Callable[[int, Path], Drawn],
    problems_of: Callable[[Drawn], list[str]],
    folder: Path,
    seeds: range,
) -> dict[int, list[str]]:
    """What is wrong with what is drawn by each of the seeds, in a folder of its own; by seed."""
    found = {}
    for seed in seeds:
        (folder / str(seed)).mkdir()
        if problems := problems_of(drawn(seed, folder / str(seed))):
            found[seed] = problems
    return found
