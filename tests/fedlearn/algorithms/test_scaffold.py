"""SCAFFOLD against a plain version of the paper's algorithm, on problems with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedlearn.algorithms import (
    Algorithm,
    FedAvg,
    LocalRound,
    LocalSettings,
    RoundMean,
    Scaffold,
    Vectors,
)
from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.models.slots import attach, trained_values

D, STEPS, RATE = 3, 10, 0.05
FULL = {"fraction": 1.0, "min_sites": 1}
SCAFFOLD = Scaffold(**FULL, server_learning_rate=1.0)


@dataclass(frozen=True)
class Quadratic:
    """A site whose loss is `(w - centre)' diag(curvature) (w - centre) / 2`."""

    curvature: NDArray[np.float64]
    centre: NDArray[np.float64]
    weight: float = 1.0

    def gradient(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.curvature * (w - self.centre)


def unlike_sites(count: int = 4) -> list[Quadratic]:
    """Sites that differ in where they pull and in how hard: the case in which FedAvg drifts."""
    rng = np.random.default_rng(5)
    return [
        Quadratic(rng.uniform(0.2, 6.0, D), rng.normal(size=D), float(1 + i)) for i in range(count)
    ]


def optimum(sites: Sequence[Quadratic]) -> NDArray[np.float64]:
    weights = [site.weight * site.curvature for site in sites]
    pulls = [site.weight * site.curvature * site.centre for site in sites]
    return np.asarray(np.sum(pulls, 0) / np.sum(weights, 0))


def ours(
    algorithm: Algorithm, sites: Sequence[Quadratic], cohorts: Sequence[Sequence[int]]
) -> list[Vector]:
    """Rounds by the methods of an algorithm, with gradients of the sites and no protection."""
    model, state, found = nn.Linear(D, 1, bias=False), dict[str, Any](), list[Vector]()
    own: dict[int, Vectors] = {}
    vector = np.zeros(D, np.float32)
    everybody = sum(site.weight for site in sites)
    for number, cohort in enumerate(cohorts, start=1):
        total, weight = np.zeros(2 * D), 0.0
        for i in cohort:
            here = LocalRound(
                start=vector,
                received=algorithm.broadcast(state, D),
                own=own.get(i, {}),
                trained=trained_values(model),
                steps=STEPS,
                learning_rate=RATE,
            )
            end = descended(model, sites[i], algorithm, here)
            extra = algorithm.extra(here, end)
            own[i] = algorithm.kept(here, extra)
            parts = [end - vector, *(extra[name] for name in algorithm.travels)]
            total[: D * len(parts)] += sites[i].weight * np.concatenate(parts)
            weight += sites[i].weight
        mean = np.float32(total / weight)
        vector, state = algorithm.server(
            RoundMean(
                number=number,
                before=vector,
                model=vector + mean[:D],
                extra=dict(zip(algorithm.travels, [mean[D:]], strict=False)),
                share=weight / everybody,
            ),
            state,
        )
        found.append(vector)
    return found


def descended(model: nn.Linear, site: Quadratic, algorithm: Algorithm, here: LocalRound) -> Vector:
    load_vector(model, here.start)
    correct = algorithm.correction(model, here)
    optimizer = torch.optim.SGD(model.parameters(), lr=here.learning_rate)
    for _ in range(here.steps):
        w = model.weight.detach().double().numpy().reshape(-1)
        model.weight.grad = torch.from_numpy(site.gradient(w)).float().reshape(1, -1)
        if correct is not None:
            correct(model)
        optimizer.step()
    return to_vector(model)


def paper(
    sites: Sequence[Quadratic], cohorts: Sequence[Sequence[int]], server_rate: float
) -> list[NDArray[np.float64]]:
    """Algorithm 1 with option II as printed, in float64: weights of sites in place of 1/|S|."""
    x, c = np.zeros(D), np.zeros(D)
    own = [np.zeros(D) for _ in sites]
    found = []
    for cohort in cohorts:
        change_x, change_c, weight = np.zeros(D), np.zeros(D), 0.0
        for i in cohort:
            y = x.copy()
            for _ in range(STEPS):
                y = y - RATE * (sites[i].gradient(y) + c - own[i])
            new = own[i] - c + (x - y) / (STEPS * RATE)
            change_x += sites[i].weight * (y - x)
            change_c += sites[i].weight * (new - own[i])
            weight += sites[i].weight
            own[i] = new
        x = x + server_rate * change_x / weight
        c = c + change_c / sum(site.weight for site in sites)
        found.append(x)
    return found


ALL = [[0, 1, 2, 3]] * 25
SOME = list(islice(cycle([[0, 1], [2, 3], [1, 3], [0, 2]]), 25))


@pytest.mark.parametrize("server_rate", [1.0, 0.6])
@pytest.mark.parametrize("cohorts", [ALL, SOME], ids=["all", "some"])
def test_scaffold__is_the_algorithm_of_the_paper(
    cohorts: list[list[int]], server_rate: float
) -> None:
    algorithm = Scaffold(**FULL, server_learning_rate=server_rate)
    found = ours(algorithm, unlike_sites(), cohorts)
    for one, other in zip(found, paper(unlike_sites(), cohorts, server_rate), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_scaffold__first_round_is_that_of_fedavg() -> None:
    first = [ours(a, unlike_sites(), ALL[:1])[0] for a in (SCAFFOLD, FedAvg(**FULL))]
    np.testing.assert_array_equal(*first)


def rounds_until(found: Sequence[Vector], goal: NDArray[np.float64], near: float) -> float:
    distances = [float(np.linalg.norm(vector - goal)) for vector in found]
    return next((i for i, far in enumerate(distances, start=1) if far < near), float("inf"))


@pytest.mark.slow
def test_scaffold__comes_close_in_a_fifth_of_the_rounds_of_fedavg_where_sites_differ() -> None:
    """Many local steps on unlike sites: FedAvg settles elsewhere, SCAFFOLD at the optimum."""
    sites, cohorts = unlike_sites(), ALL * 4
    goal = optimum(sites)
    near = float(np.linalg.norm(goal)) / 50
    averaged, scaffold = (ours(a, sites, cohorts) for a in (FedAvg(**FULL), SCAFFOLD))
    assert 5 * rounds_until(scaffold, goal, near) <= rounds_until(averaged, goal, near)
    ends = [float(np.linalg.norm(found[-1] - goal)) for found in (averaged, scaffold)]
    assert ends[0] > 2 * near, "FedAvg has a bias of its own"
    assert ends[1] < near / 100


def test_scaffold__of_sites_that_are_alike_is_fedavg() -> None:
    alike = [unlike_sites()[0]] * 4
    pair = (ours(a, alike, ALL) for a in (SCAFFOLD, FedAvg(**FULL)))
    np.testing.assert_allclose(*(found[-1] for found in pair), atol=1e-6)


def test_control__says_nothing_of_statistics_and_slots() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    attach(model, 3)
    start = to_vector(model)
    here = LocalRound(
        start=start,
        received=SCAFFOLD.broadcast({}, start.size),
        own={},
        trained=trained_values(model),
        steps=1,
        learning_rate=1.0,
    )
    sent = SCAFFOLD.extra(here, start + 1)["control"]
    assert np.count_nonzero(sent) == 6, "the weights and biases of the one layer"
    kept = SCAFFOLD.kept(here, {"control": sent})["control"]
    assert set(kept.round(4).tolist()) == {0.0, -1.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (LocalSettings(optimizer="sgd", momentum=0.0, shares_gradients=False), None),
        (LocalSettings(optimizer="adam", momentum=0.0, shares_gradients=False), "optimizer=sgd"),
        (LocalSettings(optimizer="sgd", momentum=0.9, shares_gradients=False), "momentum=0.0"),
        (LocalSettings(optimizer="sgd", momentum=0.0, shares_gradients=True), "strategy=fedavg"),
    ],
)
def test_scaffold__refuses_where_it_means_nothing(
    settings: LocalSettings, words: str | None
) -> None:
    found = SCAFFOLD.problems(settings)
    assert [words in problem for problem in found] == ([] if words is None else [True])


def test_settings__are_checked_in_python() -> None:
    with pytest.raises(ConfigError, match="server_learning_rate=-1"):
        Scaffold(**FULL, server_learning_rate=-1.0)
