"""The documentation: it builds without a warning, and what it links to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import prose

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path
    for folder in ("fedlearn", "clients", "server", "simulations", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_OF_TESTS = re.compile(r"\btests/[\w/]+\.py\b")
NAME_OF_TEST = re.compile(r"`(\.\.|test_)(\w+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\[[^\]]*\]\(([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page__links_to_files_that_are_there(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page__links_to_headings_that_are_there(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    missing = [
        f"{target}#{anchor}"
        for target, anchor in ANCHOR.findall(text)
        if "://" not in target and anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


@cache
def anchors(page: Path) -> frozenset[str]:
    """What headings are called in links, as GitHub and the site do it."""
    headings = HEADING.findall(FENCED.sub("", page.read_text("utf-8")))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", one).lower() for one in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", one).strip().replace(" ", "-") for one in plain)


def test_site__has_every_page_in_one_place_of_its_contents() -> None:
    docs = ROOT / "docs"
    listed = [
        line.strip()
        for tree in TOCTREE.findall((docs / "index.md").read_text("utf-8"))
        for line in tree.splitlines()
        if line.strip() and not line.startswith(":")
    ]
    there = {p.relative_to(docs).with_suffix("").as_posix() for p in docs.rglob("*.md")} - {"index"}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("page", prose.pages(), ids=lambda page: page.name)
def test_page__has_lines_that_can_be_read(page: Path) -> None:
    assert prose.too_long(page.read_text("utf-8")) == [], "`python -m tests.prose` wraps them"


def test_wrapping__keeps_words_code_links_tables_and_lists() -> None:
    long = "word " * 40
    code = "`a command that is never parted, however long it may be, since it is copied as it is`"
    text = (
        f"# {long}\n\n{long}{code} [a link with words](target.md#place) {long}\n\n"
        f"- {long}\n  {long}\n- short\n1. {long}- {long}\n\n> {long}\n\n| {long} |\n"
        f"```\n{long}\n```\n\nshort,\nand left.\n"
    )
    found = prose.wrapped(text)
    assert prose.wrapped(found) == found
    assert prose.too_long(text) != prose.too_long(found) == []
    words = [re.sub(r"^> ", "", one, flags=re.MULTILINE).split() for one in (text, found)]
    assert words[0] == words[1]
    assert code in found
    assert "[a link with words](target.md#place)" in found
    assert f"# {long.rstrip()}" in found.splitlines()[0]
    assert f"| {long} |" in found.splitlines()
    assert "short,\nand left.\n" in found
    markdown = pytest.importorskip("markdown_it", reason="fedlearn[docs] brings it")
    html = [markdown.MarkdownIt("commonmark").enable("table").render(one) for one in (text, found)]
    assert html[0].split() == html[1].split()


def test_comparison__says_nothing_of_others_without_a_source() -> None:
    """Every cell has a source or says that nothing was found; every source has file and version."""
    page = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    claims, _, listed = page.partition("## Sources\n")
    sources = dict(re.findall(r"^- \[([A-Z]\d+)\] (.+)$", listed, re.MULTILINE))
    used = set(re.findall(r"\[([A-Z]\d+)\]", claims))
    assert used == sources.keys()
    assert all(re.search(r"`[^`]+`|issue \d+", source) for source in sources.values())
    versions = re.findall(r"^\*\*\w[\w-]*\*\*: .*\d", listed, re.MULTILINE)
    assert {tag[0] for tag in sources} == set("FNPHMDAOX")
    assert len(versions) == 8
    rows = [line.strip("|").split("|") for line in claims.splitlines() if line.startswith("| ")]
    theirs = [row for row in rows if re.match(r" [A-Za-z0-9-]+ \d+\.\d+ ", row[0])]
    assert len(theirs) == 4 * 8
    free = re.compile(r"\[[A-Z]\d+\]|^ (not found|-|one mode)")
    assert [(row[0], cell) for row in theirs for cell in row[1:] if not free.search(cell)] == []
    ours = [row for row in rows if row[0].startswith(" **fedlearn**")]
    assert len(ours) == 4
    linked = re.compile(r"\]\([\w.#/-]+\)|^ none")
    assert [cell for row in ours for cell in row[1:] if not linked.search(cell)] == []


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
