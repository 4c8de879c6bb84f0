"""A Parquet file as the table that a CSV file gives, so that all roles work alike.

Numbers stay numbers, and are text only where a column is taken by its text (as
categories, a label, or what stands for a gap): a whole number then has no `.0`,
which it gets where a column has gaps. Dates are written as ISO 8601; a null is
an empty cell. Lists, structures and binary data are no features and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlearn.core.errors import DataError
from fedlearn.data import memory
from fedlearn.data.tables.cells import Cells, encode, encode_numbers, join, number_text
from fedlearn.data.tables.table import Table, header_problems

if TYPE_CHECKING:
    import pyarrow

SIGNATURE = b"PAR1"


def is_parquet(path: Path) -> bool:
    """Whether the file begins as a Parquet file does, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False  # reading it as text says what is wrong


def read_parquet(path: Path, decimal: str = ".") -> Table:
    """The table in `path`; its `lines` count the records from 1.

    Raises:
        DataError: pyarrow is not installed, the file is damaged, holds no
            records, would not fit into memory, or has columns that are no
            table's. All problems of one stage are listed.

    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path}: is a Parquet file, and reading it needs pyarrow; run "
            "pip install 'fedlearn[parquet]', or save it as CSV"
        ) from None
    try:
        shape = parquet.read_metadata(path)
        memory.require(path, shape.num_rows * shape.num_columns * memory.CELL_BYTES)
        whole = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({_first_line(error)})") from error
    header = tuple(name.strip() for name in whole.column_names)
    problems = [
        *header_problems(path, header, "the header"),
        *(
            f"{path}: column {field.name!r} holds {field.type}, which is no number and no category"
            for field in whole.schema
            if reader_of(field.type) is None
        ),
    ]
    if problems:
        raise DataError("\n".join(problems))
    if not whole.num_rows:
        raise DataError(f"{path}: holds a header and no records")
    columns = tuple(_cells(column, decimal) for column in whole.columns)
    lines = range(1, whole.num_rows + 1)
    return Table(header=header, columns=columns, lines=lines, counted="row")


def _cells(column: pyarrow.ChunkedArray, decimal: str) -> Cells:
    from pyarrow import types

    whole = types.is_integer(column.type)
    if whole or types.is_floating(column.type):
        numbers = column.to_numpy().astype(np.float64)  # NaN where there is no value
        if not (whole and (np.abs(numbers) >= 2**53).any()):  # else digits would be lost
            return encode_numbers(numbers, decimal)
    return join([_texts(chunk, decimal) for chunk in column.chunks])


def _texts(chunk: pyarrow.Array, decimal: str) -> Cells:
    from pyarrow import types

    encoded = chunk if types.is_dictionary(chunk.type) else chunk.dictionary_encode()
    kind = encoded.type.value_type
    write = reader_of(kind)
    if write is None:
        raise RuntimeError("a column that cannot be read was not refused")
    values = encoded.dictionary.to_pylist()
    texts = ["" if value is None else write(value) for value in values]
    if types.is_floating(kind) or types.is_decimal(kind):
        texts = [text.replace(".", decimal) for text in texts]
    codes = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return encode([*texts, ""], codes.astype(np.int32))


def reader_of(kind: pyarrow.DataType) -> Callable[[Any], str] | None:
    """How a value of this type is written as text; None for what no table holds."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return reader_of(kind.value_type)
    if types.is_floating(kind):
        return number_text
    if types.is_temporal(kind) and not types.is_duration(kind):
        return _moment
    plain = (
        types.is_integer(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_null(kind)
    )
    return str if plain else None


def _moment(value: Any) -> str:
    return str(value.isoformat())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
