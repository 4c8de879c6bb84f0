"""What a lying coordinator gets from the test records of deployed sites: paid noise, or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import nn

from clients import evaluation, sitefile
from clients.ledger.report import verify
from clients.owner import deployed_owner
from clients.site import Site, open_site
from fedlearn.core.errors import PrivacyError
from fedlearn.flower import messages as flower
from fedlearn.mechanisms.evaluation import whole_numbers
from fedlearn.privacy import accounting
from fedlearn.privacy.noise import TEST_NOISE
from fedlearn.rounds import EvaluateReply, Refusal, TrainRequest
from fedlearn.tasks import ClassificationTask, TableInput
from fedlearn.training.even_rows import even_rows
from fedlearn.training.local import grade
from server.federation import Federation
from tests.attacks.lab import SITES, STRICT, Lab
from tests.effort import slow_but

VICTIM = SITES[0]
CLEAR = STRICT.replace("require_secagg: masked", "require_secagg: null")
"""The same owner, who lets updates be seen by the coordinator (each has all of its noise)."""
OFF = ("secagg=off", "rounds=4", "evaluate_every=2")
"""Rounds 2 and 4 are evaluated."""
NAMES = [f"Person 0-{i:03d}" for i in range(60)]
BY_NAME = (
    "fairness=groups",
    "fairness.column=name",
    f"fairness.values=[{','.join(NAMES)}]",
    "fairness.smallest=1",
)


@pytest.fixture
def clear(tmp_path: Path) -> Lab:
    return Lab.make(tmp_path, *OFF, policy=CLEAR)


def untouched(lab: Lab) -> bool:
    """Whether no site has opened the ledger of its records: a refusal alone may stand in it."""
    ledgers = [lab.world.ledger(site) for site in SITES]
    return not any('"kind":"open"' in path.read_text() for path in ledgers if path.exists())


def asked(
    federation: Federation, number: int, model: NDArray[np.float32] | None = None
) -> RecordDict | Refusal:
    """What the victim answers to an evaluation of a round."""
    federation.grid.sealing.round += 1  # type: ignore[union-attr]
    weights = federation.progress.model if model is None else model
    note = federation.note(number, len(SITES))
    messages = federation.messages("evaluate", note, weights, [VICTIM])
    replies = federation.grid.exchange(messages)
    return replies.answers[VICTIM].content if replies.answers else replies.refusals[0]


def numbers(federation: Federation, content: RecordDict | Refusal) -> list[int]:
    assert not isinstance(content, Refusal), content
    plan = federation.mechanism.evaluation
    assert plan is not None
    found: list[int] = flower.read_noised_reply(content, plan.dimension).tolist()
    return found


# --- what may be asked at all ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["per_site", "pooled"])
def test_exact_sums__of_test_records_do_not_leave_unless_the_owner_allows_them(
    tmp_path: Path, kind: str
) -> None:
    lab = Lab.make(tmp_path, f"evaluation={kind}")
    with pytest.raises(PrivacyError, match=r"policy\.evaluation"):
        lab.federate()
    assert untouched(lab)


@pytest.mark.parametrize("kind", ["private", "per_site"])
def test_named_people__are_no_groups_though_their_column_is_dropped(
    tmp_path: Path, kind: str
) -> None:
    allowing = f"{STRICT}  evaluation: [private, pooled, per_site]\n"
    lab = Lab.make(tmp_path, *BY_NAME, f"evaluation={kind}", policy=allowing)
    with pytest.raises(PrivacyError, match=r"policy\.group_columns"):
        lab.federate()
    assert untouched(lab)


def test_dropped_column__is_no_group_though_the_owner_has_listed_it(tmp_path: Path) -> None:
    allowing = f"{STRICT}  group_columns: [name, sex]\n"
    lab = Lab.make(tmp_path, *BY_NAME, policy=allowing)
    with pytest.raises(PrivacyError, match=r"policy\.group_columns"):
        lab.federate()
    assert untouched(lab)


@pytest.mark.slow
def test_groups__smaller_than_the_owner_allows_do_not_leave_in_a_sum_either(
    tmp_path: Path,
) -> None:
    allowing = (
        f"{STRICT}  evaluation: [pooled]\n  group_columns: [sex]\n  smallest_group: 5\n"
        "  min_test_records: 5\n"
    )
    by_sex = ("fairness=groups", "fairness.column=sex", "fairness.values=[f,m]")
    lab = Lab.make(tmp_path, *by_sex, "fairness.smallest=1", "evaluation=pooled", policy=allowing)
    with pytest.raises(PrivacyError, match=r"policy\.smallest_group"):
        lab.federate()
    fitting = replace(lab.config.fairness, smallest=5)
    federation = lab.again(replace(lab.config, fairness=fitting)).federate()
    federation.run_round(1)
    for name, sums in federation.progress.groups.pooled.items():
        assert sums.count == 0 or sums.count >= 5, name
    with pytest.raises(PrivacyError, match=r"policy\.smallest_group"):
        lab.again().federate()


@pytest.mark.slow
def test_run_without_evaluation__answers_none(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, *OFF, "evaluation=none", policy=CLEAR)
    federation = lab.federate()
    entry = federation.run_round(1)
    assert entry.evaluate == {}
    assert isinstance(asked(federation, 2), Refusal)
    assert lab.reserved(VICTIM, "evaluation") == 0


@pytest.mark.slow
def test_more_evaluations__than_the_owner_allows_are_refused_before_the_run(
    tmp_path: Path,
) -> None:
    lab = Lab.make(tmp_path, "rounds=9", policy=f"{STRICT}  max_evaluations: 3\n")
    with pytest.raises(PrivacyError, match=r"policy\.max_evaluations"):
        lab.federate()
    lab.again(replace(lab.config, evaluate_every=3)).federate()


# --- how often -------------------------------------------------------------------------


def test_evaluation__of_a_round_is_answered_once_and_in_its_order(clear: Lab) -> None:
    federation = clear.federate()
    planted = np.full_like(federation.progress.model, 7.0)
    wrong = [0, 1, 3, 5, 200]
    assert all(isinstance(asked(federation, n, planted), Refusal) for n in wrong)
    assert clear.reserved(VICTIM, "evaluation") == 0
    assert isinstance(asked(federation, 4), RecordDict)
    assert all(isinstance(asked(federation, n, planted), Refusal) for n in [*range(6), 4, 2])
    assert clear.reserved(VICTIM, "evaluation") == 1


@pytest.mark.slow
def test_evaluation__of_a_model_before_the_last_round_is_refused(clear: Lab) -> None:
    federation = clear.federate()
    for number in (1, 2, 3):
        federation._train(number, SITES)
    assert isinstance(asked(federation, 2), Refusal)
    assert isinstance(asked(federation, 4), RecordDict)


def test_restarted_run__is_not_told_a_round_again(clear: Lab) -> None:
    first = clear.federate()
    assert isinstance(asked(first, 2), RecordDict)
    again = clear.again().federate()  # a new run of Flower's: the site's memory of it is empty
    assert isinstance(asked(again, 2), Refusal), "its ledger remembers"
    assert isinstance(asked(again, 4), RecordDict)
    noted = [one.round_number for one in verify(clear.world.ledger(VICTIM)).evaluations]
    assert noted == [2, 4]


@pytest.mark.slow
def test_resumed_run__goes_on_without_the_figures_that_were_lost(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    lab.federate().run_round(1)
    federation = lab.again().federate()
    federation.resumed = True
    assert federation.run_round(1).evaluate == {}
    assert lab.reserved(VICTIM, "evaluation") == 1


# --- paid for, and only then read -------------------------------------------------------


def test_test_records__are_not_read_before_their_cost_is_on_the_disk(
    clear: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid: list[int] = []

    def graded(site: Site, request: TrainRequest) -> NDArray[np.float64]:
        paid.append(clear.reserved(site.name, "evaluation"))
        raise RuntimeError("somebody trips over the cable")

    monkeypatch.setattr(evaluation, "graded", graded)
    federation = clear.federate()
    assert isinstance(asked(federation, 2), Refusal)
    assert paid == [1]
    assert isinstance(asked(federation, 2), Refusal)
    assert clear.reserved(VICTIM, "evaluation") == 1, "what failed after it was paid stays paid"
    assert paid == [1]


def test_test_records__are_not_read_where_the_budget_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab.make(tmp_path, *OFF, policy=CLEAR.replace("8.0", "0.05"))

    def graded(site: Site, request: TrainRequest) -> NDArray[np.float64]:
        raise AssertionError("was read")

    monkeypatch.setattr(evaluation, "graded", graded)
    answer = asked(lab.federate(), 4)
    assert isinstance(answer, Refusal)
    assert answer.exit_code == PrivacyError.exit_code
    assert lab.reserved(VICTIM, "evaluation") == 0


def test_run__that_could_not_pay_for_the_evaluations_it_has_planned_is_refused_at_its_start(
    tmp_path: Path,
) -> None:
    lab = Lab.make(tmp_path, *OFF, policy=CLEAR.replace("8.0", "3.95"))
    federation = lab.federate()
    plan = federation.plan
    assert plan is not None
    assert accounting.epsilon([plan.total_event], 1e-5) < 3.95 < plan.epsilon
    with pytest.raises(PrivacyError):
        federation.run_round(1)
    refusal = verify(lab.world.ledger(VICTIM)).refusals[0]
    assert "the rest of the run" in refusal.purpose
    assert f"to epsilon {plan.epsilon:.4g}" in refusal.reason
    assert lab.spent_at(VICTIM) == lab.reserved(VICTIM, "evaluation") == 0
    # Without evaluations that are paid for, a run goes as far as the budget does.
    other = lab.again(replace(lab.config, evaluation="none"))
    other.federate().run_round(1)
    assert lab.spent_at(VICTIM) == 1


@pytest.mark.slow
def test_run__whose_round_was_cut_off_still_has_room_for_what_is_left_of_its_promise(
    tmp_path: Path,
) -> None:
    words = (*OFF, "spare_rounds=0")
    lab = Lab.make(tmp_path, *words, policy=CLEAR.replace("8.0", "4.0"))
    federation = lab.federate()
    federation._train(1, SITES)  # and the coordinator dies
    again = lab.again().federate()
    for number in (1, 2, 3):
        again.run_round(number)
    assert lab.spent_at(VICTIM) == 4
    with pytest.raises(PrivacyError):
        again.run_round(4)


@pytest.mark.parametrize("kind", slow_but("per_site".__eq__, ["pooled", "per_site"]))
def test_exact_sums__of_too_few_test_records_are_nobodys_and_no_refusal_tells(
    tmp_path: Path, kind: str
) -> None:
    exact = f"{STRICT}  evaluation: [{kind}]\n"
    lab = Lab.make(tmp_path, f"evaluation={kind}", "fairness=sites", policy=exact)
    few = lab.world.site_file(VICTIM)
    few.write_text(few.read_text().replace("policy:\n", "policy:\n  min_test_records: 1000\n"))
    federation = lab.federate()
    federation.run_round(1)
    assert lab.refused == []
    tested = federation.progress.tested
    assert tested is not None
    if kind == "per_site":
        assert federation.progress.per_site[VICTIM].count == 0
    without = [len(site.data.test) for site in opened(lab) if site.name != VICTIM]
    assert tested.count == sum(without) > 0


def opened(lab: Lab) -> list[Site]:
    """The sites with their records."""
    owners = [deployed_owner(sitefile.load(lab.world.site_file(name))) for name in SITES]
    return [open_site(owner, lab.config) for owner in owners]


def test_what_leaves__has_noise_that_nobody_can_take_off(clear: Lab, tmp_path: Path) -> None:
    federation = clear.federate()
    plan = federation.mechanism.evaluation
    assert plan is not None
    model = np.zeros_like(federation.progress.model)
    first = numbers(federation, asked(federation, 2, model))
    # The same records, model and noise level once more, in a federation of the same tables.
    other = Lab.make(tmp_path / "other", *OFF, policy=CLEAR).federate()
    second = numbers(other, asked(other, 2, model))
    moved = np.array(first) - np.array(second)
    expected = np.sqrt(2) * plan.stddev
    assert np.count_nonzero(moved) > len(moved) // 2
    assert 0.5 * expected < moved.std() < 2 * expected


def test_private_sums__are_the_same_however_few_records_are_added_up_at_a_time(
    clear: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a task with wide sums, a coordinator's choice, they are few: a site has to hold them."""
    monkeypatch.setenv(TEST_NOISE, "7")
    site, federation = opened(clear)[0], clear.federate()
    plan, number = federation.mechanism.evaluation, len(site.data.test)
    assert plan is not None
    request = TrainRequest(note=federation.note(2, len(SITES)), model=federation.progress.model)
    graded, held = np.random.default_rng(0).dirichlet([1, 1], number), list[int]()
    answers = evaluation.Answers(graded)
    whole, counted = evaluation.noised(site, plan, request, answers), whole_numbers

    def watched(added: NDArray[np.float64], *rest: Any) -> NDArray[np.int64]:
        held.append(added.size)
        return counted(added, *rest)

    monkeypatch.setattr(evaluation, "whole_numbers", watched)
    monkeypatch.setattr(evaluation, "_NUMBERS", 3 * sum(s.size for s in site.task.noised_layout))
    np.testing.assert_array_equal(evaluation.noised(site, plan, request, answers), whole)
    assert max(held) <= evaluation._NUMBERS
    assert len(held) == -(-number // 3) > 1


@pytest.mark.slow
def test_ledger__books_no_less_than_an_independent_accountant_for_all_that_left(
    tmp_path: Path,
) -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld

    lab = Lab.make(tmp_path)
    federation = lab.federate()
    for number in (1, 2):
        federation.run_round(number)
    assert federation.plan is not None
    report = verify(lab.world.ledger(VICTIM))
    composed = None
    for event in report.spent:
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sample_rate,
            value_discretization_interval=1e-4,
        ).self_compose(event.steps)
        composed = one if composed is None else composed.compose(one)
    assert composed is not None
    alone = composed.get_epsilon_for_delta(1e-5)
    assert sum(event.steps for event in federation.plan.evaluation.events) == 2  # type: ignore[union-attr]
    booked = accounting.epsilon(report.spent, 1e-5)
    assert alone <= booked * 1.001
    assert booked <= federation.plan.epsilon <= 4.0
    assert federation.epsilons()[VICTIM] == pytest.approx(booked)


# --- what it is good for ----------------------------------------------------------------


@pytest.mark.slow
def test_sum_of_private_figures__is_opened_as_one_and_read_with_its_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact: dict[str, EvaluateReply] = {}
    whole = evaluation.noised

    def noised(
        site: Site, plan: object, request: TrainRequest, answers: evaluation.Answers
    ) -> NDArray[np.int64]:
        exact[site.name] = evaluation.exact(site, 1, answers)
        return whole(site, plan, request, answers)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "noised", noised)
    lab = Lab.make(tmp_path, "rounds=1")
    federation = lab.federate()
    federation.run_round(1)
    sums, plan = federation.progress.tested, federation.mechanism.evaluation
    assert sums is not None
    assert plan is not None
    assert federation.progress.per_site == {}, "of no site alone"
    stddev = plan.last_stddev / plan.steps[0] * 2  # four sites with all of the noise each
    assert sums.noise["confusion"] == pytest.approx(stddev)
    confusion = np.sum([one.sums["confusion"] for one in exact.values()], axis=0)
    off = np.abs(sums["confusion"] - confusion)
    assert 0 < off.max() < 6 * stddev


class Uneven(nn.Module):
    """Computes in the last bits what depends on a batch, as libraries may do: on how many rows
    there are, or on a record's row. And blows that up, as weights do that were planted."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.linear, self.by = nn.Linear(13, 2), by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of = torch.arange(len(x)) if self.by == "place" else torch.tensor([len(x)])
        return self.linear(torch.sin(x * (1 + of.view(-1, 1) * 2.0**-23) * 1e8))


def test_evaluation__grades_a_record_as_it_would_among_any_others() -> None:
    torch.random.default_generator.manual_seed(1)
    model, rng = Uneven("number"), np.random.default_rng(0)
    task = ClassificationTask(input=TableInput(numeric=13), classes=("no", "yes"))
    records = torch.from_numpy(rng.normal(size=(300, 13)).astype(np.float32))
    targets = rng.integers(0, 2, 300)

    def graded(count: int, *, filled: bool) -> NDArray[np.float64]:
        rows = 128 if filled else 1024
        return grade(model, task, records[:count], targets[:count], rows, filled=filled)

    whole = graded(300, filled=True)
    for count in (1, 2, 15, 16, 17, 127, 128, 129, 271, 272):
        assert np.array_equal(graded(count, filled=True), whole[:count])
    # What it is for: otherwise one record more is a change of all others.
    assert not np.array_equal(graded(15, filled=False), graded(16, filled=False)[:15])


@pytest.mark.parametrize("kind", ["place", "linear"])
def test_evaluation__grades_a_record_as_it_would_in_any_other_row(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.random.default_generator.manual_seed(1)
    model = Uneven("place") if kind == "place" else nn.Linear(13, 2)
    task = ClassificationTask(input=TableInput(numeric=13), classes=("no", "yes"))
    records = torch.randn(200, 13, generator=torch.Generator().manual_seed(2))
    targets = np.arange(200) % 2
    before = [p.clone() for p in model.parameters()]
    rows = even_rows(model, lambda n: (records[:n], torch.from_numpy(targets[:n])), 64)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))

    def graded(who: slice, most: int) -> NDArray[np.float64]:
        return grade(model, task, records[who], targets[who], most, filled=True)

    assert np.array_equal(graded(slice(1, None), rows), graded(slice(None), rows)[1:])
    if kind == "place":
        assert rows == 1
        assert "MKL_CBWR=AUTO" in caplog.text, "slow, with a way out"
        assert not np.array_equal(graded(slice(1, None), 64), graded(slice(None), 64)[1:])


def test_record__that_a_model_fails_on_adds_nothing_to_a_private_evaluation_and_tells_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, seen = evaluation.grade, list[NDArray[np.float64]]()

    def touchy(model: Any, task: Any, features: Any, *rest: Any, **options: Any) -> Any:
        if any(torch.equal(row, hated[0]) for row in features):
            raise ValueError("this one")
        return honest(model, task, features, *rest, **options)

    taken = evaluation.noised

    def watched(site: Site, plan: Any, request: Any, answers: evaluation.Answers) -> Any:
        if site.name == VICTIM:
            seen.append(answers.shared)
        return taken(site, plan, request, answers)

    lab = Lab.make(tmp_path, *OFF, policy=CLEAR)
    federation = lab.federate()
    federation.run_round(1)
    hated: list[Any] = []
    begun = evaluation.begin

    def begin(site: Site, *rest: Any) -> Any:
        if site.name == VICTIM:
            hated[:] = [site.test_tensors[0][0]]
        return begun(site, *rest)

    monkeypatch.setattr(evaluation, "begin", begin)
    monkeypatch.setattr(evaluation, "grade", touchy)
    monkeypatch.setattr(evaluation, "noised", watched)
    hated.append(torch.full((1,), torch.inf))
    federation.run_round(2)
    (answers,) = seen
    fails = ~np.isfinite(answers.reshape(len(answers), -1)).all(1)
    assert 1 <= fails.sum() < len(answers)
    assert fails[0]
    assert lab.refused == []
    assert federation.progress.tested is not None


@pytest.mark.slow
def test_model__that_fails_on_every_record_gives_noise_alone(
    clear: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*of: Any, **options: Any) -> Any:
        raise ValueError("none of them")

    federation = clear.federate()
    federation.run_round(1)
    monkeypatch.setattr(evaluation, "grade", fails)
    entry = federation.run_round(2)
    assert entry.clients.dropped == {}
    assert federation.progress.tested is not None
