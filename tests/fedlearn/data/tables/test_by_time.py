"""A table that is split by time: the past, what follows, and the latest; nobody looks ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.pool import Pool
from fedlearn.data.tables.by_time import TimeParts, parts_by_time, time_problems
from fedlearn.data.tables.cells import encode
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Unscaled
from fedlearn.data.tables.table import Table
from tests.effort import examples

from ..reading import loaded

Row = tuple[str, str, str]
"""Site, time, person."""
BASE = Csv(
    path="t.csv", label="y", site="site", time="at", split="time", test_fraction=0.25,
    validation_fraction=0.25, scaling=Unscaled(),
)  # fmt: skip


def parts(rows: Sequence[Row], config: Csv = BASE, owned: bool = False, **how: Any) -> TimeParts:
    columns = tuple(encode(list(cells)) for cells in zip(*rows, strict=True))
    lines = np.arange(2, len(rows) + 2)
    table = Table(header=("site", "at", "who"), columns=columns, lines=lines)
    owners = [who for _, _, who in rows] if owned else None
    return parts_by_time(config, table, owners, by_record=how.get("by_record", False))


def names(found: TimeParts) -> list[str]:
    kinds = zip(found.train, found.validation, found.known, strict=True)
    return ["train" if t else "valid" if v else "test" if k else "-" for t, v, k in kinds]


def dates(count: int, site: str = "a", year: int = 2024) -> list[Row]:
    return [(site, f"{year}-01-{i + 1:02d}", "") for i in range(count)]


def test_site__trains_on_its_past_and_is_tested_on_its_latest() -> None:
    rows = dates(16)
    assert names(parts(rows)) == ["train"] * 9 + ["valid"] * 3 + ["test"] * 4
    assert names(parts(rows[::-1])) == names(parts(rows))[::-1]


def test_site__goes_by_its_own_times() -> None:
    late = dates(16, "b", 2030)
    assert names(parts([*dates(16), *late])) == names(parts(dates(16))) + names(parts(late))


def test_numbers__are_times_as_well() -> None:
    rows = [("a", str(number), "") for number in (9, 10, 100, 11)]
    assert names(parts(rows, replace(BASE, validation_fraction=0.0))) == [
        *("train", "train", "test", "train")
    ]


TIMES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), min_size=1, max_size=40)


@given(TIMES, st.floats(0.05, 0.9), st.floats(0.0, 0.9))
@settings(max_examples=examples(60))
def test_nothing__is_later_than_what_comes_after_it(
    found: list[tuple[str, int]], test: float, validate: float
) -> None:
    rows = [(site, str(at), "") for site, at in found]
    config = replace(BASE, test_fraction=test, validation_fraction=validate)
    kinds = names(parts(rows, config))
    order = {"train": 0, "valid": 1, "test": 2}
    for site in {site for site, _ in found}:
        mine = [(at, order[k]) for (s, at), k in zip(found, kinds, strict=True) if s == site]
        assert any(kind == 2 for _, kind in mine)
        for at, kind in mine:
            assert all(other >= kind for when, other in mine if when >= at)


@given(TIMES, st.integers(0, 39))
@settings(max_examples=examples(60))
def test_public_times__ask_each_record_for_itself(
    found: list[tuple[str, int]], left_out: int
) -> None:
    rows = [(site, str(at), "") for site, at in found]
    config = replace(BASE, validate_from="4", test_from="7")
    kinds = names(parts(rows, config, by_record=True))
    assert kinds == ["train" if a < 4 else "valid" if a < 7 else "test" for _, a in found]
    if len(rows) > 1:
        place = left_out % len(rows)
        assert names(parts(np.delete(rows, place, 0).tolist(), config, by_record=True)) == (
            kinds[:place] + kinds[place + 1 :]
        )


def test_own_times__let_one_record_move_others_which_privacy_within_sites_refuses() -> None:
    rows = dates(16)
    assert names(parts(rows[:-1])) != names(parts(rows))[:-1]
    assert BASE.parts_by_all == "scenario.test_from"
    public = replace(BASE, test_from="2024-01-13", validate_from="2024-01-10")
    assert public.parts_by_all == "scenario.times"
    assert not replace(public, times="dates").parts_by_all


def test_person__is_where_the_latest_record_is() -> None:
    rows = [(site, at, who) for (site, at, _), who in zip(dates(8), "pqprqrss", strict=True)]
    config = replace(BASE, validate_from="2024-01-05", test_from="2024-01-07")
    found = names(parts(rows, config, owned=True))
    assert dict(zip("pqprqrss", found, strict=True)) == {
        "p": "train", "q": "valid", "r": "valid", "s": "test",
    }  # fmt: skip
    assert len({*zip("pqprqrss", found, strict=True)}) == 4


def test_times__that_are_none_are_named_by_line_or_left_out_alone() -> None:
    rows = [*dates(8), ("a", "soon", ""), ("a", "", "")]
    with pytest.raises(DataError, match=r"lines 10, 11: not a date .* as others are"):
        parts(rows)
    assert names(parts(rows, by_record=True)) == [*names(parts(dates(8))), "-", "-"]
    with pytest.raises(DataError, match=r"neither numbers nor dates .*day_first"):
        parts([("a", "31/01/2024", ""), ("a", "01/02/2024", "")])


def test_cut__of_another_kind_than_the_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scenario\.test_from=2024: is not a date"):
        parts(dates(8), replace(BASE, test_from="2024"))
    with pytest.raises(ConfigError, match=r"scenario\.test_from=2024-01-01: is not a number"):
        parts([("a", "3", "")], replace(BASE, test_from="2024-01-01"))


def test_cut__after_all_records_is_refused_before_anything_is_spent() -> None:
    late = replace(BASE, test_from="2025-01-01", validate_from="2024-01-05")
    with pytest.raises(ConfigError, match="test_from=2025-01-01: no record is from then on"):
        parts(dates(16), late)
    # A site with an owner answers for its records, and tells nobody.
    assert "test" not in names(parts(dates(16), late, by_record=True))
    assert parts([*dates(16), *dates(3, "b", 2026)], late).known.all()


def test_settings__that_contradict_themselves_are_listed() -> None:
    found = [*time_problems(replace(BASE, time="", part="fold", test_from="soon"))]
    assert [line.partition(":")[0] for line in found] == [
        *("scenario.time", "scenario.part=fold", "scenario.test_from=soon")
    ]
    drawn = replace(BASE, split="drawn", validate_from="3")
    assert [*time_problems(drawn)] == [
        "scenario.validate_from: is for scenario.split=time; set that, or leave it out"
    ]
    with pytest.raises(ConfigError, match=r"scenario\.time: name the column"):
        parts(dates(3), replace(BASE, time=""))


def test_one_time__for_all_leaves_nothing_to_train_on() -> None:
    assert names(parts([("a", "3", "")] * 4)) == ["test"] * 4


# --- through the reader of tables ------------------------------------------------------


def read(folder: Path, lines: list[str], **settings: Any) -> Pool:
    path = folder / "sales.csv"
    path.write_text("\n".join(["day,client,amount,fraud", *lines]))
    base = Csv(path=str(path), label="fraud", time="day", split="time", scaling=Unscaled())
    return loaded(replace(base, **settings))


def lines(count: int) -> list[str]:
    days = (f"2025-{1 + i // 28:02d}-{1 + i % 28:02d}" for i in range(count))
    return [f"{day},c{i % 7},{i * 1.5},{i % 2}" for i, day in enumerate(days)]


def test_table__is_split_and_its_times_are_no_feature(tmp_path: Path) -> None:
    pool = read(tmp_path, lines(80), drop=("client",), validation_fraction=0.2)
    amounts = pool.features[:, 0]
    train, validated, test = (
        amounts[part] for part in (pool.is_train, pool.validated, pool.is_test)
    )
    assert train.max() < validated.min() <= validated.max() < test.min()
    assert (len(train), len(validated), len(test)) == (48, 12, 20)
    assert pool.features.shape[1] == 1


def test_table__without_a_validation_part_has_none(tmp_path: Path) -> None:
    pool = read(tmp_path, lines(80), drop=("client",))
    assert pool.is_validation is None
    assert pool.is_train.sum() == 60


def test_table__of_persons_never_splits_one(tmp_path: Path) -> None:
    whole = [f"2025-01-{1 + i % 28:02d},c{i // 4},{i * 1.5},{i % 2}" for i in range(28)]
    pool = read(
        tmp_path, whole, person="client", test_from="2025-01-21", validate_from="2025-01-13"
    )
    assert pool.persons is not None
    held = [{*pool.persons[part]} for part in (pool.is_train, pool.validated, pool.is_test)]
    assert held == [{"c0", "c1", "c2"}, {"c3", "c4"}, {"c5", "c6"}]


def test_rows_over_time__are_split_by_their_latest(tmp_path: Path) -> None:
    path = tmp_path / "stays.csv"
    rows = [f"p{i},{10 * i + hour},{i + hour},{i % 2}" for i in range(8) for hour in (0, 1)]
    path.write_text("\n".join(["who,hour,pulse,died", *rows]))
    config = Csv(path=str(path), label="died", record="who", time="hour", steps=2, split="time",
                 validate_from="51", test_from="61", scaling=Unscaled())  # fmt: skip
    pool = loaded(config)
    assert pool.is_train.tolist() == [True] * 5 + [False] * 3
    assert pool.validated.tolist() == [False] * 5 + [True] + [False] * 2
