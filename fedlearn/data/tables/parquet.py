"""Tables from Parquet, and from Arrow as a program has it: numbers stay numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from fedlearn.core.errors import DataError, refuse
from fedlearn.data import memory
from fedlearn.data.tables.cells import (
    TEXT,
    Cells,
    as_arrow,
    as_numpy,
    clean_text,
    encode,
    encode_numbers,
    scalar,
)
from fedlearn.data.tables.table import Table, header_problems, with_records

_PARQUET = b"PAR1"
_FEW = 50
"""Different texts that may be codes, though all are whole numbers."""


def is_parquet(path: Path) -> bool:
    """Whether the file begins as a Parquet file does, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError:
        return False  # reading it as text says what is wrong


def not_cells(path: Path) -> tuple[str, ...]:
    """The columns of a Parquet file that hold what no cell of a table does.

    Raises:
        DataError: it cannot be read.
    """
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: cannot be read as Parquet ({reason})") from error
    return tuple(clean_text(one.name) for one in schema if not holds_cells(one.type))


def read_parquet(
    path: Path, decimal: str = ".", *, by_record: bool = False, aside: Collection[str] = ()
) -> Table:
    """The table in `path`; its `lines` count the records from 1.

    Numbers stay numbers, and are text only where a column is taken by its text (as
    categories, a label, or what stands for a gap): a whole number then has no `.0`.
    Dates are written as ISO 8601, to the microsecond, durations as seconds; a null is an empty
    cell. In columns `aside` are empty cells where their values are no cells of a table.

    Raises:
        DataError: the file is damaged, holds no records (which it may, read `by_record`), would
            not fit into memory, or has columns that are no table's. All problems of one stage are
            listed.

    """
    from pyarrow import parquet

    try:
        shape = parquet.read_metadata(path)
        memory.require(path, shape.num_rows * shape.num_columns * memory.CELL_BYTES)
        read = parquet.ParquetFile(path).read()
        return from_arrow(path, read, decimal, by_record=by_record, aside=aside)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: cannot be read as Parquet ({reason})") from error


def from_arrow(
    path: Path,
    read: pa.Table,
    decimal: str = ".",
    *,
    by_record: bool = False,
    aside: Collection[str] = (),
) -> Table:
    """A table of Arrow's as `read_parquet` has it; `path` names it in messages.

    Raises:
        DataError: it holds no records, or has columns that are no table's.
        ArrowException, ValueError, OverflowError: a value cannot be held.
    """
    header = tuple(map(clean_text, read.column_names))
    read = _emptied(read, [i for i, name in enumerate(header) if name in aside])
    problems = [
        *header_problems(path, header, "the header"),
        *(
            f"{path}: column {one.name!r} holds {one.type}, which is no number and no category; "
            "drop it (scenario.drop)"
            for one in read.schema
            if not holds_cells(one.type)
        ),
    ]
    if not by_record:  # else they are characters of no meaning
        problems += [
            f"{path}: column {name!r} holds bytes that are not UTF-8"
            for name, column in zip(header, read.columns, strict=True)
            if name not in aside and not _is_sound(column)
        ]
    columns = () if problems else tuple(_cells(one, decimal, by_record) for one in read.columns)
    lines = np.arange(1, read.num_rows + 1)
    table = Table(header=header, columns=columns, lines=lines, counted="row")
    if by_record:
        refuse(problems)
        return table
    return with_records(path, table, problems)


def holds_cells(kind: pa.DataType) -> bool:
    """Whether values of this type are cells of a table; lists, structures and bytes are not."""
    if types.is_dictionary(kind):
        return holds_cells(kind.value_type)
    texts = _holds_texts(kind)
    plain = types.is_boolean(kind) or types.is_null(kind) or types.is_decimal(kind)
    measured = _is_number(kind) or _is_moment(kind) or types.is_duration(kind)
    return bool(texts or plain or measured)


def _holds_texts(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_moment(kind: pa.DataType) -> bool:
    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind))


def _seconds(values: pa.Array) -> pa.Array:
    """Durations as seconds, to the microsecond."""
    whole = values.cast(pa.duration("us"), safe=False).cast(pa.int64())
    return pc.divide(whole.cast(pa.float64(), safe=False), scalar("1e6").cast(pa.float64()))


def _emptied(read: pa.Table, places: Sequence[int]) -> pa.Table:
    """The table without the values of those columns whose type is no table's.

    A type is the file's, and no record's: which cells are looked at no record decides.
    """
    for place in places:
        if not holds_cells(read.schema.field(place).type):
            empty = pa.nulls(read.num_rows, pa.null())
            read = read.set_column(place, read.column_names[place], empty)
    return read


def _is_sound(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether texts are UTF-8, as Arrow has them: whoever wrote a file may not have looked."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _cells(column: pa.ChunkedArray, decimal: str, by_record: bool) -> Cells:
    values = column.combine_chunks()
    declared = types.is_dictionary(values.type)
    if declared:
        values = values.dictionary_decode()
    if not _is_sound(values):
        content = values.cast(pa.large_binary()).to_pylist()
        values = as_arrow([(cell or b"").decode("utf-8", "replace") for cell in content])
    if types.is_duration(values.type):
        values = _seconds(values)
    if _is_number(values.type):
        numbers = pc.fill_null(
            values.cast(pa.float64(), safe=False), scalar("nan").cast(pa.float64())
        )
        found = as_numpy(numbers)
        if types.is_floating(values.type) or not (np.abs(found) >= 2**53).any():
            return encode_numbers(found, decimal)  # else digits would be lost
    own = encode(pc.fill_null(_texts(values, decimal, by_record), scalar("")))
    return replace(own, is_text=_holds_texts(values.type) and (declared or are_codes(own)))


def are_codes(cells: Cells) -> bool:
    """Whether texts are whole numbers as codes are: of few different values, or with a zero in
    front. Other numbers that were written as texts are numbers."""
    plain = pc.match_substring_regex(cells.values, r"^\d*$")
    padded = pc.match_substring_regex(cells.values, r"^0\d")
    few = len(cells.values) <= _FEW or pc.any(padded, min_count=0).as_py()
    return bool(few and pc.all(plain, min_count=0).as_py())


def _texts(values: pa.Array, decimal: str, by_record: bool) -> Any:
    if types.is_boolean(values.type):
        return pc.if_else(values, scalar("True"), scalar("False"))
    if types.is_decimal(values.type):
        return pc.replace_substring(values.cast(pa.string()), ".", decimal).cast(TEXT)
    if not _is_moment(values.type):
        return values.cast(TEXT)
    if types.is_timestamp(values.type):  # what Python holds
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    coded = values.dictionary_encode()
    moments = [_moment_text(moment, by_record) for moment in coded.dictionary]
    return as_arrow(moments).take(coded.indices)


def _moment_text(moment: pa.Scalar, by_record: bool) -> str:
    """As ISO 8601 writes it; in years that Python does not know a gap, or its error."""
    try:
        return str(moment.as_py().isoformat())
    except (ValueError, OverflowError):
        if by_record:
            return ""
        raise
