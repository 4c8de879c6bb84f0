"""No text of the program advises anybody to switch a protection off, whatever has gone wrong.

Who reads an error at three in the morning does what it says. A run without masks, noise or a
sealed channel is for who looks for it in the documentation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("fedlearn", "server", "clients", "simulations")
OFF = re.compile(
    r"secagg=off|secagg=ring|privacy=none|transport=plain|require_\w+: null|require_\w+=null"
    r"|evaluation=per_site|client_certificates: false|unit: none|allow_classical=true"
)
COMMAND = re.compile(r"(simulate|compare|server|audit|report|data)( [^ ]*=[^ ]*)*( [^ ]+)?")
"""An example of a command, and no advice."""


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """All texts but docstrings, with their lines; of a text with values in it the whole."""
    inside, told = set[int](), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            told.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            inside |= {id(one) for one in node.values}
            yield node.lineno, ast.unparse(node)
    for node in ast.walk(tree):
        own = isinstance(node, ast.Constant) and id(node) not in told | inside
        if own and isinstance(node.value, str):
            yield node.lineno, node.value


def advice(source: str) -> list[tuple[int, str]]:
    """The sentences of a module that name what switches a protection off."""
    found = ((line, text) for line, text in texts(ast.parse(source)) if OFF.search(text))
    return [one for one in found if " " in one[1].strip() and not COMMAND.fullmatch(one[1])]


def test_no_text__advises_to_switch_a_protection_off() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text[:160]}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if OFF.search(source := path.read_text(encoding="utf-8"))
        for line, text in advice(source)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        'raise ConfigError(["too few sites; invite more, or set secagg=off"])',
        'raise ConfigError([f"a cohort of {n}; invite more sites " "or set secagg=off"])',
        'found.append(f"privacy.epsilon={x}: is none. Choose privacy=none")',
        'log.warning("a site refuses: write require_secagg: null")',
    ],
)
def test_look__finds_advice_in_every_form_of_text(source: str) -> None:
    assert advice(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""What secagg=off is for."""',
        'plain = ("secagg=off", "transport=plain")',
        'command("simulate", "simulate experiment=heart privacy=none rounds=5 out=runs/open")',
        'if kind == "privacy=none": pass',
    ],
)
def test_look__leaves_words_of_a_config_and_examples_alone(source: str) -> None:
    assert not advice(source)
