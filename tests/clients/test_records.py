"""Sites whose records lie in files of their own, of their own form, in one simulation."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clients.owner import admit, owner_of
from clients.records import read_simulated, simulated_notes
from clients.site import open_site
from fedlearn.cli import main
from fedlearn.config import RunConfig, compose
from fedlearn.core.errors import ConfigError, DataError, PrivacyError
from fedlearn.data.partition import Files
from simulations.run import with_absolute_paths
from simulations.sweeps.points import baselines, compose_point
from tests.model_folders import text_folder

RUN = ["scenario=csv", "scenario.path=none", "scenario.label=ill", "partition=files",
       "scenario.classes=[no,yes]", "scenario.scaling.columns.age=[20,90]",
       "scenario.scaling.columns.dose=[0,50]", "scenario.gaps=[dose]",
       "scenario.categories.sex=[f,m]"]  # fmt: skip


LOOSE = "unit: none, min_cohort: 1, require_transport: null, require_secagg: null"

POOLED = ["partition.pooled=true", "privacy=none", "secagg=off", "transport=plain"]


def policy(path: Path, text: str) -> None:
    """Give a site file another policy."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("policy")]
    path.write_text("\n".join([*lines, f"policy: {{{text}}}\n"]))


def rows(first: int, count: int = 24) -> list[tuple[str, ...]]:
    """age, dose, sex, ill: no two are alike unless `first` overlaps."""
    return [
        (
            f"{20 + 7 * i % 600 / 10}",
            f"{i / 8:.2f}" if i % 5 else "",
            "fm"[i % 2],
            ["no", "yes"][i % 3 % 2],
        )
        for i in range(first, first + count)
    ]


def table(path: Path, header: str, cells: list[tuple[Any, ...]], separator: str = ",") -> None:
    lines = [separator.join(map(str, row)) for row in cells]
    path.write_text("\n".join([header.replace(",", separator), *lines]))


def site(folder: Path, name: str, data: dict[str, Any]) -> None:
    (folder / f"{name}.yaml").write_text(
        f"name: {name}\ndata: {json.dumps(data)}\nkeys: keys/{name}\nroster: roster.json\n"
        f"ledger: state/{name}.jsonl\npolicy: {{epsilon_total: 50.0, min_test_records: 1}}\n"
    )


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """Three sites: semicolons and decimal commas, another name for the label, other columns too."""
    folder = tmp_path / "sites"
    folder.mkdir()
    german = [tuple(cell.replace(".", ",") for cell in row) for row in rows(0)]
    table(folder / "nord.csv", "age,dose,sex,ill", german, ";")
    site(folder, "nord", {"kind": "csv", "path": "nord.csv", "label": "ill",
                          "separator": "semicolon", "decimal": ","})  # fmt: skip
    table(folder / "east.csv", "age,dose,sex,diagnosis", rows(100))
    site(folder, "east", {"kind": "csv", "path": "east.csv", "label": "diagnosis"})
    named = [(f"p{i}", *row) for i, row in enumerate(rows(200))]
    table(folder / "west.tsv", "patient_id,age,dose,sex,ill", named, "\t")
    site(folder, "west", {"kind": "csv", "path": "west.tsv", "label": "ill", "separator": "tab",
                          "drop": ["patient_id"]})  # fmt: skip
    return folder


def config(sites: Path, *overrides: str) -> RunConfig:
    return with_absolute_paths(compose([*RUN, f"sites={sites}", *overrides]), Path.cwd())


def test_files__of_every_form_become_records_of_one(sites: Path) -> None:
    pool, dealt = read_simulated(config(sites))
    assert list(dealt) == ["east", "nord", "west"]
    assert {len(one.train) + len(one.test) for one in dealt.values()} == {24}
    assert pool.task.classes == ("no", "yes")
    assert pool.notes == ()
    again = read_simulated(config(sites, "seed=9"))[1]
    for name, one in dealt.items():  # a ledger is of one set of training records
        assert one.train.features.tobytes() == again[name].train.features.tobytes()


def test_files__say_which_sites_share_records(sites: Path) -> None:
    table(sites / "east.csv", "age,dose,sex,diagnosis", [*rows(100), *rows(3, 2)])
    (note,) = simulated_notes(config(sites))
    assert note.startswith("2 records are at east and at nord: whoever is in both weighs twice")


def test_files__differences_are_named_by_column_and_site(sites: Path) -> None:
    table(sites / "east.csv", "age,weight,sex,diagnosis", rows(100))
    bare = with_absolute_paths(compose([*RUN[:5], f"sites={sites}"]), Path.cwd())
    with pytest.raises(DataError) as caught:
        read_simulated(bare)
    said = str(caught.value)
    assert "column 'dose': is missing at east and there at nord, west" in said
    assert "column 'weight': is missing at nord, west and there at east" in said


def test_files__what_is_wrong_with_any_of_them_is_said_at_once(sites: Path) -> None:
    (sites / "east.csv").unlink()
    table(sites / "west.tsv", "patient_id,age,dose,sex,ill", [("p", 1, 2, "f", "perhaps")], "\t")
    with pytest.raises(DataError) as caught:
        read_simulated(config(sites))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "site east", "site west",
    ]  # fmt: skip
    site(sites, "west", {"kind": "csv", "label": "ill"})
    (sites / "nord.yaml").rename(sites / "north.yaml")
    with pytest.raises(ConfigError) as wrong:
        read_simulated(config(sites))
    assert len(wrong.value.problems) == 2
    assert any("data.path" in line for line in wrong.value.problems)
    assert any("north.yaml: name=nord" in line for line in wrong.value.problems)


def test_files__need_no_keys_and_no_roster_but_say_where_records_are(sites: Path) -> None:
    kept = "name", "data", "ledger", "policy"
    for path in sites.glob("*.yaml"):
        lines = [one for one in path.read_text().splitlines(True) if one.startswith(kept)]
        path.write_text("".join(lines))
    assert sorted(read_simulated(config(sites))[1]) == ["east", "nord", "west"]
    path = sites / "west.yaml"
    path.write_text("".join(one for one in path.read_text().splitlines(True) if one[:4] != "data"))
    with pytest.raises(ConfigError, match=r"west\.yaml: data: is missing; partition=files takes"):
        read_simulated(config(sites))


def test_files__need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="partition=files: set sites to the folder"):
        compose(RUN)
    with pytest.raises(ConfigError, match="holds no site file"):
        read_simulated(config(tmp_path))


def test_files__pooled_are_the_same_records_at_one_site(sites: Path) -> None:
    dealt = read_simulated(config(sites))[1]
    ((name, together),) = read_simulated(config(sites, *POOLED))[1].items()
    assert name == "all"
    for part in ("train", "test"):
        apart = [getattr(site, part) for site in dealt.values()]
        both = getattr(together, part)
        assert sorted(map(bytes, both.features)) == sorted(
            row.tobytes() for records in apart for row in records.features
        )
        assert len(both) == sum(map(len, apart)) == sum(len(r.labels) for r in apart)


def test_files__pooled_are_for_references_without_privacy(sites: Path) -> None:
    with pytest.raises(ConfigError, match=r"partition\.pooled=true: one place has no ledger"):
        config(sites, "partition.pooled=true", "secagg=off")


def test_files__pooled_are_used_as_every_owner_allows(sites: Path) -> None:
    run = config(sites, *POOLED)
    owner = owner_of(run, "all")
    assert [one.name for one in owner.contributors] == ["east", "nord", "west"]
    policy(sites / "nord.yaml", f"{LOOSE}, allow_models: [tabular]")
    with pytest.raises(PrivacyError) as refused:
        admit(owner_of(run, "all"), run, run_id="r", cohort=1, now=datetime.now(UTC))
    lines = str(refused.value).splitlines()
    assert {line.split(": policy")[0] for line in lines} == {"site east", "site west"}
    assert {path.stem for path in (sites / "state").glob("*.jsonl")} == {"east", "west"}
    for name in ("east", "west"):
        policy(sites / f"{name}.yaml", LOOSE)
    admit(owner_of(run, "all"), run, run_id="r", cohort=1, now=datetime.now(UTC))


def test_baselines__of_files_are_every_site_alone_and_all_in_one_place(sites: Path) -> None:
    found = baselines([compose_point([*RUN, f"sites={sites}"], {})])
    assert [(point.reference, point.site) for point in found] == [
        ("non_private", None),
        ("local_only", "east"),
        ("local_only", "nord"),
        ("local_only", "west"),
        ("centralised", None),
    ]
    assert [point.config.partition for point in found] == [Files()] * 4 + [Files(pooled=True)]


@pytest.mark.slow
def test_compare__measures_files_against_each_alone_and_all_together(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", *RUN, f"sites={sites}", f"out={tmp_path / 'run'}", "rounds=2",
               "secagg=off", "transport=plain", "training.nominal_records=18",
               "compare.baselines=true"]  # fmt: skip
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "references train without privacy" in said
    assert not (tmp_path / "run").exists()
    for name in ("east", "nord", "west"):
        policy(sites / f"{name}.yaml", f"{LOOSE}, min_test_records: 1")
    assert main(command) == 0
    points = json.loads((tmp_path / "run" / "compare.json").read_text())["points"]
    assert [point["status"] for point in points] == ["finished"] * 6
    tested = {}
    for point in points:
        result = json.loads((tmp_path / "run" / point["name"] / "result.json").read_text())
        tested[point["name"]] = sum(s["test"] for s in result["data"]["sites"].values())
    # The same test records, whoever learned.
    assert tested["centralised"] == tested["non-private"] == tested["point"]


def test_files__say_what_their_machines_hold_in_a_simulation_too(sites: Path) -> None:
    path = sites / "east.yaml"
    path.write_text(path.read_text() + "machine: {max_batch: 3}\n")
    run = config(sites, "training.max_batch=64")
    batches = {n: open_site(owner_of(run, n), run).training.max_batch for n in ("east", "nord")}
    assert batches == {"east": 3, "nord": 64}


def test_files__of_texts_may_be_lines_or_tables(tmp_path: Path) -> None:
    rows = [{"text": f"clause number {i}", "kind": "ab"[i % 2]} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:6])))
    table(tmp_path / "b.csv", "body,topic", [tuple(row.values()) for row in rows[6:]])
    tokenizer = {"kind": "hashing", "buckets": 100, "max_length": 6}
    for name, data in {
        "a": {"path": "a.jsonl", "label": "kind"},
        "b": {"path": "b.csv", "text": "body", "label": "topic"},
    }.items():
        site(tmp_path, name, {"kind": "text", "tokenizer": tokenizer, **data})
    run = ["scenario=text", "scenario.path=none", "scenario.label=kind", "partition=files",
           "model=text", "scenario.tokenizer.kind=hashing", f"sites={tmp_path}"]  # fmt: skip
    pool, dealt = read_simulated(with_absolute_paths(compose(run), Path.cwd()))
    assert (len(pool), list(dealt)) == (12, ["a", "b"])


def test_files__of_language_may_be_completions_here_and_conversations_there(
    tmp_path: Path,
) -> None:
    folder = str(text_folder(tmp_path / "model"))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    talks = [{"talk": [{**turns[0], "content": f"Hi {i}"}, turns[1]]} for i in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, talks)))
    table(tmp_path / "b.csv", "heading,clause", [(f"Term {i}", "One year.") for i in range(6)])
    for name, data in {
        "a": {"path": "a.jsonl", "messages": "talk"},
        "b": {"path": "b.csv", "prompt": "heading", "completion": "clause"},
    }.items():
        site(tmp_path, name, {"kind": "language", "tokenizer": {"folder": folder}, **data})
    run = ["task=language", "model=text", "scenario=language", "scenario.path=none",
           f"scenario.tokenizer.folder={folder}", "scenario.tokenizer.max_length=24",
           "partition=files", f"sites={tmp_path}"]  # fmt: skip
    pool, dealt = read_simulated(with_absolute_paths(compose(run), Path.cwd()))
    assert (pool.features.shape, list(dealt)) == ((12, 24), ["a", "b"])


@pytest.mark.slow
def test_simulate__trains_on_the_files_of_the_sites_and_writes_their_ledgers(
    sites: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["simulate", *RUN, f"sites={sites}", f"out={out}", "rounds=2", "secagg=off",
               "transport=plain", "training.nominal_records=18"]  # fmt: skip
    for name in ("east", "nord", "west"):
        loose = LOOSE.replace("unit: none", "unit: record, epsilon_total: 50.0")
        policy(sites / f"{name}.yaml", f"{loose}, min_test_records: 1")
    assert main(command) == 0
    result = json.loads((out / "result.json").read_text())
    assert set(result["data"]["sites"]) == {"nord", "east", "west"}
    assert (sites / "state" / "nord.jsonl").is_file()
    assert main(["audit", str(out)]) == 0  # its records are found again
