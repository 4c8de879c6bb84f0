"""What a run says of validation: what needs records for it, what it plans, what it signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlearn.config import compose, plan_of, to_tree
from fedlearn.core.errors import ConfigError
from fedlearn.privacy.accounting import epsilon
from fedlearn.tasks import ClassificationTask, TableInput
from tests.effort import slow_but

VALIDATED = "scenario.validation_fraction=0.2"
TASK = ClassificationTask(input=TableInput(numeric=2), classes=("no", "yes"))


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose([*words])
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("word", ["training.keep=best", "training.patience=3"])
def test_choice__by_validation_needs_records_for_it(word: str) -> None:
    assert f"{word}: is decided on validation records" in refused(word)
    compose([word, VALIDATED])


@pytest.mark.parametrize("own", ["strategy=ditto", "training.personal=head"])
def test_best__is_no_choice_where_sites_have_models_of_their_own(own: str) -> None:
    words = [own, VALIDATED, "privacy=none"]
    assert "training.keep=best: sites have models of their own" in refused(
        *words, "training.keep=best"
    )
    compose([*words, "training.patience=2"])


def test_run__that_evaluates_nothing_validates_by_nothing() -> None:
    assert "evaluation=none: no validation record" in refused(VALIDATED, "evaluation=none")


@pytest.mark.parametrize("share", ["1.0", "-0.1", "x"])
def test_share__is_a_fraction(share: str) -> None:
    word = f"scenario.validation_fraction={share}"
    assert word in refused(word)


def by_time(tmp_path: Path, *words: str) -> list[str]:
    table = ("scenario=csv", f"scenario.path={tmp_path / 't.csv'}", "scenario.label=y")
    return [*table, "scenario.split=time", "scenario.time=day", "secagg=off", *words]


def test_times_of_a_site__are_refused_where_privacy_is_within_it(tmp_path: Path) -> None:
    words = by_time(tmp_path, "privacy=record", VALIDATED)
    assert "scenario.test_from: must be given" in refused(*words)
    cut = "scenario.test_from=2025-03-01"
    assert "scenario.times: must be given" in refused(*words, cut)
    known = (*words, cut, "scenario.times=dates")
    assert "scenario.validate_from: must be given" in refused(*known)
    compose([*known, "scenario.validate_from=2025-02-01"])
    compose(by_time(tmp_path, "privacy=none", VALIDATED))


def test_split_by_time__says_what_it_lacks(tmp_path: Path) -> None:
    words = by_time(tmp_path, "privacy=none", "scenario.time=''", "scenario.validate_from=soon")
    found = refused(*words)
    assert "scenario.time: name the column that scenario.split=time goes by" in found
    assert "scenario.validate_from=soon: is no time" in found


def test_terms__hold_all_that_decides_who_is_validated_on(tmp_path: Path) -> None:
    words = by_time(tmp_path, "privacy=none", "secagg=off")
    hashes = {
        compose([*words, *more]).terms
        for more in (
            [],
            [VALIDATED],
            [VALIDATED, "training.keep=best"],
            [VALIDATED, "training.patience=2"],
            ["scenario.validate_from=2025-01-01"],
            ["scenario.test_from=2025-01-01"],
        )
    }
    assert len(hashes) == 6


def test_config__without_any_of_it_is_written_as_before() -> None:
    tree = to_tree(compose([]))
    assert "validation_fraction" not in tree["scenario"]
    assert not {"keep", "patience"} & tree["training"].keys()


@pytest.mark.parametrize("every", [1, 3])
def test_numbers__of_a_run_are_its_rounds_and_then_the_test(every: int) -> None:
    words = ["rounds=7", f"evaluate_every={every}", "privacy=none", "robust=none"]
    tested, validated = compose(words), compose([*words, VALIDATED])
    assert tested.test_number is None
    assert validated.test_number == 8
    assert validated.evaluated == (*tested.evaluated, 8)
    assert [n for n in range(20) if validated.evaluates(n)] == [*tested.evaluated, 8]


@pytest.mark.parametrize("privacy", slow_but("client".__eq__, ["record", "client"]))
def test_plan__pays_for_every_validation_and_the_test_within_one_epsilon(privacy: str) -> None:
    words = [f"privacy={privacy}", "privacy.epsilon=4", "evaluation=private", "rounds=5"]
    plan = plan_of(compose([*words, VALIDATED]), task=TASK)
    plain = plan_of(compose(words), task=TASK)
    assert plan is not None
    assert plain is not None
    assert plan.evaluation is not None
    assert plain.evaluation is not None
    assert sum(event.steps for event in plan.evaluation.events) == 6
    assert epsilon(plan.events, plan.delta, unit=plan.unit) <= 4
    # Three quarters of what evaluations get is the test's, as it is the last round's otherwise.
    last, others = plan.evaluation.event_at(6), [plan.evaluation.event_at(n) for n in range(1, 6)]
    assert last.share_stddev == pytest.approx(plain.evaluation.last_stddev, abs=1)
    assert all(one.share_stddev > 2 * last.share_stddev for one in others)
    with pytest.raises(ValueError, match="round 7"):
        plan.evaluation.event_at(7)
