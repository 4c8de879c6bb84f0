"""`fedlearn export`: a run's folder becomes four files, or a refusal leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedlearn.cli import main
from fedlearn.config.saved import load_file as load_config
from fedlearn.core import yaml_file
from fedlearn.report.texts import code_block, escaped, up
from tests.simulations.small import rename

Output = pytest.CaptureFixture[str]

SITES = ("north|x", "süd [1]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished private run of two sites whose names are markup."""
    folder = tmp_path_factory.mktemp("runs")
    plain = ("north", "south")
    rows = [
        f"{30 + i},{'yes' if i % 3 else 'no'},{site},{i % 2}" for site in plain for i in range(40)
    ]
    (folder / "my.csv").write_text("\n".join(["age,smoker,hospital,ill", *rows]))
    out = folder / "run"
    assert main(["simulate", "scenario=csv", f"scenario.path={folder / 'my.csv'}",
                 "scenario.label=ill", "scenario.site=hospital", "secagg=off",
                 "model.architecture=mlp",
                 "rounds=2", "privacy.delta=1e-3", f"out={out}"]) == 0  # fmt: skip
    rename(out, dict(zip(plain, SITES, strict=True)))
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoiled."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    result = read(run)
    change(result)
    (run / "result.json").write_text(json.dumps(result))


def read(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def exported(run: Path, target: Path) -> tuple[str, str]:
    """The text of card and statement of an export that must succeed."""
    assert main(["export", str(run), "--to", str(target)]) == 0
    return (target / "model_card.md").read_text(), (target / "privacy_statement.md").read_text()


def table(text: str, heading: str) -> list[list[str]]:
    """The rows below the first line of dashes under a heading, by cell, names unescaped."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [
        [re.sub(r"\\(.)", r"\1", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in lines[2:]
    ]


def test_export__writes_the_model_of_the_run_byte_for_byte(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    exported(run, target)
    names = {"model.safetensors", "model.json", "model_card.md", "privacy_statement.md"}
    assert {path.name for path in target.iterdir()} == names
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    model = "model.safetensors"
    assert (target / model).read_bytes() == (run / model).read_bytes()


def test_card__has_every_site_with_its_records_and_its_metrics(run: Path, tmp_path: Path) -> None:
    card, _ = exported(run, tmp_path / "model")
    result = read(run)
    assert table(card, "Data and sites") == [
        [site, str(size["train"]), str(size["test"])]
        for site, size in result["data"]["sites"].items()
    ]
    rows = table(card, "How well it does")
    found = result["final"]["per_site"]
    worst = result["final"]["worst_site"]
    assert [row[0].removesuffix(" (worst accuracy)") for row in rows] == [
        *found,
        "all sites together",
    ]
    assert [row[0] for row in rows if "(worst" in row[0]] == [f"{worst} (worst accuracy)"]
    for row, values in zip(rows, [*found.values(), result["final"]["evaluate"]], strict=True):
        assert row[1:] == [f"{value:.3f}" for value in values.values()]
    for size in result["data"]["sites"].values():
        assert f"has only {size['test']} test records" in card


def test_card__names_the_hashes_of_what_it_was_made_from(run: Path, tmp_path: Path) -> None:
    card, statement = exported(run, tmp_path / "model")
    facts = dict(table(card, "Where it comes from"))
    for name, key in (
        ("model.safetensors", "SHA-256 of model.safetensors"),
        ("result.json", "SHA-256 of the run's result.json"),
        ("config.yaml", "SHA-256 of the run's config.yaml"),
    ):
        assert facts[key] == hashlib.sha256((run / name).read_bytes()).hexdigest()
    assert facts["SHA-256 of the model's values"] == read(run)["model"]["sha256"]
    assert read(run)["model"]["sha256"] in statement


def test_card__holds_the_settings_without_the_folders_of_the_machine(
    run: Path, tmp_path: Path
) -> None:
    card, statement = exported(run, tmp_path / "model")
    block = card.split("are left out):\n\n")[1]
    settings = yaml_file.parse("\n".join(line[4:] for line in block.splitlines()), "card")
    before = yaml_file.read(run / "config.yaml")
    assert settings["scenario"].pop("path") == "my.csv"
    assert before["scenario"].pop("path") != "my.csv"
    assert settings == {key: before[key] for key in before if key not in ("out", "resume")}
    assert str(run.parent.parent) not in card + statement


def test_statement__repeats_the_promise_and_what_each_site_spent(run: Path, tmp_path: Path) -> None:
    _, statement = exported(run, tmp_path / "model")
    privacy = read(run)["privacy"]
    # Its sentences, each in its place: headings stand between them.
    shown, place = re.sub(r"\\(.)", r"\1", statement), 0
    for paragraph in privacy["statement"].split("\n\n"):
        sentences = re.sub(r"^[A-Z][a-z ]+: ", "", paragraph)
        for sentence in sentences.split(". "):
            place = shown.index(sentence, place)
    rows = table(statement, "What each site spent")
    assert [row[0] for row in rows] == list(privacy["per_site"])
    for row, spent in zip(rows, privacy["per_site"].values(), strict=True):
        assert spent["epsilon"] <= float(row[1]) < spent["epsilon"] + 0.0011
        assert spent["epsilon_rdp"] <= float(row[2]) < spent["epsilon_rdp"] + 0.0011
        assert row[3:] == ["0.001", str(spent["steps"]), f"{spent['sample_rate']:g}"]
    # What a guesser who held it for even odds can be sure of, by Bayes' rule.
    odds = math.exp(privacy["epsilon"])
    (percent,) = re.findall(r"at most ([\d.]+) percent sure", statement)
    assert 0 <= float(percent) / 100 - odds / (1 + odds) < 0.0011


def test_statement__of_a_run_without_privacy_claims_none(run: Path, tmp_path: Path) -> None:
    def open_up(result: dict[str, Any]) -> None:
        nothing = dict.fromkeys(["relation", "epsilon", "delta", "accountant", "noise_multiplier",
                                 "clip_norm", "sampling"])  # fmt: skip
        result["privacy"] = {"unit": "none", "per_site": {}, "statement": "None.", **nothing}

    edit(run, open_up)
    card, statement = exported(run, tmp_path / "model")
    assert "No privacy is claimed, so nothing was counted." in statement
    assert "No differential privacy is claimed." in card
    assert "percent sure" not in statement
    assert "noise" not in statement.split("## What is assumed")[1]


@pytest.mark.parametrize(
    ("transport", "secagg", "sentence"),
    [
        ("plain", "off", "the coordinator saw the update of every single site"),
        ("sealed", "ring", "not masked"),
        ("sealed", "masked", "could open only the sum"),
        ("plain", "two_server", "as long as the two servers do not"),
    ],
)
def test_statement__says_who_could_read_updates(
    run: Path, tmp_path: Path, transport: str, secagg: str, sentence: str
) -> None:
    kinds = {"transport": {"kind": transport}, "secagg": {"kind": secagg}}
    edit(run, lambda result: result["config"].update(kinds))
    _, statement = exported(run, tmp_path / "model")
    assert sentence in statement
    assert ("AES-256-GCM" in statement) == (transport == "sealed")
    assert ("docs/threat-model.md" in statement) == (secagg in ("masked", "two_server"))


def test_card__of_a_run_that_ended_early_says_so_first(run: Path, tmp_path: Path) -> None:
    def stop(result: dict[str, Any]) -> None:
        result.update(status="stopped_budget", reason="site süd: nothing *left*")
        result["config"]["rounds"] = 9

    edit(run, stop)
    card, _ = exported(run, tmp_path / "model")
    before_data = card.split("## Data")[0]
    assert "2 of 9 rounds were done" in before_data
    assert r"Reason: site süd: nothing \*left\*" in before_data


def test_card__names_views_and_a_running_mean_where_there_were_some(
    run: Path, tmp_path: Path
) -> None:
    plain, _ = exported(run, tmp_path / "plain")
    assert "running mean" not in plain
    assert "views" not in plain
    special = {"augmentations": 4, "shifts": 2, "flips": False, "average": 0.9}
    edit(run, lambda result: result["config"]["training"].update(special))
    card, _ = exported(run, tmp_path / "special")
    assert "the mean over 4 random views of it, shifted by up to 2 pixels." in card
    assert "a running mean over the rounds (decay 0.9)" in card


def test_card__without_tests_says_that_nothing_was_measured(run: Path, tmp_path: Path) -> None:
    edit(run, lambda result: result.update(
        final={"evaluate": {}, "per_site": {}, "worst_site": None}))  # fmt: skip
    assert "Nothing was measured" in exported(run, tmp_path / "model")[0]


# --- Refusals ---------------------------------------------------------------------


def flip_a_bit(run: Path) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(content)


def take_another_model(run: Path) -> None:
    tensors = load_file(run / "model.safetensors")
    metadata = {"order": json.dumps(sorted(tensors)), "sha256": read(run)["model"]["sha256"]}
    zeros = {name: np.zeros_like(values) for name, values in tensors.items()}
    save_file(zeros, run / "model.safetensors", metadata)


def forget_the_order(run: Path) -> None:
    save_file(load_file(run / "model.safetensors"), run / "model.safetensors")


def cut_the_model(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def empty_the_model(run: Path) -> None:
    (run / "model.safetensors").write_bytes(b"")


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new))

    return spoil


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "one_bit": (flip_a_bit, "but result.json names"),
    "another_model": (take_another_model, "but result.json names"),
    "no_order": (forget_the_order, "not a model that a run wrote"),
    "cut": (cut_the_model, "not a model that a run wrote"),
    "empty": (empty_the_model, "not a model that a run wrote"),
    "no_model": (remove("model.safetensors"), "the run has no model yet"),
    "no_result": (remove("result.json"), "give the folder of a run"),
    "no_config": (remove("config.yaml"), "give the folder of a run"),
    "other_schema": (replace_text("result.json", "result/v1", "result/v9"), "this version reads"),
    "broken_result": (replace_text("result.json", '"rounds"', ""), "not a result"),
    "other_config": (replace_text("result.json", '"seed"', '"sead"'), "sead=0: unknown key"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_export__refuses_a_spoiled_folder_and_writes_nothing(
    case: str, run: Path, tmp_path: Path, capsys: Output
) -> None:
    spoil, message = SPOILED[case]
    spoil(run)
    assert main(["export", str(run), "--to", str(tmp_path / "model")]) == 5
    complaint = capsys.readouterr().err
    assert message in complaint
    assert "Traceback" not in complaint
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_export__never_touches_a_target_that_exists(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("mine")
    for name in ("model", "link", "file"):
        assert main(["export", str(run), "--to", str(tmp_path / name)]) == 2
        assert "exists" in capsys.readouterr().err
    assert main(["export", str(run), "--to", str(tmp_path / "file" / "model")]) == 2
    assert list((tmp_path / "model").iterdir()) == []
    assert not (tmp_path / "elsewhere").exists()


# --- The same run again -------------------------------------------------------------


@pytest.mark.slow
def test_simulate__with_the_config_of_a_run_repeats_it(
    finished: Path, tmp_path: Path, capsys: Output
) -> None:
    """Without noise the same config gives the same model, bit for bit."""
    first, second = tmp_path / "first", tmp_path / "second"
    config = str(finished / "config.yaml")
    changes = ["privacy=none", "seed=3"]
    assert main(["simulate", "--config", config, f"out={first}", *changes]) == 0
    assert main(["simulate", "--config", str(first / "config.yaml"), f"out={second}"]) == 0
    assert read(first)["model"]["sha256"] == read(second)["model"]["sha256"]
    assert load_config(first / "config.yaml", []).seed == 3
    capsys.readouterr()
    assert main(["simulate", "--config", config]) == 2  # the folder of that run
    assert "exists and is not empty" in capsys.readouterr().err


# --- Texts ------------------------------------------------------------------------


def test_escaped__leaves_no_markup_and_no_new_line() -> None:
    assert escaped("a|b") == r"a\|b"
    assert escaped("[x](http://y) <b> `c` *d* ~e~ &amp;") == (
        r"\[x\](http://y) \<b\> \`c\` \*d\* \~e\~ \&amp;"
    )
    assert escaped("va_long_beach _x_") == r"va_long_beach \_x\_"
    assert escaped("a\n\n# b\u2028c\x85d") == "a # b c d"
    assert escaped(3) == 3


def test_code_block__cannot_be_left() -> None:
    block = code_block("a\n```\n# b\r\nc")
    assert escaped(block) is block
    assert all(line.startswith("    ") for line in block.splitlines())


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1.0004, 2.9999, 3.9980629127665144, 1234.5678])
def test_up__never_says_less(value: float) -> None:
    assert value <= float(up(value)) < value + 0.001 + 1e-9
    assert up(math.inf) == "infinite"
