"""SCAFFOLD in whole rounds by the real apps: its second vector is treated as the first.

Every site is clipped, noised, masked and paid for by the pair, and keeps a state of its own
that no lost reply and no restart may bring out of step with the coordinator's.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from numpy.typing import NDArray

from clients.own_state import OwnState
from clients.owner import owner_of
from clients.site import TEST_NOISE
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.vector import Vector
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.records import arrays_of, model_of
from fedlearn.mechanisms import DistributedPlan
from fedlearn.rounds import RoundNote, TrainRequest
from server.federation import Federation
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.effort import slow_but

from .relay import Relay, Step
from .unlike import RATE, SITES, STEPS, config_of, site_of, start, words_of

Sites = Mapping[str, NDArray[np.float32]]


@pytest.fixture(autouse=True)
def seeded_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEST_NOISE, "7")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [*words_of(tmp_path), "strategy=scaffold"]


def own_states(federation: Federation) -> Sites:
    """What every site would train from in the next round."""
    found = {}
    for name in SITES:
        request = TrainRequest(note=federation.note(0, 1), model=federation.progress.model)
        state = OwnState.of(site_of(federation.config, name), request)
        counted = federation.progress.counted.get(name, 0)
        zero = np.zeros(federation.progress.model.size, np.float32)
        found[name] = state.before(counted).get("control", zero)
    return found


def weighted(federation: Federation, vectors: Sites) -> NDArray[np.float64]:
    """The mean over all sites by their records, or each alike where weights are secret."""
    hellos = federation.enrolment.sites
    weights = [
        hellos[name].train_records if federation.plan is None else 1 for name in sorted(vectors)
    ]
    return np.average([vectors[name] for name in sorted(vectors)], axis=0, weights=weights)


# --- The algorithm ------------------------------------------------------------------


def paper(federation: Federation, rounds: int) -> list[NDArray[np.float64]]:
    """Algorithm 1 with option II as printed, on softmax regression, in NumPy and float64."""
    sites = {}
    for name in SITES:
        site = site_of(federation.config, name)
        features, labels = site.train_tensors
        encoded = site.model[:-1](features)  # all but the head, which has what is trained
        sites[name] = (encoded.double().numpy(), np.eye(2)[labels.numpy()])
    x = federation.enrolment.initial.astype(np.float64)
    layout = federation.enrolment.layout
    c, own, found = np.zeros(x.size), {name: np.zeros(x.size) for name in SITES}, []
    total = sum(len(labels) for _, labels in sites.values())

    def gradient(w: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        parts = layout.split(w)  # type: ignore[arg-type]
        (weight, bias), (features, wanted) = parts.values(), sites[name]
        logits = features @ weight.T + bias
        odds = np.exp(logits - logits.max(1, keepdims=True))
        error = (odds / odds.sum(1, keepdims=True) - wanted) / len(wanted)
        return np.concatenate([(error.T @ features).ravel(), error.sum(0)])

    for _ in range(rounds):
        moved, turned = np.zeros(x.size), np.zeros(x.size)
        for name in SITES:
            y, share = x.copy(), len(sites[name][1]) / total
            for _ in range(STEPS):
                y -= RATE * (gradient(y, name) + c - own[name])
            new = own[name] - c + (x - y) / (STEPS * RATE)
            moved += share * (y - x)
            turned += share * (new - own[name])
            own[name] = new
        x, c = x + moved, c + turned
        found.append(x)
    return found


def test_run__is_the_algorithm_of_the_paper(words: list[str]) -> None:
    federation, _ = start(config_of(words))
    assert [len(shape) for _, shape in federation.enrolment.layout.entries] == [2, 1]
    for number, expected in enumerate(paper(federation, 6), start=1):
        federation.run_round(number)
        np.testing.assert_allclose(federation.progress.model, expected, atol=1e-6)
    moved = np.linalg.norm(federation.progress.model - federation.enrolment.initial)
    assert moved > 0.5, "there is something to compare"


@pytest.mark.slow
def test_masked__is_the_same_but_for_rounding_to_steps(words: list[str], tmp_path: Path) -> None:
    ends = {}
    for secagg in ("off", "ring", "masked", "two_server"):
        out = f"out={tmp_path / secagg}"
        federation, relay = start(config_of(words, f"secagg={secagg}", out))
        for number in (1, 2, 3):
            federation.run_round(number)
        progress = federation.progress
        ends[secagg] = np.concatenate([progress.model, progress.algorithm["control"]])
        if secagg != "off":
            assert not any(b"numpy.ndarray" in data for data in of_trained(relay))
    assert ends["ring"].tobytes() == ends["masked"].tobytes() == ends["two_server"].tobytes()
    np.testing.assert_allclose(ends["ring"], ends["off"], atol=1e-3)
    assert np.linalg.norm(progress.algorithm["control"]) > 0.01


def of_trained(relay: Relay) -> list[bytes]:
    """What left the sites with a contribution."""
    return [data for data in relay.carried if b"contribution" in data]


# --- What it costs ------------------------------------------------------------------


@pytest.mark.slow
def test_record__control_is_a_function_of_the_private_model_that_left(words: list[str]) -> None:
    """So it costs nothing: epsilon is that of FedAvg, to the last digit."""
    private_words = [*words, "privacy.epsilon=4"]
    federation, relay = start(config_of(private_words, "privacy=record"))
    left: dict[str, Vector] = {}
    relay.on_reply = lambda step, reply: noted(left, step, reply)
    before = federation.progress.model.copy()
    entry = federation.run_round(1)
    for name, control in own_states(federation).items():
        model, change = np.split(left[name], 2)
        assert np.linalg.norm(model - before) > 1e-3
        assert control.tobytes() == (before - model).tobytes() == change.tobytes()
    elsewhere = f"out={federation.config.out}-plain"
    plain, _ = start(config_of(private_words, "privacy=record", "strategy=fedavg", elsewhere))
    assert entry.epsilon == plain.run_round(1).epsilon


def noted(left: dict[str, Vector], step: Step, reply: Message) -> Message:
    if step[0] == "train" and "arrays" in reply.content:
        left[step[1]] = model_of(reply.content)
    return reply


@pytest.mark.parametrize("secagg", slow_but(lambda kind: kind == "off", ["off", "masked"]))
def test_client__clips_the_pair_to_one_norm(words: list[str], secagg: str) -> None:
    clip = 0.05
    options = ("privacy=client", "privacy.noise_multiplier=0.0", "privacy.epsilon=null")
    options = (*options, f"privacy.clip_norm={clip}", f"secagg={secagg}")
    federation, _ = start(config_of(words, *options))
    federation.run_round(1)
    moved = federation.progress.model - federation.enrolment.initial
    control, own = federation.progress.algorithm["control"], own_states(federation)
    # In the first round both halves are one vector, once with each sign: each gets half.
    for vector in own.values():
        assert np.linalg.norm(vector) == pytest.approx(clip / math.sqrt(2), rel=1e-2)
    np.testing.assert_allclose(control, -moved, atol=1e-4)
    np.testing.assert_allclose(control, weighted(federation, own), atol=1e-4)
    for number in (2, 3):
        federation.run_round(number)
    control, own = federation.progress.algorithm["control"], own_states(federation)
    np.testing.assert_allclose(control, weighted(federation, own), atol=1e-4)
    assert np.linalg.norm(control - weighted(federation, dict.fromkeys(SITES, control))) == 0


def test_client__noises_both_halves_alike(words: list[str]) -> None:
    options = ("privacy=client", "privacy.noise_multiplier=100.0", "privacy.epsilon=null")
    wide = ("model.architecture=mlp", "model.width=200", "privacy.clip_norm=0.1")
    federation, _ = start(config_of(words, *options, *wide))
    federation.run_round(1)
    moved = federation.progress.model - federation.enrolment.initial
    control = federation.progress.algorithm["control"]
    for half in (moved, control):
        assert np.std(half) == pytest.approx(100 * 0.1 / 3, rel=0.15)
    assert abs(np.corrcoef(moved, control)[0, 1]) < 0.15, "each coordinate has its own"


@pytest.mark.slow
@pytest.mark.parametrize("law", ["discrete_gaussian", "skellam"])
def test_distributed__plans_for_the_pair(words: list[str], law: str) -> None:
    options = ("privacy=distributed", "privacy.unit=client", "secagg=ring", "privacy.epsilon=null")
    options = (*options, "privacy.noise_multiplier=1.0", f"privacy.mechanism={law}")
    federation, _ = start(config_of(words, *options))
    assert isinstance(federation.plan, DistributedPlan)
    assert federation.plan.dimension == 2 * federation.enrolment.layout.size
    federation.run_round(1)
    clip = federation.plan.clip_norm
    for vector in own_states(federation).values():
        assert np.linalg.norm(vector) <= clip / math.sqrt(2) * (1 + 1e-6)


# --- In step whatever happens -------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_lost_reply__leaves_the_control_the_mean_of_the_sites_own(
    words: list[str], late: bool
) -> None:
    """`late`: the site has trained, and has written its state; nobody knows of it."""
    federation, relay = start(config_of(words, "strategy.min_sites=1"))
    everything = relay.on_request, relay.on_reply
    for number, lost in enumerate(["", "birch", "birch", "amber", ""], start=1):
        relay.on_request, relay.on_reply = everything
        relay.lose(("train", lost), late=late)
        entry = federation.run_round(number)
        assert list(entry.clients.dropped) == ([lost] if lost else [])
        control = federation.progress.algorithm["control"]
        np.testing.assert_allclose(control, weighted(federation, own_states(federation)), atol=2e-6)
    assert federation.progress.counted == {"amber": 5, "birch": 5, "cedar": 5}


def test_share_of_sites__leaves_the_control_the_mean_over_all(words: list[str]) -> None:
    federation, _ = start(config_of(words, "strategy.fraction=0.5", "strategy.min_sites=1"))
    for number in range(1, 7):
        assert federation.run_round(number).clients.invited == 2
        control = federation.progress.algorithm["control"]
        np.testing.assert_allclose(control, weighted(federation, own_states(federation)), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("secagg", slow_but(lambda kind: kind == "off", ["off", "masked"]))
def test_resumed__goes_on_bit_for_bit(words: list[str], tmp_path: Path, secagg: str) -> None:
    options = (f"secagg={secagg}", "rounds=3")
    simulate(config_of(words, *options, f"out={tmp_path / 'straight'}"), Silent(), Stop())
    stop = Stop()
    stop.after_round.set()
    parts = (*options, f"out={tmp_path / 'parts'}")
    with pytest.raises(Exception, match="resume=true"):
        simulate(config_of(words, *parts), Silent(), stop)
    simulate(config_of([*words, "resume=true"], *parts), Silent(), Stop())
    one, other = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("straight", "parts")
    )
    assert len(other["rounds"]) == 3
    assert one["model"]["sha256"] == other["model"]["sha256"]


def test_lost_state__is_a_refusal_of_that_site_with_the_way_out(words: list[str]) -> None:
    federation, _ = start(config_of(words))
    federation.run_round(1)
    (path,) = owner_of(federation.config, "birch").ledger.parent.glob("algorithm-*")
    path.unlink()
    dropped = federation.run_round(2).clients.dropped
    assert list(dropped) == ["birch"]
    assert "Put the file back, or start a new run" in dropped["birch"]


def test_corrupt_state__is_a_refusal_of_that_site(words: list[str]) -> None:
    federation, _ = start(config_of(words))
    federation.run_round(1)
    (path,) = owner_of(federation.config, "birch").ledger.parent.glob("algorithm-*")
    path.write_bytes(path.read_bytes()[:-3])
    assert "cannot be read" in federation.run_round(2).clients.dropped["birch"]


# --- What the coordinator may send ----------------------------------------------------

POISONS: dict[str, Callable[[Vector], dict[str, Vector]]] = {
    "missing": lambda control: {},
    "too short": lambda control: {"control": control[1:]},
    "not finite": lambda control: {"control": control * np.float32(np.nan)},
    "one more": lambda control: {"control": control, "more": control},
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
def test_poisoned_request__is_refused_before_anything_is_paid(
    words: list[str], poison: Callable[[Vector], dict[str, Vector]]
) -> None:
    config = config_of(
        words, "privacy=record", "privacy.epsilon=4", "privacy.on_exhausted=drop_site"
    )
    federation, relay = start(config)

    def other(step: Step, message: Message) -> Message:
        if step != ("train", "birch"):
            return message
        request = flower.read_train_request(message)
        arrays: ArrayRecord = arrays_of(request.model, poison(request.besides["control"]))
        return private.with_content(message, RecordDict({**message.content, "arrays": arrays}))

    relay.on_request = other
    entry = federation.run_round(1)
    assert "beside the model came" in entry.clients.dropped["birch"]
    assert not list(owner_of(config, "birch").ledger.parent.glob("algorithm-*"))
    spent = owner_of(config, "birch").ledger.read_text()
    assert "reserve" not in spent


def test_masked__a_control_that_others_did_not_get_is_not_masked(words: list[str]) -> None:
    """As with the model: what a site adds up with the others is bound to what they got."""
    federation, relay = start(config_of(words, "secagg=masked", "strategy.min_sites=1"))

    def other(step: Step, message: Message) -> Message:
        if step != ("train", "birch"):
            return message
        request = flower.read_train_request(message)
        moved = {"control": request.besides["control"] + np.float32(1)}
        arrays = arrays_of(request.model, moved)
        return private.with_content(message, RecordDict({**message.content, "arrays": arrays}))

    relay.on_request = other
    with pytest.raises(Exception, match="birch"):
        federation.run_round(1)
    assert (federation.progress.model == federation.enrolment.initial).all()


# --- The file ----------------------------------------------------------------------


def request(number: int, counted: int, run_id: str = "r") -> TrainRequest:
    model = np.zeros(3, np.float32)
    note = RoundNote(terms="", run_id=run_id, round=number, cohort=3)
    return TrainRequest(note=note, model=model, counted=counted)


def vector(value: float) -> dict[str, Vector]:
    return {"control": np.full(3, value, np.float32)}


def test_state__after_a_restart_is_that_of_the_round_that_counted(tmp_path: Path) -> None:
    path = tmp_path / "state" / "algorithm-r.safetensors"
    assert OwnState(path, "a", 3).before(0) == {}
    OwnState(path, "a", 3).keep(request(1, 0), {}, vector(1))
    assert OwnState(path, "a", 3).before(0) == {}, "round 1 did not count"
    assert OwnState(path, "a", 3).before(1)["control"].tolist() == [1, 1, 1]
    OwnState(path, "a", 3).keep(request(4, 1), vector(1), vector(2))
    assert OwnState(path, "a", 3).before(1)["control"].tolist() == [1, 1, 1]
    assert OwnState(path, "a", 3).before(4)["control"].tolist() == [2, 2, 2]
    for counted in (0, 2, 3, 5):
        with pytest.raises(DataError, match=f"is not that of round {counted}"):
            OwnState(path, "a", 3).before(counted)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_state__of_another_model_is_refused(tmp_path: Path) -> None:
    OwnState(tmp_path / "algorithm-r.safetensors", "a", 3).keep(request(1, 0), {}, vector(1))
    with pytest.raises(DataError, match="of another model"):
        OwnState(tmp_path / "algorithm-r.safetensors", "a", 4).before(1)


def test_state__lies_beside_the_ledger_whatever_a_run_calls_itself(words: list[str]) -> None:
    site = site_of(config_of(words), "amber")
    paths = {OwnState.of(site, request(1, 0, run)).path for run in ("r", "../../r", "/etc/x")}
    assert {path.parent for path in paths} == {site.owner.ledger.parent}
    assert len(paths) == 3


def test_state__of_other_runs_is_forgotten(tmp_path: Path) -> None:
    states = [OwnState(tmp_path / f"algorithm-{run}.safetensors", "a", 3) for run in "xy"]
    for state in states:
        state.keep(request(1, 0), {}, vector(1))
    states[1].forget_others()
    assert not states[0].path.exists()
    assert states[1].path.exists()


# --- What means nothing ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words_of_it"),
    [
        (["privacy=distributed", "secagg=masked", "training.local_steps=1"], "strategy=fedavg"),
        (["training.optimizer=adam"], "training.optimizer=sgd"),
        (["training.momentum=0.5"], "training.momentum=0.0"),
        (["stage=random_mask"], "stage=none"),
    ],
)
def test_config__refuses_what_means_nothing(
    words: list[str], options: list[str], words_of_it: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(words, *options)
    (problem,) = [p for p in caught.value.problems if "strategy=scaffold" in p]
    assert words_of_it in problem


def test_control__is_said_by_nobody_in_a_run_without_it(words: list[str]) -> None:
    federation, relay = start(config_of(words, "strategy=fedavg"))
    left: dict[str, Any] = {}
    relay.on_reply = lambda step, reply: noted(left, step, reply)
    federation.run_round(1)
    assert {vector.size for vector in left.values()} == {federation.enrolment.layout.size}
    assert federation.progress.counted == {}
    assert not list(owner_of(federation.config, "amber").ledger.parent.glob("algorithm-*"))
