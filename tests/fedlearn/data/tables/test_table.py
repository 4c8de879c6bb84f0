from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.delimited import read_table
from fedlearn.data.tables.guess import encoding_of
from fedlearn.data.tables.heads import guess_separator
from fedlearn.data.tables.table import SEPARATORS, Table, duplicates, some_lines
from tests.effort import examples


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(table: Table) -> list[tuple[str, ...]]:
    """The rows as they stand in the file, spaces included."""
    columns = [own.values.take(pa.array(own.codes)).to_pylist() for own in table.columns]
    return list(zip(*columns, strict=True))


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5)


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(2, 4).flatmap(
        lambda width: st.lists(st.tuples(*[CELL] * width), min_size=1, max_size=5)
    ),
    st.sampled_from(list(SEPARATORS)),
)
def test_table__reads_back_what_the_csv_writer_wrote(
    tmp_path: Path, rows: list[tuple[str, ...]], character: str
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=character, quoting=csv.QUOTE_ALL)
    header = [f"c{i}" for i in range(len(rows[0]))]
    writer.writerows([header, *rows])
    table = read_table(write(tmp_path, buffer.getvalue()), separator=SEPARATORS[character])
    assert table.header == tuple(header)
    assert rows_of(table) == rows


def test_table__knows_the_line_of_every_row_past_blank_lines_and_line_breaks(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, '\ufeffa,b\r\n1,2\r\n\r\n"x\r\ny",3\r\n4,5\r\n')
    table = read_table(path, separator="comma")
    assert table.header == ("a", "b")
    assert list(table.lines) == [2, 4, 6]
    assert table.column("a") == ["1", "x\r\ny", "4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a,b\n", "a header and no records"),
        (b"a;b\n1;2\n", r"line 1: only one column.*scenario\.separator=semicolon"),
        (b"a,b,a\n1,2,3\n", "line 1: column 'a' is there more than once"),
        (b"a,,b\n1,2,3\n", "line 1: column 2 has no name"),
        (b"a,b\n1,2\n1,2,3\n4\n", "lines 3, 4: not 2 cells"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: .*is a quote left open"),
        (b"a,b\n1,2\n3,M\xfcller\n", r"line 3: byte 0xfc is not utf-8; set scenario\.encoding"),
        (b"PK\x03\x04rest", "is a zip file"),
        ("a,b\n1,2\n".encode("utf-16"), "encoding=utf-16"),
    ],
)
def test_table__says_what_is_wrong_with_a_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, content), separator="comma")


def test_table__reads_other_encodings_when_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n1,Müller\n".encode("cp1252"))
    table = read_table(path, separator="comma", encoding="cp1252")
    assert rows_of(table) == [("1", "Müller")]
    path = write(tmp_path, "a,b\n1,Müller\n".encode("utf-16"))
    table = read_table(path, separator="comma", encoding="utf-16")
    assert rows_of(table) == [("1", "Müller")]
    with pytest.raises(ConfigError, match=r"scenario\.encoding=martian"):
        read_table(path, separator="comma", encoding="martian")


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_table__is_read_out_of_gzip(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress("a,b\n1,Müller\n".encode(encoding)))
    assert encoding_of(path) == encoding
    assert rows_of(read_table(path, separator="comma", encoding=encoding)) == [("1", "Müller")]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_table(path, separator="comma")


def test_table__that_is_a_folder_or_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path, separator="comma")
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "none.csv", separator="comma")


def test_guess_separator__takes_the_one_of_the_header() -> None:
    assert guess_separator("a;b;c,d\n1,2,3,4") == "semicolon"
    assert guess_separator("\na\tb\n") == "tab"
    assert guess_separator("alone") == "comma"


def test_some_lines__shows_a_few_and_counts_the_rest() -> None:
    assert some_lines([3]) == "line 3"
    assert some_lines(list(range(1, 9))) == "lines 1, 2, 3, 4, 5 and 3 more"


def test_duplicates__are_found_apart_from_columns_set_aside(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,site\n1,2,x\n1,2,y\n1,2,x\n3,4,x\n")
    table = read_table(path, separator="comma")
    assert duplicates(table) == [2]
    assert duplicates(table, aside=("site",)) == [1, 2]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "a "]), min_size=3, max_size=3), max_size=20))
def test_duplicates__are_the_rows_that_were_seen_before(rows: list[list[str]]) -> None:
    cells = [encode([row[i] for row in rows]) for i in range(3)]
    table = Table(header=("x", "y", "z"), columns=tuple(cells), lines=np.arange(len(rows)))
    assert duplicates(table) == [i for i, row in enumerate(rows) if row in rows[:i]]


def test_table__of_many_rows_is_read_in_order(tmp_path: Path) -> None:
    rows = [(str(i), "ab"[i % 2], str(i % 5000)) for i in range(10_000)]
    path = write(tmp_path, "\n".join(map(",".join, [("i", "x", "y"), *rows])))
    table = read_table(path, separator="comma")
    assert rows_of(table) == rows
    assert list(table.lines) == list(range(2, 10_002))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a,b,\n1,2,\n3\n4,5,\n", "line 3: not 2 cells"),
        (b"a,b\n1,2\n3,4,\n", "line 3: not 2 cells"),
        (b"a,b,c\n1,2\n3,4,\n5,6,7,8\n", "lines 2, 4: not 3 cells"),
    ],
)
def test_table__rows_that_do_not_fit_the_header_are_named(
    tmp_path: Path, content: bytes, lines: str
) -> None:
    with pytest.raises(DataError, match=lines):
        read_table(write(tmp_path, content), separator="comma")


def test_table__more_separators_than_the_header_ends_with_are_no_cells(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, b"a,b,\n1,2, ,,\n3,4\n"), separator="comma")
    assert rows_of(table) == [("1", "2"), ("3", "4")]


def test_table__separators_at_the_end_of_every_line_are_no_column(tmp_path: Path) -> None:
    path = write(tmp_path, b"a,b,,\n1,2,,\n3,,,\n")
    table = read_table(path, separator="comma")
    assert table.header == ("a", "b")
    assert rows_of(table) == [("1", "2"), ("3", "")]
    with pytest.raises(DataError, match="line 1: column 3 has no name"):
        read_table(write(tmp_path, b"a,b,\n1,2,\n3,,5\n"), separator="comma")


def test_table__reads_quotes_in_cells_as_others_write_them(tmp_path: Path) -> None:
    """Within quotes each is there twice (RFC 4180); in a cell without, it is a sign like others."""
    lines = [b'1,5" pipe', b'2,say "hi"', b'3,"say ""hi"", then go"', b'4,"two\nlines"', b'5,""']
    table = read_table(write(tmp_path, b"a,b\n" + b"\n".join(lines) + b"\n"), separator="comma")
    assert table.column("b") == ['5" pipe', 'say "hi"', 'say "hi", then go', "two\nlines", ""]
    assert table.lines.tolist() == [2, 3, 4, 5, 7]


ODD = ['"Miller" GmbH', '"say "hi" now"', '"a, b" ', '"open', '"', '"a "b, c" d"']


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_table__with_an_odd_quote_loses_that_row_alone_read_by_record(
    tmp_path: Path, odd: str, place: int
) -> None:
    others = ['"x, y",1', "plain,2", '"say ""so""",3', '"two\nlines",4']
    rows = [*others[:place], f"{odd},9", *others[place:]]
    path = write(tmp_path, "\n".join(["a,b", *rows, ""]).encode())
    table = read_table(path, separator="comma", by_record=True)
    assert rows_of(table) == [("x, y", "1"), ("plain", "2"), ('say "so"', "3"), ("two\nlines", "4")]
    with pytest.raises(DataError, match=f"line {2 + place + (place == 4)}: .*twice"):
        read_table(path, separator="comma")


def test_table__whose_header_has_an_odd_quote_is_none(tmp_path: Path) -> None:
    path = write(tmp_path, b'"a" x,b\n1,2\n')
    with pytest.raises(DataError, match="line 1: "):
        read_table(path, separator="comma", by_record=True)
