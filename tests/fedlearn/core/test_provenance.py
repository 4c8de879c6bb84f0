"""A commit is named where it is known, and only then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fedlearn.core.provenance import commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

WHO = {
    f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        check=True, capture_output=True, text=True, env=os.environ | WHO,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "a.py").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit.cache_clear()
    return tmp_path


def test_commit__is_that_of_the_source(project: Path) -> None:
    assert commit(project) == git(project, "rev-parse", "HEAD")
    (project / "notes.txt").write_text("not source")
    commit.cache_clear()
    assert commit(project) == git(project, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["a.py", "new.py"])
def test_commit__is_marked_where_source_differs(project: Path, name: str) -> None:
    (project / "server" / name).write_text("2")
    assert commit(project) == git(project, "rev-parse", "HEAD") + "+"


def test_commit__of_a_repository_around_is_not_ours(project: Path) -> None:
    inner = project / "venv" / "lib"
    (inner / "server").mkdir(parents=True)
    assert commit(inner) == ""


def test_commit__is_unknown_without_git_or_a_commit(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert commit(project) == ""


def test_commit__does_not_follow_what_the_caller_set_for_git(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(project, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(project / "elsewhere"))
    assert commit(project) == head


def test_commit__of_an_installed_copy_is_what_pip_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedlearn.core import provenance

    info = tmp_path / "fedlearn-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedlearn\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert provenance._installed() == ""
    noted = {"url": "https://example.org/f.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}
    (info / "direct_url.json").write_text(json.dumps(noted))
    assert provenance._installed() == "ab12"
