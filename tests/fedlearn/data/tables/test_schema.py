from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.config import decode, encode
from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.data.partition import Iid, Natural
from fedlearn.data.pool import deal
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges
from fedlearn.data.tables.schema import (
    OTHER_UNITS,
    Schema,
    differences,
    digest_of,
    magnitude_of,
    reported,
    suspicions,
)

from ..reading import loaded

NORTH = ["height,sex,dose,ill"] + [
    f"{150 + i * 3 % 40},{'mf'[i % 2]},{i % 7}.5,{int(i % 3 == 0)}" for i in range(40)
]


def schema_of(folder: Path, lines: list[str], **settings: Any) -> Schema:
    """What a site with this file would tell."""
    path = folder / "own.csv"
    path.write_text("\n".join(lines))
    pool = loaded(Csv(path=str(path), label="ill", **settings))
    (site,) = deal(pool, {"own": np.arange(len(pool))}).values()
    return site.schema


def changed(old: str, new: str) -> list[str]:
    return [line.replace(old, new) for line in NORTH]


def test_schema__of_equal_files_is_equal_and_travels(tmp_path: Path) -> None:
    schema = schema_of(tmp_path, NORTH)
    assert schema == schema_of(tmp_path, NORTH)
    assert [(column.name, column.kind, column.categories) for column in schema] == [
        ("height", "numeric", 0),
        ("dose", "numeric", 0),
        ("sex", "categorical", 2),
    ]
    assert decode(Schema, encode(schema)) == schema  # type: ignore[arg-type]
    assert differences({"north": schema, "south": schema, "images": ()}) == []
    assert suspicions({"north": schema, "south": schema}) == []


def test_schema__holds_no_value_of_the_table(tmp_path: Path) -> None:
    lines = [line.replace("m", "secretly") for line in NORTH]
    text = encode(schema_of(tmp_path, lines))
    assert "secretly" not in text
    assert not any(f"{150 + i}" in text for i in range(40))
    private = reported(schema_of(tmp_path, NORTH), private=True)
    assert [column.magnitude for column in private] == [None] * 3
    # Under privacy a table of other numbers in the same columns tells the same.
    other = changed(".5,", "9.75,")
    assert private == reported(schema_of(tmp_path, other), private=True)
    assert schema_of(tmp_path, NORTH) != schema_of(tmp_path, other)


def test_differences__name_what_is_missing_and_where(tmp_path: Path) -> None:
    north = schema_of(tmp_path, NORTH)
    south = schema_of(tmp_path, [line.split(",", 1)[1] for line in NORTH])
    (found,) = differences({"north": north, "east": north, "south": south})
    assert found.startswith("column 'height': is missing at south and there at east, north")


def test_differences__name_kinds_categories_and_gaps(tmp_path: Path) -> None:
    sites = {
        "east": schema_of(tmp_path, NORTH),
        "north": schema_of(tmp_path, NORTH),
        "south": schema_of(tmp_path, changed(",f,", ",d,")),
        "west": schema_of(tmp_path, changed("0.5,", "NA,")),
        "words": schema_of(tmp_path, [line.replace(".5,", " mg,") for line in NORTH]),
    }
    assert differences(sites) == [
        "column 'dose': holds categories at words and numbers at east, north, south, west; name it "
        "in scenario.numeric or scenario.categories",
        "column 'sex': has other categories at south (2) than at east, north, west, words (2); "
        "name them in scenario.categories.sex, and where they are written otherwise say so "
        "(data.map.sex of the site file)",
    ]
    del sites["words"], sites["south"]
    (found,) = differences(sites)
    assert found.startswith("column 'dose': has gaps at west and none at east, north")
    assert "scenario.gaps" in found


def test_differences__end_where_the_config_names_what_there_is(tmp_path: Path) -> None:
    named = {"categories": {"sex": ("m", "f", "d")}, "gaps": ("dose",)}
    files = [NORTH, changed(",f,", ",d,"), changed("0.5,", "NA,")]
    sites = {f"site{i}": schema_of(tmp_path, lines, **named) for i, lines in enumerate(files)}
    assert differences(sites) == []
    assert [column.kind for column in sites["site0"]] == [
        "numeric",
        "numeric",
        "gap",
        "categorical",
    ]


def test_differences__name_another_order_of_columns(tmp_path: Path) -> None:
    north = schema_of(tmp_path, NORTH)
    turned = [",".join([b, a, *rest]) for b, a, *rest in (line.split(",") for line in NORTH)]
    lines = [",".join([c, b, a, y]) for a, b, c, y in (line.split(",") for line in NORTH)]
    assert differences({"a": north, "b": schema_of(tmp_path, turned)}) == []  # sex is not a number
    (found,) = differences({"a": north, "b": north, "c": schema_of(tmp_path, lines)})
    assert found == "columns are in another order at c than at a, b"


@pytest.mark.parametrize("factor", [18.0, 38.7, 100.0, 1000.0])  # mg/dl over mmol/l; cm over m
def test_suspicions__find_other_units(factor: float) -> None:
    rng = np.random.default_rng(3)
    for middle in rng.uniform(1, 10, 50):
        values = rng.lognormal(np.log(middle), 0.2, 101)
        sizes = [magnitude_of(values), magnitude_of(values * factor), magnitude_of(values * 1.9)]
        assert None not in sizes
        assert sizes[1] - sizes[0] >= OTHER_UNITS  # type: ignore[operator]
        assert abs(sizes[2] - sizes[0]) < OTHER_UNITS  # type: ignore[operator]


def test_suspicions__name_the_column_and_the_site(tmp_path: Path) -> None:
    lines = ["height,sex,dose,hospital,ill"]
    for site, scale in (("east", 1.0), ("north", 1.0), ("south", 0.01)):
        lines += [
            f"{(150 + i * 13 % 40) * scale},{'mf'[i % 2]},{i % 7}.5,{site},{int(i % 3 == 0)}"
            for i in range(40)
        ]
    path = tmp_path / "all.csv"
    path.write_text("\n".join(lines))
    config = Csv(path=str(path), label="ill", site="hospital")
    pool = loaded(config)
    sites = deal(pool, Natural().assign(pool, Streams(0).get("partition")))
    (found,) = suspicions({name: site.schema for name, site in sites.items()})
    assert found.startswith("column 'height': its numbers at south differ")
    # Sites that a study makes up get records of all; there is nothing to compare.
    made_up = deal(pool, Iid(num_sites=2).assign(pool, Streams(0).get("partition")))
    assert [site.schema for site in made_up.values()] == [(), ()]


def test_csv__refuses_numbers_out_of_their_public_range_by_site(tmp_path: Path) -> None:
    lines = ["height,age,hospital,ill"]
    for site, scale in (("north", 1.0), ("south", 0.01)):
        lines += [f"{150 * scale + i % 5},{20 + i * 7 % 30},{site},{i % 2}" for i in range(40)]
    path = tmp_path / "all.csv"
    path.write_text("\n".join(lines))
    ranges = Ranges(columns={"height": (100.0, 220.0), "age": (18.0, 90.0)})
    config = Csv(path=str(path), label="ill", site="hospital", scaling=ranges)
    with pytest.raises(DataError) as caught:
        loaded(config)
    (problem,) = str(caught.value).splitlines()
    assert "column 'height' at south: most values lie outside of its public range" in problem


def test_csv__takes_a_site_with_one_class_where_the_classes_are_given(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("\n".join(changed(",1", ",0")))
    with pytest.raises(DataError, match="every record is '0'"):
        loaded(Csv(path=str(path), label="ill"))
    config = Csv(path=str(path), label="ill", classes=("0", "1"))
    pool = loaded(config)
    assert pool.task.classes == ("0", "1")
    assert not pool.labels.any()
    path.write_text("\n".join([*NORTH, "160,m,1.5,2"]))
    with pytest.raises(DataError, match=r"line 42: not one of scenario\.classes"):
        loaded(config)


def test_digest__depends_on_the_order_that_codes_follow() -> None:
    assert digest_of(("a", "b")) != digest_of(("b", "a"))
    assert digest_of(("a,b",)) != digest_of(("a", "b"))
    assert len(digest_of(())) == 16


def test_magnitude__of_nothing_is_unknown() -> None:
    assert magnitude_of(np.array([0.0, np.nan])) is None
    assert magnitude_of(np.array([0.0, -100.0, np.nan])) == 8
