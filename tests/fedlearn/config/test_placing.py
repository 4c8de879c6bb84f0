"""Values are set as OmegaConf sets them, wherever they are set without it."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedlearn.config import composition
from fedlearn.config.placing import OtherValueError, at, put
from tests.attacks.lab import STUDY
from tests.effort import examples

NAMES = ["a", "b", "c"]
texts = st.sampled_from(
    ["", "x", "a b", "???", "${a}", "x/${b}", "\\${a}", "\\", "$", "Größe", "1"]
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)
    ),
    max_leaves=4,
)
trees = st.dictionaries(st.sampled_from(NAMES), values, min_size=1)
places = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)


@given(trees, places, values)
@settings(max_examples=20 * examples(200, few=4), deadline=None)
def test_put__sets_what_omegaconf_sets_or_leaves_it_to_that(
    tree: dict[str, Any], parts: list[str], value: Any
) -> None:
    before = copy.deepcopy(tree)
    try:
        found = put(tree, parts, value, new=False)
    except OtherValueError:
        return
    assert tree == before
    config = OmegaConf.create(tree, flags={"struct": True})
    whole = at(tree, parts) == {}
    OmegaConf.update(config, ".".join(parts), value, merge=True, force_add=whole)
    assert repr(found) == repr(OmegaConf.to_container(config))


def test_study__is_put_together_without_omegaconf(monkeypatch: Any) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    expected = composition.compose_tree(STUDY)
    monkeypatch.setattr(composition, "_set", refuse)
    assert composition.compose_tree(STUDY) == expected
