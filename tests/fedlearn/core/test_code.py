from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fedlearn.core.code import PACKAGES, code_digest

ROOT = Path(__file__).resolve().parents[3]


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
