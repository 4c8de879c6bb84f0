"""The attacks, against gradients that torch computes for a network written down here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fedlearn.core.vector import Layout, Vector, layout_of, load_vector, to_vector
from simulations.attacks.inversion_attacks import Candidates, FirstLayer, harvest, invert, planted

D, WIDTH, CLASSES = 40, 64, 5
Records = NDArray[np.float32]


class Net(nn.Module):
    """The layers that the attacks name, and nothing of the project."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(rows))
        return logits


def a_net(seed: int) -> Net:
    net, draw = Net(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.2, generator=draw)
    return net


def records(count: int, seed: int) -> Records:
    return np.random.default_rng(seed).random((count, D)).astype(np.float32)


def change(net: Net, rows: Records, labels: NDArray[np.int64]) -> Vector:
    """The change that one step of SGD at rate 0.3 makes."""
    loss = functional.cross_entropy(net(torch.from_numpy(rows)), torch.from_numpy(labels))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return -0.3 * torch.cat([g.reshape(-1) for g in gradients]).numpy()


def distance(found: Candidates, record: NDArray[np.float32]) -> float:
    """From the nearest candidate: the largest error of a value."""
    return float(np.abs(found - record).max(1).min())


def labels(count: int) -> NDArray[np.int64]:
    return np.arange(count) % CLASSES


def layout() -> Layout:
    return layout_of(Net())


@pytest.mark.parametrize("seed", range(5))
def test_invert__gives_one_record_back_exactly(seed: int) -> None:
    net, row = a_net(seed), records(1, seed)
    found = invert(FirstLayer.of(layout(), change(net, row, labels(1))))
    assert distance(found, row[0]) < 1e-4
    assert distance(found[-2:], (row[0] - row.min()) / (row.max() - row.min())) < 1e-3, (
        "the common direction alone, which survives noise, has it too"
    )


def test_invert__of_many_records_gives_none_of_them() -> None:
    net, rows = a_net(0), records(12, 0)
    found = invert(FirstLayer.of(layout(), change(net, rows, labels(12))))
    assert min(distance(found, row) for row in rows) > 0.1


def test_invert__of_no_change_at_all_claims_nothing_near() -> None:
    found = invert(FirstLayer.of(layout(), np.zeros(layout().size, np.float32)))
    assert distance(found, records(1, 0)[0]) > 0.3


def trapped(rows: Records, seed: int) -> Candidates:
    """What planted weights tell of `rows`, from the mean of their gradients alone."""
    question = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    net = a_net(seed)
    weights = planted(layout(), to_vector(net), question, records(2000, seed + 100))
    load_vector(net, weights)
    predictions = net(torch.from_numpy(rows)).softmax(1)
    assert predictions.max() < 0.9, "undecided, or nothing would flow back"
    return harvest(FirstLayer.of(layout(), change(net, rows, labels(len(rows)))))


@pytest.mark.parametrize("seed", range(5))
def test_harvest__gives_every_record_back_that_is_alone_between_two_thresholds(seed: int) -> None:
    rows = records(8, seed)
    question = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    answers = records(2000, seed + 100).astype(np.float64) @ question
    thresholds = np.quantile(answers, (np.arange(WIDTH) + 0.5) / WIDTH)
    bins = np.searchsorted(thresholds, rows.astype(np.float64) @ question)
    alone = [i for i in range(8) if (bins == bins[i]).sum() == 1 and bins[i] > 0]
    assert len(alone) >= 3, "else this seed shows nothing"
    found = trapped(rows, seed)
    assert all(distance(found, rows[i]) < 5e-3 for i in alone)


def test_harvest__of_no_change_finds_nothing() -> None:
    assert len(harvest(FirstLayer.of(layout(), np.zeros(layout().size, np.float32)))) == 0


def test_planted__changes_only_the_first_layer_and_the_head() -> None:
    class Deeper(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(3, 3)

    shape = layout_of(Deeper())
    before = np.arange(shape.size, dtype=np.float32)
    after = planted(shape, before, np.ones(D, np.float32), records(100, 0))
    same = {
        name: np.array_equal(part, shape.split(before)[name])
        for name, part in shape.split(after).items()
    }
    assert {name for name, kept in same.items() if kept} == {"other.weight", "other.bias"}
    assert np.array_equal(before, np.arange(shape.size)), "the model itself stays as it is"
