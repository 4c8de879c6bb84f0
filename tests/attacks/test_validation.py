"""What a lying coordinator gets of a run that validates: the test once, and nothing after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedlearn.rounds import Refusal
from tests.attacks.lab import SITES, STRICT, Lab
from tests.attacks.test_evaluation import CLEAR, VICTIM, asked, opened

VALIDATED = (
    *("secagg=off", "rounds=4", "evaluate_every=2", "robust=none"),
    *("scenario.validation_fraction=0.3", "training.keep=best"),
)
TEST = 5
"""The number of the test after four rounds."""


def lab_of(root: Path, kind: str) -> Lab:
    policy = CLEAR if kind == "private" else f"{CLEAR}  evaluation: [{kind}]\n"
    return Lab.make(root, *VALIDATED, f"evaluation={kind}", policy=policy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["per_site", "private"])
def test_rounds__read_validation_records_and_the_end_the_test_once(
    tmp_path: Path, kind: str
) -> None:
    lab = lab_of(tmp_path, kind)
    federation, sites = lab.federate(), opened(lab)
    shown = [federation.run_round(number).evaluate for number in (1, 2, 3, 4)]
    # Of so few records private noise may leave no figure at all.
    wanted = [False, kind == "per_site", False, kind == "per_site"]
    assert all(bool(found) >= want for found, want in zip(shown, wanted, strict=True))
    assert not shown[0]
    assert not shown[2]
    assert federation.progress.tested is None
    federation.test()
    tested = federation.progress.tested
    assert tested is not None
    parts = [[len(part) for part in site.data.parts] for site in sites]
    assert all(sum(sizes) == 60 and min(sizes) > 5 for sizes in parts)
    if kind == "per_site":
        assert tested.count == sum(test for _, test, _ in parts)
    else:
        assert [lab.reserved(site, "evaluation") for site in SITES] == [3] * len(SITES)
        spent = federation.epsilons()
        assert 3 < spent[VICTIM] <= 4  # a spare round is left
    assert isinstance(asked(federation, TEST), Refusal)


@pytest.mark.slow
def test_test__that_is_asked_for_early_is_the_last_that_a_site_answers(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, "private")
    federation = lab.federate()
    federation.run_round(1)
    assert not isinstance(asked(federation, TEST), Refusal)
    for number in (1, 2, 3, 4, TEST, TEST + 1):
        assert isinstance(asked(federation, number), Refusal), number
    assert lab.reserved(VICTIM, "evaluation") == 1


@pytest.mark.slow
def test_training__has_no_round_under_the_number_of_the_test(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, "private")
    federation = lab.federate()
    for number in (1, 2, 3, 4):
        federation.run_round(number)
    before = lab.spent_at(VICTIM)
    note = federation.note(TEST, len(SITES))
    messages = federation.messages("train", note, federation.progress.model, [VICTIM])
    replies = federation.grid.exchange(messages)
    assert [one.site for one in replies.refusals] == [VICTIM]
    assert lab.spent_at(VICTIM) == before


@pytest.mark.slow
def test_owner__counts_the_test_among_the_evaluations_that_are_allowed(tmp_path: Path) -> None:
    lab = Lab.make(
        tmp_path, *VALIDATED, "evaluation=private", policy=f"{CLEAR}  max_evaluations: 2\n"
    )
    with pytest.raises(Exception, match=r"policy\.max_evaluations"):
        lab.federate()
    assert lab.reserved(VICTIM, "training") == lab.reserved(VICTIM, "evaluation") == 0


@pytest.mark.slow
def test_sites__that_disagree_on_who_is_validated_on_are_not_summed(tmp_path: Path) -> None:
    lab = Lab.make(
        tmp_path, "scenario.validation_fraction=0.3", "evaluation=private", policy=STRICT
    )
    other = replace(lab.config, scenario=replace(lab.config.scenario, validation_fraction=0.6))
    mixed = lab.again(lab.config, **{VICTIM: other})
    with pytest.raises(Exception, match=VICTIM):
        mixed.federate()
