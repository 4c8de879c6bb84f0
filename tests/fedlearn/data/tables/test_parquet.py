from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.check.files import check
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.parquet import from_arrow, is_parquet, read_parquet
from fedlearn.tasks import TableInput

from ..reading import loaded

COLUMNS = {
    "age": pa.array([20, 90, 55, None, 30, 40], pa.float64()),
    "colour": pa.array(["red", "blue", None, "red", "green", "red"]).dictionary_encode(),
    "dose": pa.array([1.5, float("nan"), 3, 4, 5, 6.5]),
    "hospital": pa.array(["north", "north", "south", "south", "north", "south"]),
    "outcome": pa.array([True, False, True, False, True, False]),
}
TEXT = """age,colour,dose,hospital,outcome
20,red,1.5,north,True
90,blue,,north,False
55,,3,south,True
,red,4,south,False
30,green,5,north,True
40,red,6.5,south,False
"""


def write(folder: Path, columns: dict[str, pa.Array] = COLUMNS) -> Path:
    path = folder / "my.parquet"
    parquet.write_table(pa.table(columns), path)
    return path


def test_parquet__gives_the_records_that_the_csv_file_gives(tmp_path: Path) -> None:
    text = tmp_path / "my.csv"
    text.write_text(TEXT)
    pools = [
        loaded(Csv(path=str(path), label="outcome", site="hospital"))
        for path in (write(tmp_path), text)
    ]
    assert pools[0].task == pools[1].task
    assert pools[0].sha256 == pools[1].sha256
    np.testing.assert_array_equal(pools[0].natural_site, pools[1].natural_site)


def test_parquet__has_the_same_numbers_whatever_the_decimal_sign(tmp_path: Path) -> None:
    numbers = {"x": pa.array([0.5, -1e-7, 3.0, None] * 3), "whole": pa.array([1, 2, 3, 4] * 3)}
    path = write(tmp_path, {**numbers, "outcome": pa.array(["yes", "no", "no"] * 4)})
    point = Csv(path=str(path), label="outcome")
    configs = point, replace(point, decimal=",")
    pools = [loaded(config) for config in configs]
    assert pools[0].task == pools[1].task
    assert pools[0].sha256 == pools[1].sha256


def test_parquet__writes_every_plain_type_as_text(tmp_path: Path) -> None:
    day = datetime.date(2020, 2, 29)
    columns = {
        "whole": pa.array([2**53 + 1, -1]),
        "large": pa.array([1e300, 0.1]),
        "day": pa.array([day, None]),
        "moment": pa.array([datetime.datetime(2020, 2, 29, 12), None]),
        "nothing": pa.nulls(2),
    }
    table = read_parquet(write(tmp_path, columns))
    assert [table.column(name) for name in table.header] == [
        [str(2**53 + 1), "-1"],
        ["1e+300", "0.1"],
        ["2020-02-29", ""],
        ["2020-02-29T12:00:00", ""],
        ["", ""],
    ]
    assert table.places([0, 1]) == "rows 1, 2"


@pytest.mark.parametrize("rows", [3, 1000])
def test_parquet__has_the_text_of_every_value_whatever_holds_it(tmp_path: Path, rows: int) -> None:
    """Blocks of a file, dictionaries and gaps are how values are held, not what they are."""
    floats = [0.5, -0.0, float("inf"), None, float("nan"), -99.0, 2.0**53]
    columns = {
        "floats": pa.array(floats),
        "coded": pa.array(floats).dictionary_encode(),
        "whole": pa.array([1, None, 2, 3, -99, 2, 1]),
        "large": pa.array([2**53, None, 2**60 + 1, 3, -99, 2, 1]),
        "words": pa.array(["b", None, " a", "a", "", "b", "0.5"]).dictionary_encode(),
    }
    path = tmp_path / "my.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=rows)
    table = read_parquet(path, ",")
    texts = ["0,5", "0", "inf", "", "", "-99", "9007199254740992,0"]
    assert table.column("floats") == table.column("coded") == texts
    assert table.column("whole") == ["1", "", "2", "3", "-99", "2", "1"]
    assert table.column("large") == [str(2**53), "", str(2**60 + 1), "3", "-99", "2", "1"]
    assert table.column("words") == ["b", "", "a", "a", "", "b", "0.5"]
    gaps = [table.cells(name) for name in ("floats", "whole", "large")]
    assert [cells.rows(cells.among(["", "-99"])).tolist() for cells in gaps] == [
        [3, 4, 5],
        [1, 4],
        [1, 4],
    ]


def test_parquet__refuses_what_is_no_table(tmp_path: Path) -> None:
    nested = {"a": pa.array([[1], [2]]), "b": pa.array([b"x", b"y"]), "c": pa.array([1, 2])}
    with pytest.raises(DataError) as caught:
        read_parquet(write(tmp_path, nested))
    assert [line.split(": ", 1)[1] for line in str(caught.value).splitlines()] == [
        "column 'a' holds list<element: int64>, which is no number and no category; drop it "
        "(scenario.drop)",
        "column 'b' holds binary, which is no number and no category; drop it (scenario.drop)",
    ]
    with pytest.raises(DataError, match="holds a header and no records"):
        read_parquet(write(tmp_path, {"a": pa.array([], pa.int64())}))


def test_parquet__that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert is_parquet(path)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_parquet(path)


def test_check__understands_parquet_and_counts_rows(tmp_path: Path) -> None:
    ages = pa.array(["20", "30", "forty", *map(str, range(50, 90))])
    mails = pa.array([f"p{i}@example.org" for i in range(43)])
    report = check(write(tmp_path, {"age": ages, "contact": mails, "zip": ages}))
    assert report.separator is None
    assert report.records == 43
    assert report.problems[0] == "column 'age': row 3: not a number"
    assert "its values look like e-mail addresses; drop it" in report.problems[1]
    assert any("scenario.deidentify.prefixes.zip=3" in hint for hint in report.hints)


def test_parquet__has_times_to_the_microsecond_and_refuses_those_that_are_no_dates(
    tmp_path: Path,
) -> None:
    moments = pa.array([1_000_000_001, None, 2**40], pa.timestamp("ns"))
    table = read_parquet(write(tmp_path, {"at": moments, "x": pa.array([1, 2, 3])}))
    assert table.column("at") == ["1970-01-01T00:00:01", "", "1970-01-01T00:18:19.511627"]
    far = pa.array([2**62], pa.timestamp("us"))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_parquet(write(tmp_path, {"at": far, "x": pa.array([1])}))


def test_check__sees_decimal_commas_in_text_beside_numbers_that_are_numbers(tmp_path: Path) -> None:
    count = 60
    columns = {f"n{i}": pa.array(np.linspace(0, 1, count) ** (i + 1)) for i in range(3)}
    columns["dose"] = pa.array([f"{i},5" for i in range(count)])
    columns["died"] = pa.array(["yes", "no"] * (count // 2))
    report = check(write(tmp_path, columns))
    assert "scenario.decimal=','" in report.settings
    assert {one.name: one.kind for one in report.columns}["dose"] == "numeric"


def test_parquet__that_holds_texts_in_another_encoding_is_refused(tmp_path: Path) -> None:
    places, letters = np.array([0, 2, 4], np.int32), b"abc\xff"
    name = pa.StringArray.from_buffers(2, pa.py_buffer(places), pa.py_buffer(letters))
    path = write(tmp_path, {"name": name, "outcome": pa.array(["yes", "no"])})
    with pytest.raises(DataError, match="column 'name' holds bytes that are not UTF-8"):
        read_parquet(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_codes__that_are_texts_stay_categories(tmp_path: Path, kind: pa.DataType) -> None:
    path, n = tmp_path / "a.parquet", 40
    codes = pa.array([["5411", "0742", "5812", "742"][i % 4] for i in range(n)]).cast(kind)
    prices = pa.array([f"{i * i % 17}.5" for i in range(n)])
    label = pa.array(["yes", "no"] * (n // 2))
    parquet.write_table(pa.table({"mcc": codes, "price": prices, "ill": label}), path)
    pool = loaded(Csv(path=str(path), label="ill"))
    assert isinstance(pool.task.input, TableInput)
    assert pool.task.input.names == ("price", "mcc")
    assert pool.task.input.cardinalities == (5,)  # 0742 and 742 are two codes
    as_numbers = loaded(Csv(path=str(path), label="ill", numeric=("mcc",))).task.input
    assert isinstance(as_numbers, TableInput)
    assert as_numbers.cardinalities == ()


def test_names__may_look_like_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{[5411, 5812][i % 2]},{20 + i * i % 31},{i % 3 % 2}" for i in range(40)]
    path.write_text("mcc,2019,2020\n" + "\n".join(rows))
    words = [f"scenario.path={path}", "scenario=csv", "scenario.label=2020",
             "scenario.categories.mcc=[5411,5812]", "scenario.classes=[0,1]"]  # fmt: skip
    scenario = compose(words).scenario
    assert isinstance(scenario, Csv)
    assert (scenario.label, scenario.classes) == ("2020", ("0", "1"))
    assert scenario.categories == {"mcc": ("5411", "5812")}
    shape = loaded(scenario).task.input
    assert isinstance(shape, TableInput)
    assert shape.cardinalities == (3,)
    with pytest.raises(ConfigError, match=r"classes.0=true: must be a valid string"):
        compose([*words, "scenario.classes=[true,1]"])


def test_parquet__with_lists_is_read_where_they_are_dropped(tmp_path: Path) -> None:
    rows = 40
    columns = {
        "emb": pa.array([[0.5, 1.0]] * rows),
        "info": pa.array([{"a": 1}] * rows),
        "blob": pa.array([b"\xff\xfe"] * rows),
        "stay": pa.array([i * 60_000_000 for i in range(rows)], pa.duration("us")),
        "age": pa.array(range(20, 20 + rows)),
        "ill": pa.array(["yes", "no"] * (rows // 2)),
    }
    path = write(tmp_path, columns)
    report = check(path)
    assert report.problems[1:] == ()  # that ages count the rows
    assert "scenario.drop=[age,emb,info,blob]" in report.settings
    table = read_parquet(path, aside=["emb", "info", "blob"])
    assert table.column("emb") == [""] * rows
    assert table.cells("stay").numbers(".").tolist() == [60.0 * i for i in range(rows)]
    with pytest.raises(DataError, match="column 'emb' holds list"):
        read_parquet(path, aside=["info", "blob"])


def test_parquet__has_names_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": pa.array([1, 2]), "b": pa.array(["x", "y"])})
    with pytest.raises(ConfigError, match=r"scenario.names: .*names its columns itself"):
        loaded(Csv(path=str(path), label="b", names=("c", "d")))


def test_column__that_is_dropped_decides_nothing_by_its_values(tmp_path: Path) -> None:
    """What is emptied is so by its type; a text that is none changes no other record."""
    sound = {"t": pa.array(["a", "b", "c"]), "x": pa.array([1, 2, 3])}
    odd = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    tables = [from_arrow(Path("t"), pa.table(columns), by_record=True, aside=["t"])
              for columns in (sound, {**sound, "t": odd})]  # fmt: skip
    for row in (0, 2):
        assert tables[0].column("t")[row] == tables[1].column("t")[row]
