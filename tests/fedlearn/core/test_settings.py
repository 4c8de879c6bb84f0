"""Config classes check themselves, in Python as from YAML."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from fedlearn.config import compose, decode
from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Positive, config
from fedlearn.mechanisms import ClientPrivacy, DistributedPrivacy, RecordPlan, RecordPrivacy

WRONG: list[tuple[str, Any]] = [
    ("epsilon", -1.0),
    ("epsilon", math.nan),
    ("clip_norm", -1),
    ("clip_norm", math.inf),
    ("clip_norm", math.nan),
    ("clip_norm", "much"),
    ("delta", 1.0),
    ("on_exhausted", "never"),
]


@config
class Several:
    """A class with a field of every sort."""

    rate: Positive = 1.0
    workers: Literal["auto"] | Count = "auto"
    names: tuple[str, ...] = ()

    def contradictions(self) -> list[str]:
        return ["workers: too many"] if self.workers == 13 else []


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_config__refuses_in_python_by_the_words_that_it_has_for_yaml(name: str, value: Any) -> None:
    given = {"epsilon": 1.0} | {name: value}
    with pytest.raises(ConfigError) as python:
        RecordPrivacy(**given)
    assert len(python.value.problems) == 1
    if isinstance(value, float) and not math.isfinite(value):
        assert python.value.problems[0].startswith(f"{name}=")
        return  # what YAML has for it is `.nan`, which the command line lacks
    with pytest.raises(ConfigError) as yaml:
        compose(["experiment=medical_heart", f"privacy.{name}={value}"])
    assert yaml.value.problems == tuple(f"privacy.{line}" for line in python.value.problems)


def test_config__lists_every_problem_of_an_object() -> None:
    with pytest.raises(ConfigError) as error:
        Several(rate=-1, workers="many", names=["a", 3])  # type: ignore[arg-type, list-item]
    assert error.value.problems == (
        "rate=-1: must be > 0",
        "workers=many: must be 'auto' or a valid integer",
        "names.1=3: must be a valid string; write it in quotes, as in '3'",
    )


def test_config__asks_the_class_for_contradictions_once_every_field_is_possible() -> None:
    with pytest.raises(ConfigError, match="workers: too many"):
        Several(workers=13)
    with pytest.raises(ConfigError) as error:
        Several(workers=13, rate=0)
    assert error.value.problems == ("rate=0: must be > 0",)


@config
class Holding:
    """A class that holds another."""

    inner: Several


def test_decode__asks_every_class_for_contradictions() -> None:
    assert decode(Holding, '{"inner": {"workers": 12}}').inner.workers == 12
    with pytest.raises(ConfigError) as error:
        decode(Holding, '{"inner": {"workers": 13}}')
    assert error.value.problems == ("inner.workers: too many",)


def test_config__takes_lists_and_the_numbers_of_numpy() -> None:
    made = Several(rate=np.float32(0.5), workers=np.int64(3), names=["a"])  # type: ignore[arg-type]
    assert made == Several(rate=0.5, workers=3, names=("a",))
    assert [type(value) for value in (made.rate, made.workers, made.names)] == [float, int, tuple]


def test_config__is_a_key_whatever_mappings_it_holds() -> None:
    words = ["scenario=csv", "scenario.path=a.csv", "scenario.label=y"]
    own = ["scenario.categories={a:[b,c],d:[e]}", "scenario.categories={d:[e],a:[b,c]}"]
    one, other = (compose([*words, text]) for text in own)
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, compose(words)}) == 2


def test_config__checks_what_replace_makes() -> None:
    with pytest.raises(ConfigError, match="rate"):
        replace(Several(), rate=-1)


def test_config__lets_no_plan_be_made_that_promises_what_it_does_not_do() -> None:
    plan = RecordPlan(
        clip_norm=1.0,
        noise_multiplier=1.0,
        delta=1e-5,
        sample_rate=0.1,
        steps_per_round=1,
        rounds=2,
    )
    for wrong in ({"clip_norm": -1.0}, {"noise_multiplier": math.nan}, {"rounds": 0}):
        with pytest.raises(ConfigError):
            replace(plan, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [RecordPrivacy, ClientPrivacy, DistributedPrivacy])
def test_config__refuses_a_negative_norm_of_every_mechanism(kind: Any) -> None:
    with pytest.raises(ConfigError, match="clip_norm"):
        kind(epsilon=1.0, clip_norm=-1.0)


@pytest.mark.parametrize(
    ("part", "field"),
    [("model", "width"), ("strategy", "fraction"), ("training", "learning_rate"),
     ("secagg", "bits"), ("engine", "threads"), ("scenario", "scaling")],
)  # fmt: skip
def test_config__guards_every_part_of_a_run(part: str, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}=-2"):
        replace(getattr(compose(["experiment=medical_heart"]), part), **{field: -2})
