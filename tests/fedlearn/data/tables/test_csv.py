from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Pool, deal
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges, StandardisePerSite, Unscaled
from fedlearn.tasks import TableInput

from ..reading import loaded

TABLE = """age,colour,dose,hospital,outcome
20,red,1.5,north,yes
90,blue,,north,no
55,,3,south,yes
NA,red,4,south,no
30,green,5,north,yes
40,red,6.5,south,no
"""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def read(folder: Path, text: str = TABLE, **settings: Any) -> Pool:
    path = folder / "my.csv"
    path.write_text(text)
    settings = {"label": "outcome", "site": "hospital", **settings}
    return loaded(Csv(path=str(path), **settings))


def problems(folder: Path, text: str, **settings: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(folder, text, **settings)
    return str(caught.value).splitlines()


def test_csv__makes_features_labels_and_sites(tmp_path: Path) -> None:
    pool = read(tmp_path, scaling=Ranges(columns={"age": (20, 90), "dose": (0, 10)}))
    assert pool.name == "my"
    assert pool.task.classes == ("no", "yes")
    names = ("age", "dose", "age_missing", "dose_missing", "colour")
    assert pool.task.input == TableInput(numeric=4, cardinalities=(4,), names=names)
    expected = [  # age, dose, age_missing, dose_missing, colour: blue 1, green 2, red 3
        [-1, -0.7, 0, 0, 3],
        [1, 0, 0, 1, 1],
        [0, -0.4, 0, 0, 0],
        [0, -0.2, 1, 0, 3],
        [-5 / 7, 0, 0, 0, 2],
        [-3 / 7, 0.3, 0, 0, 3],
    ]
    np.testing.assert_allclose(pool.features, np.array(expected), atol=1e-6)
    np.testing.assert_array_equal(pool.labels, [1, 0, 1, 0, 1, 0])
    assert pool.natural_site is not None
    assert list(pool.natural_site) == ["north", "north", "south", "south", "north", "south"]


def test_csv__without_ranges_scales_a_record_alike_in_any_company(tmp_path: Path) -> None:
    alone = read(tmp_path)
    among = read(tmp_path, TABLE + "1e6,blue,-1e6,east,yes\n1,blue,2,east,no\n")
    np.testing.assert_array_equal(alone.features, among.features[:6])
    assert np.isfinite(among.features).all()


def test_csv__says_which_numbers_have_no_public_range(tmp_path: Path) -> None:
    (note,) = read(tmp_path, scaling=Ranges(columns={"age": (20, 90)})).notes
    assert "told apart by some ten percent: dose;" in note
    both = Ranges(columns={"age": (20, 90), "dose": (0, 10)})
    assert read(tmp_path, scaling=both).notes == ()


def test_csv__standardised_per_site_fills_gaps_with_the_sites_mean(tmp_path: Path) -> None:
    pool = read(tmp_path, scaling=StandardisePerSite())
    assert np.isnan(pool.features[3, 0])
    for site in deal(pool, Natural().assign(pool, rng())).values():
        np.testing.assert_allclose(site.train.features[:, :2].mean(axis=0), 0, atol=1e-6)
        assert np.isfinite(site.test.features).all()


def test_csv__reads_a_european_spreadsheet(tmp_path: Path) -> None:
    text = TABLE.replace(",", ";").replace(".", ",")
    settings = {"scaling": Unscaled(), "separator": "semicolon", "decimal": ","}
    european = read(tmp_path, text, **settings)
    np.testing.assert_array_equal(european.features, read(tmp_path, scaling=Unscaled()).features)


def test_csv__roles_can_be_overridden(tmp_path: Path) -> None:
    pool = read(
        tmp_path,
        drop=("dose",),
        categories={"colour": ("red", "blue")},
        numeric=("age",),
        site="",
    )
    assert pool.natural_site is None
    names = ("age", "age_missing", "colour", "hospital")
    assert pool.task.input == TableInput(
        numeric=2, cardinalities=(3, 3), names=names, squashed=(0,)
    )
    np.testing.assert_array_equal(pool.features[:, 2], [1, 2, 0, 1, 0, 1])
    assert any("1 values that are not among its categories" in note for note in pool.notes)


def test_csv__takes_the_parts_that_a_column_names_and_no_other_rows(tmp_path: Path) -> None:
    part = ["part", "train", "Test", "train", "train", "validation", "test"]
    rows = [f"{row},{of}" for row, of in zip(TABLE.splitlines(), part, strict=True)]
    pool = read(tmp_path, "\n".join(rows), part="part")
    assert pool.is_train.tolist() == [True, False, True, True, False]
    assert "part" not in pool.task.input.names
    assert any("neither train nor test" in note for note in pool.notes)
    turned = "\n".join([rows[0], *reversed(rows[1:])])
    assert read(tmp_path, turned, part="part").is_train.tolist() == [False, True, True, False, True]


def test_csv__draws_the_part_of_what_is_a_persons(tmp_path: Path) -> None:
    settings = Csv(path="a.csv", label="outcome", part="part", person="patient")
    assert any(problem.startswith("scenario.part") for problem in settings.problems())


def test_csv__names_every_setting_that_fits_no_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, label="result", site="clinic", drop=("x",), numeric=("y",))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "scenario.label",
        "scenario.site",
        "scenario.drop",
        "scenario.numeric",
    ]
    with pytest.raises(ConfigError, match=r"role.s column, or dropped"):
        read(tmp_path, label="hospital")
    with pytest.raises(ConfigError, match="no column to learn from"):
        read(tmp_path, drop=("age", "colour", "dose"))


def test_csv__lists_all_problems_with_line_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{30 + 2 * i},n{i},s,{'yes' if i % 2 else 'no'}\n" for i in range(60))
    text = "age,word,hospital,outcome\n" + rows + "old,n1,,yes\n31,n1,s,maybe\n"
    found = problems(tmp_path, text)
    assert len(found) == 4
    assert "line 63: the only record of class 'maybe'" in found[0]
    assert "line 62: no site in column 'hospital'" in found[1]
    assert "column 'age': line 62: not a number" in found[2]
    assert "column 'word': 60 different values" in found[3]


def test_csv__refuses_a_label_of_one_class_or_of_numbers(tmp_path: Path) -> None:
    one = TABLE.replace(",no", ",yes")
    assert "every record is 'yes'" in problems(tmp_path, one)[0]
    many = "a,y\n" + "".join(f"{i % 7},{i}.5\n" for i in range(60))
    assert "60 different values; a label" in problems(tmp_path, many, label="y", site="")[0]
    none = "a,y\n1,\n2,NA\n"
    assert "no record has one" in problems(tmp_path, none, label="y", site="")[0]


def test_csv__refuses_identifiers_until_dropped_or_allowed(tmp_path: Path) -> None:
    header, *rows = TABLE.splitlines()
    rows = [f"{row},p{i}@example.org" for i, row in enumerate(rows)]
    text = "\n".join([f"{header},contact", *rows])
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert "column 'contact': its values look like e-mail addresses" in found[0]
    assert "scenario.allow_identifiers" in found[0]
    assert read(tmp_path, text, drop=("contact",)).features.shape[1] == 5
    assert read(tmp_path, text, allow_identifiers=("contact",)).features.shape[1] == 6


def test_csv__of_a_column_of_many_dates_complains_once(tmp_path: Path) -> None:
    header, *rows = TABLE.splitlines()
    rows = [f"{row},{1900 + i}-01-31" for i, row in enumerate(rows * 10)]
    text = "\n".join([f"{header},seen", *rows])
    (found,) = problems(tmp_path, text)
    assert "column 'seen': its values look like dates" in found
    (found,) = problems(tmp_path, text, allow_identifiers=("seen",))
    assert f"column 'seen': {len(rows)} different values" in found


def test_csv__leaves_out_records_without_a_label_and_says_which(tmp_path: Path) -> None:
    pool = read(tmp_path, TABLE + "44,red,3,north,\n45,red,3,north,no\n")
    assert len(pool) == 7
    assert any("line 8: no label, left out" in note for note in pool.notes)


def test_csv__leaves_out_empty_columns_and_notes_copies(tmp_path: Path) -> None:
    lines = [f"{line}," for line in TABLE.splitlines()]
    lines[0] += "void"
    lines.append(lines[1].replace("north", "south"))
    pool = read(tmp_path, "\n".join(lines))
    assert pool.features.shape == (7, 5)
    assert any("'void' holds nothing" in note for note in pool.notes)
    assert any("line 8: copies of an earlier record" in note for note in pool.notes)


def test_csv__a_category_of_one_site_has_a_code_at_all_sites(tmp_path: Path) -> None:
    """In one table all sites know it; of sites with files of their own it is a difference."""
    pool = read(tmp_path, TABLE + "33,violet,3,south,no\n")
    assert pool.task.input.cardinalities == (5,)  # type: ignore[union-attr]
    codes = {site: set(pool.features[pool.natural_site == site, -1]) for site in ("north", "south")}
    assert codes == {"north": {1, 2, 3}, "south": {0, 3, 4}}
    assert pool.schemas["north"][-1] == pool.schemas["south"][-1]


def test_csv__names_of_gap_columns_follow_the_config_and_not_the_records(tmp_path: Path) -> None:
    """A site without gaps must describe its rows as the others do."""
    full = TABLE.replace("NA", "44").replace(",,", ",2,").replace("\n55,2,", "\n55,red,")
    one, other = (read(tmp_path, text, gaps=("age", "dose")) for text in (TABLE, full))
    names = ("age", "dose", "age_missing", "dose_missing", "colour")
    assert one.task.input.names == other.task.input.names == names  # type: ignore[union-attr]


def test_csv__value_too_large_for_float32_is_refused_by_site(tmp_path: Path) -> None:
    pool = read(tmp_path, TABLE.replace("6.5", "1e300"), scaling=Unscaled())
    with pytest.raises(DataError, match="site south: 1 of 3 records hold NaN or infinite"):
        deal(pool, Natural().assign(pool, rng()))


def test_csv__unseen_table_beats_the_majority_with_a_plain_model(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    generator = rng(5)
    lines = ["pressure,smoker,ward,clinic,died"]
    for _ in range(600):
        pressure, smoker = generator.normal(130, 20), generator.random() < 0.4
        died = generator.random() < 1 / (1 + np.exp(-(pressure - 140) / 8 - 2 * smoker))
        cells = [f"{pressure:.0f}", "yes" if smoker else "no", f"w{generator.integers(4)}"]
        cells = [cell if generator.random() > 0.12 else "" for cell in cells]
        lines.append(",".join([*cells, f"c{generator.integers(3)}", str(int(died))]))
    ranges = Ranges(columns={"pressure": (60, 220)})
    pool = read(tmp_path, "\n".join(lines), label="died", site="clinic", scaling=ranges)
    train, test = pool.is_train, ~pool.is_train
    one_hot = np.eye(5)[pool.features[:, 2:].astype(int)].reshape(len(pool), -1)
    features = np.hstack([pool.features[:, :2], one_hot])
    model = LogisticRegression().fit(features[train], pool.labels[train])
    majority = max(pool.labels[test].mean(), 1 - pool.labels[test].mean())
    assert model.score(features[test], pool.labels[test]) > majority + 0.05
