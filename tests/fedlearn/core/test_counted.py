"""What is counted is called by one or by many, and by one function."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from fedlearn.core.errors import counted
from tests.sources import trees

BARE = re.compile(r" (sites|gaps|persons)\b")


def bare_counts() -> Iterator[str]:
    """Texts that say `{value} sites` whatever the value is."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in pairwise(node.values):
                follows = isinstance(text, ast.Constant) and BARE.match(str(text.value))
                if isinstance(value, ast.FormattedValue) and follows:
                    yield f"{path}:{node.lineno}"


def test_counted__says_one_of_one_thing_and_many_of_all_other_numbers() -> None:
    assert [counted(n, "site") for n in (0, 1, 2)] == ["0 sites", "1 site", "2 sites"]
    assert counted(1, "site is", "sites are") == "1 site is"
    assert counted(5000, "site is", "sites are") == "5,000 sites are"


def test_no_text__counts_without_it() -> None:
    # Of these many have records at several sites: there is no such note about one.
    assert {place.partition(":")[0] for place in bare_counts()} <= {"fedlearn/data/persons.py"}
