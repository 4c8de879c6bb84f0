"""One word means one thing: the table of CONTRIBUTING.md, held against the code."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict

from tests.sources import ROOT, trees

ROW = re.compile(r"^\| ([a-z, ]+) \| [^|]+ \|$", re.MULTILINE)
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
FUNCTION_OF_MATHEMATICS = {"bell"}
"""A window of a bell's form is called so everywhere."""


def retired() -> set[str]:
    """The words of the left column, in singular and plural."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    table = text[text.index("| not | but |") : text.index("| word | means |")]
    words = {word.strip() for row in ROW.findall(table) for word in row.split(",")} - {"not"}
    return words | {f"{word}s" for word in words}


def test_words__of_the_left_column_are_in_no_name() -> None:
    words = retired()
    assert {"picture", "parcels", "told"} <= words
    found = set()
    some = re.compile("|".join(words), re.IGNORECASE)
    for path in (ROOT / name for name in trees()):
        if not some.search(path.name + path.read_text("utf-8")):
            continue  # it takes a second to tell the tokens of all
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        names = {token.string for token in tokens if token.type == tokenize.NAME} | {path.stem}
        found |= {
            f"{path.relative_to(ROOT)}: {name}"
            for name in names - FUNCTION_OF_MATHEMATICS
            if words & {part.lower() for part in PART.findall(name)}
        }
    assert found == set()


def test_words__a_public_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
