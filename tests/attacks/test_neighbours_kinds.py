"""As `test_neighbours.py`, of texts, saved data sets and images, in every kind of sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.attacks.kinds import KINDS, Record, Rng, with_records
from tests.attacks.lab import Lab
from tests.attacks.neighbours import VICTIM, Script, Seen, check, watched
from tests.attacks.scripts import (
    STEPS,
    drawn_script,
    honest,
    pinned_updates,
    poisoned,
    silent,
)
from tests.effort import slow_but

POLICY = """\
  epsilon_total: 50.0
  delta: 1.0e-5
  unit: {unit}
  min_cohort: 3
  require_transport: null
  require_secagg: null
"""
USUAL = (
    *("rounds=2", "training.sample_rate=0.2", "training.nominal_records=40", "evaluate_every=1"),
    *("privacy.epsilon=4", "transport=plain", "evaluation=private"),
)
SCAFFOLD = ("strategy=scaffold", "training.momentum=0.0")
SUMS = ("off", "ring", "masked", "two_server")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab.make(tmp_path_factory.mktemp("kinds"))


def drawn_words(rng: Rng) -> list[str]:
    """A study that the sites take part in, or one that they refuse."""
    kind = str(rng.choice(["record", "record", "distributed", "client"]))
    words = [f"privacy={kind}", f"transport={rng.choice(['plain', 'plain', 'sealed'])}"]
    words.append(f"evaluation={rng.choice(['private', 'private', 'none'])}")
    words.append(f"secagg={'masked' if kind == 'distributed' else rng.choice(SUMS)}")
    steps = 1 if kind == "distributed" else int(rng.integers(1, 3))
    words.append(f"training.local_steps={steps}")
    if kind == "distributed":
        words.append("privacy.unit=record")
    if kind != "distributed" and rng.random() < 0.4:
        words += SCAFFOLD
    if kind == "record":
        words.append(f"training.dp_engine={rng.choice(['fast', 'opacus'])}")
    return words


def neighbours(rng: Rng, name: str) -> tuple[Sequence[Record], Sequence[Record], int]:
    """Two lists of records, and how many of them are in one alone."""
    draw = KINDS[name].draw
    mine = [draw(rng, 0.1) for _ in range(int(rng.integers(0, 25)))]
    at = int(rng.integers(0, len(mine) + 1))
    extra = draw(rng, 0.5)
    if mine and rng.random() < 0.3:  # one in the place of another
        at = min(at, len(mine) - 1)
        return mine, [*mine[:at], extra, *mine[at + 1 :]], 2
    both = [mine, [*mine[:at], extra, *mine[at:]]]
    if rng.random() < 0.5:
        both.reverse()
    return both[0], both[1], 1


def compared(
    lab: Lab, name: str, rng: Rng, words: Sequence[str], script: Script
) -> tuple[Seen, Seen]:
    """What leaves sites with neighbouring records, which must be the same but for the sums."""
    kind, unit = KINDS[name], "client" if "privacy=client" in words else "record"
    one, other, moved = neighbours(rng, name)
    asked = with_records(lab, kind, POLICY.format(unit=unit), rng, *kind.model, *USUAL, *words)
    with pinned_updates():
        seen = [watched(asked, mine, script, kind.write) for mine in (one, other)]
    check(seen[0], seen[1], moved)
    return seen[0], seen[1]


def reached(seen: Seen) -> list[str]:
    """What the mechanisms of the victim were given, by their names."""
    return [what for who, what, *_ in seen.sums if who == VICTIM]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("texts", ("privacy=record", "secagg=masked")),
        pytest.param("lines", ("privacy=record", "secagg=ring"), marks=pytest.mark.slow),
        pytest.param("saved", ("privacy=record", "secagg=off"), marks=pytest.mark.slow),
        pytest.param(
            "images",
            ("privacy=record", "secagg=two_server", *SCAFFOLD),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_rounds__of_such_records_reach_every_mechanism_and_tell_nothing_else(
    lab: Lab, name: str, words: Sequence[str]
) -> None:
    words = (*words, "training.local_steps=1")
    for seen in compared(lab, name, np.random.default_rng(0), words, honest):
        assert reached(seen) == ["record", "evaluation"] * 2
        assert not any(isinstance(said, bytes) and b"exit_code" in said for *_, said in seen.left)


@pytest.mark.parametrize("secagg", slow_but(lambda kind: kind == "two_server", SUMS[1:]))
def test_round__whose_sum_is_refused_tells_nothing_else(lab: Lab, secagg: str) -> None:
    words = ("privacy=record", f"secagg={secagg}", "evaluation=none", "training.local_steps=1")
    for seen in compared(lab, "texts", np.random.default_rng(1), words, poisoned):
        assert reached(seen) == ["record", "record"]
        assert seen.refused == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [step for step in STEPS if step != "screen"]
)  # texts have no columns to be screened
def test_round__that_fails_tells_nothing_else(lab: Lab, step: str) -> None:
    words = ("privacy=record", "secagg=masked", "training.local_steps=1")
    script = silent(step, ("birch", "cedar", "doum"))
    for seen in compared(lab, "texts", np.random.default_rng(2), words, script):
        assert step == "evaluate" or any(who == "coordinator" for who, *_ in seen.left)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("start", range(0, 40, 10))
def test_neighbours__of_every_kind_are_told_apart_by_noised_sums_alone(
    lab: Lab, name: str, start: int
) -> None:
    for seed in range(start, start + 10):
        rng = np.random.default_rng(seed)
        compared(lab, name, rng, drawn_words(rng), drawn_script(rng))
