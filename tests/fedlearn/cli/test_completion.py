"""What shells offer: a bash is really asked, and what is offered is what a run takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.cli.completion import SHELLS, audit_words, words
from fedlearn.config.composition import sift
from fedlearn.config.layers import groups_of_files
from tests.sources import ROOT

ASK = """
eval "$(fedlearn completion bash)"
while IFS= read -r COMP_LINE; do
  read -ra COMP_WORDS <<< "$COMP_LINE"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
  COMPREPLY=(); _python_argcomplete fedlearn "${COMP_WORDS[-1]}" ""
  (IFS='|'; echo "${COMPREPLY[*]}")
done
"""
"""A bash that answers each line that it reads with what it would offer at its end."""

GROUPS = groups_of_files()

ASKED = {
    "fedlearn sim": "simulate ",
    "fedlearn keys roster si": "sign ",
    "fedlearn simulate --cf": "--cfg ",
    "fedlearn simulate privacy=re": "record ",
    "fedlearn simulate experiment=medical_heart rou": "rounds=",
    "fedlearn simulate experiment=medical_heart rounds=": "20 ",
    "fedlearn compare scenario=csv scenario.path=my": "my table.csv",
    "fedlearn audit demo=e": "exposure ",
}


@pytest.mark.slow
def test_bash__is_offered_commands_keys_and_values(tmp_path: Path) -> None:
    program = tmp_path / "fedlearn"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedlearn "$@"\n')
    program.chmod(0o755)
    (tmp_path / "my table.csv").write_text("a\n1\n")
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", ASK], input="".join(f"{line}\n" for line in ASKED), text=True,
        capture_output=True, cwd=tmp_path, env=environment, check=True, timeout=120,
    )  # fmt: skip
    offered = [line.replace("\\ ", " ") for line in done.stdout.splitlines()]
    assert dict(zip(ASKED, map(str.rstrip, offered), strict=True)) == {
        line: answer.rstrip() for line, answer in ASKED.items()
    }


@pytest.mark.parametrize("shell", SHELLS)
def test_completion__prints_what_a_shell_reads(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "fedlearn" in script
    if there := shutil.which(shell):
        subprocess.run([there, "-n"], input=script, text=True, check=True, timeout=60)


@pytest.mark.parametrize("given", [[], ["experiment=medical_heart"]])
def test_words__that_are_offered_are_ones_that_a_run_takes(given: list[str]) -> None:
    keys = words("", Namespace(overrides=given))
    assert {"experiment=", "privacy=", "privacy.epsilon=", "rounds=", "out="} <= {*keys}
    offered = [words(key, Namespace(overrides=given)) for key in keys if key[:-1] not in GROUPS]
    settings = [found[-1] for found in offered if found]
    assert len(settings) > 40
    assert sift([*given, *settings]).found == []


def test_words__follow_from_the_options_that_are_chosen() -> None:
    assert "scenario.path=" in words("scen", Namespace(overrides=["scenario=csv"]))
    assert "scenario.path=" not in words("scen", Namespace(overrides=["scenario=heart"]))
    assert words("privacy.epsilon=", Namespace(overrides=["privacy=none"])) == []
    assert words("scenario.path=nothing/", Namespace(overrides=["scenario=csv", "odd=1"])) == []


def test_words_of_an_audit__are_folders_demonstrations_or_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "heart").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert audit_words("ru", Namespace(words=["ru"])) == ["runs/"]
    assert audit_words("runs/", Namespace(words=[])) == ["runs/heart/"]
    assert audit_words("demo=i", Namespace(words=[])) == ["demo=inversion"]
