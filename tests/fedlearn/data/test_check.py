from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlearn.data.check import check
from fedlearn.data.csv import Csv, load
from fedlearn.errors import DataError

GOOD = """age;hospital;sex;outcome
61;north;m;1
50;south;f;0
;north;f;1
50;south;f;0
"""


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_check__understands_a_good_table(tmp_path: Path) -> None:
    report = check(write(tmp_path, GOOD))
    assert report.problems == ()
    assert report.separator == "semicolon"
    assert report.records == 4
    assert [(column.name, column.missing) for column in report.columns] == [
        ("age", 1),
        ("hospital", 0),
        ("sex", 0),
        ("outcome", 0),
    ]
    assert report.labels[0] == "outcome"
    assert report.sites[0] == "hospital"
    assert report.duplicates == (5,)


def test_check__lists_identifiers_and_cells_with_their_lines(tmp_path: Path) -> None:
    ages = [f"{20 + 3 * i},p{i}@example.org,word {i}," for i in range(60)]
    text = "\n".join(["age,contact,text,void", *ages, "unknown,x@example.org,word,"])
    report = check(write(tmp_path, text))
    assert [problem.split(":")[0] for problem in report.problems] == [
        "column 'age'",
        "column 'contact'",
        "column 'text'",
        "column 'void'",
    ]
    assert "line 62: not a number" in report.problems[0]
    assert "e-mail addresses" in report.problems[1]


def test_check__reports_an_unreadable_file_instead_of_failing(tmp_path: Path) -> None:
    assert "is a folder" in check(tmp_path).problems[0]
    assert "is empty" in check(write(tmp_path, "")).problems[0]
    report = check(write(tmp_path, "a,b,a\n1,2,3\n"))
    assert "more than once" in report.problems[0]
    assert report.columns == ()


def test_check__agrees_with_what_loading_refuses(tmp_path: Path) -> None:
    path = write(tmp_path, "name,age,y\nann,30,1\nbob,40,0\ncid,55,1\ndora,60,0\n")
    assert len(check(path).problems) == 1
    with pytest.raises(DataError, match="column 'name': its name says a person's name"):
        load(Csv(path=str(path), label="y"), np.random.default_rng(0))
