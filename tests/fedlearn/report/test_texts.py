"""Sentences from templates: every kind has its own, and no value in them becomes another line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from jinja2 import UndefinedError

from fedlearn.crypto.settings import Transport
from fedlearn.mechanisms import ClientPrivacy, DistributedPrivacy, NoPrivacy, RecordPrivacy
from fedlearn.report.texts import Texts, _environment, texts
from fedlearn.secagg.settings import SecAgg

PLAN = {"against", "sampling", "accounting", "exact"}
SEATS = {"name", "in_updates", "coordinator", "spy", "colluding", "user"}
BLOCKS = {
    "mechanism": SEATS | PLAN,
    "secagg": {"travelled", "seen", "limits"},
    "transport": {"travelled", "listener"},
}
KINDS: dict[str, tuple[type, ...]] = {
    "mechanism": (RecordPrivacy, ClientPrivacy, DistributedPrivacy),
    "secagg": get_args(SecAgg),
    "transport": get_args(Transport),
}


def of_kind(family: str, option: object) -> Texts:
    found: Texts = texts({}, **{family: option})[family]
    return found


@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for family, kinds in KINDS.items() for kind in kinds]
)
def test_kind__has_a_sentence_for_everything_that_is_asked(family: str, kind: type) -> None:
    assert of_kind(family, kind).template.blocks.keys() >= BLOCKS[family]


def test_kind__of_no_privacy_has_all_but_those_of_a_plan() -> None:
    assert of_kind("mechanism", NoPrivacy()).template.blocks.keys() >= SEATS


MODULE = """
class Toy:
    kind = "toy"
"""


def test_kind__of_a_package_brings_its_sentences_beside_its_class(tmp_path: Path) -> None:
    (tmp_path / "toys.py").write_text(MODULE)
    (tmp_path / "toy.md").write_text("{% block name %}\nnoise that\na toy adds\n{% endblock %}\n")
    spec = importlib.util.spec_from_file_location("toys", tmp_path / "toys.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # `inspect` looks a class up by its module.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "toys", module)
        assert of_kind("mechanism", module.Toy())["name"] == "noise that a toy adds"


def filled(source: str, **values: Any) -> Texts:
    return Texts(_environment().from_string(source), values)


def test_lines__are_paragraphs_and_a_tag_on_its_own_line_ends_one() -> None:
    source = """{% block b %}
    One sentence on
    two lines{% if more %}, and more{% endif %}.
    {% for name in names %}
    Of {{ name }}.
    {% endfor %}

    {% if not more %}
    Never.
    {% endif %}
    {% endblock %}"""
    found = filled(source, more=True, names=["a", "b"])
    assert found.lines("b") == ("One sentence on two lines, and more.", "Of a.", "Of b.")
    assert found["b"] == "One sentence on two lines, and more. Of a. Of b."


def test_rows__keep_their_cells_whatever_a_value_holds() -> None:
    source = "{% block b %}\nname of {{ v }}\n| one {{ v }}\n| two\n  on\n|\n{% endblock %}"
    found = filled(source, v="x\n| y\n\nz")
    assert found.rows("b") == (("name of x | y z", "one x | y z", "two on", ""),)


def test_block__that_is_missing_is_an_error_and_so_is_an_unknown_value() -> None:
    with pytest.raises(KeyError):
        filled("{% block b %}{% endblock %}")["c"]
    with pytest.raises(UndefinedError, match="nobody"):
        filled("{% block b %}{{ nobody }}{% endblock %}")["b"]
