"""The documentation: it builds without a warning, and what it links to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = sorted(
    path
    for folder in ("fedlearn", "clients", "server", "simulations", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_OF_TESTS = re.compile(r"\btests/[\w/]+\.py\b")
NAME_OF_TEST = re.compile(r"`(\.\.|test_)(\w+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page__links_to_files_that_are_there(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_pages_and_docstrings__name_files_of_tests_that_are_there() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (*PAGES, *SOURCES)
        for name in FILE_OF_TESTS.findall(path.read_text("utf-8"))
    }
    assert {(where, name) for where, name in named if not (ROOT / name).is_file()} == set()


def test_pages__name_tests_that_are_there() -> None:
    """`test_x` by its whole name, `..x` by the end of it."""
    there = "\n".join(path.read_text("utf-8") for path in TESTS)
    names = set(re.findall(r"def (test_\w+)", there))
    ends = ("test_subject__does_what",)  # the form of a name, in CONTRIBUTING.md
    missing = {
        f"{page.name}: {prefix}{name}"
        for page in PAGES
        for prefix, name in NAME_OF_TEST.findall(page.read_text("utf-8"))
        if not (f"test_{name}" in names or f"test_{name}" in ends)
        and not (prefix == ".." and any(name in one for one in names))
    }
    assert missing == set()


def test_threat_model__names_a_test_for_every_cell() -> None:
    """Who is protected from whom: each cell has its tests, and each list of tests its cell."""
    page = (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    table = page.partition("cell by cell\n")[2]
    rows = [line.split("|")[2:-1] for line in table.splitlines() if line.startswith("|")]
    head, _, *cells = rows
    listed = dict(re.findall(r"^- (\w): (.+)$", table, re.MULTILINE))
    assert {len(row) for row in rows} == {len(head)}
    named = [re.findall(r"\[(\w)\]", cell) for row in cells for cell in row]
    assert all(named)
    assert {tag for tags in named for tag in tags} == set(listed)
    assert all(NAME_OF_TEST.search(tests) for tests in listed.values())


@pytest.mark.slow
def test_site__builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="fedlearn[docs] brings sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*command, "docs", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "searchindex.js").is_file()
