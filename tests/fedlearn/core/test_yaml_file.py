"""YAML of ours: exact both ways, and strict about what people write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError
from fedlearn.core.yaml_file import dump, parse, read
from tests.effort import examples

texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["1e5", "1e-05", "no", "null", "~", "2020-01-01", "12:30", ".5e3", "=", "<<"]),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(150), deadline=None)
@given(st.dictionaries(texts, values, max_size=4))
def test_yaml__comes_back_exactly_as_it_was_written(tree: dict[str, object]) -> None:
    back = parse(dump(tree), "x")
    assert back == tree
    assert repr(back) == repr(tree)  # 1 is not True, and 1 is not 1.0


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.1e-4", "1E-5", "+1e-05", ".1e-4"])
def test_yaml__takes_a_number_with_an_exponent_for_a_number(text: str) -> None:
    assert parse(f"delta: {text}", "x") == {"delta": 1e-5}


@pytest.mark.parametrize("text", ["7e2562b0", "1e5x", "12e-3.4", "1.5e3 km"])
def test_yaml__takes_what_goes_on_after_an_exponent_for_a_text(text: str) -> None:
    """As one hash in forty does, of the terms that the owner of a second server approves."""
    assert parse(f"approved: [{text}]", "x") == {"approved": [text]}


def test_yaml__takes_a_date_for_a_text() -> None:
    assert parse("experiment: 2026-03-01", "x") == {"experiment": "2026-03-01"}


BAD = {
    "twice": ("policy:\n  epsilon_total: 1\n  epsilon_total: 9\n", "line 3: the key 'epsilon_"),
    "merge": ("a: &a {b: 1}\nc:\n  <<: *a\n", "line 3: a key is not a text"),
    "number_as_key": ("1: 2\n", "line 1: a key is not a text"),
    "list": ("- a\n", "must hold `key: value` lines"),
    "nothing": ("", "must hold `key: value` lines"),
    "open_bracket": ("a: [1\nb: 2\n", "line 2"),
    "code": ("a: !!python/name:os.system\n", "could not determine a constructor"),
    "bytes": ("a: !!binary aGVsbG8=\n", "nothing else"),
    "itself": ("a: &a [*a]\n", "nothing else"),
    "control": ("a: \x07\n", "not YAML"),
}


@pytest.mark.parametrize("case", BAD)
def test_yaml__names_file_and_line_of_what_it_refuses(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(ConfigError) as caught:
        parse(text, "site.yaml")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("site.yaml")
    assert message in caught.value.problems[0]


def test_yaml__that_cannot_be_read_is_a_problem_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Zürich".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read(tmp_path / "latin.yaml")
