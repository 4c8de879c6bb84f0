"""The seams of the house: a kind is asked for in its own folder, and nowhere else.

Elsewhere the object is asked to do the thing, so that one more kind is one more module. And no
`case _:` decides silently: it raises, or asserts that it is never reached.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest

from tests.sources import trees

HOMES = {
    "privacy": ("fedlearn/mechanisms/",),
    "plan": ("fedlearn/mechanisms/",),
    "secagg": ("fedlearn/secagg/",),
    "screening": ("fedlearn/screening/",),
    "strategy": ("fedlearn/algorithms/",),
    "model": ("fedlearn/models/",),
    "task": ("fedlearn/tasks/",),
    "scenario": ("fedlearn/data/",),
    "partition": ("fedlearn/data/partition.py",),
}
"""Where the classes of a family are written, and may be told apart."""

OTHERS = {"audit", "tracking", "transport", "engine", "fairness", "event", "adversary", "evidence"}
"""What else has a `kind`; the same word may be a kind of several families."""

SILENT = "silent default"


def _kind_of(node: ast.ClassDef) -> str | None:
    """The one literal that the class has for its `kind`."""
    for field in node.body:
        match field:
            case ast.AnnAssign(target=ast.Name(id="kind"), value=ast.Constant(value=str(kind))):
                return kind
    return None


@cache
def _classes() -> dict[str, str]:
    """Family of every class of a kind, and of every plan."""
    found = {}
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                if path.startswith(HOMES["plan"]) and node.name.endswith("Plan"):
                    found[node.name] = "plan"
                elif _kind_of(node) and (family := _family_at(path)):
                    found[node.name] = family
    return found


@cache
def _kinds() -> dict[str, set[str]]:
    """The kinds of every family."""
    found: dict[str, set[str]] = {family: set() for family in HOMES}
    for path, tree in trees().items():
        for node in tree.body:
            kind = _kind_of(node) if isinstance(node, ast.ClassDef) else None
            if kind and (family := _family_at(path)):
                found[family].add(kind)
    return found


def _family_at(path: str) -> str | None:
    """The family whose classes are written in a file: of the longest path that fits."""
    fitting = [(max(map(len, homes)), f) for f, homes in HOMES.items() if path.startswith(homes)]
    return max(fitting)[1] if fitting else None


def _last(node: ast.expr | ast.pattern | None) -> str:
    """The last word of `a.b.c`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=func):
            return _last(func)
    return ""


def _words(node: ast.AST) -> set[str]:
    return {
        child.value
        for child in ast.walk(node)
        if isinstance(child, ast.Constant) and isinstance(child.value, str)
    }


def _of_class(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Name | ast.Attribute) and _last(child) in _classes():
            yield _classes()[_last(child)]


def _of_kind(node: ast.expr, words: set[str]) -> Iterator[str]:
    """The family of `subject.kind`, by the name of the subject, else by what it is compared to."""
    match node:
        case ast.Attribute(attr="kind", value=subject):
            name = _last(subject)
            if name in HOMES:
                yield name
            elif name not in OTHERS:
                yield from (family for family, kinds in _kinds().items() if words & kinds)


def _asked(node: ast.AST) -> Iterator[str]:
    """The families whose kind a node asks for."""
    match node:
        case ast.match_case(pattern=pattern):
            for child in ast.walk(pattern):
                if isinstance(child, ast.MatchClass):
                    yield from _of_class(child.cls)
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, wanted]):
            yield from _of_class(wanted)
        case ast.Compare(left=left, comparators=[right]):
            yield from _of_kind(left, _words(right))
            yield from _of_kind(right, _words(left))
        case ast.Match(subject=subject, cases=cases):
            yield from _of_kind(subject, {word for case in cases for word in _words(case.pattern)})
        case ast.Subscript(slice=key):
            yield from _of_kind(key, set())


def _decides_silently(node: ast.AST) -> bool:
    """Whether a case takes all that is left, and neither raises nor asserts."""
    match node:
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None, body=body):
            match body[-1]:
                case ast.Raise() | ast.Assert():
                    return False
                case ast.Expr(value=ast.Call(func=func)):
                    return _last(func) not in ("assert_never", "fail")
            return True
    return False


@cache
def _found() -> dict[str, tuple[str, ...]]:
    """File -> the families that it asks for outside their home, and `SILENT`."""
    found = {}
    for path, tree in trees().items():
        families = set()
        for node in ast.walk(tree):
            families |= {f for f in _asked(node) if not path.startswith(HOMES[f])}
            if _decides_silently(node):
                families.add(SILENT)
        if families:
            found[path] = tuple(sorted(families))
    return found


def test_kinds__are_asked_for_in_their_own_folder_alone() -> None:
    assert _found() == {}, "ask the object instead of its kind, or give it a method"


@pytest.mark.parametrize(
    ("source", "families"),
    [
        ("isinstance(x, ClientPlan | None)", {"plan"}),
        ("isinstance(config.privacy, mechanisms.RecordPrivacy)", {"privacy"}),
        ("config.privacy.kind != 'none'", {"privacy"}),
        ("config.audit.kind == 'none'", set()),
        ("settings.kind in ('masked', 'two_server')", {"secagg"}),
        ("TABLE[config.model.kind]", {"model"}),
        ("match x:\n case Dirichlet(): pass", {"partition"}),
        ("match x:\n case (Total(), ClientPlan()): pass", {"plan"}),
        ("match x.kind:\n case 'ring': pass", {"secagg"}),
    ],
)
def test_walk__sees_the_ways_to_ask(source: str, families: set[str]) -> None:
    assert {f for node in ast.walk(ast.parse(source)) for f in _asked(node)} == families


@pytest.mark.parametrize(
    ("body", "silent"),
    [("y = 1", True), ("raise E", False), ("assert_never(x)", False), ("y = 1; raise E", False)],
)
def test_walk__sees_a_default_that_decides_silently(body: str, silent: bool) -> None:
    tree = ast.parse(f"match x:\n case 1: pass\n case _: {body}")
    assert any(map(_decides_silently, ast.walk(tree))) is silent
