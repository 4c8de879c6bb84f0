"""Bad input at the command line: its exit code, one clear message, and nothing lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.core import terminal
from fedlearn.core.interrupt import Interrupt
from fedlearn.data.datasets import archives

HEART = "experiment=medical_heart"

BAD_CONFIG = {
    "unknown_key": (["privcy.epsilon=1"], "did you mean privacy.epsilon?"),
    "unknown_option": (["model=tabulr"], "did you mean tabular?"),
    "wrong_type": (["rounds=many"], "rounds=many: must be a valid integer"),
    "negative_epsilon": (["privacy.epsilon=-1"], "privacy.epsilon=-1: must be > 0"),
    "no_rounds": (["rounds=0"], "rounds=0: must be > 0"),
    "delta_above_one_over_n": (["privacy.delta=0.05"], "privacy.delta=0.05: must be at most 1/30"),
    "model_that_dp_cannot_train": (
        ["model.architecture=mlp", "model.norm=batch"],
        "BatchNorm1d) mixes the records",
    ),
    "heads_that_do_not_divide": (
        ["model.architecture=ft_transformer", "model.heads=5"],
        "model.heads=5: must divide",
    ),
    "not_key_value": (["rounds"], "rounds: must have the form key=value"),
    "epsilon_and_noise": (["privacy.noise_multiplier=1.0"], "Leave out one of the two"),
    "scaling_that_reads_records": (
        [
            "scenario.scaling={kind:standardise_per_site}",
            "~scenario.scaling.columns",
            "~scenario.scaling.unlisted",
        ],
        "is computed from records outside the privacy accounting",
    ),
    "range_missing": (["~scenario.scaling.columns.age"], "age"),
    "more_sites_than_records": (["partition=iid", "partition.num_sites=900"], "partition"),
}


@pytest.mark.usefixtures("heart_archive")
@pytest.mark.parametrize("case", BAD_CONFIG)
def test_simulate__refuses_a_bad_config_before_anything_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, message = BAD_CONFIG[case]
    out = tmp_path / "run"
    code = main(["simulate", HEART, f"out={out}", *overrides])
    complaint = capsys.readouterr().err
    assert message in complaint
    assert code == (5 if case == "more_sites_than_records" else 2)
    assert "Traceback" not in complaint
    assert not out.exists()


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_run__that_cannot_be_written_down_is_refused_before_records_are_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    words = ["scenario=csv", f"scenario.path={tmp_path / 'none.csv'}", "scenario.label=y"]
    assert main([command, *words, f"out={tmp_path / 'file' / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert "cannot be written (Not a directory); choose another folder" in " ".join(said.split())
    assert "none.csv" not in said


def test_simulate__lists_all_problems_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rounds=0", "seed=-1", "modle=x", "privacy.delta=2"]) == 2
    complaint = capsys.readouterr().err
    for path in ("rounds=0", "seed=-1", "modle=x", "privacy.delta=2"):
        assert path in complaint


@pytest.mark.usefixtures("heart_archive")
def test_simulate__never_touches_a_folder_that_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    assert main(["simulate", HEART, f"out={tmp_path}"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.slow
@pytest.mark.usefixtures("heart_archive")
def test_simulate__resumes_only_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'run'}"
    assert main(["simulate", HEART, out, "privacy=none", "rounds=2"]) == 0
    assert main(["simulate", HEART, out, "privacy=none", "rounds=3", "resume=true"]) == 2
    assert "rounds: differs" in capsys.readouterr().err
    assert main(["simulate", HEART, f"out={tmp_path / 'none'}", "resume=true"]) == 2
    assert "no run to continue" in capsys.readouterr().err


@pytest.mark.slow
def test_simulate__says_how_to_get_data_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path / "cache"))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    clear_cached_sites()
    assert main(["simulate", HEART, f"out={tmp_path / 'run'}"]) == 5
    assert "fedlearn data fetch heart" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_simulate__refuses_an_altered_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archives.cached_path(archives.ARCHIVES["heart"], tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the archive")
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path))
    clear_cached_sites()
    assert main(["simulate", HEART, f"out={tmp_path / 'run'}"]) == 5
    assert "SHA-256" in capsys.readouterr().err


def clear_cached_sites() -> None:
    from clients import records, site

    records.kept.cache_clear()
    site._open.cache_clear()


TABLE = "age,smoker,hospital,ill\n"


def write_table(path: Path, rows: list[str]) -> str:
    path.write_text(TABLE + "".join(f"{row}\n" for row in rows))
    return str(path)


def csv_run(path: str, out: Path, *more: str) -> list[str]:
    return ["simulate", "scenario=csv", f"scenario.path={path}", "scenario.label=ill",
            "scenario.site=hospital", "model.architecture=linear", "rounds=2", f"out={out}",
            "privacy=none", *more]  # fmt: skip


def rows(hospital: str, n: int, ill: str | None = None) -> list[str]:
    return [f"{30 + i},{'yes' if i % 3 else 'no'},{hospital},{ill or i % 2}" for i in range(n)]


def test_simulate__trains_on_ones_own_table(tmp_path: Path) -> None:
    path = write_table(tmp_path / "my.csv", rows("north", 40) + rows("south", 40))
    assert main(csv_run(path, tmp_path / "run", "secagg=off")) == 0


def test_simulate__refuses_to_mask_a_sum_of_two_and_says_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_table(tmp_path / "my.csv", rows("north", 40) + rows("south", 40))
    assert main(csv_run(path, tmp_path / "run")) == 2
    complaint = capsys.readouterr().err
    assert "secagg.min_cohort=3: a round has 2 of 2 sites" in complaint
    assert "invite more" in complaint
    assert "secagg=off" not in complaint
    assert not (tmp_path / "run").exists()


BAD_TABLES = {
    "one_class_only": (rows("a", 20, "1") + rows("b", 20, "1"), "every record is"),
    "site_without_rows": (rows("a", 20) + rows("b", 1), "b"),
    "nothing": ([], "no records"),
}


@pytest.mark.parametrize("case", ["one_class_only", "nothing"])
def test_simulate__refuses_a_table_that_cannot_be_learned(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD_TABLES[case]
    path = write_table(tmp_path / "my.csv", content)
    assert main(csv_run(path, tmp_path / "run")) == 5
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("heart_archive")
def test_simulate__says_when_training_diverges_and_keeps_the_last_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    overrides = [
        "privacy=none",
        "training.learning_rate=1e30",
        "secagg=off",
        "rounds=8",
        "model.architecture=mlp",
    ]
    assert main(["simulate", HEART, f"out={out}", *overrides]) == 4
    assert "training diverged at cleveland" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["simulate", "--help"], ["data", "--help"]])
def test_help__is_there_with_an_example(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    assert "fedlearn" in capsys.readouterr().out


def test_data__lists_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    assert "heart" in capsys.readouterr().out
    path = write_table(tmp_path / "my.csv", rows("north", 40) + rows("south", 40))
    assert main(["data", "check", path]) == 0
    assert "hospital" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path)]) == 5
    assert main(["data", "fetch", "nothing"]) == 2


@pytest.mark.usefixtures("heart_archive")
@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk__is_said_as_such_and_is_no_bug(
    problem: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = os.replace

    def full(made: Path, path: Path) -> None:
        if Path(path).name == "result.json":
            raise OSError(problem, os.strerror(problem))
        replace(made, path)

    monkeypatch.setattr(os, "replace", full)  # where every file of a run gets its name
    assert main(["simulate", HEART, f"out={tmp_path / 'run'}", "rounds=1"]) == 5
    said = capsys.readouterr().err
    assert f"{os.strerror(problem)}; make room" in said
    assert "bug" not in said


@pytest.mark.parametrize("pressed", [True, False])
def test_error_that_a_library_made_of_an_interrupt__is_a_stop_and_no_bug(
    pressed: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled() -> None:
        """As code in C does that calls back into Python, and says in its own words what failed."""
        try:
            if pressed:
                raise Interrupt
        except Interrupt:
            pass
        raise RuntimeError("Error building the serializer")

    monkeypatch.setattr(terminal, "console", compiled)
    assert main(["data", "list"]) == (130 if pressed else 1)
    said = capsys.readouterr().err
    assert said == "fedlearn: stopped; what was written is kept\n" or not pressed
    assert ("a bug" in said) is not pressed


@pytest.mark.parametrize("word", ["onxx", "Int8", "perf", "merge", "gguf", "GGUF", "tflite"])
def test_export__takes_no_misspelt_form_for_a_folder(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert main(["export", "run", "--to", word]) == 2
    assert f"a folder of that name is --to ./{word}" in capsys.readouterr().err
    # A folder is what it says, and is refused for what the run lacks alone.
    assert main(["export", "run", "--to", f"./{word}"]) == 5
    assert not (tmp_path / word).exists()
