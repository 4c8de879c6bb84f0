"""The top level of the project: what stands there was chosen."""

from __future__ import annotations

import subprocess

import pytest

from tests.sources import ROOT

FOLDERS = "benchmarks clients configs docs examples fedlearn server simulations tests"
FILES = (
    "CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md SECURITY.md pyproject.toml "
    "requirements-dev.txt"
)


def test_root__holds_nothing_that_a_command_left_there() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git: what belongs to the project cannot be told")
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {path.split("/")[0] for path in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} == {*FOLDERS.split(), *FILES.split()}
