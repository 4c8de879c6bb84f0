"""What stands in docstrings as an example of use is run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import fedlearn.flower
from fedlearn.flower import Protection, protect, run_apps, secure, spend

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = {"protect": protect, "secure": secure, "spend": spend, "Protection": Protection,
          "run_apps": run_apps}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name__has_an_example_that_runs(name: str) -> None:
    module = importlib.import_module(PUBLIC[name].__module__)
    found = [t for t in doctest.DocTestFinder().find(PUBLIC[name], name, module) if t.examples]
    assert found
    for test in found:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_page__shows_the_lines_that_the_example_really_changes() -> None:
    page = (ROOT / "docs" / "flower.md").read_text("utf-8")
    diff = re.search(r"```diff\n(.*?)```", page, re.DOTALL)
    assert diff
    added = [line[1:].strip() for line in diff[1].splitlines() if line.startswith("+")]
    protected = ROOT / "examples" / "flower-quickstart" / "protected"
    text = "\n".join(
        path.read_text() for path in protected.rglob("*.[pt]*") if path.suffix in (".py", ".toml")
    )
    assert len(added) == 5
    assert [line for line in added if line not in text] == []


def test_page__names_defaults_as_they_are() -> None:
    page = (ROOT / "docs" / "flower.md").read_text("utf-8")
    standard = Protection()
    assert f"`clip` ({standard.clip:g})" in page
    assert standard.resolution == 2.0**-16
    assert f"{standard.secagg(5).bits} with five sites" in page
    assert fedlearn.flower.Protection is Protection
