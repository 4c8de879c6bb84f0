"""The audit by lying sites: real runs, in which some sites have other code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.cli import main
from fedlearn.config import RunConfig, compose
from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import config
from fedlearn.core.vector import Vector
from fedlearn.report.export import read_model
from fedlearn.report.page import write_report
from fedlearn.report.poison import HONEST, Poison, PoisonRow, read_poison
from fedlearn.results.reading import read_result
from fedlearn.robust import Bounded, Proofs
from fedlearn.robust.median import Median
from fedlearn.secagg.settings import SecAggOff
from server.run import Silent
from server.stop import Stop
from simulations.attacks.poison import Poisoning
from simulations.attacks.poison.display import table as shown
from simulations.attacks.poison.image import image
from simulations.attacks.poison.liar import Plot, passing
from simulations.attacks.poison.study import goal_of, plan, summed
from simulations.attacks.poison.vectors import Negated, Scaled
from simulations.attacks.poison.words import read_words
from simulations.run import simulate
from tests import warm
from tests.effort import examples, slow_but
from tests.fedlearn.robust.test_proofs import HEART
from tests.fedlearn.robust.test_proofs import payload as proven
from tests.simulations.small import ROOT, environment, table

SITES = ("alder", "birch", "cedar", "doum")
PLAIN = ("privacy=none", "engine.workers=1", "evaluation=none")


@config
class Truthful(Poisoning):
    """Does what an honest site does."""

    kind: Literal["truthful"] = "truthful"


def study(tmp_path: Path, name: str, *words: str) -> RunConfig:
    return replace(
        compose([*table(tmp_path, sites=SITES), *PLAIN, *words]), out=str(tmp_path / name)
    )


def model_of(asked: RunConfig, attack: Poisoning | None) -> Vector:
    """The model of a run in which the third site lies."""
    plot = attack and Plot(attack=attack, numbers=(2,), sites=4, goal=goal_of(asked), seed=0)
    if plot:
        simulate(asked, Silent(), Stop(), client=plot())
    else:
        simulate(asked, Silent(), Stop())
    return read_model(Path(asked.out), read_result(Path(asked.out)))


@pytest.mark.parametrize("secagg", slow_but(lambda kind: kind == "off", ["off", "masked"]))
def test_liar_that_does_not_lie__changes_no_bit_of_the_model(tmp_path: Path, secagg: str) -> None:
    words = (f"secagg={secagg}", "transport=sealed")
    honest = model_of(study(tmp_path, "honest", *words), None)
    lying = model_of(study(tmp_path, "liar", *words), Truthful())
    # A liar rounds by words of its own, to one step of the grid.
    assert np.max(np.abs(honest - lying)) <= (0 if secagg == "off" else 2**-15)


@pytest.mark.slow
@pytest.mark.parametrize("secagg", ["ring", "masked", "two_server"])
def test_lie__goes_through_masks_as_it_goes_in_clear(tmp_path: Path, secagg: str) -> None:
    """Without a rule the sum is that of what was sent, lies and all."""
    found = []
    for kind in ("off", secagg):
        asked = study(tmp_path, kind, f"secagg={kind}", "transport=sealed", "robust=none")
        found.append(model_of(asked, Negated()))
    honest = model_of(study(tmp_path, "honest", "secagg=off"), None)
    assert np.max(np.abs(found[0] - found[1])) < 1e-3
    assert np.max(np.abs(found[0] - honest)) > 1e-2


@pytest.mark.slow
def test_lie__is_held_by_no_cut_but_the_room_of_the_ring(tmp_path: Path) -> None:
    """An honest site cuts its values to `secagg.clip`; a liar does not."""
    words = ("secagg=masked", "transport=sealed", "robust=none", "secagg.clip=0.001")
    honest = model_of(study(tmp_path, "honest", *words), None)
    lying = model_of(study(tmp_path, "liar", *words), Scaled(times=50.0))
    assert np.max(np.abs(lying - honest)) > 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("privacy", "epsilon"), [("record", 100), ("client", 5000), ("distributed", 100)]
)
def test_lie__is_sent_under_every_privacy(tmp_path: Path, privacy: str, epsilon: int) -> None:
    """It moves the model further than the noise of two honest runs does."""
    words = (
        *(f"privacy={privacy}", f"privacy.epsilon={epsilon}", "secagg=masked", "transport=sealed"),
        *("scenario.scaling.columns={age:[30,70]}", "scenario.categories.smoker=[no,yes]"),
        *("scenario.numeric=[age]", "scenario.gaps=[]", "scenario.classes=['0','1']"),
        *("training.local_steps=1", "training.nominal_records=40", "robust=none"),
    )
    attacks = {"one": Truthful(), "another": Truthful(), "liar": Scaled(times=4.0)}
    one, another, lying = (
        model_of(study(tmp_path, name, *words), attack) for name, attack in attacks.items()
    )
    assert np.linalg.norm(lying - one) > 3 * np.linalg.norm(another - one)


# --- the words of the command -----------------------------------------------------


def test_words__that_are_wrong_are_refused_all_at_once() -> None:
    words = [
        *(
            "audit.liars=0",
            "audit.colour=red",
            "audit.attacks=[negated,nice]",
            "audit.rules=strict",
        ),
        *("audit.backdoor.colour=1", "audit.nice.share=1"),
    ]
    with pytest.raises(ConfigError) as refused:
        read_words(words)
    text = str(refused.value)
    assert "audit.liars" in text
    assert "audit.colour" in text
    with pytest.raises(ConfigError) as refused:
        read_words([words[2], words[3], *words[4:], "runs/a", "runs/b"])
    text = str(refused.value)
    for part in ("nice is none of", "strict is none of", "backdoor has no colour", "runs/b:"):
        assert part in text, text


def test_words__choose_liars_attacks_rules_and_seeds(tmp_path: Path) -> None:
    words = [*table(tmp_path, sites=SITES), *PLAIN, "secagg=masked", f"out={tmp_path / 'a'}"]
    own = ["audit.liars=[birch]", "audit.attacks=[scaled,colluding]", "audit.seeds=3",
           "audit.scaled.times=7", "robust.norm=3",
           "audit.rules=[bounded,median,krum]"]  # fmt: skip
    found = plan(read_words([*words, *own]))
    assert len(found.cases) == 3 * 2 * 3  # seeds, rules, attacks and honest runs
    assert list(found.left_out) == ["krum"]
    assert "takes 5 sites" in found.left_out["krum"]
    assert {case.liars for case in found.cases if case.called == "scaled"} == {("birch",)}
    together = {case.liars for case in found.cases if case.called == "colluding"}
    assert all(len(liars) == 2 and "birch" in liars for liars in together)
    assert {case.config.seed for case in found.cases} == {0, 1, 2}
    assert {case.config.secagg.kind for case in found.cases if case.rule == "median"} == {"off"}
    bounded = [case for case in found.cases if case.rule == "bounded"]
    assert {getattr(case.config.robust, "norm", None) for case in bounded} == {3.0}
    assert {case.attack.times for case in bounded if case.called == "scaled"} == {7.0}  # type: ignore[union-attr]
    assert len({case.name for case in found.cases}) == len(found.cases)


def test_proofs__bring_the_two_servers_that_they_take(tmp_path: Path) -> None:
    own = ["audit.rules=[bounded,proofs,median]", "audit.attacks=negated", "audit.seeds=1"]
    words = [*table(tmp_path, sites=SITES), *PLAIN, "secagg=masked", "secagg.max_weight=77",
             "secagg.corrupt_sites=1", f"out={tmp_path / 'a'}"]  # fmt: skip
    by_words = plan(read_words([*words, *own]))
    assert not by_words.left_out
    kinds = {case.rule: case.config.secagg.kind for case in by_words.cases}
    assert kinds == {"bounded": "masked", "proofs": "two_server", "median": "off"}
    proved = next(case.config.secagg for case in by_words.cases if case.rule == "proofs")
    assert getattr(proved, "max_weight", None) == 77


def test_rule__of_a_run_that_masks_sums_its_proofs_as_the_run_would() -> None:
    masked = compose(["experiment=medical_heart", "secagg.max_weight=77"]).secagg
    proved = summed(masked, Proofs)
    assert (proved.kind, getattr(proved, "max_weight", None)) == ("two_server", 77)
    assert summed(masked, Bounded) is masked
    assert summed(proved, Proofs) is proved
    assert summed(masked, Median).kind == "off"
    assert summed(SecAggOff(), Proofs).kind == "two_server"


def test_metric__is_one_of_the_task_and_of_itself_its_first(tmp_path: Path) -> None:
    words = [*table(tmp_path, sites=SITES), *PLAIN, "audit.attacks=[]", "audit.rules=bounded"]
    assert plan(read_words(words)).metric.name == "accuracy"
    assert plan(read_words([*words, "audit.metric=auc"])).metric.name == "auc"
    with pytest.raises(ConfigError, match=r"audit\.metric: charm is none of accuracy, "):
        plan(read_words([*words, "audit.metric=charm"]))


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["none", "record", "distributed"]))
def test_lie__that_must_be_proved_is_as_long_as_passes_and_no_longer(
    seed: int, privacy: str
) -> None:
    payload = proven(compose([*HEART, f"privacy={privacy}"]), 200)
    drawn = np.random.default_rng(seed).standard_normal(200)
    cut = passing(payload, drawn * 1e6)
    step = payload.fixed_point.resolution if payload.fixed_point else 1.0
    assert cut / np.linalg.norm(cut) == pytest.approx(drawn / np.linalg.norm(drawn))
    sent = np.round(cut / step) * step
    assert 0.9 < np.linalg.norm(sent) / step / payload.bound.norm <= 1
    assert np.array_equal(passing(payload, drawn * 1e-6), drawn * 1e-6)
    assert np.array_equal(passing(None, drawn * 1e6), drawn * 1e6)


@pytest.mark.slow
def test_liar_that_must_prove_its_norm__is_in_every_round_and_moves_the_model(
    tmp_path: Path,
) -> None:
    words = ("secagg=two_server", "robust=proofs", "transport=sealed")
    asked = study(tmp_path, "liar", *words)
    lying = model_of(asked, Scaled(times=1e6))
    rounds = read_result(Path(asked.out)).rounds
    assert all(not one.clients.dropped and one.refused is None for one in rounds)
    honest = model_of(study(tmp_path, "honest", *words), None)
    assert np.max(np.abs(lying - honest)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "count"), [("groups", 12), ("fltrust", 4)])
def test_site_without_a_proof__is_left_out_of_every_round_by_name_under_a_rule_over_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, count: int
) -> None:
    """No sum is refused, though nobody is left out for one under this privacy."""
    sites = tuple(f"{letter}-site" for letter in "abcdefghijkl"[:count])
    words = [*table(tmp_path, sites=sites), *PLAIN, "secagg=two_server", "transport=plain"]
    asked = compose([*words, f"robust={rule}", "robust.size=3", "robust.proofs=true", "rounds=3"])
    asked = replace(asked, out=str(tmp_path / "out"))
    monkeypatch.setattr("simulations.attacks.poison.liar.passing", lambda payload, lie: lie)
    plot = Plot(attack=Scaled(times=1e6), numbers=(2,), sites=count, goal=goal_of(asked), seed=0)
    simulate(asked, Silent(), Stop(), client=plot())
    rounds = read_result(Path(asked.out)).rounds
    assert [list(one.clients.dropped) for one in rounds] == [[sites[2]]] * 3
    assert all(one.refused is None and not one.unused and not one.named for one in rounds)


def test_ledgers_of_owners__are_not_paid_from(tmp_path: Path) -> None:
    words = [*table(tmp_path, sites=SITES), f"sites={tmp_path}"]
    with pytest.raises(ConfigError, match="would be paid for from the ledgers"):
        plan(read_words(words))


@pytest.mark.parametrize(
    ("liars", "why"), [("[elm]", "elm is none of alder"), ("4", "one must be honest")]
)
def test_liars__are_sites_and_not_all_of_them(tmp_path: Path, liars: str, why: str) -> None:
    words = [*table(tmp_path, sites=SITES), f"audit.liars={liars}"]
    with pytest.raises(ConfigError, match=why):
        plan(read_words(words))


# --- the whole ---------------------------------------------------------------------


def audited(*words: str) -> subprocess.CompletedProcess[str]:
    """`fedlearn audit demo=poison` in a process of its own: it forks."""
    command = [sys.executable, "-m", "fedlearn", "audit", "demo=poison", *words]
    return warm.run(command, text=True, env=environment(), cwd=ROOT, timeout=600)


@pytest.mark.slow
def test_command__attacks_a_study_and_says_what_is_left(tmp_path: Path) -> None:
    words = [
        "experiment=medical_heart", "rounds=8", f"out={tmp_path / 'out'}", "audit.seeds=1",
        "audit.rules=[none,bounded,median]", "audit.attacks=[out_of_range,replacement]",
        "audit.liars=[va_long_beach]",
    ]  # fmt: skip
    done = audited(*words)
    assert done.returncode == 0, done.stderr
    assert "9 runs" in done.stdout
    found = read_poison(tmp_path / "out")
    assert found is not None
    assert [(row.rule, row.attack) for row in found.rows] == [
        (rule, attack)
        for rule in ("none", "bounded", "median")
        for attack in (HONEST, "out_of_range", "replacement")
    ]
    hit, held = found.row("none", "out_of_range"), found.row("bounded", "out_of_range")
    assert hit is not None
    assert held is not None
    assert hit.refused == 0
    assert held.refused == 1
    assert (held.named, held.false_alarms) == (1, 3)  # one sum alone: nobody sees which
    assert held.lost < 0.05 < hit.lost
    marked, seen = found.row("none", "replacement"), found.row("median", "replacement")
    assert marked is not None
    assert seen is not None
    # In clear the longest update has no more say than others.
    assert (marked.backdoor or 0) > (marked.backdoor_before or 0) + 0.2
    assert (seen.backdoor or 0) < (marked.backdoor or 0)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What a lying site gets" in page
    # The same command makes nothing anew.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    again = audited(*words)  # as after Ctrl-C
    assert "9 of them made before" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("result.json")}
    # One that was cut off is made again; another study in the same place is refused.
    (tmp_path / "out" / "poison" / "none-replacement-0.json").unlink()
    assert "8 of them made before" in audited(*words).stdout
    other = audited(*words, "training.learning_rate=0.01")
    assert other.returncode == 2
    assert "of another study" in other.stderr


@pytest.mark.slow
def test_command__attacks_the_study_of_a_run_and_its_report_shows_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*table(tmp_path, sites=SITES), *PLAIN, "secagg=masked"]
    assert main(["simulate", *words, f"out={run}"]) == 0
    done = audited(str(run), "audit.seeds=1", "audit.attacks=negated", "audit.rules=bounded")
    assert done.returncode == 0, done.stderr
    assert "<td" in (run / "report.html").read_text().split("What a lying site gets", 1)[1]


# --- what is shown -----------------------------------------------------------------


def row_of(rule: str, attack: str, **changed: Any) -> PoisonRow:
    made = PoisonRow(
        rule=rule, attack=attack, liars=[] if attack == HONEST else ["b"], runs=2, value=0.8,
        spread=0.01, lost=0.0, backdoor=None, backdoor_before=None, refused=0.0, named=0.0,
        false_alarms=0.0, ended=0,
    )  # fmt: skip
    return replace(made, **changed)


def example() -> Poison:
    text = {
        "version": "1", "experiment": "e", "command": "fedlearn audit demo=poison", "rounds": 3,
        "sites": ["a", "b"], "seeds": [0, 1], "privacy": "none", "epsilon": None,
        "metric": "accuracy", "trigger": "a word",
        "attacks": [{"kind": "backdoor", "says": "Marks.", "plants": True}],
        "rules": [
            {"kind": "none", "secagg": "masked", "cpu_seconds": 1.5, "bytes": 2e6, "left_out": ""},
            {"kind": "krum", "secagg": "", "cpu_seconds": None, "bytes": None, "left_out": "few"},
        ],
        "rows": [],
    }  # fmt: skip
    from fedlearn.config import decode

    rows = [
        row_of("none", HONEST),
        row_of("none", "backdoor", lost=0.07, backdoor=0.9, backdoor_before=0.1, refused=2.0,
               named=1.0, false_alarms=0.5, ended=1),
    ]  # fmt: skip
    return replace(decode(Poison, json.dumps(text)), rows=rows)


def test_table__has_a_line_for_every_attack_against_every_rule() -> None:
    found = shown(example())
    assert [list(column.cells) for column in found.columns] == [
        ["none", ""], ["honest", "backdoor"], ["0.800 ± 0.010"] * 2, ["", "7.0"], ["", "90% (10%)"],
        ["", "2.0"], ["", "1.0 of 1"], ["", "0.5"], ["", "1 of 2"], ["1.5", ""], ["2.00", ""],
    ]  # fmt: skip


def test_files__are_read_as_they_were_written_and_drawn(tmp_path: Path) -> None:
    from fedlearn.report.poison import write_poison

    write_poison(tmp_path, example())
    assert read_poison(tmp_path) == example()
    page = write_report(tmp_path).read_text()
    assert "Not run under <b>krum</b>: few" in page
    assert "90% (10%)" in page
    assert image(example())[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("lost", "level"),
    [(-0.1, "held"), (0.02, "held"), (0.03, "hurt"), (0.05, "hurt"), (0.06, "lost")],
)
def test_level__is_by_points_lost(lost: float, level: str) -> None:
    assert row_of("none", "negated", lost=lost).level == level


@pytest.mark.parametrize(("works", "level"), [(0.25, "held"), (0.4, "hurt"), (0.6, "lost")])
def test_level__is_by_a_backdoor_as_well(works: float, level: str) -> None:
    assert row_of("none", "backdoor", backdoor=works, backdoor_before=0.2).level == level
