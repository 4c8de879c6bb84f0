"""What `fedlearn data check PATH` says about one's own data: what was understood, what is wrong.

Here is the choice between tables, texts and images, by what a file begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedlearn.core.errors import DataError
from fedlearn.data.check import images, language, texts
from fedlearn.data.check.report import Report
from fedlearn.data.check.roles import is_called
from fedlearn.data.check.tables import check_table
from fedlearn.data.tables import guess
from fedlearn.data.tables.content import read_text
from fedlearn.data.tables.delimited import parse_text, read_table
from fedlearn.data.tables.excel import is_excel, read_excel, sheets_note, sheets_of
from fedlearn.data.tables.heads import guess_separator, header_problem, holds_units
from fedlearn.data.tables.parquet import is_parquet, not_cells, read_parquet
from fedlearn.data.tables.table import Separator, Table
from fedlearn.data.texts.huggingface import is_saved
from fedlearn.data.texts.json_lines import Objects, is_lines, keys_of, read_objects
from fedlearn.data.texts.passages import objects_of


def check(path: Path) -> Report:
    """Inspects one's own data; problems are part of the report, with line numbers or file names.

    A table (CSV, Parquet or Excel), texts (a table with a column of them, a file of JSON
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
        aside = not_cells(path)
        table = read_parquet(path, aside=aside)
        return _as_what_it_holds(path, table, check_table(path, table, None, [], aside), [])
    if is_excel(path):
        return _checked_sheet(path)
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
    table, headless = _with_header(path, separator, encoding)
    if headless:
        names = [f"c{place}" for place in range(1, len(table.header) + 1)]
        written.append(f"scenario.names=[{','.join(names)}]")
        table = read_table(path, separator=separator, encoding=encoding, names=names)
    elif holds_units(table):
        written.append("scenario.header=units")
        table = read_table(path, separator=separator, encoding=encoding, header="units")
    report = check_table(path, table, separator, written)
    return _as_what_it_holds(path, table, report, written, headless)


def _as_what_it_holds(
    path: Path, table: Table, report: Report, written: Sequence[str], headless: Sequence[str] = ()
) -> Report:
    """A table by its report, or texts of classes, or of a language model, where it holds these."""
    rows = objects_of(table)
    if language.holds_language(rows):
        return language.check_language(path, rows, _sites_of(rows), written)
    if not report.texts:
        return replace(report, problems=(*headless, *report.problems))
    # Read as texts, only three of its columns matter.
    as_table = tuple(f"as a table (scenario=csv), {problem}" for problem in report.problems)
    as_texts = replace(report, hints=(*report.hints, *as_table), problems=tuple(headless))
    return texts.with_texts(as_texts, table, "text", written)


def _checked_sheet(path: Path) -> Report:
    """A sheet of Excel: the first, as a run reads it, where there are several."""
    sheets = sheets_of(path)
    written = [f"scenario.sheet={guess.quoted(sheets[0])}"] if len(sheets) > 1 else []
    table = read_excel(path, header="first")
    headless = header_problem(path, table)
    if headless:
        names = [f"c{place}" for place in range(1, len(table.header) + 1)]
        written.append(f"scenario.names=[{','.join(names)}]")
        table = read_excel(path, names=names)
    elif holds_units(table):
        written.append("scenario.header=units")
        table = read_excel(path, header="units")
    report = _as_what_it_holds(path, table, check_table(path, table, None, written), written,
                               headless)  # fmt: skip
    return replace(report, facts=(*sheets_note(path), *report.facts))


def _with_header(path: Path, separator: Separator, encoding: str) -> tuple[Table, list[str]]:
    """The table, and what is said where its first line is a record.

    Such a line may well hold a value twice, or none, as no header does.
    """
    try:
        table = read_table(path, separator=separator, encoding=encoding, header="first")
    except DataError:
        table = parse_text(path, read_text(path, encoding), separator)
        if not (headless := header_problem(path, table)):
            raise
        return table, headless
    return table, header_problem(path, table)


def _texts(
    path: Path, table: Table, facts: tuple[str, ...], scenario: str, written: Sequence[str] = ()
) -> Report:
    """A file or folder that only a scenario of texts reads."""
    report = replace(
        check_table(path, table, None, []), kind="texts", facts=facts, hints=(), problems=()
    )
    if report.texts:
        return texts.with_texts(report, table, scenario, written)
    there = ", ".join(table.header) or "none"
    problem = f"{path}: no column could be the text, which has several words; there are {there}"
    return replace(report, problems=(problem,))


def _sites_of(rows: Objects) -> list[str]:
    """The keys of objects that are called as sites are."""
    return [key for key in keys_of(rows) if is_called(key, "site")]
