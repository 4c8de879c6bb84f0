"""Client-level and distributed privacy in whole runs: same sums, true noise, true accounts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedlearn as fl
from clients import work
from clients.ledger.report import verify
from clients.site import TEST_NOISE
from fedlearn.agreement import masks_of, route_of
from fedlearn.cli import main
from fedlearn.config import compose, plan_of
from fedlearn.mechanisms import ClientPlan, DistributedPlan
from fedlearn.privacy.accounting import epsilon
from fedlearn.secagg.settings import SecAggMasked
from fedlearn.stages import Stack

# Whole runs: too long for the fast gate.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heart_archive")]

HEART = "experiment=medical_heart"
DIMENSION = 28


def simulate(out: Path, *overrides: str, code: int = 0) -> dict[str, Any]:
    assert main(["simulate", HEART, f"out={out}", *overrides]) == code
    return read(out)


def read(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def distributed_plan(*overrides: str) -> DistributedPlan:
    config = compose([HEART, "privacy=distributed", *overrides])
    plan = plan_of(config, sites=4, dimension=DIMENSION)
    assert isinstance(plan, DistributedPlan)
    return plan


# --- One sum, whoever makes it ----------------------------------------------------

SLOW = pytest.mark.slow
KINDS = [
    ["privacy=distributed"],
    ["privacy=distributed", "privacy.unit=client", "training.local_steps=3"],
    ["privacy=client", "training.local_steps=3"],
    ["privacy=client", "privacy.clipping=adaptive"],
]


@pytest.mark.parametrize("overrides", [KINDS[0], *(pytest.param(k, marks=SLOW) for k in KINDS[1:])])
def test_sum__is_the_same_bit_for_bit_in_clear_masked_and_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    monkeypatch.setenv(TEST_NOISE, "3")
    ways = [["secagg=ring", "transport=plain"], ["secagg=masked"], ["secagg=two_server"]]
    shas = {
        simulate(tmp_path / str(i), "rounds=2", *overrides, *way)["model"]["sha256"]
        for i, way in enumerate(ways)
    }
    assert len(shas) == 1


@SLOW
def test_client__clipping_at_the_sites_or_at_the_coordinator_gives_the_same_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEST_NOISE, "3")
    seen, unseen = (
        vector(tmp_path / way, "privacy=client", "rounds=2", f"secagg={way}")
        for way in ("off", "masked")
    )
    assert np.abs(seen - unseen).max() < 1e-3
    assert np.linalg.norm(seen) > 0.1


def vector(out: Path, *overrides: str) -> np.ndarray:
    simulate(out, *overrides)
    tensors = load_file(out / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


# --- The noise is there -----------------------------------------------------------

STILL = ("rounds=1", "model.architecture=mlp", "training.learning_rate=1e-30")


def test_distributed__noise_of_the_model_is_what_the_plan_says(tmp_path: Path) -> None:
    """Two runs whose sites do not move: what is left between them is noise.

    With d values the estimate of the deviation is off by more than 6/sqrt(2d) in
    less than two of a billion runs.
    """
    options = ("privacy=distributed", "privacy.unit=client", *STILL)
    one, two = (vector(tmp_path / name, *options) for name in "ab")
    plan = plan_of(compose([HEART, *options]), sites=4, dimension=one.size)
    assert plan is not None
    expected = np.sqrt(2) * plan.noise_stddev / 4
    assert np.std(one - two) == pytest.approx(expected, rel=6 / np.sqrt(2 * one.size))


@pytest.mark.parametrize("secagg", ["off", "masked"])
def test_client__noise_of_the_model_is_what_the_plan_says(tmp_path: Path, secagg: str) -> None:
    """As above; with secagg the sites round steps of 2^-16, far below the noise."""
    options = ("privacy=client", f"secagg={secagg}", *STILL)
    one, two = (vector(tmp_path / name, *options) for name in "ab")
    plan = plan_of(compose([HEART, *options]))
    assert plan is not None
    expected = np.sqrt(2) * plan.noise_stddev / 4
    assert np.std(one - two) == pytest.approx(expected, rel=6 / np.sqrt(2 * one.size))


def test_distributed__learns_what_plain_training_learns_once_noise_is_small(
    tmp_path: Path,
) -> None:
    """The step on the shared sum is the step that each site would have made, averaged."""
    quiet = ["privacy.epsilon=null", "privacy.noise_multiplier=1e-2", "privacy.bits=30",
             "privacy.clip_norm=100.0", "training.learning_rate=0.2"]  # fmt: skip
    # Gradients are far below the norm; plain sites take the mean over their own records,
    # so weigh them by the records and divide by the same constant.
    shared = vector(tmp_path / "shared", "privacy=distributed", "rounds=2", *quiet)
    own = vector(tmp_path / "own", "privacy=record", "rounds=2", "privacy.epsilon=null",
                 "privacy.noise_multiplier=1e-6", "privacy.clip_norm=100.0",
                 "training.learning_rate=0.2", "secagg=off")  # fmt: skip
    assert np.abs(shared - own).max() < 0.02
    assert np.abs(own).max() > 0.03


# --- What it costs ----------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, name: str, round_number: int) -> None:
    """The site `name` breaks down in a round, after it has paid."""
    honest = work.SiteRound.clipped_gradient_sum

    def breaks(here: work.SiteRound, plan: DistributedPlan) -> Any:
        if (here.site.name, here.request.round) == (name, round_number):
            raise RuntimeError("power cut")
        return honest(here, plan)

    monkeypatch.setattr(work.SiteRound, "clipped_gradient_sum", breaks)


WAYS = ["masked", pytest.param("two_server", marks=SLOW), pytest.param("ring", marks=SLOW)]


@pytest.mark.parametrize("secagg", WAYS)
def test_distributed__counts_the_noise_of_the_sites_that_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secagg: str
) -> None:
    failing(monkeypatch, "hungary", 2)
    tolerant = ("privacy.max_dropouts=1", "rounds=3")
    result = simulate(tmp_path / "run", "privacy=distributed", f"secagg={secagg}", *tolerant)
    plan = distributed_plan(*tolerant)
    really = [plan.event(4), plan.event(3), plan.event(4)]
    told = result["privacy"]["epsilon"]
    assert told == pytest.approx(epsilon(really, plan.delta), rel=1e-9)
    assert told < plan.epsilon <= 4.0
    assert [entry["clients"]["replied"] for entry in result["rounds"]] == [4, 3, 4]
    # The site cannot know who will survive: it paid for the worst case.
    spent = verify(tmp_path / "run/sites/hungary/ledger.jsonl").spent
    assert spent == (plan.total_event,)


@pytest.mark.parametrize("secagg", WAYS)
def test_distributed__with_more_dropouts_than_planned_releases_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    secagg: str,
) -> None:
    failing(monkeypatch, "hungary", 2)
    options = ("privacy=distributed", f"secagg={secagg}", "rounds=3")
    result = simulate(tmp_path / "run", *options, code=4)
    assert (result["status"], len(result["rounds"])) == ("failed", 1)
    assert "hungary" in capsys.readouterr().err
    first = load_file(tmp_path / "run" / "model.safetensors")
    assert result["model"]["sha256"]
    assert all(np.isfinite(tensor).all() for tensor in first.values())


def test_distributed__sites_refuse_to_open_a_sum_with_too_little_noise(tmp_path: Path) -> None:
    """Not only the coordinator counts: the rules of every site hold the fewest survivors."""
    options = "privacy=distributed", "privacy.max_dropouts=0"
    plan = distributed_plan(options[1])
    form = route_of(compose([HEART, *options]), plan).form(Stack(DIMENSION))
    assert masks_of(SecAggMasked(min_cohort=3), plan).min_cohort == 4
    assert masks_of(SecAggMasked(), plan, bits=form.bits).bits == plan.bits


def test_client__sampling_is_counted_for_outsiders_alone(tmp_path: Path) -> None:
    sampled = ("privacy=client", "secagg=off", "privacy.client_sample_rate=0.5", "rounds=6")
    result = simulate(tmp_path / "run", *sampled, "privacy.adversary=outsider")
    plan = plan_of(compose([HEART, *sampled, "privacy.adversary=outsider"]))
    assert isinstance(plan, ClientPlan)
    # Whoever was chosen, an outsider learns the same about every client.
    costs = {site["epsilon"] for site in result["privacy"]["per_site"].values()}
    assert costs == {result["privacy"]["epsilon"]}
    assert result["privacy"]["epsilon"] == pytest.approx(plan.epsilon, rel=1e-9)
    assert len(result["privacy"]["per_site"]) == 4
    assert "cannot tell who took part" in result["privacy"]["statement"]
    # The ledger of a site counts the rounds that it took part in, against everybody.
    invited = sum(entry["clients"]["invited"] for entry in result["rounds"])
    paid = list((tmp_path / "run/sites").glob("*/ledger.jsonl"))
    spent = [event for path in paid for event in verify(path).spent]
    assert sum(event.steps for event in spent) == invited
    known = plan_of(compose([HEART, *sampled]))
    assert known is not None
    assert known.noise_multiplier > plan.noise_multiplier


def test_client__a_round_with_nobody_still_releases_its_noise(tmp_path: Path) -> None:
    options = ("privacy=client", "secagg=off", "privacy.adversary=outsider", "rounds=2")
    rare = ("privacy.client_sample_rate=1e-6", "privacy.epsilon=null")
    result = simulate(tmp_path / "run", *options, *rare, "privacy.noise_multiplier=1.0")
    assert [entry["clients"]["invited"] for entry in result["rounds"]] == [0, 0]
    losses = [entry["loss"] for entry in result["rounds"]]
    assert losses[0] != losses[1]
    assert all(site["steps"] == 2 for site in result["privacy"]["per_site"].values())


@SLOW
def test_client__adaptive_norm_goes_on_where_the_run_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedlearn.core.errors import StoppedError
    from server.run import Silent
    from server.stop import Stop
    from simulations.run import simulate as run

    monkeypatch.setenv(TEST_NOISE, "5")
    options = ["privacy=client", "privacy.clipping=adaptive", "rounds=3"]
    whole = simulate(tmp_path / "whole", *options)
    stop = Stop()
    stop.after_round.set()
    with pytest.raises(StoppedError):
        run(compose([HEART, f"out={tmp_path / 'parts'}", *options]), Silent(), stop)
    resumed = simulate(tmp_path / "parts", *options, "resume=true")
    assert resumed["model"]["sha256"] == whole["model"]["sha256"]


@SLOW
def test_client__adaptive_norm_does_not_shrink_into_the_rounding(tmp_path: Path) -> None:
    """Updates of next to nothing: the norm follows them down, to where rounding would be all."""
    still = ["training.learning_rate=1e-6", "secagg.resolution=0.01", "privacy.clip_norm=0.12"]
    quiet = ["privacy.epsilon=null", "privacy.noise_multiplier=0.3"]
    result = simulate(
        tmp_path / "run", "privacy=client", "privacy.clipping=adaptive", "rounds=14", *still, *quiet
    )
    assert result["status"] == "finished"
    assert len(result["rounds"]) == 14


# --- What is said -----------------------------------------------------------------

SAID = [
    (["privacy=client", "secagg=off"], "sees the updates in clear"),
    (["privacy=client"], "sees the sum of the updates"),
    (["privacy=distributed"], "provided that secure aggregation shows nothing but the sum"),
    (["privacy=distributed", "secagg=ring"], "the coordinator could see every single one"),
    (["privacy=distributed", "secagg=two_server"], "the coordinator could see every single one"),
]


@pytest.mark.parametrize(("overrides", "words"), SAID)
def test_statement__says_whom_to_trust(tmp_path: Path, overrides: list[str], words: str) -> None:
    result = simulate(tmp_path / "run", "rounds=1", *overrides)
    assert words in result["privacy"]["statement"]
    unit = "client" if "privacy=client" in overrides else "record"
    assert result["privacy"]["unit"] == unit


IMPOSSIBLE = [
    (["privacy=distributed", "secagg=off"], "secagg=off: under privacy=distributed"),
    (["privacy=distributed", "strategy.fraction=0.5"], "strategy.fraction=0.5"),
    (["privacy=distributed", "training.local_steps=2"], "training.local_steps=2"),
    (["privacy=distributed", "training.optimizer=adam"], "training.optimizer=adam"),
    (["privacy=distributed", "privacy.bits=9"], "privacy.bits=9: too few"),
    (["privacy=distributed", "privacy.max_dropouts=3"], "privacy.max_dropouts=3"),
    (["privacy=distributed", "privacy.max_dropouts=2"], "let a round finish without 1 at most"),
    (
        ["privacy=distributed", "privacy.max_colluders=2", "privacy.max_dropouts=1"],
        "Set privacy.max_dropouts to that, lower privacy.max_colluders",
    ),
    (["privacy=distributed", "privacy.max_colluders=3"], "too few are left to hide among"),
    (
        ["secagg.corrupt_fraction=0.5", "secagg.dropout_fraction=0.4"],
        "secagg.dropout_fraction (null: as many as there is room for)",
    ),
    (["privacy=client", "privacy.client_sample_rate=0.5"], "secagg=masked: secret coins"),
    (["privacy=client", "secagg.resolution=1.0", "secagg.clip=2.0"], "Lower secagg.resolution"),
    (["privacy=client", "privacy.noise_multiplier=0.0"], "without noise no epsilon holds"),
    (["privacy.delta=0.1"], "privacy.delta=0.1: must be at most 1/30"),
    (["privacy=distributed", "privacy.delta=0.1"], "privacy.delta=0.1: must be at most 1/30"),
]


@pytest.mark.parametrize(("overrides", "problem"), IMPOSSIBLE)
def test_config__refuses_what_could_not_be_promised(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    problem: str,
) -> None:
    assert main(["simulate", HEART, f"out={tmp_path / 'run'}", "rounds=1", *overrides]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_run__that_the_cruder_accountant_has_no_bound_for_is_read_back(tmp_path: Path) -> None:
    words = ["privacy=distributed", "privacy.unit=client", "privacy.epsilon=50", "rounds=1"]
    run = fl.simulate("experiment=medical_heart", *words, out=tmp_path / "run")
    assert run.epsilon is not None
    assert {site.epsilon_rdp for site in run.privacy.per_site.values()} == {None}
    assert run.report().is_file()
