"""A coordinator cannot learn of records by asking for them in one form after another."""

from __future__ import annotations

import logging
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from clients import sitefile
from clients.records import own_data
from fedlearn.core.errors import ConfigError, DataError, FedlearnError, PrivacyError, ProtocolError
from fedlearn.core.rng import Streams
from fedlearn.data import Csv, Images, MedMnist, OwnText, Pool, Scenario, load_pool
from fedlearn.data.scenario import OpenFormError, Reading
from fedlearn.data.tables.scaling import Ranges
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.flower import messages as flower
from fedlearn.rounds import Description
from server.deployment import composed
from tests.attacks.lab import SITES, STRICT, STUDY, Lab, write_table
from tests.effort import slow_but

VICTIM = SITES[0]


def described(lab: Lab) -> dict[str, Description]:
    return lab.federate().enrolment.sites


@pytest.mark.parametrize(
    "words",
    [
        ["scenario.scaling.columns={age:[0,55],pressure:[60,220]}"],
        ["scenario.classes=['1','0']"],
        ["scenario.gaps=[age]"],
        ["scenario.numeric=[age]"],
        ["scenario.categories.sex=[f]"],
    ],
)
def test_second_form__is_refused_whatever_the_records_are(tmp_path: Path, words: list[str]) -> None:
    lab = Lab.make(tmp_path)
    described(lab)
    other = replace(composed([*STUDY, *words]), out=lab.config.out)
    with pytest.raises(PrivacyError, match="its owner does not allow it"):
        lab.again(other).federate()
    described(lab.again())


def test_form__is_the_owners_to_change(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    described(lab)
    other = composed([*STUDY, "scenario.scaling.columns={age:[0,99],pressure:[60,220]}"])
    for site in SITES:
        lab.world.ledger(site).with_suffix(".form.json").unlink()
    described(lab.again(replace(other, out=lab.config.out)))


@pytest.mark.slow
def test_other_studies__on_records_of_the_same_form_go_on(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    described(lab)
    other = composed([*STUDY, "rounds=5", "seed=3", "model.architecture=mlp"])
    described(lab.again(replace(other, out=lab.config.out)))


def test_description__of_a_private_run_is_equal_for_neighbours(tmp_path: Path) -> None:
    """One person more, one less, or another in the place of one: nothing that is told differs."""
    lab = Lab.make(tmp_path)
    before = described(lab)
    for rows, seed in ((61, 0), (59, 0), (60, 9)):
        write_table(lab.world.root / VICTIM / "table.csv", rows, seed)
        assert described(lab.again()) == before
    assert lab.world.ledger(VICTIM).with_suffix(".form.json").stat().st_mode & 0o077 == 0
    assert before[VICTIM].train_records is None
    assert before[VICTIM].test_records is None


def test_config__that_is_not_the_coordinators_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab.make(tmp_path)
    monkeypatch.setattr("clients.app.flower.config_of", lambda context: pytest.fail("was read"))
    for context in lab.contexts.values():
        context.run_config["overrides"] = "scenario.path=${oc.env:HOME}"
        context.run_config["config"] = ""
    with pytest.raises(ProtocolError, match="could not be authenticated"):
        lab.federate()
    assert {kind for kind, _, _ in lab.refused} == {"hello"}
    assert flower.HELLO == "query.hello"


@pytest.mark.slow
def test_records__are_not_counted_by_asking_for_one_delta_after_another(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, policy=STRICT.replace("1.0e-5", "0.1"))
    answered = []
    for delta in (1 / 20, 1 / 44, 1 / 45, 1 / 60, 1 / 100):
        words = composed([*STUDY, f"privacy.delta={delta}"])
        try:
            lab.again(replace(words, out=lab.config.out)).federate()
        except FedlearnError:
            answered.append(False)
        else:
            answered.append(True)
    assert len(set(answered)) == 1


def test_dropped_column__is_not_looked_at_where_nothing_is_evaluated_either(
    tmp_path: Path,
) -> None:
    words = ("evaluation=none", "fairness=groups", "fairness.column=name", "fairness.values=[x,y]")
    with pytest.raises(PrivacyError, match=r"policy\.group_columns"):
        Lab.make(tmp_path, *words).federate()


@pytest.mark.parametrize(
    ("left_out", "instead"),
    [
        ("scenario.numeric", "scenario.numeric=[pressure]"),
        ("scenario.categories", "scenario.categories={}"),
        ("scenario.gaps", "scenario.gaps=null"),
        ("scenario.classes", "scenario.classes=[]"),
    ],
)
def test_form__that_would_be_found_in_records_is_refused_whatever_they_hold(
    tmp_path: Path, left_out: str, instead: str
) -> None:
    words = [*(word for word in STUDY if not word.startswith(left_out)), instead]
    said = set()
    for number, more in enumerate(["", "X,44,120,f,0", "X,44,120", "X,44,inf,f,2", "X,,,x,", "1"]):
        lab = Lab.make(tmp_path / str(number), rows=60)
        table = lab.world.root / VICTIM / "table.csv"
        one_class = [line for line in table.read_text().splitlines() if not line.endswith(",0")]
        table.write_text("\n".join(one_class) if more == "1" else f"{table.read_text()}{more}\n")
        lab = lab.again(replace(composed(words), out=lab.config.out))
        with pytest.raises(DataError) as refused:
            lab.federate()
        said.add(str(refused.value))
        assert {lab.spent_at(site) for site in SITES} == {0}
        assert not list((tmp_path / str(number)).rglob("*.form.json")), "nothing to hold a run to"
    assert len(said) == 1


@pytest.mark.parametrize("cells", ["44,120,x,1", ",120,f,1", "44,,m,0", "44,120,,0"])
def test_record__that_is_like_no_other_changes_nothing_that_is_told(
    tmp_path: Path, cells: str
) -> None:
    lab = Lab.make(tmp_path)
    before = described(lab)
    table = lab.world.root / VICTIM / "table.csv"
    table.write_text(f"{table.read_text()}Somebody,{cells}\n")
    assert described(lab.again()) == before


@pytest.mark.parametrize("cells", ["44,120,f", "44,120,f,2", "44,inf,f,1", "44,120,f,1,9"])
def test_record__that_cannot_be_read_is_nobodys_business(tmp_path: Path, cells: str) -> None:
    lab = Lab.make(tmp_path)
    before = described(lab)
    table = lab.world.root / VICTIM / "table.csv"
    table.write_text(f"{table.read_text()}Somebody,{cells}\n")
    assert described(lab.again()) == before
    with pytest.raises(DataError, match=r"line|label"):
        own_data(sitefile.load(lab.world.site_file(VICTIM)))


@pytest.mark.slow
def test_site__without_any_record_takes_part(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    before = described(lab)
    table = lab.world.root / VICTIM / "table.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    federation = lab.again().federate()
    assert federation.enrolment.sites == before
    federation.run_round(1)
    assert federation.progress.tested is not None


def test_text__that_cannot_be_read_is_left_out_alone(tmp_path: Path) -> None:
    good = [f'{{"text": "word {i}", "label": "{"ab"[i % 2]}"}}' for i in range(8)]
    bad = ["no JSON", '{"text": ["a"], "label": "a"}', '{"text": "a", "label": "c"}', '{"x": 1}']
    path = tmp_path / "texts.jsonl"
    hashed = Tokenizer(kind="hashing")
    scenario = OwnText(path=str(path), label="label", classes=("a", "b"), tokenizer=hashed)
    pools = []
    for lines in (good, [*bad, *good], []):
        path.write_text("\n".join([*lines, '{"text": "", "label": ""}']))
        pools.append(by_record(scenario))
    assert (pools[0].features == pools[1].features).all()
    assert len(pools[2]) == 0


def test_image__that_cannot_be_read_is_left_out_alone(tmp_path: Path) -> None:
    for name, shade in (("a/1", 10), ("b/2", 90)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), shade).save(tmp_path / f"{name}.png")
    scenario = Images(path=str(tmp_path), classes=("a", "b"), size=8, colour="grey")
    before = by_record(scenario)
    (tmp_path / "a" / "3.png").write_bytes(b"\x89PNG\r\n")
    # Pillow has no error of its own for it: NotImplementedError.
    head = struct.pack("<7I44x2I48x", 124, 0, 8, 8, 0, 0, 0, 32, 0x9A)
    (tmp_path / "a" / "4.dds").write_bytes(b"DDS " + head)
    (tmp_path / "c").mkdir()
    assert by_record(scenario).sha256 == before.sha256
    (tmp_path / "a" / "1.png").unlink()
    (tmp_path / "c").rmdir()
    assert len(by_record(scenario)) == 1
    with pytest.raises(DataError, match=r"damaged|not an image"):
        scenario.load(Reading(streams=Streams(0), cache=tmp_path))


@pytest.mark.parametrize(
    "extra",
    ["30,1,x,", "30,1,,x", "30,1,,,", "30,1,,,x", f'"{"3" * 140_000}",1', f"{'3' * (1 << 21)},"],
)
def test_row__that_holds_more_than_others_takes_no_other_along(tmp_path: Path, extra: str) -> None:
    """More cells than there are names, or a cell that is longer than a reader usually takes."""
    path, rows = tmp_path / "table.csv", [f"{20 + i},{i % 2}{',' * (i % 3)}" for i in range(8)]
    scenario = Csv(
        path=str(path), label="ill", numeric=("age",), classes=("0", "1"), gaps=(),
        scaling=Ranges(columns={"age": (0, 100)}),
    )  # fmt: skip
    pools = []
    for more in ([], [extra]):
        path.write_text("\n".join(["age,ill,,", *rows, *more]) + "\n")
        pools.append(by_record(scenario))
    mine, theirs = pools
    assert mine.task == theirs.task
    assert len(mine) == 8
    assert (theirs.features[:8] == mine.features).all()


FAR = {
    "no year of Python's": pa.array([0, 1, 2**52], pa.int64()).cast(pa.timestamp("ms")),
    "no day of Python's": pa.array([0, 1, 2**31 - 1], pa.int32()).cast(pa.date32()),
    "no UTF-8": pa.StringArray.from_buffers(
        3, pa.py_buffer(np.array([0, 1, 2, 4], np.int32)), pa.py_buffer(b"ab\xff\xfe")
    ),
}


@pytest.mark.parametrize("what", FAR)
def test_cell_of_parquet__that_cannot_be_held_takes_no_other_along(
    tmp_path: Path, what: str
) -> None:
    """In a column that is dropped, too."""
    path, rows = tmp_path / "table.parquet", {"age": [20, 30, 40], "ill": ["0", "1", "0"]}
    scenario = Csv(
        path=str(path), label="ill", numeric=("age",), classes=("0", "1"), gaps=(), drop=("when",)
    )
    pools = []
    for count in (2, 3):
        table = pa.table({**rows, "when": FAR[what]}).slice(0, count)
        parquet.write_table(table, path)
        pools.append(by_record(scenario))
    mine, theirs = pools
    assert mine.task == theirs.task
    assert (len(mine), len(theirs)) == (2, 3)
    assert (theirs.features[:2] == mine.features).all()


def test_label_of_an_image__that_is_no_class_leaves_it_out_alone(tmp_path: Path) -> None:
    path, images = tmp_path / "images.npz", np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    scenario = MedMnist(path=str(path), classes=("a", "b"))
    pools = []
    for label in (None, 2, -1, 999_999):
        labels = np.array([0, 1, 1, 0, 1] + ([] if label is None else [label]))
        arrays = {"train_images": images[: len(labels)], "train_labels": labels}
        np.savez(path, test_images=images[:2], test_labels=np.array([0, 1]), **arrays)
        pools.append(by_record(scenario))
    assert {pool.sha256 for pool in pools} == {pools[0].sha256}


@pytest.mark.parametrize(
    "scaling", slow_but("standardise_per_site".__eq__, ["ranges", "standardise_per_site"])
)
def test_scaling_by_records__is_refused_also_where_it_is_the_sites_own(
    tmp_path: Path, scaling: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a run that is about records of another kind there is no scaling to refuse."""
    lab = Lab.make(tmp_path)
    form = "numeric: [age, pressure], categories: {sex: [f, m]}, gaps: [], classes: ['0', '1']"
    for site in SITES:
        path = lab.world.site_file(site)
        own = f"drop: [name], {form}, scaling: {{kind: {scaling}}}"
        path.write_text(path.read_text().replace("drop: [name]", own))
    words = [word for word in STUDY if not word.startswith("scenario")]
    asked = lab.again(replace(composed(["scenario=fashion", *words]), out=lab.config.out))
    with caplog.at_level(logging.INFO):
        if scaling == "ranges":
            asked.federate().run_round(1)
        else:
            with pytest.raises(DataError, match="its records cannot be used"):
                asked.federate()
    assert ("data.scaling: must be given" in caplog.text) == (scaling != "ranges")


def test_run__has_no_word_in_how_many_images_a_site_may_hold(tmp_path: Path) -> None:
    """Whether they fit would tell how many there are."""
    for own in (Images(path="mine", classes=("a", "b")), MedMnist(path="mine.npz")):
        asked = replace(own, path="theirs", max_gigabytes=1e-9)
        assert own.agreed(asked) == own


def test_list_of_tokens__is_read_where_the_sites_own_file_says_and_nowhere_else() -> None:
    run = OwnText(path="x", label="label", tokenizer=Tokenizer(vocabulary="/home/owner/models"))
    site = OwnText(path="texts.jsonl", label="label")
    with pytest.raises(ConfigError, match=r"scenario\.tokenizer\.vocabulary"):
        site.agreed(run)
    named = replace(site, tokenizer=run.tokenizer)
    assert named.agreed(run) == named
    assert site.agreed(replace(run, tokenizer=Tokenizer())) == site


@pytest.mark.parametrize("lines", [[], ["no JSON"], ['{"text": "a", "label": "a"}'], ['{"x": 1}']])
def test_open_classes__are_refused_before_a_text_or_an_image_is_looked_at(
    tmp_path: Path, lines: list[str]
) -> None:
    texts, images = tmp_path / "texts.jsonl", tmp_path / "images"
    texts.write_text("\n".join(lines))
    images.mkdir()
    for line in lines:
        (images / "one.png").write_text(line)
    open_ones = (OwnText(path=str(texts), label="label"), Images(path=str(images)))
    for scenario in open_ones:
        with pytest.raises(OpenFormError, match="classes"):
            load_pool(scenario, Streams(0), tmp_path, by_record=True, complete=True)


def by_record(scenario: Scenario) -> Pool:
    return load_pool(scenario, Streams(0), Path("none"), by_record=True)
