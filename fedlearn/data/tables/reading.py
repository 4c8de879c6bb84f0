"""A table from any file that holds one: text, Parquet or Excel, as its first bytes say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.delimited import read_table
from fedlearn.data.tables.excel import is_excel, read_excel
from fedlearn.data.tables.heads import Header
from fedlearn.data.tables.parquet import is_parquet, read_parquet
from fedlearn.data.tables.table import Separator, Table


def read_file(
    path: Path,
    separator: Separator,
    encoding: str,
    decimal: Literal[".", ","] = ".",
    *,
    by_record: bool = False,
    names: Sequence[str] = (),
    header: Header = "look",
    aside: Collection[str] = (),
    sheet: str = "",
) -> Table:
    """The table in a file; raises as the reader of its form does.

    Columns `aside` may hold anything; what is no cell of a table is empty there. `sheet` is that of
    an Excel file; empty: the first that is not hidden.

    Raises:
        ConfigError: settings of a header, for a file that has its own, or of a sheet, for one that
            has none.
    """
    if is_excel(path):
        return read_excel(path, sheet, decimal, by_record=by_record, names=names, header=header)
    if sheet:
        raise ConfigError(
            f"scenario.sheet: {path} is no Excel file and has no sheets; leave it out"
        )
    if is_parquet(path):
        if names or header != "look":
            word = "names" if names else "header"
            raise ConfigError(
                f"scenario.{word}: {path} is Parquet, which names its columns itself; leave it out"
            )
        return read_parquet(path, decimal, by_record=by_record, aside=aside)
    return read_table(
        path,
        separator=separator,
        encoding=encoding,
        by_record=by_record,
        names=names,
        header=header,
    )
