"""Whose records are: keys, parts and sites of persons, in tables and in texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.data.partition import Dirichlet, Iid, Partition, Quantity, dealt_out
from fedlearn.data.persons import person_of, spread_notes
from fedlearn.data.pool import Pool, public_rows
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.language import LanguageTokens
from fedlearn.data.texts.passages import OwnPassages
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.screening import layout_of
from tests.effort import examples
from tests.model_folders import text_folder

from .reading import loaded

HASHING = Tokenizer(kind="hashing", buckets=64, max_length=8)


def table(folder: Path, *rows: str, **chosen: Any) -> Csv:
    """Visits: patient, age, site, ill."""
    path = folder / "visits.csv"
    path.write_text("\n".join(["patient,age,site,ill", *rows]) + "\n")
    numbers = {"numeric": ("age",), "gaps": (), **chosen}
    return Csv(path=str(path), label="ill", person="patient", **numbers)


def many(folder: Path, persons: int = 60, **chosen: Any) -> Csv:
    rng = np.random.default_rng(1)
    rows = [
        f"P{person},{40 + rng.integers(40)},{'ab'[person % 2]},{'yes' if person % 3 else 'no'}"
        for person in range(persons)
        for _ in range(int(rng.integers(1, 5)))
    ]
    return table(folder, *rng.permutation(rows).tolist(), **chosen)


def in_one(keys: np.ndarray, of: np.ndarray) -> bool:
    """Whether all records of a person have one value in `of`."""
    return len({*zip(keys.tolist(), of.tolist(), strict=True)}) == len({*keys.tolist()})


# --- keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [("7", "007"), ("7", "7.0"), (" P1 ", "P1"), ("P\u200b1", "P1"), ("-0", "0")]
)
def test_person__written_in_two_ways_is_one(one: str, other: str) -> None:
    assert person_of(one) == person_of(other) != ""


@pytest.mark.parametrize(("one", "other"), [("7", "70"), ("P1", "p1"), ("1E5", "100000")])
def test_person__of_another_key_is_another(one: str, other: str) -> None:
    assert person_of(one) != person_of(other)


@pytest.mark.parametrize("text", ["", " ", "NA", " nan ", "null", "?", "\u200bN/A"])
def test_person__is_nobody_where_a_value_is_missing(text: str) -> None:
    assert person_of(text) == ""
    assert person_of("0") == "0"


def test_person__with_a_key_without_end_takes_no_more_room_than_others() -> None:
    long, other = "P" * 1_000_000, "P" * 999_999 + "Q"
    assert len(person_of(long)) <= 128
    assert person_of(long) == person_of(f" {long} ") != person_of(other)
    assert person_of("P" * 128) == "P" * 128


def test_csv__knows_whose_rows_are_and_learns_nothing_from_it(tmp_path: Path) -> None:
    own = table(tmp_path, "7,40,a,yes", "007,50,a,no", "8,60,a,yes", "7.0,41,a,no")
    pool = loaded(own)
    assert pool.persons is not None
    assert pool.persons.tolist() == ["7", "7", "8", "7"]
    assert "patient" not in str(pool.task.form)
    layout = layout_of(pool.task.form, own.scaling)
    assert "patient" not in [column.name for column in layout.columns]
    assert all("patient" not in str(schema) for schema in pool.schemas.values())


@pytest.mark.parametrize("by_record", [False, True])
def test_csv__leaves_rows_of_nobody_out_and_tells_their_owner(
    tmp_path: Path, by_record: bool
) -> None:
    own = table(
        tmp_path, "7,40,a,yes", ",50,a,no", "NA,60,a,yes", "8,41,a,no",
        categories={"site": ("a",)}, classes=("no", "yes"),
    )  # fmt: skip
    pool = loaded(own, by_record=by_record)
    assert len(pool) == 2
    assert pool.persons is not None
    assert pool.persons.tolist() == ["7", "8"]
    [note] = [note for note in pool.notes if "no person" in note]
    assert "lines 3, 4" in note
    assert "give each a key" in note


def test_csv__of_which_the_column_has_another_role_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "7,40,a,yes").path
    with pytest.raises(ConfigError, match=r"scenario\.person=site: is another role's column"):
        loaded(Csv(path=path, label="ill", site="site", person="site"))
    with pytest.raises(ConfigError, match=r"scenario\.person: no column 'who'"):
        loaded(Csv(path=path, label="ill", person="who"))


def test_series__is_of_one_person_and_several_may_be(tmp_path: Path) -> None:
    path = tmp_path / "stays.csv"
    stays = [(stay, day) for stay in range(24) for day in range(3)]
    lines = [f"s{s},{d},p{s // 2},{s + d},{'yes' if s % 4 < 2 else 'no'}" for s, d in stays]
    path.write_text("\n".join(["stay,day,patient,pulse,ill", *lines]) + "\n")
    own = Csv(path=str(path), label="ill", record="stay", time="day", person="patient")
    pool = loaded(own)
    assert len(pool) == 24
    assert pool.persons is not None
    assert sorted(pool.persons.tolist()) == sorted(f"p{s // 2}" for s in range(24))
    assert in_one(pool.persons, pool.is_train)
    path.write_text(path.read_text().replace("s0,1,p0", "s0,1,p9"))
    with pytest.raises(DataError, match="column 'patient': line 2: a 'stay' that begins there"):
        loaded(own)
    apart = loaded(own, by_record=True)  # where nobody is asked it is a stay of each
    assert len(apart) == 25
    assert apart.persons is not None
    assert apart.persons.tolist().count("p9") == 3


# --- parts -------------------------------------------------------------------------------


def test_split__is_by_person_and_by_nothing_else(tmp_path: Path) -> None:
    pool = loaded(many(tmp_path))
    assert pool.persons is not None
    assert 0.5 < pool.is_train.mean() < 0.95
    assert in_one(pool.persons, pool.is_train)
    by_key = dict(zip(pool.persons.tolist(), pool.is_train.tolist(), strict=True))
    other = loaded(many(tmp_path, persons=20))  # whoever else is there, whatever rows hold
    assert other.persons is not None
    for key, train in zip(other.persons.tolist(), other.is_train.tolist(), strict=True):
        assert by_key[key] == train
    public = public_rows(pool, 0.5, Streams(0))
    assert in_one(pool.persons[pool.is_train], public[pool.is_train])


@pytest.mark.parametrize("kind", [Iid, Dirichlet, Quantity])
@settings(max_examples=examples(10, few=2), deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20))
def test_partition__keeps_a_person_at_one_site(
    kind: Callable[..., Partition], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "persons"
    folder.mkdir(exist_ok=True)
    pool = loaded(many(folder))
    found = dealt_out(kind(num_sites=3), pool, np.random.default_rng(seed))
    site = np.full(len(pool), -1)
    for place, rows in enumerate(found.values()):
        assert (np.diff(rows) > 0).all()
        assert pool.is_train[rows].any()
        site[rows] = place
    assert (site >= 0).all()
    assert pool.persons is not None
    assert in_one(pool.persons, site)


def test_partition__of_records_that_are_nobodys_is_as_it_was(tmp_path: Path) -> None:
    pool = replace(loaded(many(tmp_path)), persons=None)
    one = Iid(num_sites=3).assign(pool, np.random.default_rng(0))
    other = dealt_out(Iid(num_sites=3), pool, np.random.default_rng(0))
    assert all(np.array_equal(one[site], other[site]) for site in one)


def test_notes__say_what_only_a_simulation_can_see_of_persons_at_two_sites() -> None:
    known = np.array(["a", "b"])
    [note] = spread_notes("x", {"north": (known, None), "south": (np.array(["b", "c"]),)})
    assert "1 of 3 persons have records at more than one site" in note
    assert "epsilons of their sites add up" in note
    assert not [*spread_notes("x", {"north": (known,), "south": (np.array(["c"]),)})]


# --- texts -------------------------------------------------------------------------------


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_text__knows_whose_lines_are_and_splits_by_them(tmp_path: Path) -> None:
    rows = [
        {"text": f"words {i}", "label": "ab"[i % 2], "matter": i // 4 or None} for i in range(120)
    ]
    path = lines(tmp_path / "own.jsonl", rows)
    pool = loaded(OwnText(path=path, label="label", person="matter", tokenizer=HASHING))
    assert len(pool) == 116
    assert pool.persons is not None
    assert in_one(pool.persons, pool.is_train)
    assert pool.is_train.any() > pool.is_train.all()
    assert any("no person in 'matter'" in note for note in pool.notes)


def test_language__knows_whose_lines_are_and_splits_by_them(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "model")
    rows = [{"text": f"All of it {i}.", "author": f"A{i // 3}"} for i in range(90)]
    rows += [{"text": "Of nobody."}]
    path = lines(tmp_path / "own.jsonl", rows)
    tokens = LanguageTokens(folder=str(folder), max_length=16)
    pool = loaded(OwnPassages(path=path, person="author", tokenizer=tokens))
    assert len(pool) == 90
    assert pool.persons is not None
    assert in_one(pool.persons, pool.is_train)
    assert any("line 91: no person in 'author'" in note for note in pool.notes)
    with pytest.raises(ConfigError, match=r"scenario\.person: no key 'who'"):
        loaded(OwnPassages(path=path, person="who", tokenizer=tokens))
    with pytest.raises(ConfigError, match=r"scenario\.person=text: is another role's key"):
        loaded(OwnPassages(path=path, person="text", tokenizer=tokens))


@pytest.mark.parametrize("word", ["NA", "nan", "null", None, ""])
@pytest.mark.parametrize("by_record", [False, True])
def test_texts__of_strangers_under_the_word_for_nobody_are_not_those_of_one_person(
    tmp_path: Path, word: str | None, by_record: bool
) -> None:
    """As one person they would share a clip: without one of them the mean of the others moves."""
    rows = [{"text": f"words {i}", "label": "ab"[i % 2], "who": f"P{i}"} for i in range(20)]
    rows += [{"text": f"stranger {i}", "label": "a", "who": word} for i in range(5)]
    path, folder = lines(tmp_path / "own.jsonl", rows), text_folder(tmp_path / "model")
    tokens = LanguageTokens(folder=str(folder), max_length=16)
    for own in (
        OwnText(path=path, label="label", classes=("a", "b"), person="who", tokenizer=HASHING),
        OwnPassages(path=path, person="who", tokenizer=tokens),
    ):
        pool = loaded(own, by_record=by_record)
        assert pool.persons is not None
        assert sorted(pool.persons.tolist()) == sorted(f"P{i}" for i in range(20))
        assert any("no person in 'who'" in note for note in pool.notes)


def test_language__of_several_people_is_refused_and_by_itself_left_out(tmp_path: Path) -> None:
    """Who is in a list may be in another, and would be protected as two."""
    rows: list[dict[str, Any]] = [{"text": f"All of it {i}.", "who": f"A{i}"} for i in range(9)]
    rows += [{"text": "Of two.", "who": ["A1", "A2"]}]
    tokens = LanguageTokens(folder=str(text_folder(tmp_path / "model")), max_length=16)
    own = OwnPassages(path=lines(tmp_path / "own.jsonl", rows), person="who", tokenizer=tokens)
    with pytest.raises(DataError, match="line 10: 'who' holds no text and no number"):
        loaded(own)
    assert len(loaded(own, by_record=True)) == 9
    assert len(loaded(replace(own, person=""))) == 10


# --- neighbours -----------------------------------------------------------------------------

KEYS = ("A1", "a1", "7", "007", " 7", "7.0", "B\u200b2", "B2", "", "NA", "x,y", 'q"z', "0", "-0")
LABELS, NUMBERS = ("yes", "no", "YES", "", "maybe"), ("1", "2.5", "", "x", "1e3", "999", "inf")
Row = dict[str, Any]


def over_time(rng: np.random.Generator, count: int) -> list[Row]:
    """Rows of records that are somebody's for the most part, or of two people."""
    owners, ills = rng.choice(KEYS, 5), rng.choice(LABELS, 5)
    return [
        {
            "stay": f"s{s}", "day": str(rng.choice(["1", "2", "3", "?"])),
            "who": str(owners[s] if rng.random() < 0.8 else rng.choice(["", KEYS[s]])),
            "age": str(rng.choice(NUMBERS)), "ill": str(ills[s] if rng.random() < 0.8 else ""),
        }
        for s in rng.integers(0, 5, count).tolist()
    ]  # fmt: skip


def of_people(rng: np.random.Generator, count: int) -> list[Row]:
    names = {"who": KEYS, "age": NUMBERS, "ill": LABELS, "text": ("a b", "c", "", "d e f")}
    return [{k: str(rng.choice(v)) for k, v in names.items()} for _ in range(count)]


def written(path: Path, rows: list[Row], names: list[str]) -> None:
    if path.suffix == ".jsonl":
        lines(path, rows)
        return
    with path.open("w", newline="") as file:
        sheet = csv.DictWriter(file, names, extrasaction="ignore")
        sheet.writeheader()
        sheet.writerows(rows)


def seen(pool: Pool, without: str = "") -> list[object]:
    assert pool.persons is not None
    arrays = zip(pool.persons, pool.features, pool.labels, pool.is_train, strict=True)
    return [(p, f.tobytes(), str(y), bool(t)) for p, f, y, t in arrays if p != without]


@pytest.mark.parametrize("kind", ["rows", "over time", "texts"])
def test_readers__make_the_same_of_everybody_else_where_all_records_of_a_person_are_gone(
    tmp_path: Path, kind: str
) -> None:
    """What a promise to persons counts on: nobody decides what another's records become."""
    table = {"label": "ill", "person": "who", "classes": ("no", "yes"), "test_fraction": 0.4}
    numbers = {
        "numeric": ("age",),
        "gaps": ("age",),
        "scaling": Ranges(columns={"age": (0.0, 9.0)}),
    }
    stays = {"record": "stay", "time": "day", "times": "numbers", "steps": 2}
    make, names, own = {
        "rows": (of_people, ["who", "age", "ill"], Csv(path="x", **table, **numbers)),  # type: ignore[arg-type]
        "over time": (
            over_time, ["stay", "day", "who", "age", "ill"],
            Csv(path="x", **table, **numbers, **stays),  # type: ignore[arg-type]
        ),
        "texts": (of_people, [], OwnText(path="x", tokenizer=HASHING, **table)),  # type: ignore[arg-type]
    }[kind]  # fmt: skip
    path = tmp_path / ("own.jsonl" if kind == "texts" else "own.csv")
    own, compared = replace(own, path=str(path)), 0
    for seed in range(examples(60, few=8)):
        rows = make(np.random.default_rng(seed), 14)
        written(path, rows, names)
        pool = loaded(own, by_record=True, complete=True)
        assert pool.persons is not None
        for key in np.unique(pool.persons):
            rest = [row for row in rows if person_of(row["who"]) != key]
            written(path, rest, names)
            assert seen(loaded(own, by_record=True, complete=True)) == seen(pool, key), (seed, key)
            compared += 1
    assert compared > examples(20, few=3)
