"""Code is named by its hash, and by its commit where that is known, and only then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fedlearn.core import code
from fedlearn.core.code import PACKAGES, code_digest, commit

ROOT = Path(__file__).resolve().parents[3]
WHO = {
    f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small installation of the project."""
    for package in PACKAGES:
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "a.py").write_text(f"# {package}\n")
    (tmp_path / "configs" / "run.yaml").write_text("rounds: 1\n")
    (tmp_path / "server" / "inner" / "page.j2").write_text("<p>\n")
    return tmp_path


def digest(root: Path) -> str:
    return code_digest.__wrapped__(root)


def test_code_digest__is_of_the_code_that_runs() -> None:
    assert code_digest() == digest(ROOT)


def test_code_digest__depends_on_contents_not_on_place_or_time(copy: Path, tmp_path: Path) -> None:
    before = digest(copy)
    other = tmp_path / "other place"
    for package in PACKAGES:
        shutil.copytree(copy / package, other / package)
    os.utime(other / "clients" / "a.py", (0, 0))
    (other / "clients" / "__pycache__").mkdir()
    (other / "clients" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert digest(other) == before


@pytest.mark.parametrize("name", ["clients/a.py", "configs/run.yaml", "server/inner/page.j2"])
def test_code_digest__changes_with_any_source(copy: Path, name: str) -> None:
    before = digest(copy)
    with (copy / name).open("a") as file:
        file.write("\n")
    assert digest(copy) != before


def test_code_digest__changes_with_a_new_a_moved_or_a_missing_file(copy: Path) -> None:
    found = {digest(copy)}
    (copy / "clients" / "b.py").write_text("")
    found.add(digest(copy))
    (copy / "clients" / "b.py").rename(copy / "clients" / "c.py")
    found.add(digest(copy))
    (copy / "clients" / "a.py").unlink()
    found.add(digest(copy))
    assert len(found) == 4


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


@needs_git
def test_commit__is_that_of_the_source(project: Path) -> None:
    assert commit(project) == git(project, "rev-parse", "HEAD")
    (project / "notes.txt").write_text("not source")
    commit.cache_clear()
    assert commit(project) == git(project, "rev-parse", "HEAD")


@needs_git
@pytest.mark.parametrize("name", ["a.py", "new.py"])
def test_commit__is_marked_where_source_differs(project: Path, name: str) -> None:
    (project / "server" / name).write_text("2")
    assert commit(project) == git(project, "rev-parse", "HEAD") + "+"


@needs_git
def test_commit__of_a_repository_around_is_not_ours(project: Path) -> None:
    inner = project / "venv" / "lib"
    (inner / "server").mkdir(parents=True)
    assert commit(inner) == ""


@needs_git
def test_commit__is_unknown_without_git_or_a_commit(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert commit(project) == ""


@needs_git
def test_commit__does_not_follow_what_the_caller_set_for_git(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(project, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(project / "elsewhere"))
    assert commit(project) == head


def test_commit__of_an_installed_copy_is_what_pip_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "fedlearn-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedlearn\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert code._installed() == ""
    noted = {"url": "https://example.org/f.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}
    (info / "direct_url.json").write_text(json.dumps(noted))
    assert code._installed() == "ab12"
