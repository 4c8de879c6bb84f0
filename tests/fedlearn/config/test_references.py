"""References stand for what OmegaConf says they stand for, wherever they are read without it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedlearn.config.composition import compose_tree
from fedlearn.config.layers import CONFIGS, composed
from fedlearn.config.references import OtherReferenceError, resolved
from tests.effort import examples

NAMES = ["a", "b", "c", "d"]
keys = st.one_of(
    st.sampled_from([*NAMES, "d.a", "d.b", "d.none", "none", "d.${a}", "${b}.a", "d.${c}.a", ".a"]),
)
defaults = st.sampled_from(["0", "1", "0.5", "12.25", "sgd", "full", "1e-3", "true", "null", "-1",
                            "007", "1_000", "Word", "''", "a b", "inf", "", "[]",
                            "[a]"])  # fmt: skip
references = st.one_of(
    keys.map(lambda key: f"${{{key}}}"),
    st.builds(lambda key, default: f"${{oc.select:{key},{default}}}", keys, defaults),
    keys.map(lambda key: f"${{oc.select:{key}}}"),
)
texts = st.one_of(
    references,
    st.builds(lambda one, two: f"x/{one}-{two}", references, references),
    references.map(lambda one: "\\" + one),
    st.sampled_from(["a", "b", "???", "${", "$", "${a", "${oc.env:HOME}", "a}", "x y"]),
    st.sampled_from(["b,1", "oc.select:b", "{a}", "a-b", "a/b"]),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(0, 9))
leaves = st.one_of(texts, scalars, st.lists(st.one_of(texts, scalars), max_size=2))
mappings = st.dictionaries(st.sampled_from(NAMES), leaves, max_size=3)
trees = st.dictionaries(st.sampled_from(NAMES), st.one_of(leaves, mappings), min_size=1)


def by_omegaconf(tree: dict[str, Any]) -> Any:
    return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)


@given(trees)
@settings(max_examples=20 * examples(400, few=4), deadline=None)
def test_resolved__is_what_omegaconf_says_or_is_left_to_it(tree: dict[str, Any]) -> None:
    try:
        found = resolved(tree, tree)
    except OtherReferenceError:
        return
    assert found == by_omegaconf(tree)
    assert repr(found) == repr(by_omegaconf(tree))  # 1 is not True, nor 1.0


@pytest.mark.parametrize("option", sorted(p.stem for p in (CONFIGS / "experiment").glob("*.yaml")))
def test_references__of_every_experiment_are_read_without_omegaconf(option: str) -> None:
    tree = composed((f"experiment={option}",))
    assert resolved(tree, tree) == by_omegaconf(tree)


def test_references__to_themselves_are_omegaconfs_to_refuse() -> None:
    for tree in ({"a": "${b}", "b": "${a}"}, {"a": "${oc.select:a,1}"}):
        with pytest.raises(OtherReferenceError):
            resolved(tree, tree)


@pytest.mark.parametrize("value", ["a}", "b,1", "oc.select:a", "a:b", "$"])
def test_references__never_take_a_value_for_grammar(value: str) -> None:
    for text in ("${${b}.a}", "${oc.select:${b}}", "${${b}}", "${b}{a}"):
        tree = {"a": "a", "b": value, "c": text}
        with contextlib.suppress(OtherReferenceError):
            assert resolved(text, tree) == by_omegaconf(tree)["c"]


def test_references__follow_what_is_set() -> None:
    tree = compose_tree(["experiment=medical_heart", "out=runs/${experiment}/${seed}", "seed=3"])
    assert tree["out"] == "runs/medical_heart/3"
    chosen = ["model=cnn", "tuned.clip_norms.cnn=7"]
    assert compose_tree(chosen)["privacy"]["clip_norm"] == 7
