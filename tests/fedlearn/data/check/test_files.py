from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedlearn.cli import main
from fedlearn.config import compose
from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.data import Pool, load_pool
from fedlearn.data.check.files import check
from fedlearn.data.check.report import Report
from fedlearn.data.tables.csv import Csv
from tests.fedlearn.data.images.test_folders import folder as images
from tests.fedlearn.data.images.test_folders import save as save_image
from tests.fedlearn.data.images.test_medmnist import arrays

from ..reading import loaded

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
    text = "\n".join(["age,contact,text,void", *ages, "12 or so,x@example.org,word,"])
    report = check(write(tmp_path, text))
    assert [problem.split(":")[0] for problem in report.problems] == [
        "column 'age'",
        "column 'contact'",
        "column 'text'",
        "column 'void'",
        "no column could be the label, which has 2 to 10 different values",
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
        loaded(Csv(path=str(path), label="y"))


# --- Texts ----------------------------------------------------------------------------

CLAUSES = [
    {"text": f"the {word} of this agreement number {i}", "kind": kind, "firm": f"firm {i % 3}"}
    for i in range(12)
    for word, kind in [("warranty", "w"), ("licence", "l")]
]


def lines(folder: Path, rows: Sequence[object]) -> Path:
    path = folder / "clauses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clauses(folder: Path, rows: Sequence[dict[str, str]], separator: str = "\t") -> Path:
    path = folder / "clauses.csv"
    body = [separator.join(row.values()) for row in rows]
    path.write_text("\n".join([separator.join(rows[0]), *body]))
    return path


def read_as_told(report: Report, cache: Path) -> Pool:
    """The pool that the suggested settings describe; its tokenizer needs no list."""
    words = ["scenario.tokenizer.kind=hashing"] if report.texts else []
    config = compose([*report.settings, *words, "privacy=none"])
    return load_pool(config.scenario, Streams(0), cache)


def test_check__finds_texts_labels_and_sites_in_lines_of_json(tmp_path: Path) -> None:
    report = check(lines(tmp_path, CLAUSES))
    assert report.problems == report.hints == ()
    assert (report.kind, report.records) == ("texts", 24)
    assert (report.texts, report.labels[0], report.sites[0]) == (("text",), "kind", "firm")
    assert any("texts of 7 words in the middle" in fact for fact in report.facts)
    assert any("2 classes in column 'kind': l 12, w 12" in fact for fact in report.facts)
    pool = read_as_told(report, tmp_path)
    assert len(pool) == 24
    assert pool.natural_site is not None


def test_check__suggests_what_reads_a_table_of_texts(tmp_path: Path) -> None:
    report = check(clauses(tmp_path, CLAUSES))
    assert (report.kind, report.separator, report.problems) == ("texts", "tab", ())
    assert len(read_as_told(report, tmp_path)) == 24


def test_check__numbers_what_is_unusual_in_texts(tmp_path: Path) -> None:
    long = {"text": "word " * 400, "kind": "l", "firm": "firm 1"}
    rows = [*CLAUSES, CLAUSES[0], CLAUSES[1] | {"kind": "w"}, CLAUSES[2] | {"text": ""}, long,
            {"text": "one that is alone in this", "kind": "once", "firm": "firm 2"}]  # fmt: skip
    report = check(lines(tmp_path, rows))
    assert report.duplicates == (25,)
    assert report.hints == (
        "line 27: no text; left out in training",
        "line 28: longer than 128 words; scenario.tokenizer.max_length=128 cuts them off there, "
        "at the latest",
        "line 29: the only record with 'kind' 'once'; a class takes at least two, so leave it out "
        "or group classes",
        "line 26: the text of an earlier record with another 'kind'",
    )
    assert any("the longest has 400 (line 28)" in fact for fact in report.facts)


def test_check__looks_into_objects_and_leaves_lists_aside(tmp_path: Path) -> None:
    rows = [
        {"text": row["text"], "meta": {"kind": row["kind"], "from": {"firm": row["firm"]}},
         "tags": ["a", "b"]}
        for row in CLAUSES
    ]  # fmt: skip
    report = check(lines(tmp_path, rows))
    assert (report.labels[0], report.sites[0]) == ("meta.kind", "meta.from.firm")
    assert "not looked at, for they hold no text and no number: tags" in report.facts
    nested = read_as_told(report, tmp_path)
    plain = read_as_told(check(lines(tmp_path, CLAUSES)), tmp_path)
    assert nested.sha256 == plain.sha256
    assert nested.natural_site is not None
    assert plain.natural_site is not None
    assert nested.natural_site.tolist() == plain.natural_site.tolist()


def test_check__understands_a_german_table_and_what_it_suggests_trains(tmp_path: Path) -> None:
    places, died = ("Graz", "Köln", "Köln"), ("ja", *["nein"] * 8)
    rows = [
        f"F{i:04};{places[i % 3]};{'mw'[i % 2]};{30 + i / 7:.2f};{died[i % 9]}" for i in range(120)
    ]
    header = "Fallnummer;Krankenhaus;Geschlecht;Blutdruck (mmHg);Verstorben"
    text = "\n".join([header, *rows]).replace(".", ",")
    report = check(write(tmp_path, text.encode("cp1252")))
    assert (report.labels[0], report.sites[0]) == ("Verstorben", "Krankenhaus")
    assert "scenario.drop=[Fallnummer]" in report.settings
    assert "scenario.encoding=cp1252" in report.settings
    config = compose([*report.settings, "scenario.scaling.columns.Blutdruck (mmHg)=[0,200]"])
    pool = load_pool(config.scenario, Streams(0), tmp_path)
    assert set(pool.natural_site.tolist()) == {"Graz", "Köln"}  # type: ignore[union-attr]
    first, second = np.sort(pool.features[:, 0])[:2]  # 30,00 and 30,14 of 0 to 200
    assert (first, second) == pytest.approx((30 / 100 - 1, 30.14 / 100 - 1))


def test_check__knows_a_record_number_in_any_order_and_a_sign_between_thousands(
    tmp_path: Path,
) -> None:
    rows = [
        f"{5000 + i * 7 % 130};{100 + i}.{i % 10}00;{i % 9},5;{i % 8},2;{'ab'[i % 2]}"
        for i in range(130)
    ]
    report = check(write(tmp_path, "\n".join(["Aufnahme;Blut;Wert;Dosis;gravité", *rows])))
    assert report.problems == ("column 'Aufnahme': it counts the rows; drop it (scenario.drop)",)
    assert "column 'Blut': 100.000 is read as 100000 (scenario.written.Blut=thousands)" in (
        report.facts
    )
    assert report.labels[0] == "gravité"


def test_check__says_that_numbers_are_written_in_two_ways(tmp_path: Path) -> None:
    rows = [f"{100 + i * 7 % 61}.5;{i // 9},{i % 9}5;{'ab'[i % 2]}" for i in range(130)]
    report = check(write(tmp_path, "\n".join(["Druck;Dosis;ill", *rows])))
    assert report.problems == (
        "column 'Dosis': numbers with a comma, as in 0,05, where other columns have a point; "
        "write all in one way",
    )


def test_check__says_how_large_sites_are_so_that_steps_are_of_usual_size(tmp_path: Path) -> None:
    rows = [f"{20 + i % 50}.5,{'nnns'[i % 4]},{i % 3 % 2}" for i in range(4000)]
    by_site = check(write(tmp_path, "\n".join(["age,clinic,outcome", *rows])))
    # Three of four of (3000 * 3000 + 1000 * 1000) / 4000: as most records see their site.
    assert "training.nominal_records=1900" in by_site.settings
    assert "secagg=off" in by_site.settings  # a sum over two hides neither from the other
    dealt = check(write(tmp_path, "\n".join(["age,sex,outcome", *rows])))
    assert (
        "partition.num_sites=3" in dealt.settings
    )  # of 1,500 training records each, and no fewer sites
    assert "training.nominal_records=1000" in dealt.settings
    assert "secagg=off" not in dealt.settings


def test_check__takes_for_the_label_of_texts_what_is_called_a_type_of_something(
    tmp_path: Path,
) -> None:
    rows = [
        {"clause": f"the party {i} shall pay", "year": 2019 + i % 2, "clause_type": "abc"[i % 3]}
        for i in range(40)
    ]
    report = check(lines(tmp_path, rows))
    assert report.labels[0] == "clause_type"
    assert not any("scenario.scaling" in hint for hint in report.hints)


def test_check__takes_no_column_for_a_site_that_is_not_called_one(tmp_path: Path) -> None:
    rows = [f"{20 + i},{'mf'[i % 2]},{i % 3 % 2}" for i in range(30)]
    report = check(write(tmp_path, "\n".join(["age,sex,outcome", *rows])))
    assert report.sites == ("sex",)
    assert "partition=iid" in report.settings


def test_check__names_lines_that_hold_no_record_of_texts(tmp_path: Path) -> None:
    broken = lines(tmp_path, [*CLAUSES, [1], "word"])
    assert "lines 25, 26: not a JSON object" in check(broken).problems[0]
    nested = lines(tmp_path, [*CLAUSES, CLAUSES[0] | {"text": ["a", "b"]}])
    assert "line 25: 'text' holds no text and no number" in check(nested).problems[0]
    without = lines(tmp_path, [{"id": i, "word": "one"} for i in range(5)])
    assert "no column could be the text" in check(without).problems[0]
    one_class = lines(tmp_path, [row | {"kind": "w", "firm": "a"} for row in CLAUSES])
    assert "no column could be the label" in check(one_class).problems[0]


def test_check__says_of_a_table_with_one_class_that_there_is_nothing_to_learn(
    tmp_path: Path,
) -> None:
    rows = "\n".join(f"{i * 7 % 31}.5,yes" for i in range(30))
    report = check(write(tmp_path, f"age,outcome\n{rows}\n"))
    assert report.problems == (
        "column 'outcome': every record is 'yes'; there is nothing to learn",
    )


def test_check__suggests_how_a_spreadsheet_is_written(tmp_path: Path) -> None:
    """Windows, semicolons, commas in numbers, two signs for a gap, names that need quotes."""
    rng = np.random.default_rng(2)
    lines = ["Lfd. Nr.;Name;Größe (cm);Wert;Station;Klinik;Outcome;"]
    for i in range(200):
        size = ["-", "k.A.", f"{rng.normal(170, 9):.1f}".replace(".", ",")][min(i % 20, 2)]
        cells = [str(i + 1), f"Pat {i}", size, f"{rng.random():.2f}".replace(".", ",")]
        lines.append(";".join([*cells, "abc"[i % 3], "Süd" if i % 4 else "Nord", "jn"[i % 2], ""]))
    path = write(tmp_path, "\r\n".join(lines).encode("cp1252"))
    report = check(path)
    assert [problem.split(":")[0] for problem in report.problems] == [
        "column 'Lfd. Nr.'", "column 'Name'",
    ]  # fmt: skip
    assert report.facts == (
        "numbers are written with a comma, as in 0,5",
        "among numbers, taken for gaps: '-', 'k.A.'",
    )
    kinds = {column.name: (column.kind, column.missing) for column in report.columns}
    assert kinds["Größe (cm)"] == ("numeric", 20)
    pool = read_as_told(report, tmp_path)  # also what the problems ask for
    assert len(pool) == 200
    assert pool.task.input.names[:3] == ("Größe (cm)", "Wert", "Größe (cm)_missing")
    assert set(pool.natural_site) == {"Süd", "Nord"}


def test_check__sees_that_rows_are_records_over_time(tmp_path: Path) -> None:
    rows = [f"p{i // 4},{i % 4},{i * 7 % 31}.5,{i // 4 % 2}" for i in range(40)]
    report = check(write(tmp_path, "\n".join(["patient_id,hour,pulse,died", *rows])))
    assert report.labels[0] == "died"
    advice = "scenario.record=patient_id scenario.time=hour scenario.times=numbers model=sequence"
    assert advice in " ".join(report.settings)
    assert "training.nominal_records=2" in report.settings, "ten people at three sites"
    once = [f"p{i},{i % 4},{i * 7 % 31}.5,{i // 4 % 2}" for i in range(40)]
    alone = check(write(tmp_path, "\n".join(["patient_id,hour,pulse,died", *once])))
    assert "scenario.record" not in " ".join(alone.settings)


def test_check__reads_a_saved_data_set_over_its_splits(tmp_path: Path) -> None:
    from tests.fedlearn.data.texts.test_huggingface import save

    root = tmp_path / "set"
    texts = [f"a text of five words {i}" for i in range(12)]
    save(root / "train", texts[:8], [0, 1] * 4)
    save(root / "test", [*texts[8:11], texts[0]], [0, 1, 1, 1], files=1)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    report = check(root)
    assert report.problems == ()
    assert report.facts[0] == "2 splits: train 8, test 4"
    assert any("2 classes in column 'label': against 5, for 7" in fact for fact in report.facts)
    assert report.hints == ("row 12: the text of an earlier record with another 'label'",)
    assert len(read_as_told(report, tmp_path)) == 12
    (root / "test" / "data-00000-of-00001.arrow").unlink()
    assert "there is no such file" in check(root).problems[0]


# --- Images -------------------------------------------------------------------------


def test_check__counts_images_by_class_and_tells_their_sizes(tmp_path: Path) -> None:
    images(tmp_path)
    save_image(tmp_path / "cat" / "wide.png", (1, 2, 3), size=(90, 2))
    report = check(tmp_path)
    assert report.problems == ()
    (flat,) = report.hints
    assert "9 of 9 images are of one colour" in flat
    assert (report.kind, report.records) == ("images in folders", 9)
    assert report.facts == (
        "2 classes: cat 5, dog 4",
        "from 6 to 90 pixels wide and from 2 to 4 high; scenario.size makes them one size",
    )
    assert len(read_as_told(report, tmp_path)) == 9
    assert report.settings[2:] == (
        "model=squeezenet", "partition=iid", "partition.num_sites=3", "training.nominal_records=2"
    )  # fmt: skip


def test_check__names_every_damaged_image_and_every_copy(tmp_path: Path) -> None:
    for site in ("north", "south"):
        images(tmp_path / site, per_class=2)
    save_image(tmp_path / "south" / "dog" / "cat.png", (200, 0, 0))
    (tmp_path / "south" / "cat" / "note.txt").write_text("no image")
    cut = tmp_path / "north" / "dog" / "0.png"
    cut.write_bytes(cut.read_bytes()[:50])
    report = check(tmp_path)
    assert "2 sites: north 4, south 6" in report.facts
    # Three of four of (4 * 4 + 6 * 6) / 10; a sum over two sites hides neither.
    assert {"training.nominal_records=3", "secagg=off"} <= {*report.settings}
    assert [problem.split(": ")[1].split(" (")[0] for problem in report.problems] == [
        "is damaged",
        "is not an image; remove it from the folder",
    ]
    assert report.hints[1:] == (
        "1 copies in another class: south/dog/cat.png of north/cat/0.png",
        "3 copies at another site: south/cat/0.png of north/cat/0.png, "
        "south/cat/1.png of north/cat/1.png, south/dog/1.png of north/dog/1.png",
    )


def test_check__says_what_a_folder_of_other_things_is(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert (
        check(tmp_path)
        .problems[0]
        .endswith(
            "is a folder of 1 files; name one of them (first: table.csv), "
            "or lay images out in a folder for every class"
        )
    )
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert "lies beside the folders" in check(tmp_path).problems[0]


def test_check__finds_test_images_that_were_trained_on(tmp_path: Path) -> None:
    made = arrays()
    made["test_images"][2] = made["train_images"][5]
    np.savez(tmp_path / "mine.npz", **made)
    report = check(tmp_path / "mine.npz")
    assert report.problems == ()
    assert report.facts == (
        "12 images to train on and 6 to test on, of 8 x 9 pixels and 3 channels",
        "2 classes in training: 0 6, 1 6",
        "could be the groups (scenario.groups): groups",
    )
    assert report.hints == (
        "1 test images are training images as well: test 2 is train 5",
        "1 copies have another label than the first of them",
    )
    assert len(read_as_told(report, tmp_path)) == 18
    del made["test_labels"]
    np.savez(tmp_path / "mine.npz", **made)
    assert "holds no array 'test_labels'" in check(tmp_path / "mine.npz").problems[0]


def test_data_check__ends_with_5_where_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "good")
    assert main(["data", "check", str(tmp_path / "good")]) == 0
    assert "2 classes: cat 4, dog 4" in capsys.readouterr().out
    assert main(["data", "check", str(lines(tmp_path, CLAUSES))]) == 0
    assert "try: fedlearn simulate scenario=text" in capsys.readouterr().out
    (tmp_path / "good" / "cat" / "0.png").write_bytes(b"no image")
    assert main(["data", "check", str(tmp_path / "good")]) == 5
    assert "0.png: is not an image" in capsys.readouterr().out


# --- texts for a language model -------------------------------------------------------


def lines_of(folder: Path, *rows: object) -> Report:
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return check(path)


def test_check__counts_prompts_and_conversations_and_names_the_scenario(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    asked = {"prompt": "ask", "completion": "reply", "hospital": "a"}
    report = lines_of(
        tmp_path, asked, asked, {"messages": turns}, {"prompt": "x", "completion": ""}
    )
    assert report.problems == ()
    assert report.kind == "texts for a language model"
    assert any(
        fact.startswith("2 prompts with completions, of 8 characters") for fact in report.facts
    )
    assert any(fact.startswith("1 conversations") for fact in report.facts)
    assert any("line 4: nothing to learn" in hint for hint in report.hints)
    assert any("line 2: copies of an earlier record" in hint for hint in report.hints)
    assert "scenario.site=hospital" in report.settings
    assert "training.finetune=lora" in report.settings
    assert "model=huggingface" in report.settings
    # That model would be fetched.
    chosen = compose([setting for setting in report.settings if setting != "model=huggingface"])
    assert (chosen.task.kind, chosen.scenario.kind) == ("language", "language")


def test_check__names_the_lines_whose_conversations_are_none(tmp_path: Path) -> None:
    reply = [{"role": "assistant", "content": "Yes"}]
    report = lines_of(tmp_path, {"messages": reply}, {"messages": []}, {"text": ["a"]})
    assert any("line 1: 'messages' message 1 is of role 'assistant'" in p for p in report.problems)
    assert any("line 3: 'text' holds no text" in p for p in report.problems)
    report = lines_of(tmp_path, {"prompt": "a", "completion": ""})
    assert any("no record has anything to learn" in p for p in report.problems)


def test_check__still_takes_texts_with_a_label_for_such(tmp_path: Path) -> None:
    rows = [{"text": f"many words stand here {i}", "kind": "ab"[i % 2]} for i in range(20)]
    assert "scenario=text" in lines_of(tmp_path, *rows).settings


def test_check__makes_persons_of_whom_there_are_several_rows_the_unit(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    owners = rng.integers(1000, 1090, 360)
    rows = [
        f"P{who},clinic {who % 3},{rng.normal():.2f},{'yes' if who % 2 else 'no'}" for who in owners
    ]
    report = check(write(tmp_path, "\n".join(["Patient,clinic,value,ill", *rows]) + "\n"))
    assert "scenario.person=Patient" in report.settings
    assert not any("buckets" in one or "drop" in one for one in report.settings)
    assert any("to whom the whole promise is made" in hint for hint in report.hints)
    assert report.problems == ()
    pool = read_as_told(report, tmp_path)
    assert pool.persons is not None
    (nominal,) = (one for one in report.settings if one.startswith("training.nominal_records="))
    persons = len(np.unique(pool.persons[pool.is_train])) / 3
    assert persons / 1.5 < int(nominal.partition("=")[2]) < persons * 1.5


def test_check__of_one_row_a_person_or_of_rows_of_nobody_takes_rows(tmp_path: Path) -> None:
    alone = [f"P{i},{i % 7},{'yes' if i % 2 else 'no'}" for i in range(60)]
    gaps = [f"{'' if i % 9 == 0 else f'P{i // 2}'},{i % 7},{'yes' if i % 2 else 'no'}"
            for i in range(60)]  # fmt: skip
    for rows in (alone, gaps):
        report = check(write(tmp_path, "\n".join(["Patient,value,ill", *rows]) + "\n"))
        assert not any(one.startswith("scenario.person") for one in report.settings)
