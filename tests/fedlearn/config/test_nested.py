"""Choosing another option of a union inside a group, over YAML files and over a run's file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from fedlearn.config import RunConfig, compose, to_tree
from fedlearn.config.composition import compose_tree
from fedlearn.config.layers import CONFIGS
from fedlearn.config.nested import NESTED, instead, union_at
from fedlearn.config.saved import load_file
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family

OWN = ["scenario=csv", "scenario.path=my.csv", "scenario.label=y", "privacy=none"]


def unions(hint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All unions of dataclasses in a type, by the names of the fields that lead to them."""
    if get_origin(hint) is Annotated:
        kind, *rest = get_args(hint)
        families = [one for one in rest if isinstance(one, Family)]
        for option in [own for family in families for own in family.own] or [kind]:
            yield from unions(option, path)
    elif get_origin(hint) in (Union, UnionType):
        options = [option for option in get_args(hint) if is_dataclass(option)]
        if options:
            yield path, hint
        for option in options:
            yield from unions(option, path)
    elif is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            yield from unions(hints[field.name], (*path, field.name))


def test_nested__are_all_unions_inside_a_group() -> None:
    found = {path: union for path, union in unions(RunConfig) if len(path) > 1}
    assert found == {path: union_at(path) for path in NESTED}


def cases() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Every option of every YAML that has a union inside."""
    for path in NESTED:
        for file in sorted((CONFIGS / path[0]).glob("*.yaml")):
            if path[1] in yaml_file.read(file):
                for option in get_args(union_at(path)):
                    yield file.stem, path, option.kind


@pytest.mark.parametrize(("group", "path", "kind"), [*cases()])
def test_compose__takes_every_option_of_a_union_inside_a_group(
    group: str, path: tuple[str, ...], kind: str
) -> None:
    base = [f"{path[0]}={group}", "privacy=none"]
    if group == "csv":
        base = OWN
    before = compose_tree(base)[path[0]][path[1]]
    for override in (f"{'.'.join(path)}.kind={kind}", f"{'.'.join(path)}={{kind: {kind}}}"):
        config = to_tree(compose([*base, override]))
        found = config[path[0]].pop(path[1])
        # Another option has its own defaults; the same one has what the YAML says.
        assert found == (instead(path, kind, before) or to_tree(compose(base))[path[0]][path[1]])
        rest = to_tree(compose(base))
        del rest[path[0]][path[1]]
        assert config == rest


def test_compose__keeps_what_was_written_for_the_option_that_was_chosen() -> None:
    words = ["scenario.scaling.columns.age=[20,90]", "scenario.scaling.kind=ranges"]
    for order in (words, words[::-1], [words[0], "scenario.scaling.kind=none", words[1]]):
        scaling = to_tree(compose([*OWN, *order]))["scenario"]["scaling"]
        assert scaling == {"kind": "ranges", "columns": {"age": [20, 90]}, "unlisted": "squash"}


@pytest.mark.parametrize("written", ["columns.age=[20,90]", "unlisted=refuse", "colums={}"])
def test_compose__refuses_what_a_user_wrote_for_another_option(written: str) -> None:
    wrong = f"scenario.scaling.{written}"
    for order in ([wrong, "scenario.scaling.kind=none"], ["scenario.scaling.kind=none", wrong]):
        with pytest.raises(ConfigError) as refused:
            compose([*OWN, *order])
        (problem,) = refused.value.problems
        assert problem.startswith(f"{wrong}: unknown key")


def test_compose__lists_problems_beside_another_option() -> None:
    with pytest.raises(ConfigError) as refused:
        compose([*OWN, "scenario.scaling.kind=none", "rounds=0"])
    assert list(refused.value.problems) == ["rounds=0: must be > 0"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml_file.dump(to_tree(compose([*OWN, "scenario.scaling.columns.a=[0,1]"]))))
    return path


def test_config_file__takes_another_option_and_back(written: Path, tmp_path: Path) -> None:
    other = load_file(written, ["scenario.scaling.kind=none"])
    assert to_tree(other)["scenario"]["scaling"] == {"kind": "none"}
    again = tmp_path / "again.yaml"
    again.write_text(yaml_file.dump(to_tree(other)))
    words = ["scenario.scaling.columns.b=[0,2]", "scenario.scaling.kind=ranges"]
    for order in (words, words[::-1]):
        scaling = to_tree(load_file(again, order))["scenario"]["scaling"]
        assert scaling == {"kind": "ranges", "columns": {"b": [0, 2]}, "unlisted": "squash"}
    same = load_file(written, ["scenario.scaling.kind=ranges"])
    assert same == load_file(written, [])


def test_config_file__refuses_what_a_user_wrote_for_another_option(written: Path) -> None:
    words = ["scenario.scaling.unlisted=refuse", "scenario.scaling.kind=none"]
    for order in (words, words[::-1]):
        with pytest.raises(ConfigError, match=r"scaling\.unlisted=refuse: unknown key"):
            load_file(written, order)


def test_config_file__chooses_an_option_before_it_sets_values(written: Path) -> None:
    words = ["privacy.epsilon=1", "privacy=record", "scenario.scaling.columns.a=[0,1]"]
    config = to_tree(load_file(written, words))
    assert config["privacy"]["epsilon"] == 1
