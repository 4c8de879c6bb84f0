"""What `fedlearn data check PATH` says about one's own data: what was understood, what is wrong.

Here are tables, and the choice between them, texts and
images. Roles of columns are suggestions. Ranges for
scaling are deliberately not suggested from the data: a range is what the field
holds possible, and a minimum is somebody's value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fedlearn.core.errors import DataError, some
from fedlearn.data.check import images, language, texts
from fedlearn.data.check.report import Report
from fedlearn.data.check.sizes import dealt, nominal_records, sites_for
from fedlearn.data.tables import columns, guess, identifiers
from fedlearn.data.tables.cells import Cells
from fedlearn.data.tables.columns import Column
from fedlearn.data.tables.csv_notes import may_be_gaps
from fedlearn.data.tables.delimited import read_table, read_text
from fedlearn.data.tables.heads import guess_separator, header_problem
from fedlearn.data.tables.parquet import is_parquet, read_parquet
from fedlearn.data.tables.sentinels import sentinels
from fedlearn.data.tables.spelling import (
    Spellings,
    lookalikes,
    may_be_categories,
    may_be_one,
    spelled,
    taken_as_one,
)
from fedlearn.data.tables.table import Separator, Table, duplicates
from fedlearn.data.texts.files import Objects, is_lines, keys_of, read_objects
from fedlearn.data.texts.huggingface import is_saved

_LABEL = re.compile(
    r"label|ill|sick|outcome|target|class|y|diagnosis|disease|default(ed)?|death|died|mortality|survived"
    r"|readmitted|readmission|relapse|churn(ed)?|fraud|status"
    r"|klasse|zielgröße|ergebnis|diagnose|befund|erkrankt|verstorben|tod|ausfall|betrug|gekündigt"
    r"|wiederaufnahme|rückfall|zahlungsausfall|classe|cible|résultat|diagnostic|décès|décédée?"
    r"|réadmission|rechute|défaut|fraude|gravité",
    re.IGNORECASE,
)
_CLASS = re.compile(
    _LABEL.pattern
    + r"|(.*[ _-])?(kind|type|category|topic|chapter|intent|sentiment|art|kategorie|thema)",
    re.IGNORECASE,
)
_SITE = re.compile(
    r".*(site|hospital|cent(er|re)|[ck]lini[ck]|bank|branch|shop|store|firm|office|region|country"
    r"|krankenhaus|standort|filiale|praxis|kanzlei|niederlassung"
    r"|h[ôo]pital|agence|succursale|établissement).*|haus|werk",
    re.IGNORECASE,
)
_MAX_CLASSES = 10
_MAX_CATEGORIES = 50


def check(path: Path) -> Report:
    """Inspects one's own data; problems are part of the report, with line numbers or file names.

    A table (CSV or Parquet), texts (a table with a column of them, a file of JSON
    objects, a folder that Hugging Face `datasets` saved), or images (in folders,
    or .npz). Encoding and separator of a table, its decimal sign and what stands for a
    gap are guessed; where they are not the usual ones, the suggested settings say so.

    Raises:
        ConfigError: a package is missing.

    """
    try:
        return _checked(path)
    except DataError as error:
        return Report(path=path, problems=tuple(str(error).splitlines()))


def _checked(path: Path) -> Report:
    if is_saved(path):
        table, facts = texts.table_of_saved(path)
        return _texts(path, table, facts, "huggingface")
    if path.is_dir():
        return images.check_folder(path)
    if path.suffix == ".npz":
        return images.check_archive(path)
    if is_parquet(path):
        return _table(path, read_parquet(path), None, [])
    encoding = guess.encoding_of(path)
    written = [] if encoding == "utf-8" else [f"scenario.encoding={encoding}"]
    if is_lines(path):
        rows = read_objects(path, encoding)
        if language.holds_language(rows):
            return language.check_language(path, rows, _sites_of(rows), written)
        table, facts = texts.table_of_objects(path, rows)
        return _texts(path, table, facts, "text", written)
    separator = guess_separator(read_text(path, encoding))
    written += [] if separator == "comma" else [f"scenario.separator={separator}"]
    table = read_table(path, separator=separator, encoding=encoding, header="first")
    if headless := header_problem(path, table):
        names = [f"c{place}" for place in range(1, len(table.header) + 1)]
        written.append(f"scenario.names=[{','.join(names)}]")
        table = read_table(path, separator=separator, encoding=encoding, names=names)
    report = _table(path, table, separator, written)
    report = replace(report, problems=(*headless, *report.problems))
    if not report.texts:
        return report
    # Read as texts, only three of its columns matter.
    others = report.problems[len(headless) :]
    as_table = tuple(f"as a table (scenario=csv), {problem}" for problem in others)
    as_texts = replace(report, hints=(*report.hints, *as_table), problems=tuple(headless))
    return texts.with_texts(as_texts, table, "text", written)


def _texts(
    path: Path, table: Table, facts: tuple[str, ...], scenario: str, written: Sequence[str] = ()
) -> Report:
    """A file or folder that only a scenario of texts reads."""
    report = replace(
        _table(path, table, None, []), kind="texts", facts=facts, hints=(), problems=()
    )
    if report.texts:
        return texts.with_texts(report, table, scenario, written)
    there = ", ".join(table.header) or "none"
    problem = f"{path}: no column could be the text, which has several words; there are {there}"
    return replace(report, problems=(problem,))


def _table(path: Path, table: Table, separator: Separator | None, written: Sequence[str]) -> Report:
    writing = guess.writing_of(table)
    may_be = partial(may_be_categories, missing=writing.missing, decimal=writing.decimal)
    coded = [name for name in table.header if may_be(table.cells(name))]
    table, several = spelled(table, writing.decimal, named={}, found=coded)
    describe = partial(columns.describe, missing=writing.missing, decimal=writing.decimal)
    found = tuple(describe(name, table.cells(name)) for name in table.header)
    of_texts = texts.text_columns(table, found)
    others = [column for column in found if column.name not in of_texts]
    labels = _classes_of_texts(others, len(table)) if of_texts else _labels(others)
    sites = _sites([column for column in found if column.name not in (*of_texts, *labels[:1])])
    dropped = [guess.quoted(column.name) for column in found if _cannot_be_learned(column)]
    sizes = _sizes_of_sites(table, sites)
    settings = [
        "scenario=csv",
        f"scenario.path={guess.quoted(str(path))}",
        f"scenario.label={guess.quoted(labels[0]) if labels else 'COLUMN'}",
        *(_site(sites[0]) if _named(sites, _SITE) else dealt(len(table))),
        *written,
        *writing.settings(),
        *([f"scenario.drop=[{','.join(dropped)}]"] if dropped else []),
        f"training.nominal_records={nominal_records(sizes)}",
        # Of a sum over two a site would only have to take away its own part.
        *(["secagg=off"] if len(sizes) == 2 else []),
    ]
    return Report(
        path=path,
        kind="a table",
        records=len(table),
        separator=separator,
        counted=table.counted,
        columns=found,
        texts=of_texts,
        labels=labels,
        sites=sites,
        duplicates=tuple(table.lines[duplicates(table)].tolist()),
        facts=tuple(_facts(writing)),
        hints=(*_merged(several), *_hints(table, found, labels[:1], writing, of_texts)),
        problems=(
            *_problems(table, found),
            *_alike([column for column in found if column.name not in of_texts]),
            *_no_label(found, labels),
        ),
        settings=tuple(settings),
    )


def _facts(writing: guess.Writing) -> Iterator[str]:
    if writing.decimal == ",":
        yield "numbers are written with a comma, as in 0,5"
    if writing.gaps:
        signs = ", ".join(map(repr, writing.gaps))
        yield f"among numbers, taken for gaps: {signs}"


def _merged(several: Mapping[str, list[Spellings]]) -> Iterator[str]:
    for name, groups in several.items():
        yield f"column {name!r}: {taken_as_one(groups)}"


def _alike(found: Sequence[Column]) -> Iterator[str]:
    """Categories that may be one, where there are so few that they are categories."""
    for column in found:
        few = column.kind == "categorical" and not _has_many_values(column)
        if few and (groups := lookalikes(column.categories)):
            yield f"column {column.name!r}: {may_be_one(groups)}"


def _classes_of_texts(found: Sequence[Column], records: int) -> tuple[str, ...]:
    """As `_labels`; texts may have more classes than a table, and other names for them."""
    most = min(_MAX_CATEGORIES, records // 2)
    few = [c for c in found if 2 <= c.distinct <= most and not c.identifier]
    return _likely_first(few, _CLASS)


def _labels(found: Sequence[Column]) -> tuple[str, ...]:
    few = [c for c in found if 2 <= c.distinct <= _MAX_CLASSES and not c.identifier]
    return _likely_first(few, _LABEL)


def _sites(found: Sequence[Column]) -> tuple[str, ...]:
    several = [c for c in found if c.distinct >= 2 and c.kind == "categorical"]
    named = [c for c in found if _SITE.fullmatch(c.name) and c.distinct >= 2]
    few = [c for c in several if c.distinct <= _MAX_CATEGORIES and c not in named]
    return _likely_first([*named, *(c for c in few if not c.identifier)], _SITE)


def _sites_of(rows: Objects) -> list[str]:
    """The keys of objects that are called as sites are."""
    return [key for key in keys_of(rows) if _SITE.fullmatch(key)]


def _named(names: Sequence[str], pattern: re.Pattern[str]) -> bool:
    """Whether the likeliest of `names` is called as such: what looks alike may be anything."""
    return bool(names) and pattern.fullmatch(names[0]) is not None


def _site(name: str) -> tuple[str, ...]:
    return (f"scenario.site={guess.quoted(name)}",)


def _sizes_of_sites(table: Table, sites: Sequence[str]) -> list[int]:
    """As the suggested command has it, training and test records together."""
    if _named(sites, _SITE):
        return list(Counter(table.column(sites[0])).values())
    number = sites_for(len(table))
    return [len(table) // number] * number


def _likely_first(found: list[Column], pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Those that are called so; then those without gaps, with few values, further to the right."""

    def unlikely(place: int) -> tuple[bool, bool, int, int]:
        one = found[place]
        unnamed = pattern.fullmatch(one.name) is None
        return unnamed, one.missing > 0, one.distinct, -place

    return tuple(found[place].name for place in sorted(range(len(found)), key=unlikely))


def _no_label(found: tuple[Column, ...], labels: tuple[str, ...]) -> Iterator[str]:
    """A table without a column that could be learned; one that is called so has one value only."""
    if labels:
        return
    constant = [c for c in found if c.distinct == 1 and _LABEL.fullmatch(c.name)]
    for column in constant:
        value = column.categories[0]
        yield f"column {column.name!r}: every record is {value!r}; there is nothing to learn"
    if not constant:
        yield (
            f"no column could be the label, which has 2 to {_MAX_CLASSES} different values: "
            "group those of the column that is to be predicted"
        )


def _cannot_be_learned(column: Column) -> bool:
    return bool(column.identifier) or column.kind == "empty" or _has_many_values(column)


def _has_many_values(column: Column) -> bool:
    return column.kind == "categorical" and column.distinct > _MAX_CATEGORIES


def _problems(table: Table, found: tuple[Column, ...]) -> Iterator[str]:
    for column in found:
        if column.identifier:
            remedy = identifiers.remedy(column.identifier)
            yield f"column {column.name!r}: {column.identifier}; {remedy}"
        elif column.not_numbers:
            yield f"column {column.name!r}: {table.places(column.not_numbers)}: not a number"
        elif column.kind == "empty":
            yield f"column {column.name!r}: holds nothing"
        elif _has_many_values(column) and identifiers.groups_thousands(table.cells(column.name)):
            yield (
                f"column {column.name!r}: numbers with a sign between thousands, as in "
                f"{column.categories[0]}; write them without"
            )
        elif _has_many_values(column) and columns.has_commas(table.cells(column.name)):
            yield (
                f"column {column.name!r}: numbers with a comma, as in {column.categories[0]}, "
                "where other columns have a point; write all in one way"
            )
        elif _has_many_values(column):
            yield (
                f"column {column.name!r}: {column.distinct} different values; "
                "text, or an identifier?"
            )


# --- what could be better -----------------------------------------------------------

_OWNER = re.compile(
    r"(patient(en)?|person(en)?|subject|client|customer|account|user|case|stay|admission"
    r"|kunden?|fall)([ _-]?(id|no|number|nr|nummer))?",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(visit|chart|event|time)?[ _-]?"
    r"(time(stamp)?|hour|day|week|month|quarter|year|date|step|visit)s?([ _-]?(no|number|nr))?",
    re.IGNORECASE,
)
_POSTCODE = re.compile(r"zip([ _-]?code)?|post(al)?[ _-]?code|plz", re.IGNORECASE)
_AGE = re.compile(r"age|age[ _-]?(in[ _-]?)?years|alter", re.IGNORECASE)
_NARROW = 0.25
"""Middle nine tenths of a column, over its largest size: below, a model sees its values as one."""
_RARE = 0.1
"""Share of a class below which a model may well never name it."""


def _hints(
    table: Table,
    found: Sequence[Column],
    label: Sequence[str],
    writing: guess.Writing,
    texts: Sequence[str] = (),
) -> Iterator[str]:
    """All of them; `label` is the column that is likely to be it, if any.

    Where there are `texts`, these alone are learned from, and other columns need nothing.
    """
    yield from _rare_classes(table, label, writing.missing)
    if texts:
        return
    yield from _gaps(table, found, writing)
    numbers = [one.name for one in found if one.kind == "numeric" and not one.identifier]
    yield from _ranges(table, numbers, writing.decimal)
    for column in found:
        yield from _coarser(column)
    yield from _over_time(table, found)


def _gaps(table: Table, found: Sequence[Column], writing: guess.Writing) -> Iterator[str]:
    """Numbers, and dates, that may stand for gaps; those of a settings line are said there."""
    for column in found:
        values = sentinels(table.cells(column.name), writing.missing, writing.decimal)
        if values and (column.kind == "numeric" or "dates" in column.identifier):
            yield f"column {column.name!r}: {may_be_gaps(values)}"


def _ranges(table: Table, numbers: Sequence[str], decimal: str) -> Iterator[str]:
    narrow = [name for name in numbers if _is_narrow(table.cells(name), decimal)]
    ways = "what the field holds possible: scenario.scaling.columns.NAME=[LOW,HIGH]"
    if narrow:
        yield (
            f"numbers that vary by less than a quarter of their size ({some(narrow)}) need a "
            f"public range to be told apart, {ways}"
        )
    if rest := [name for name in numbers if name not in narrow]:
        yield f"numbers ({some(rest)}) may be learned better from a public range, {ways}"


def _is_narrow(cells: Cells, decimal: str) -> bool:
    values = cells.numbers(decimal)[cells.codes]
    values = values[np.isfinite(values)]
    if not len(values):
        return False
    low, high = np.quantile(values, [0.05, 0.95])
    return bool(high - low < _NARROW * max(abs(low), abs(high)))


def _rare_classes(table: Table, label: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
    for name in label:
        cells = table.cells(name)
        counts = np.where(cells.among(missing), 0, cells.counts)
        if rare := cells.texts((counts > 0) & (counts < _RARE * counts.sum())):
            key = f'"{rare[0]}"' if "=" in rare[0] else rare[0]
            yield (
                f"classes of {name!r} with less than a tenth of the records ({some(rare)}): a "
                "model may never name them; if the rest is to count for less, say how much by "
                f"public knowledge of how common they are (training.class_weights.{key}=WEIGHT)"
            )


def _coarser(column: Column) -> Iterator[str]:
    if _POSTCODE.fullmatch(column.name):
        yield (
            f"column {column.name!r}: a postcode narrows people down to a few; keep its "
            f"start (scenario.deidentify.prefixes.{column.name}=3)"
        )
    elif column.kind == "numeric" and _AGE.fullmatch(column.name):
        yield (
            f"column {column.name!r}: great ages are rare; bands tell less "
            f"(scenario.deidentify.bands.{column.name}=10)"
        )


def _over_time(table: Table, found: Sequence[Column]) -> Iterator[str]:
    """A table in long form: several rows a person, and a column that orders them."""
    most = len(table) / 2
    owners = [c.name for c in found if _OWNER.fullmatch(c.name) and c.distinct <= most]
    times = [c.name for c in found if _TIME.fullmatch(c.name)]
    if owners and times:
        yield (
            f"several rows for each {owners[0]!r}: if they are one record over time, choose "
            f"scenario.record={owners[0]} scenario.time={times[0]} model=sequence; otherwise rows "
            "of one person are trained on and tested on"
        )
