"""The verdict says what a run is worth, the worst first, and no good-looking number fools it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import fedlearn as fl
from fedlearn.auditing.findings import Findings
from fedlearn.cli import main
from fedlearn.metrics.intervals import Measured
from fedlearn.report.facts import Facts
from fedlearn.report.page import write_report
from fedlearn.report.verdict import verdict
from fedlearn.results.reading import read_result
from fedlearn.results.result import (
    BaselineResult,
    BestRound,
    ResultFile,
    RoundResult,
    SiteSize,
    ValidationResult,
)
from fedlearn.tasks.logistic import fitted
from tests.effort import examples
from tests.simulations.small import table

Ends = dict[str, tuple[float | None, float | None]]

FOUND = {"loss": 0.4, "accuracy": 0.8, "balanced_accuracy": 0.79, "macro_f1": 0.8, "auc": 0.9}
CHANCE = {"loss": 0.68, "accuracy": 0.6, "balanced_accuracy": 0.5, "auc": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["simulate", *table(folder), "rounds=1", f"out={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def good(run: Path) -> ResultFile:
    """A run of which nothing bad can be said, made from a small one."""
    result = read_result(run)
    assert result.fairness is not None
    sites = dict.fromkeys(("north", "south"), SiteSize(train=300, test=99))
    settled = [with_loss(result.rounds[0], loss) for loss in (0.6, 0.5, 0.42, 0.41, 0.4, 0.4)]
    result = replace(
        result,
        final=replace(
            result.final, evaluate=FOUND, per_site=dict.fromkeys(sites, FOUND), uninformed=CHANCE
        ),
        rounds=settled,
        config=result.config | {"secagg": to_masked(), "transport": {"kind": "sealed"}},
        data=replace(result.data, sites=sites),
        baseline=BaselineResult(name="a plain model", evaluate=FOUND),
        privacy=replace(result.privacy, epsilon=4.0),
        fairness=replace(result.fairness, per_site={}),  # of a model that noise has made
    )
    return with_ends(result, {n: (v - 0.05, v + 0.05) for n, v in FOUND.items() if n != "loss"})


def to_masked() -> dict[str, Any]:
    from fedlearn.config import compose
    from fedlearn.config.decoding import to_tree

    secagg: dict[str, Any] = to_tree(compose(["experiment=medical_heart"]))["secagg"]
    return secagg


def with_loss(entry: RoundResult, loss: float | None) -> RoundResult:
    return replace(entry, evaluate=dict(entry.evaluate) | {"loss": loss})


def with_found(result: ResultFile, **found: float) -> ResultFile:
    final = replace(result.final, evaluate=dict(result.final.evaluate) | found)
    return replace(result, final=final)


def with_ends(result: ResultFile, ends: Ends, site: str = "") -> ResultFile:
    """The intervals of metrics, over all sites or of one."""
    assert result.fairness is not None
    found: Mapping[str, float] = result.final.per_site.get(site, result.final.evaluate)
    measured = {n: Measured(value=found[n], low=low, high=high) for n, (low, high) in ends.items()}
    fairness = result.fairness
    if site:
        return replace(result, fairness=replace(fairness, per_site={site: measured}))
    return replace(result, fairness=replace(fairness, all_sites=measured))


def lights(result: ResultFile) -> dict[str, str]:
    """Light by sentence."""
    return {one.says: one.light for one in verdict(Facts(result=result, hashes={}))}


def light(result: ResultFile, part: str) -> str:
    """The light of the sentence that has `part`; empty if there is none."""
    found = [light for says, light in lights(result).items() if part in says]
    assert len(found) < 2
    return "".join(found)


def test_verdict__of_a_good_run_is_green_in_all_that_it_says(good: ResultFile) -> None:
    found = lights(good)
    assert set(found.values()) == {"green"}, found
    for part in (
        "has learned: accuracy 0.800, where always naming the commonest class gets 0.600",
        "A plain model gets accuracy 0.800, this model 0.800",
        "has settled",
        "Tested on 198 records of 2 sites. Accuracy 0.800, and 0.750 to 0.850",
        "Delta 1e-05 times 600 records",
        "Epsilon 4.000 of 4 is spent for every record",
        "(transport=sealed). Only sums of them were opened (secagg=masked)",
    ):
        assert light(good, part) == "green", part


def test_verdict__of_a_metric_that_may_be_anything_is_no_green_light(good: ResultFile) -> None:
    """As of few test records under noise: it has learned something, and nobody knows how much."""
    found = {"accuracy": 0.8, "auc": 0.76}
    wide = with_ends(with_found(good, **found), {"accuracy": (0.61, 1.0), "auc": (0.51, 1.0)})
    assert light(wide, "do not tell a good model from one that is hardly better") == "amber"
    near = with_ends(with_found(good, **found), {"accuracy": (0.71, 0.89)})
    assert light(near, "0.710 to 0.890") == "green"
    assert not light(near, "That is wide")


# --- what it has learned ---------------------------------------------------------------------


def test_verdict__is_not_fooled_by_the_accuracy_of_a_common_class(good: ResultFile) -> None:
    """98.3 percent are right where every record is put into the class of 98.3 percent."""
    same = {"accuracy": 0.983, "balanced_accuracy": 0.5, "macro_f1": 0.983 / 1.983}
    chance = {"accuracy": 0.983, "loss": 0.09, "balanced_accuracy": 0.5, "auc": 0.5}
    useless = with_found(good, **same, auc=0.52, loss=0.09)
    useless = replace(useless, final=replace(useless.final, uninformed=chance), baseline=None)
    ends: Ends = {"accuracy": (0.97, 0.99), "balanced_accuracy": (None, None), "auc": (0.4, 0.64)}
    useless = with_ends(useless, ends)
    assert light(useless, "learned nothing that shows") == "red"
    assert next(iter(lights(useless).values())) == "red"
    # The same with an AUC that no chance explains: it ranks, and still has one answer only.
    ranks = with_ends(with_found(useless, auc=0.8), ends | {"auc": (0.7, 0.9)})
    assert light(ranks, "every test record into the same class") == "amber"
    several = with_found(ranks, macro_f1=0.51)
    assert light(several, "only by AUC (0.800, guessing 0.500) has it learned") == "amber"


def test_verdict__takes_no_lucky_draw_for_something_learned(good: ResultFile) -> None:
    lucky = with_found(good, accuracy=0.62, balanced_accuracy=0.52, auc=0.53)
    ends: Ends = {"accuracy": (0.55, 0.69), "balanced_accuracy": (0.45, 0.6), "auc": (0.45, 0.6)}
    assert light(with_ends(lucky, ends), "learned nothing that shows") == "red"


def test_verdict__of_weighed_classes_does_not_go_by_the_accuracy(good: ResultFile) -> None:
    """To find a rare class it must be wrong on the common one."""
    training = good.config["training"] | {"class_weights": {"1": 20.0}}
    weighed = replace(good, config=good.config | {"training": training})
    ends: Ends = {"accuracy": (0.5, 0.6), "balanced_accuracy": (0.7, 0.8), "auc": (0.85, 0.95)}
    weighed = with_ends(with_found(weighed, accuracy=0.55, loss=0.9), ends)
    assert light(weighed, "has learned: balanced accuracy") == "green"
    assert light(weighed, "is above the") == "", "a loss of other shares of classes"


@pytest.mark.parametrize(
    ("accuracy", "expected", "words"),
    [
        (0.79, "green", "this model 0.790."),
        (0.72, "amber", "60% of what"),
        (0.65, "red", "25% of what"),
        (0.59, "red", "nothing of what"),
    ],
)
def test_verdict__holds_a_run_against_its_baseline(
    good: ResultFile, accuracy: float, expected: str, words: str
) -> None:
    one = with_found(good, accuracy=accuracy)
    assert light(one, "A plain model gets accuracy 0.800") == expected
    assert any(words in says for says in lights(one))
    assert light(replace(one, baseline=None), "A plain model") == ""


def test_verdict__says_when_the_loss_is_above_that_of_the_shares_of_classes(
    good: ResultFile,
) -> None:
    above = with_found(good, loss=0.9)
    assert light(above, "loss of 0.9 is above the 0.68 of answering with how common") == "amber"
    assert light(with_found(good, loss=0.67), "is above the") == ""


# --- how ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5], "green"),  # slow, and steady
        ([1.0, 8.0, 2.0, 7.0, 1.0, 6.0], "amber"),
        ([9.0, 5.0, 0.5, 0.45, 0.44, 0.45], "green"),  # what was at first does not count
        ([0.01, 0.004, 0.003, 0.006, 0.004, 0.005], "green"),  # too small to matter
        ([0.6, 0.5, 0.4, None], "red"),
        ([0.6, 0.5, 0.4], ""),  # too few to say
    ],
)
def test_verdict__tells_a_loss_that_swings_from_one_that_falls(
    good: ResultFile, losses: list[float | None], expected: str
) -> None:
    rounds = [with_loss(good.rounds[0], loss) for loss in losses]
    found = lights(replace(good, rounds=rounds))
    of_losses = [light for says, light in found.items() if "settled" in says or "diverged" in says]
    assert of_losses == ([expected] if expected else [])


def test_verdict__never_calls_a_falling_loss_unsettled(good: ResultFile) -> None:
    """Nor any other one settled: each is turned round as well."""

    @given(st.lists(st.floats(0.5, 1e3), min_size=4, max_size=4))
    @settings(max_examples=examples(40), deadline=None)
    def always(losses: list[float]) -> None:
        falling = [with_loss(good.rounds[0], one) for one in sorted(losses, reverse=True)]
        assert light(replace(good, rounds=falling), "It has settled") == "green"
        rising = light(replace(good, rounds=falling[::-1]), "It has settled") == "green"
        assert rising == (max(losses) - min(losses) <= 0.25 * min(losses))

    always()


# --- where ----------------------------------------------------------------------------------


def test_verdict__says_on_top_that_nothing_was_tested(good: ResultFile) -> None:
    final = replace(good.final, evaluate={}, per_site={}, worst_site=None, uninformed={})
    sites = dict.fromkeys(good.data.sites, SiteSize(train=30, test=0))
    data = replace(good.data, sites=sites)
    nothing = replace(good, final=final, fairness=None, baseline=None, rounds=[], data=data)
    (says, first), *_ = lights(nothing).items()
    assert says.startswith("Nothing was tested: no site has test records")
    assert first == "red"


def test_verdict__names_sites_that_tested_nothing_or_too_little(good: ResultFile) -> None:
    sites = {"north": SiteSize(train=30, test=0), "south": SiteSize(train=30, test=12)}
    few = replace(good, data=replace(good.data, sites=sites))
    words = "Nothing was tested at north. Too few to say how it does there: south (12)"
    assert light(few, words) == "amber"
    kept = dict.fromkeys(sites, SiteSize(train=None, test=None))
    unknown = replace(good, data=replace(good.data, sites=kept))
    assert light(unknown, "as many records as 2 sites keep to themselves") == "green"


def test_verdict__names_a_site_whose_records_are_of_one_class(good: ResultFile) -> None:
    one = {"loss": 0.1, "accuracy": 1.0}
    older = one | {"balanced_accuracy": 1.0, "macro_f1": 1.0}  # as releases before had it
    for found in (one, older):
        per_site = {**good.final.per_site, "north": found}
        mixed = replace(good, final=replace(good.final, per_site=per_site))
        assert light(mixed, "north: all test records are of one class") == "amber"


def test_verdict__takes_a_site_that_ranks_the_wrong_way_for_one_of_swapped_labels(
    good: ResultFile,
) -> None:
    per_site = {**good.final.per_site, "north": FOUND | {"auc": 0.09}}
    swapped = replace(good, final=replace(good.final, per_site=per_site))
    ends: Ends = {"auc": (0.02, 0.2)}
    assert light(with_ends(swapped, ends, "north"), "north: worse than guessing") == "red"
    assert light(with_ends(swapped, {"auc": (0.02, 0.6)}, "north"), "worse than guessing") == ""
    unsure = {"accuracy": (0.5, 0.7), "balanced_accuracy": (0.4, 0.8), "auc": (0.4, 0.95)}
    untrained = with_ends(swapped, unsure)
    assert light(with_ends(untrained, ends, "north"), "worse than guessing") == ""
    tiny = {**good.data.sites, "north": SiteSize(train=9, test=5)}
    small = replace(swapped, data=replace(good.data, sites=tiny))
    assert light(with_ends(small, ends, "north"), "worse than guessing") == ""


# --- what it costs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "expected"), [(300, "green"), (20_000, "amber"), (75_000, "red")]
)
def test_verdict__weighs_delta_by_the_records(
    good: ResultFile, records: int, expected: str
) -> None:
    sites = dict.fromkeys(good.data.sites, SiteSize(train=records, test=99))
    many = replace(good, data=replace(good.data, sites=sites))
    assert light(many, "Delta 1e-05 times") == expected
    if expected != "green":
        assert light(many, f"Set privacy.delta={Facts(result=many, hashes={}).fitting_delta:g} or"
                     ) == expected  # fmt: skip
    assert Facts(result=many, hashes={}).fitting_delta * 2 * records <= 0.1


def test_verdict__says_what_of_the_budget_is_left_and_what_is_no_promise(good: ResultFile) -> None:
    half = replace(good, privacy=replace(good.privacy, epsilon=1.5))
    assert light(half, "Epsilon 1.500 of 4 is spent for every record. 2.50 is left") == "green"
    large = replace(good, privacy=replace(good.privacy, epsilon=12.0))
    assert light(large, "above 10 promises little") == "amber"
    none = replace(good.privacy, epsilon=None, unit="none")
    in_clear = replace(good, privacy=none, config=good.config | {"privacy": {"kind": "none"}})
    assert light(in_clear, "No differential privacy") == "amber"
    assert light(in_clear, "Delta") == ""


@pytest.mark.parametrize(
    ("known", "covered"),
    [
        ({}, False),
        ({"run_id": "ab" * 16}, False),
        ({"run_id": "ab" * 16, "unit": "client", "epsilon": 1.0, "delta": 1e-6}, False),
        ({"run_id": "ab" * 16, "unit": "record", "epsilon": 1.0, "delta": 1e-6}, True),
    ],
)
def test_verdict__says_where_a_run_begins_from_what_its_promise_does_not_cover(
    good: ResultFile, known: dict[str, Any], covered: bool
) -> None:
    promised = replace(good, privacy=replace(good.privacy, unit="record"))
    begun = replace(promised, config=promised.config | {"parent": {"sha256": "0" * 64, **known}})
    said = "It begins from a model whose own training is no part of this promise"
    assert light(promised, said) == ""
    assert light(begun, said) == ("" if covered else "amber")


def test_verdict__says_which_protections_were_off(good: ResultFile) -> None:
    summed = replace(good, config=good.config | {"secagg": {"kind": "off"}})
    assert light(summed, "The coordinator saw each of them (secagg=off)") == "amber"
    plain = replace(good, config=good.config | {"transport": {"kind": "plain"}})
    assert light(plain, "travelled in plain text") == "amber"


def test_verdict__begins_with_a_broken_promise_and_a_run_that_failed(good: ResultFile) -> None:
    audit = Findings(
        kind="slots", estimator="one_run", canaries=10, alpha=0.05, lower_bound=9.0, ceiling=9.0,
        verdict="PROMISE BROKEN", seat="update", delta=1e-4, promised=3.0, p_value=1e-9, views=[],
        attacks=[], notes=[],
    )  # fmt: skip
    broken = replace(good, audit=audit, status="failed", reason="the disk is full")
    (first, one), (second, two), *_ = lights(broken).items()
    assert "PROMISE BROKEN" in first
    assert "the disk is full" in second
    assert one == two == "red"


def test_verdict__is_sorted_and_is_of_any_result_there_can_be(good: ResultFile) -> None:
    """Whatever a file of somebody else's says: a verdict, never an error, the worst first."""
    share = st.floats(0, 1)
    number = st.none() | st.integers(0, 10**6)

    @given(st.data())
    @settings(max_examples=examples(30), deadline=None)
    def always(data: st.DataObject) -> None:
        names = data.draw(st.sets(st.sampled_from([*FOUND])))
        found = {name: data.draw(share) for name in ("accuracy", *sorted(names - {"accuracy"}))}
        chance = {name: data.draw(share) for name in sorted(names)}
        size = SiteSize(train=data.draw(number), test=data.draw(number))
        final = replace(good.final, evaluate=found, uninformed=chance, per_site={"north": found})
        result = replace(
            good,
            final=final,
            data=replace(good.data, sites={"north": size, "south": size}),
            rounds=[with_loss(good.rounds[0], data.draw(st.none() | share)) for _ in range(5)],
            baseline=data.draw(st.none() | st.just(BaselineResult(name="x", evaluate=found))),
            fairness=data.draw(st.sampled_from([None, good.fairness])),
            status=data.draw(st.sampled_from(["finished", "failed", "stopped_budget"])),
        )
        order = ["red", "amber", "green"]
        places = [order.index(light) for light in lights(result).values()]
        assert places == sorted(places)
        assert all(says and says == " ".join(says.split()) for says in lights(result))

    always()


# --- where it is shown -----------------------------------------------------------------------


@pytest.mark.slow
def test_verdict__is_the_same_on_the_page_in_python_and_on_the_screen(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = fl.load_run(run)
    page = unescape(write_report(run).read_text())
    in_notebook = unescape(shown._repr_html_())
    assert main(["simulate", *table(run.parent), "rounds=1", "seed=0",
                 f"out={run.parent / 'again'}"]) == 0  # fmt: skip
    screen = " ".join(capsys.readouterr().out.split())  # it may be a narrow one
    again = fl.load_run(run.parent / "again")
    assert again.verdict
    for remark in again.verdict:
        assert f"{remark.light}: {remark.says}" in screen
    for remark in shown.verdict:
        assert f'<b class="{remark.light}">{remark.light}</b><span>{remark.says}' in page
        assert remark.says in in_notebook
    assert page.index('class="verdict"') < page.index('class="tile"')


def test_verdict__of_a_result_of_before_there_was_one_says_what_that_shows(
    run: Path, tmp_path: Path
) -> None:
    tree = json.loads((run / "result.json").read_text())
    del tree["baseline"], tree["final"]["uninformed"]
    (tmp_path / "result.json").write_text(json.dumps(tree))
    found = lights(read_result(tmp_path))
    assert any(says.startswith("Tested on") for says in found)
    assert not any("commonest" in says for says in found)


# --- the baseline ----------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic__answers_as_that_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(150, 5))
    targets = (rows @ rng.normal(size=(5, classes)) + rng.gumbel(size=(150, classes))).argmax(1)
    found = fitted(rows, targets, classes)(rows)
    # Of two classes its penalty is on one vector, ours on two of half its length each.
    strength = 2.0 if classes == 2 else 1.0
    oracle = LogisticRegression(C=strength, max_iter=500, tol=1e-8).fit(rows, targets)
    assert found == pytest.approx(oracle.predict_proba(rows), abs=2e-3)


def test_baseline__is_of_simulations_whose_tests_are_in_clear(run: Path, tmp_path: Path) -> None:
    found = read_result(run).baseline
    assert found is not None
    assert found.name == "a logistic regression on all records together"
    assert set(found.evaluate) == set(read_result(run).final.evaluate)
    words = [*table(tmp_path), "rounds=1", "evaluation=private", f"out={tmp_path / 'private'}"]
    assert main(["simulate", *words]) == 0
    private = read_result(tmp_path / "private")
    assert private.baseline is None
    assert private.final.uninformed, "of the sums with their noise"


@pytest.mark.parametrize(("records", "found"), [(19, "amber"), (400, "green"), (None, "green")])
def test_round_that_was_chosen_by_few_records__is_known_to_be_luck(
    good: ResultFile, records: int | None, found: str
) -> None:
    """Where sites keep their numbers to themselves nothing is said of them."""
    size = SiteSize(train=300, test=99, validation=records)
    chosen = ValidationResult(
        metric="accuracy", kept=4, best=BestRound(round=4, value=0.8), stopped_early=False
    )
    result = replace(
        good,
        data=replace(good.data, sites=dict.fromkeys(("north", "south"), size)),
        validation=chosen,
    )
    assert light(result, "on validation records") == found
    few = "There are 38 validation records: by so few"
    assert any(few in says for says in lights(result)) == (found == "amber")
