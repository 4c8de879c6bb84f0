"""What is said at once is what `compose` would say, and nothing where it would say more."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest

from fedlearn.config import RunConfig, compose
from fedlearn.config.layers import options_of
from fedlearn.config.words import ASKING, PLAIN, refuse_swept, refuse_words
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.mechanisms import RecordPrivacy
from fedlearn.training.settings import Training
from tests.effort import slow_but

WRONG = ["tarining.lr=3", "modle=x"]
TABLE = ["scenario=csv", "scenario.path=nosuch.csv", "scenario.label=y", "scenario.site=s"]
OWNERS = {"": RunConfig, "training": Training, "privacy": RecordPrivacy}
RIGHT = {
    "rounds": "1000000",
    "evaluate_every": "9",
    "seed": "0",
    "out": "a b",
    "purpose": "Some purpose",
    "resume": "true",
    "privacy.epsilon": "1e-3",
    "training.learning_rate": "7",
}
"""A value of every plain setting, most of them at an end of what it may be."""
MORE = [
    [],
    [f"{key}={value}" for key, value in RIGHT.items()],
    ["privacy=none", "engine=local"],
    ["privacy=none", "privacy.epsilon=3"],
]


QUICK = ("", "csv", "medical_heart", "medical_imaging")


def problems(of: object, words: list[str]) -> tuple[str, ...]:
    """What a function says of words; nothing where it takes them."""
    try:
        of(words)  # type: ignore[operator]
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(
    "experiment", slow_but(lambda one: one in QUICK, ["", "csv", *options_of("experiment")])
)
@pytest.mark.parametrize("more", MORE, ids=range(len(MORE)))
def test_words_that_name_nothing__are_said_as_compose_says_them(
    experiment: str, more: list[str]
) -> None:
    first = {"": [], "csv": TABLE}.get(experiment, [f"experiment={experiment}"])
    words = [*first, *more, *WRONG]
    said = problems(refuse_words, words)
    assert said == (() if experiment in ASKING else problems(compose, words))


def test_plain_settings__are_each_tried_above() -> None:
    assert RIGHT.keys() == PLAIN.keys()


@pytest.mark.parametrize("key", PLAIN)
def test_plain_settings__have_types_that_a_run_has(key: str) -> None:
    group, _, name = key.rpartition(".")
    hint = get_type_hints(OWNERS[group], include_extras=True)[name]
    assert PLAIN[key] in (hint, *getattr(hint, "__args__", ()))


@pytest.mark.parametrize(
    "other",
    ["rounds=0", "seed=-1", "rounds=1.5", "privacy.epsilon=-1", "privacy.epsilon=inf", "resume=1",
     "privacy.delta=0.5", "model=cnn", "robust=krum", "out=''", "experiment=medical_imaging",
     "rounds=null", "training.learning_rate=x"],
)  # fmt: skip
def test_words__say_nothing_where_more_may_be_wrong(other: str) -> None:
    assert problems(refuse_words, [other, *WRONG]) == ()
    assert problems(refuse_swept, [other, *WRONG]) == ()


def test_table_that_is_not_there__is_refused_where_nothing_else_can_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"nosuch\.csv: cannot be read"):
        refuse_words([*TABLE, "rounds=3", "privacy=none"])
    for silent in ([*TABLE, "rounds=0"], TABLE[:-1], [*TABLE, "privacy.delta=0.001"]):
        refuse_words(silent)
    (tmp_path / "file").write_text("mine")
    refuse_words([*TABLE, "out=file/run"])  # what is wrong with the folder is said first
    (tmp_path / "nosuch.csv").write_text("y,s\n")
    refuse_words(TABLE)


@pytest.mark.parametrize("swept", ["seed=0,1", "privacy.epsilon=1,2,4", "rounds=2,3"])
def test_words_of_a_comparison__are_said_beside_values_that_are_right(swept: str) -> None:
    assert problems(refuse_swept, [swept, "compare.workers=2", *WRONG]) == problems(compose, WRONG)
    wrong = swept.replace(",", ",x", 1)
    assert problems(refuse_swept, [wrong, *WRONG]) == ()
    assert problems(refuse_swept, [swept, "privacy=none", "rounds=3"]) == ()
