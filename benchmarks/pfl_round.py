"""The round of `benchmarks/engine.py` by pfl-research, where it is installed.

pfl takes a client's records in their order; fedlearn shuffles them. So pfl's model
is checked against a plain loop in that order; the work is the same.

How it is installed beside fedlearn is in `benchmarks/peers.py`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.vector import Vector, load_vector, to_vector

Data = list[tuple[Tensor, Tensor]]


class _Trained(nn.Module):
    """The model with the loss that pfl asks it for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self.train()
        return functional.cross_entropy(self.inner(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """pfl insists on having this; it is never asked."""
        raise NotImplementedError


def pfl_round(model: nn.Module, data: Data, *, rate: float, batch: int) -> Callable[..., Vector]:
    """A function of (round, vector) to the mean of the clients' models, by pfl's own loop."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByUser
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    class Unevaluated(FederatedAveraging):
        """pfl would evaluate every client in the first round; nobody else here does."""

        def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> Any:
            contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
            if contexts is not None:
                contexts = tuple(dataclasses.replace(c, do_evaluation=False) for c in contexts)
            return contexts, model, metrics

    net = _Trained(copy.deepcopy(model))
    wrapped = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )
    clients = list(range(len(data)))
    dataset = FederatedDataset(
        lambda client: Dataset(list(data[client]), user_id=str(client)),
        get_user_sampler("minimize_reuse", clients),
    )
    backend = SimulatedBackend(
        training_data=dataset, val_data=dataset, postprocessors=[WeightByUser()]
    )
    once = NNAlgorithmParams(
        central_num_iterations=1,
        evaluation_frequency=10**9,
        train_cohort_size=len(data),
        val_cohort_size=0,
    )
    local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=rate, local_batch_size=batch)

    def one(_number: int, vector: Vector) -> Vector:
        load_vector(net.inner, vector)
        Unevaluated().run(
            algorithm_params=once,
            backend=backend,
            model=wrapped,
            model_train_params=local,
            model_eval_params=NNEvalHyperParams(local_batch_size=None),
            callbacks=[],
        )
        return to_vector(net.inner)

    return one


def check(
    one: Callable[..., Vector], model: nn.Module, data: Data, rate: float, batch: int
) -> None:
    """Fail unless a round gives the mean of plain loops over the records in their order."""
    start = to_vector(model)
    total = np.zeros(start.size)
    for x, y in data:
        trained = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained.parameters(), rate)
        for rows in torch.arange(len(y)).split(batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(trained(x[rows]), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        total += to_vector(trained)
    expected = total / len(data)
    apart = np.linalg.norm(one(1, start) - expected) / np.linalg.norm(expected - start)
    assert apart < 1e-3, f"pfl must compute the same ({apart:.1e} apart)"
