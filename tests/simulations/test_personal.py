"""Models of sites' own in whole rounds by the real apps: true to the papers, paid for, kept.

The oracle is the algorithm as printed, in NumPy and float64; what leaves a site is read off the
wire; what a ledger holds is what was trained.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray
from safetensors.numpy import load_file

from clients.own_state import OwnState, kept_model
from clients.owner import owner_of
from clients.site import TEST_NOISE
from clients.work import SiteRound
from fedlearn.algorithms.personal import MODEL as SENT
from fedlearn.config import RunConfig, plan_of
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.vector import Vector
from fedlearn.flower.records import model_of
from fedlearn.models.own_parts import own_values
from fedlearn.privacy.accounting import epsilon
from fedlearn.report.export import export, open_model
from fedlearn.report.own_export import export_own
from fedlearn.results.own_model import read_own
from fedlearn.results.reading import read_result
from fedlearn.rounds import TrainRequest
from fedlearn.stages import MODEL
from server.evaluation import own_result
from server.federation import Federation
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.effort import slow_but

from .relay import Step
from .unlike import RATE, SITES, STEPS, config_of, site_of, start, words_of

WEIGHT = 0.7
PERSONAL = {
    "ditto": ("strategy=ditto", f"strategy.proximal_lambda={WEIGHT}"),
    "mr_mtl": ("strategy=mr_mtl", f"strategy.proximal_lambda={WEIGHT}"),
    "head": ("training.personal=head", "model.architecture=mlp", "model.width=4"),
    "norm": ("training.personal=norm", "model.architecture=mlp", "model.width=4"),
}
RECORD = ("privacy=record", "privacy.epsilon=null")
every = pytest.mark.parametrize("kind", PERSONAL)


@pytest.fixture(autouse=True)
def seeded_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_NOISE, "7")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return words_of(tmp_path)


def own_models(federation: Federation) -> dict[str, Vector]:
    """Every site's own model, as it would be tested after the last round."""
    found = {}
    for name in SITES:
        counted = federation.progress.counted.get(name, 0)
        model = federation.progress.model
        request = TrainRequest(note=federation.note(0, 1), model=model, counted=counted)
        found[name] = SiteRound(site_of(federation.config, name), request).own_model
    return found


# --- The algorithms as printed --------------------------------------------------------

Models = dict[str, NDArray[np.float64]]


def printed(
    federation: Federation, kind: str, weight: float, rounds: int
) -> list[tuple[NDArray[np.float64], Models]]:
    """The shared model and the sites' own after each round, on softmax regression.

    Ditto: Li et al. 2021, algorithm 1; MR-MTL: Liu et al. 2022, algorithm 1.
    """
    data = {}
    for name in SITES:
        site = site_of(federation.config, name)
        features, labels = site.train_tensors
        data[name] = (site.model[:-1](features).double().numpy(), np.eye(2)[labels.numpy()])
    shared = federation.enrolment.initial.astype(np.float64)
    own, layout, found = dict.fromkeys(SITES, shared), federation.enrolment.layout, []
    total = sum(len(wanted) for _, wanted in data.values())

    def steps(w: NDArray[np.float64], name: str, pull: float) -> NDArray[np.float64]:
        features, wanted = data[name]
        for _ in range(STEPS):
            matrix, bias = layout.split(w).values()  # type: ignore[arg-type]
            odds = np.exp(features @ matrix.T + bias)
            error = (odds / odds.sum(1, keepdims=True) - wanted) / len(wanted)
            gradient = np.concatenate([(error.T @ features).ravel(), error.sum(0)])
            w = w - RATE * (gradient + pull * (w - shared))
        return w

    for _ in range(rounds):
        sent = own = {name: steps(own[name], name, weight) for name in SITES}
        if kind == "ditto":
            sent = {name: steps(shared, name, 0.0) for name in SITES}
        shared = sum(len(data[name][1]) / total * sent[name] for name in SITES)
        found.append((shared, own))
    return found


@pytest.mark.parametrize("weight", [0.0, WEIGHT])
@pytest.mark.parametrize("kind", ["ditto", "mr_mtl"])
def test_run__is_the_algorithm_of_the_paper(words: list[str], kind: str, weight: float) -> None:
    options = (f"strategy={kind}", f"strategy.proximal_lambda={weight}", "evaluation=none")
    federation, _ = start(config_of(words, *options))
    for number, (shared, own) in enumerate(printed(federation, kind, weight, 4), start=1):
        federation.run_round(number)
        np.testing.assert_allclose(federation.progress.model, shared, atol=1e-6)
        found = own_models(federation)
        for name in SITES:
            np.testing.assert_allclose(found[name], own[name], atol=1e-6)
    apart = [np.linalg.norm(found[name] - federation.progress.model) for name in SITES]
    assert min(apart) > 0.05, "there is something to compare"


def test_sent__is_named_as_stages_name_it() -> None:
    assert SENT == MODEL


@pytest.mark.parametrize("late", [False, True])
def test_mr_mtl__shared_model_is_the_mean_of_all_own_whatever_is_lost(
    words: list[str], late: bool
) -> None:
    federation, relay = start(config_of(words, *PERSONAL["mr_mtl"], "strategy.min_sites=1"))
    everything = relay.on_request, relay.on_reply
    for number, lost in enumerate(["", "birch", "birch", "amber", ""], start=1):
        relay.on_request, relay.on_reply = everything
        relay.lose(("train", lost), late=late)
        federation.run_round(number)
        own = own_models(federation)
        weights = [federation.enrolment.sites[name].train_records for name in SITES]
        mean = np.average([own[name] for name in SITES], axis=0, weights=weights)
        np.testing.assert_allclose(federation.progress.model, mean, atol=2e-6)


# --- What leaves ----------------------------------------------------------------------


def test_part__of_a_site_never_leaves_it(words: list[str]) -> None:
    """Its numbers in what is sent are those that came, to the bit, whatever they are at home."""
    for kind in ("head", "norm"):
        out = f"out={words[-1].partition('=')[2]}-{kind}"
        federation, relay = start(config_of(words, *PERSONAL[kind], out))
        mask, left = own_values(site_of(federation.config, "amber").model, kind), {}
        assert 0 < mask.sum() < mask.size
        relay.on_reply = lambda step, reply, left=left: noted(left, step, reply)
        for number in (1, 2):
            before = federation.progress.model.copy()
            federation.run_round(number)
            own = own_models(federation)
            for name in SITES:
                assert left[name][mask].tobytes() == before[mask].tobytes()
                assert (left[name][~mask] != before[~mask]).any()
                assert np.linalg.norm(own[name][mask] - before[mask]) > 1e-3
        assert federation.progress.model[mask] == pytest.approx(before[mask], abs=1e-7)


def noted(left: dict[str, Vector], step: Step, reply: Message) -> Message:
    if step[0] == "train" and "arrays" in reply.content:
        left[step[1]] = model_of(reply.content)
    return reply


@every
def test_own_model__is_in_no_byte_that_travels(words: list[str], kind: str) -> None:
    # The changes of MR-MTL add up to a site's own model, for whoever sees them: masks hide them.
    masks = ("secagg=masked",) if kind == "mr_mtl" else ()
    federation, relay = start(config_of(words, *PERSONAL[kind], *masks))
    for number in (1, 2):
        federation.run_round(number)
    passed, mask = b"".join(relay.carried), np.ones(federation.progress.model.size, np.bool_)
    if kind in ("head", "norm"):
        mask = own_values(site_of(federation.config, "amber").model, kind)
    for vector in own_models(federation).values():
        apart = np.abs(vector - federation.progress.model) * mask
        most = int(np.argmax(apart))
        assert apart[most] > 1e-3
        assert vector[most : most + 1].tobytes() not in passed
    assert federation.progress.model[most : most + 1].tobytes() in passed, "it is looked for so"


# --- What it costs --------------------------------------------------------------------


@every
def test_plan__pays_for_every_training_of_a_round(words: list[str], kind: str) -> None:
    options = (*RECORD, "privacy.noise_multiplier=3.0")
    plan = plan_of(config_of(words, *PERSONAL[kind], *options))
    times = 2 if kind == "ditto" else 1
    plain = plan_of(config_of(words, *options, f"training.local_steps={times * STEPS}"))
    assert plan == plain


@pytest.mark.slow
def test_ditto__is_given_noise_for_both_within_one_budget(words: list[str]) -> None:
    options = ("privacy=record", "privacy.epsilon=4")
    both, one = (
        plan_of(config_of(words, kind, *options)) for kind in ("strategy=ditto", "strategy=fedavg")
    )
    assert both
    assert one
    assert both.noise_multiplier > 1.2 * one.noise_multiplier
    assert 3.9 < both.epsilon <= 4


@pytest.mark.parametrize(
    "kind", slow_but(lambda kind: kind == "mr_mtl", ["ditto", "mr_mtl", "head"])
)
def test_record__own_model_has_all_of_the_noise_of_its_steps(words: list[str], kind: str) -> None:
    """Of a clip norm that lets nothing but noise through: its deviation is that of the plan."""
    noise, clip, nominal = 100.0, 1e-3, 30
    options = (*RECORD, f"privacy.noise_multiplier={noise}", f"privacy.clip_norm={clip}")
    wide = ("model.architecture=mlp", "model.width=300", "training.local_steps=1")
    federation, _ = start(config_of(words, *PERSONAL[kind], *options, *wide, "evaluation=none"))
    federation.run_round(1)
    moved = [own - federation.enrolment.initial for own in own_models(federation).values()]
    if kind == "head":
        mask = own_values(site_of(federation.config, "amber").model, "head")
        moved = [one[mask] for one in moved]
    for one in moved:
        assert np.std(one) == pytest.approx(RATE * noise * clip / nominal, rel=0.15)
    assert abs(np.corrcoef(moved[0], moved[1])[0, 1]) < 0.15, "each site draws its own"
    if kind == "ditto":
        spread = np.std(federation.progress.model - federation.enrolment.initial)
        assert spread == pytest.approx(RATE * noise * clip / nominal / 3**0.5, rel=0.15)
        correlation = np.corrcoef(
            moved[0], federation.progress.model - federation.enrolment.initial
        )
        assert abs(correlation[0, 1]) < 0.15, "the two trainings share no noise"


def test_ledger__holds_what_was_trained_and_a_lost_reply_is_paid_twice_not_forgotten(
    words: list[str],
) -> None:
    options = (*PERSONAL["ditto"], "privacy=record", "privacy.epsilon=4", "strategy.min_sites=1")
    federation, relay = start(config_of(words, *options, "spare_rounds=1", "evaluation=none"))
    relay.lose(("train", "birch"), late=True)
    federation.run_round(1)
    relay.on_reply = lambda step, reply: reply
    federation.run_round(2)
    assert federation.plan is not None
    for name in SITES:
        with site_of(federation.config, name).ledger() as ledger:
            spent = ledger.spent_by(federation.run_id)
        assert sum(event.steps for event in spent) == 2 * 2 * STEPS
        told = federation.progress.spent[name]
        assert epsilon(told, 1e-5) == epsilon(spent, 1e-5)


# --- Kept -----------------------------------------------------------------------------


def state_files(config: RunConfig) -> dict[str, Path]:
    found = {}
    for name in SITES:
        (found[name],) = owner_of(config, name).ledger.parent.glob("personal-*.safetensors")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ditto", "mr_mtl", "head"])
def test_resumed__goes_on_bit_for_bit(words: list[str], tmp_path: Path, kind: str) -> None:
    options = (*PERSONAL[kind], "rounds=3", "privacy=record", "privacy.epsilon=8")
    whole = config_of(words, *options, f"out={tmp_path / 'straight'}")
    simulate(whole, Silent(), Stop())
    stop = Stop()
    stop.after_round.set()
    parts = config_of(words, *options, f"out={tmp_path / 'parts'}")
    with pytest.raises(Exception, match="resume=true"):
        simulate(parts, Silent(), stop)
    simulate(replace(parts, resume=True), Silent(), Stop())
    one, other = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("straight", "parts")
    )
    assert one["model"] == other["model"]
    assert one["own"] == other["own"]
    assert one["privacy"]["per_site"] == other["privacy"]["per_site"]
    kept = (state_files(whole), state_files(parts))
    for name in SITES:
        one, other = (load_file(files[name]) for files in kept)
        assert {key: value.tobytes() for key, value in one.items()} == {
            key: value.tobytes() for key, value in other.items()
        }
        assert stat.S_IMODE(kept[0][name].stat().st_mode) == 0o600


def test_own_model__is_kept_when_another_run_begins(tmp_path: Path) -> None:
    for name in ("personal-x", "algorithm-x"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    OwnState(tmp_path / "personal-y.safetensors", "a", 3).forget_others()
    assert [path.name for path in tmp_path.iterdir()] == ["personal-x.safetensors"]


def test_lost_state__is_a_refusal_with_the_way_out_and_pays_nothing(words: list[str]) -> None:
    federation, _ = start(config_of(words, *PERSONAL["mr_mtl"], "strategy.min_sites=1"))
    federation.run_round(1)
    state_files(federation.config)["birch"].unlink()
    dropped = federation.run_round(2).clients.dropped
    assert "Put the file back, or start a new run" in dropped["birch"]


# --- Tested ---------------------------------------------------------------------------


def sums_of(federation: Federation, sites: Mapping[str, Vector]) -> dict[str, Any]:
    """The test sums of models at their sites, computed here."""
    found = {}
    for name, model in sites.items():
        site = site_of(federation.config, name)
        site.load(model)
        features, _ = site.test_tensors
        answers = site.task.graded(site.model(features), site.test_tensors[1]).detach()
        found[name] = site.task.sums(answers.double().numpy(), site.data.test.labels)
    return found


@pytest.mark.parametrize("kind", ["ditto", "mr_mtl"])
def test_evaluation__is_of_both_models(words: list[str], kind: str) -> None:
    federation, _ = start(config_of(words, *PERSONAL[kind], "rounds=2"))
    for number in (1, 2):
        federation.run_round(number)
    shared = dict.fromkeys(SITES, federation.progress.model)
    for found, models in (
        (federation.progress.per_site, shared),
        (federation.progress.own.per_site, own_models(federation)),
    ):
        for name, sums in sums_of(federation, models).items():
            assert found[name].counters() == sums.counters()
    task, own = federation.enrolment.task, federation.progress.own
    assert own.pooled is not None
    assert task.metrics(own.pooled) != task.metrics(federation.progress.tested)


def test_evaluation__of_a_model_with_a_part_of_a_sites_own_is_of_the_whole(
    words: list[str],
) -> None:
    federation, _ = start(config_of(words, *PERSONAL["head"], "rounds=2"))
    for number in (1, 2):
        federation.run_round(number)
    for name, sums in sums_of(federation, own_models(federation)).items():
        assert federation.progress.per_site[name].counters() == sums.counters()
    assert federation.progress.own.pooled is None


@pytest.mark.slow
@pytest.mark.parametrize("secagg", ["masked", "two_server"])
def test_masked__sums_of_own_models_are_those_in_clear(
    words: list[str], tmp_path: Path, secagg: str
) -> None:
    found = []
    for masks in ("off", secagg):
        options = ("evaluation=pooled", "rounds=2", f"secagg={masks}", f"out={tmp_path / masks}")
        federation, _ = start(config_of(words, *PERSONAL["ditto"], *options))
        for number in (1, 2):
            federation.run_round(number)
        assert federation.progress.own.pooled is not None
        found.append((federation.progress.own.pooled, own_models(federation)))
    (one, models), (other, masked) = found
    assert one.count == other.count
    for name in SITES:
        np.testing.assert_allclose(models[name], masked[name], atol=1e-3)


@pytest.mark.slow
def test_private_evaluation__pays_for_the_figures_of_both_within_the_budget(
    words: list[str],
) -> None:
    options = ("privacy=record", "privacy.epsilon=4", "evaluation=private", "rounds=2")
    federation, _ = start(config_of(words, *PERSONAL["mr_mtl"], *options))
    for number in (1, 2):
        entry = federation.run_round(number)
    assert max(value for value in entry.epsilon.values() if value) <= 4
    plan, plain = (
        federation.plan,
        plan_of(config_of(words, "strategy=fedavg", *options), task=federation.enrolment.task),
    )
    figures = [one.evaluation for one in (plan, plain) if one and one.evaluation]
    assert figures[0].dimension == 2 * figures[1].dimension
    # A test record is in both sums: for the same budget each has twice the variance.
    noise = [one.last_stddev / one.steps[0] for one in figures]
    assert noise[0] == pytest.approx(2**0.5 * noise[1], rel=0.05)
    assert federation.progress.own.pooled is not None


def test_small_site__is_to_take_the_shared_model(words: list[str]) -> None:
    """Whatever the figures say: the rule was there before they were."""
    config = config_of(words, *PERSONAL["mr_mtl"], "rounds=1")
    simulate(config, Silent(), Stop())
    result = json.loads((Path(config.out) / "result.json").read_text())
    sizes = {name: one["train"] for name, one in result["data"]["sites"].items()}
    assert max(sizes.values()) < 10 * result["model"]["trainable"]
    assert result["own"]["take"] == dict.fromkeys(SITES, "shared")


@pytest.mark.slow
def test_rule__with_validation_records_looks_at_them_and_at_no_test_record(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other labels of the test change no choice; those of the validation would."""
    found = []
    for flipped in (False, True):
        options = ("scenario.validation_fraction=0.3", "rounds=3", f"out={words[-1][4:]}-{flipped}")
        federation, _ = start(config_of(words, *PERSONAL["mr_mtl"], *options))
        if flipped:
            for name in SITES:
                labels = site_of(federation.config, name).data.test.labels
                labels.setflags(write=True)
                labels[:] = 1 - labels
        for number in (1, 2, 3):
            federation.run_round(number)
        federation.test()
        sizes = {name: one.train_records for name, one in federation.enrolment.sites.items()}
        task, progress = federation.enrolment.task, federation.progress
        result = own_result(federation.config, task, progress, sizes, 334)
        assert result is not None
        validated = progress.validated
        assert validated is not None
        better = {
            name: task.metrics(validated.own.per_site[name])["accuracy"]
            > task.metrics(validated.per_site[name])["accuracy"]
            for name in SITES
        }
        assert result.take == {name: "own" if is_so else "shared" for name, is_so in better.items()}
        assert result.by == "validation"
        found.append((result.take, result.all_sites["accuracy"].value))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1], "the test was another"


# --- Handed on --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", slow_but(lambda kind: kind == "head", ["mr_mtl", "head"]))
def test_export__of_a_site_answers_as_the_model_that_was_tested(
    words: list[str], tmp_path: Path, kind: str
) -> None:
    """Also from the plain export of a run, and the file that the site keeps."""
    config = config_of(words, *PERSONAL[kind], "rounds=2", "evaluate_every=2")
    simulate(config, Silent(), Stop())
    run, made = Path(config.out), tmp_path / "mine"
    kept, named = kept_model(run, "birch")
    assert kept == state_files(config)["birch"]
    export_own(run, kept, made, named)
    site, result = site_of(config, "birch"), read_result(run)
    answers = open_model(made).answers(site.data.test.features)
    found = site.task.score(answers, site.data.test.labels)
    own = result.own.per_site["birch"]["accuracy"].value if result.own else None
    wanted = result.final.per_site["birch"]["accuracy"] if own is None else own
    assert found["accuracy"] == pytest.approx(wanted)
    assert f"{wanted:.3f}" in (made / "model_card.md").read_text()
    if kind == "head":
        with pytest.raises(ConfigError, match="--site NAME"):
            open_model(run)
        return
    export(run, tmp_path / "shared")
    shared = open_model(tmp_path / "shared").answers(site.data.test.features)
    assert np.abs(shared - answers).max() > 0.01
    export_own(tmp_path / "shared", kept, tmp_path / "again")
    again = open_model(tmp_path / "again").answers(site.data.test.features)
    assert again.tobytes() == answers.tobytes()


def test_export__of_a_site_that_is_none_is_refused_with_the_way_out(tmp_path: Path) -> None:
    for name in ("nobody", "../../etc"):
        with pytest.raises(DataError, match="personal-"):
            kept_model(tmp_path, name)
    (tmp_path / "personal-x.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="holds no model"):
        read_own(tmp_path / "personal-x.safetensors")


# --- What means nothing ---------------------------------------------------------------

DISTRIBUTED = ("privacy=distributed", "secagg=masked", "training.local_steps=1")
REFUSED: list[tuple[tuple[str, ...], str, str]] = [
    *(
        ((*PERSONAL[kind], *options), "a site's own model has the noise", "privacy=record")
        for kind in PERSONAL
        for options in (DISTRIBUTED, ("privacy=client", "privacy.epsilon=4"))
    ),
    ((*PERSONAL["ditto"], "training.personal=head"), "keeps a model of its own", "strategy=fedavg"),
    ((*PERSONAL["head"], "strategy=scaffold"), "moves the steps of a site", "strategy=fedavg"),
    ((*PERSONAL["head"], "strategy=fedprox"), "moves the steps of a site", "strategy=fedavg"),
    ((*PERSONAL["mr_mtl"], "audit=slots"), "measures what is sent of one model", "audit=none"),
    ((*PERSONAL["ditto"], "training.average=0.5"), "mean of shared models", "average=0.0"),
    (
        (*PERSONAL["head"], "training.keep=best", "scenario.validation_fraction=0.2"),
        "shared model of some round",
        "keep=last",
    ),
    (("strategy=ditto", "strategy.proximal_lambda=5"), "goes beyond the shared model", "2.5 or"),
    (("strategy=ditto", "strategy.proximal_lambda=-1"), "proximal_lambda", ""),
]  # fmt: skip


@pytest.mark.parametrize(("options", "reason", "way_out"), REFUSED)
def test_config__refuses_what_means_nothing_with_a_way_out(
    words: list[str], options: tuple[str, ...], reason: str, way_out: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(words, *options)
    assert any(reason in one and way_out in one for one in caught.value.problems)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("training.personal=head",), "all that is trained is in it"),
        (("training.personal=norm",), "there is no such part"),
    ],
)
def test_model__without_a_part_to_share_is_refused(
    words: list[str], options: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        start(config_of(words, *options))
