"""One of four deployed sites lies in the masked sum; nobody sees which, and it gets little.

The liar is a site with its own code: it follows the protocol, and puts what it likes into its
vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.secagg import SecAggClient
from fedlearn.agreement import bound_of
from fedlearn.cli import main
from fedlearn.core.ring import RingVector
from fedlearn.privacy.accounting import epsilon
from fedlearn.results.folder import Checkpoint, RunFolder
from fedlearn.results.result import Attendance, RefusedSum, RoundResult
from fedlearn.secagg.proofs import statement
from fedlearn.secagg.proofs.field import Elements
from fedlearn.secagg.proofs.norm import NormBound
from fedlearn.secagg.proofs.statement import Numbers, TooLongError
from fedlearn.secagg.whole import AnyPayload
from fedlearn.stages import Update
from server.federation import Federation, PoisonedError
from tests.attacks.lab import SITES, Lab
from tests.fedlearn.secagg.proofs.test_statement import best_bits
from tests.simulations.small import table

LIAR = SITES[2]
Lie = Callable[[AnyPayload, RingVector, Update, int], RingVector]
"""(form, honest contribution, honest update, round) to what is masked."""

STUDY = ("rounds=8", "evaluation=none")


def lying(monkeypatch: pytest.MonkeyPatch, lie: Lie) -> None:
    """Have the liar mask something else."""
    honest = SecAggClient._encoded

    def encoded(self: SecAggClient, payload: AnyPayload, mine: Update) -> RingVector:
        vector = honest(self, payload, mine)
        if self.site.name != LIAR or self.part != "train":
            return vector
        return payload.ring.reduce(lie(payload, vector.copy(), mine, self.number))

    monkeypatch.setattr(SecAggClient, "_encoded", encoded)


def instead(payload: AnyPayload, vector: RingVector, values: np.ndarray) -> RingVector:
    """The contribution with other values, held by no cut."""
    steps = np.rint(values / payload.fixed_point.resolution).astype(np.int64)  # type: ignore[union-attr]
    vector[: payload.lane_length] = payload._packing.join(steps)  # type: ignore[union-attr]
    return vector


def runs(federation: Federation) -> list[RoundResult]:
    """All rounds of a run, as the coordinator's program makes them."""
    while federation.goes_on:
        federation.run_round(len(federation.progress.rounds) + 1)
    return federation.progress.rounds


def largest_values(payload: AnyPayload, vector: RingVector, mine: Update, _: int) -> RingVector:
    """The largest values that the ring has room for, of the other sign."""
    most = 2.0 ** (payload.lane_bits - 1) - 1
    values = -np.sign(mine.values) * most * payload.fixed_point.resolution / 2  # type: ignore[union-attr]
    return instead(payload, vector, values)


def another_weight(payload: AnyPayload, vector: RingVector, _: Update, __: int) -> RingVector:
    """Honest values, by which a mean is divided by something else."""
    vector[payload.lane_length] += 1  # type: ignore[union-attr]
    return vector


@pytest.mark.slow
@pytest.mark.parametrize("lie", [largest_values, another_weight])
def test_liar_in_every_round__is_left_out_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Lie
) -> None:
    """What was refused was paid for and has not moved the model; the promise is what it was."""
    lying(monkeypatch, lie)
    lab = Lab.make(tmp_path, *STUDY)
    federation = lab.federate()
    moved = [federation.progress.model]
    while federation.goes_on:
        federation.run_round(len(federation.progress.rounds) + 1)
        moved.append(federation.progress.model)
    rounds = federation.progress.rounds
    refused = [entry for entry in rounds if entry.refused]
    assert 1 <= len(refused) <= len(SITES)
    for entry, before, after in zip(rounds, moved, moved[1:], strict=False):
        assert np.array_equal(before, after) == (entry.refused is not None)
        assert LIAR in entry.refused.sites if entry.refused else entry.clients.replied == 3
    # Sums are as many as the promise is for: what was refused is paid from it.
    assert len(rounds) == 8
    assert federation.plan is not None
    for site in SITES:
        # Each pays for the sums that it was in.
        left = sum(
            entry.refused is not None and site not in entry.refused.sites for entry in rounds
        )
        left += sum(entry.refused is None for entry in rounds) if site == LIAR else 0
        assert lab.spent_at(site) == 8 - left
        assert epsilon(federation.progress.spent[site], 1e-5, unit="record") <= 4.0 + 1e-6


@pytest.mark.slow
def test_message_out_of_range_in_one_round__costs_that_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def once(payload: AnyPayload, vector: RingVector, mine: Update, number: int) -> RingVector:
        return largest_values(payload, vector, mine, number) if number == 5 else vector

    lying(monkeypatch, once)
    rounds = runs(Lab.make(tmp_path, *STUDY).federate())
    assert [entry.round for entry in rounds if entry.refused] == [5]
    assert rounds[4].refused is not None
    assert sorted(rounds[4].refused.sites) == sorted(SITES)
    assert "honest sites reach" in rounds[4].refused.reason
    assert "round 5: the sum of" in caplog.text


@pytest.mark.slow
def test_liar_whom_nobody_can_leave_out__ends_the_run_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the owners of sites ask for all four in a sum, only an end is left."""
    lying(monkeypatch, largest_values)
    federation = Lab.make(tmp_path, *STUDY, "secagg.min_cohort=4", "robust.repeats=2").federate()
    start = federation.progress.model
    with pytest.raises(PoisonedError, match=r"robust\.repeats=2.*without a site that lies"):
        runs(federation)
    assert [entry.refused is not None for entry in federation.progress.rounds] == [True] * 3
    assert np.array_equal(federation.progress.model, start)


@pytest.mark.slow
def test_liar_within_its_own_bound__moves_no_more_than_an_honest_site_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left to it, in numbers: the same norm as anybody."""
    found = []

    def negated(payload: AnyPayload, vector: RingVector, mine: Update, _: int) -> RingVector:
        found.append(np.linalg.norm(mine.values))
        return instead(payload, vector, -np.asarray(mine.values, np.float64))

    lying(monkeypatch, negated)
    federation = Lab.make(tmp_path, *STUDY).federate()
    assert [entry.refused for entry in runs(federation)] == [None] * 8
    bound = bound_of(federation.config, federation.plan, federation.route.form(federation.stack))
    assert bound is not None
    assert max(found) <= bound.site_norm


@pytest.mark.slow
def test_rule_none__takes_whatever_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rule is worth: the same lie, and the model is the liar's."""

    def planted(payload: AnyPayload, vector: RingVector, mine: Update, _: int) -> RingVector:
        return instead(payload, vector, np.full(mine.values.size, 40.0))

    lying(monkeypatch, planted)
    federation = Lab.make(tmp_path, *STUDY, "robust=none").federate()
    before = federation.progress.model
    entry = federation.run_round(1)
    assert entry.refused is None
    assert np.all(federation.progress.model - before > 5)


@pytest.mark.slow
def test_honest_sites__are_never_refused_in_a_run_of_the_real_programs(tmp_path: Path) -> None:
    federation = Lab.make(tmp_path, *STUDY).federate()
    rounds = runs(federation)
    assert [entry.refused for entry in rounds] == [None] * 8
    assert [entry.clients.invited for entry in rounds] == [4] * 8


def test_refusals__are_kept_for_a_run_that_is_resumed(tmp_path: Path) -> None:
    """The checkpoint has the sum of all so far, and who was in what was refused."""

    entry = RoundResult(
        round=1, seconds=1.0, loss=None, evaluate={}, bytes={}, epsilon={},
        clients=Attendance(invited=4, replied=4, dropped={}),
        refused=RefusedSum(reason="too long", sites=list(SITES)),
    )  # fmt: skip
    state = Checkpoint.fresh("00", "now", np.zeros(2, np.float32))
    state = replace(state, rounds=[entry], opened=np.array([0.5, 1e-9]))
    (tmp_path / "checkpoint").mkdir()
    RunFolder(tmp_path).write_checkpoint(state)
    read = RunFolder(tmp_path).read_checkpoint()
    assert read is not None
    assert read.rounds == [entry]
    assert np.array_equal(read.opened, state.opened)  # type: ignore[arg-type]
    assert read.strategy == {}


OPTIONS = ("secagg=masked", "privacy=none", "engine.workers=1", "robust.repeats=1")


@pytest.mark.slow
def test_run__says_in_log_result_and_report_what_was_refused_and_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without privacy a round that is refused is one more."""

    def first(payload: AnyPayload, vector: RingVector, mine: Update, number: int) -> RingVector:
        return largest_values(payload, vector, mine, number) if number == 1 else vector

    lying(monkeypatch, first)
    words = [*table(tmp_path, sites=("alder", "birch", LIAR)), *OPTIONS]
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["protection"]["robust"] == "bounded"
    assert [bool(entry["refused"]) for entry in result["rounds"]] == [True, False, False]
    assert result["rounds"][0]["refused"]["sites"] == ["alder", "birch", LIAR]
    assert "is refused" in (tmp_path / "run" / "run.log").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "In round 1 the sum of the sites was one that honest sites cannot make" in page


def test_run__that_is_refused_too_often_ends_with_exit_code_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lying(monkeypatch, largest_values)
    words = [*table(tmp_path, sites=("alder", "birch", LIAR)), *OPTIONS]
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "robust.repeats=1" in said
    assert "resume" not in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], len(result["rounds"])) == ("failed", 2)


# --- where every site proves its norm ------------------------------------------------

PROVED = ("secagg=two_server", "robust=proofs", "privacy=none", "engine.workers=1")
FOUR = ("alder", "birch", LIAR, "doum")


def proving_what_is_not_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own program proves nothing that is too long: the liar's does its best."""
    honest = statement.shared_bits

    def bits(bound: NormBound, first: Numbers, helper: Numbers) -> Elements:
        try:
            return honest(bound, first, helper)
        except TooLongError:
            return best_bits(bound, first, helper)

    monkeypatch.setattr(statement, "shared_bits", bits)


def one_value(payload: AnyPayload, vector: RingVector, _: Update, __: int) -> RingVector:
    """Honest values but for one, that is a little longer than all of them may be together."""
    vector[0] = payload.bound.norm + 1  # type: ignore[union-attr]
    return vector


def all_of_the_ring(payload: AnyPayload, vector: RingVector, mine: Update, _: int) -> RingVector:
    """The largest values of the other sign, of which some squares wrap around."""
    most = 2 ** (payload.lane_bits - 1) - 1
    vector[: mine.values.size] = np.where(mine.values > 0, 2 * most + 2 - most, most)
    return vector


@pytest.mark.slow
@pytest.mark.parametrize("lie", [one_value, all_of_the_ring])
def test_proofs__leave_the_liar_alone_out_of_every_round_and_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Lie
) -> None:
    """No round is lost, and the model is that of the others."""
    words = [*table(tmp_path, sites=FOUR), *PROVED]
    lying(monkeypatch, lie)
    proving_what_is_not_so(monkeypatch)
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["protection"]["robust"] == "proofs"
    for entry in result["rounds"]:
        assert entry["refused"] is None
        assert entry["clients"]["replied"] == 3
        assert list(entry["clients"]["dropped"]) == [LIAR]
        assert "proof does not hold" in entry["clients"]["dropped"][LIAR]
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"The proof of {LIAR} did not hold in 2 of the rounds" in page


@pytest.mark.slow
def test_proofs__of_honest_sites_give_the_model_of_a_run_without(tmp_path: Path) -> None:
    models = []
    for rule in ("bounded", "proofs"):
        words = [*table(tmp_path, sites=FOUR), *PROVED, f"robust={rule}"]
        assert main(["simulate", *words, f"out={tmp_path / rule}"]) == 0
        result = json.loads((tmp_path / rule / "result.json").read_text())
        assert [entry["clients"]["replied"] for entry in result["rounds"]] == [4, 4]
        models.append(result["model"])
    assert models[0] == models[1]


@pytest.mark.slow
def test_two_liars__that_leave_too_few_proofs_end_the_run_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*table(tmp_path, sites=("alder", "birch", LIAR)), *PROVED]
    lying(monkeypatch, one_value)
    proving_what_is_not_so(monkeypatch)
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 4
    shown = " ".join(capsys.readouterr().err.split())
    assert f"2 sites are left; needed: 3 of 3; {LIAR}: its proof does not hold" in shown
