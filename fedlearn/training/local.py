"""Training at one site between two rounds, without privacy.

The private counterpart is `fedlearn.training.private`; both change the model
in place and know nothing of messages, sites or rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlearn.models.finetune import checkpointed
from fedlearn.models.slots import canary_losses, no_canaries
from fedlearn.tasks import Loss, Outputs, Task
from fedlearn.training.augmentation import views
from fedlearn.training.device import CPU, fetch, home, send
from fedlearn.training.optimizers import make_optimizer
from fedlearn.training.settings import Precision, Training


def train(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    config: Training,
    *,
    loss: Loss,
    rng: np.random.Generator,
    correct: Callable[[nn.Module], None] | None = None,
    canaries: Tensor | None = None,
) -> float:
    """Make `config.local_steps` steps on `model` in place; the mean training loss.

    `features` and `labels` are `[n, ...]` with n >= 1, where the model is
    or on the CPU; `loss` is that of the task. Batches of
    `max(1, round(sample_rate * n))` records come from shuffled passes. `correct` may add to the
    gradient of every step (`fedlearn.algorithms.Correction`). `canaries`,
    `int64[k]`, are audit slots that join the batches by passes of their own:
    records are trained on as if they were not there.
    """
    model.train()
    optimizer = make_optimizer(model, config)
    canaries = no_canaries() if canaries is None else canaries
    total = torch.zeros((), dtype=torch.float64, device=home(model))
    with lent_generator(rng, home(model)), checkpointed(model, config.checkpointing):
        coins = rng.spawn(1)[0]
        probes = _canary_batches(canaries, config, rng)
        for batch in batches(len(labels), config, rng):
            optimizer.zero_grad(set_to_none=True)
            total += _accumulate(model, features, labels, batch, config, coins, loss)
            if len(probe := next(probes)):
                extra = canary_losses(model, send(probe, home(model)), 1.0).sum() / len(batch)
                extra.backward()  # type: ignore[no-untyped-call]
            if correct is not None:
                correct(model)
            optimizer.step()
    return total.item() / config.local_steps


@contextmanager
def lent_generator(rng: np.random.Generator, device: torch.device) -> Iterator[None]:
    """While this lasts, torch's global generators are a stream of `rng`; then they are as before.

    Dropout on `device` knows no other generator. `rng` itself is not advanced.
    """
    seed = int(rng.spawn(1)[0].integers(2**63))
    with torch.random.fork_rng(devices=[] if device == CPU else [device]):
        torch.default_generator.manual_seed(seed)
        if device != CPU:
            torch.cuda.manual_seed(seed)
        yield


def batches(n: int, config: Training, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """`local_steps` batches of row indices; every pass over the records is shuffled anew.

    A pass ends when too few records are left for a whole batch. The whole set
    as one batch keeps its order: shuffling it would only change rounding.
    """
    size = max(1, round(config.sample_rate * n))
    order, start = np.arange(n), n
    for _ in range(config.local_steps):
        if start + size > n:
            order, start = (rng.permutation(n) if size < n else order), 0
        yield order[start : start + size]
        start += size


def _canary_batches(
    canaries: Tensor, config: Training, rng: np.random.Generator
) -> Iterator[Tensor]:
    """For each step its canaries; `rng` itself is not advanced."""
    if not len(canaries):
        return iter([canaries] * config.local_steps)
    drawn = batches(len(canaries), config, rng.spawn(1)[0])
    return (canaries[torch.from_numpy(rows)] for rows in drawn)


def pieces(batch: NDArray[np.int64], size: int) -> list[Tensor]:
    """A batch as parts of at most `size` rows each (none for an empty batch)."""
    return [torch.from_numpy(batch[i : i + size]) for i in range(0, len(batch), size)]


def _accumulate(
    model: nn.Module,
    features: Tensor,
    labels: Tensor,
    batch: NDArray[np.int64],
    config: Training,
    rng: np.random.Generator,
    loss: Loss,
) -> Tensor:
    """Gradient of the mean loss over `batch` and all views, in parts; returns that loss.

    As a number on the device: to read it would mean to wait for it.
    """
    device = home(model)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for rows in pieces(batch, config.max_batch):
        seen = views(fetch(features, rows, device), config, rng)
        meant = fetch(labels, rows, device)
        for view in seen:
            outputs = forward(model, view, config.precision)
            mean = loss(outputs, meant).sum() / (len(batch) * len(seen))
            mean.backward()  # type: ignore[no-untyped-call]
            total += mean.detach()
    return total


def forward(model: nn.Module, features: Tensor, precision: Precision) -> Outputs:
    """What the model makes of `features`, `float32`, with its inside in `precision`."""
    with torch.autocast(features.device.type, torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(features)
    return outputs.float()


def predict(model: nn.Module, task: Task, features: Tensor, max_batch: int) -> NDArray[np.float64]:
    """What the model answers to records, as `Task.answers`: `float64[n, ...]`; n may be 0."""
    return _in_batches(model, features, max_batch, lambda outputs, _: task.answers(outputs))


def grade(
    model: nn.Module,
    task: Task,
    features: Tensor,
    targets: NDArray[Any],
    max_batch: int,
    *,
    filled: bool = False,
) -> NDArray[np.float64]:
    """What `Task.sums` adds up, a row a record: `float64[n, ...]`; n may be 0.

    Parts have at most `max_batch` rows. Where they are `filled` up all have so many, the last
    one by a record of its own, whose grade is dropped: how a library adds up depends on the
    shape of what it is given, and with the right weights its last bits decide how every record
    is graded (`fedlearn.training.even_rows` says how many rows are safe).
    """

    def graded(outputs: Outputs, rows: slice) -> Tensor:
        return task.graded(outputs, torch.from_numpy(targets[rows]).to(outputs.device))

    count = len(features)
    if not filled or not count:
        return _in_batches(model, features, max_batch, graded)
    spare = -count % max_batch
    rows = np.append(np.arange(count), np.full(spare, count - count % max_batch, dtype=np.int64))
    features, targets = features[torch.from_numpy(rows)], targets[rows]
    return _in_batches(model, features, max_batch, graded)[:count]


def _in_batches(
    model: nn.Module, features: Tensor, size: int, of: Callable[[Outputs, slice], Tensor]
) -> NDArray[np.float64]:
    """`of` the outputs of the model in evaluation mode, and of the rows that they are for."""
    model.eval()
    device = home(model)
    parts = [slice(i, i + size) for i in range(0, max(1, len(features)), size)]
    with torch.no_grad():
        found = [of(model(features[rows].to(device)), rows) for rows in parts]
        return np.asarray(torch.cat(found).double().cpu().numpy())


def diverged(vector: NDArray[np.float32]) -> bool:
    """Whether a trained model holds a number that is not finite."""
    return not bool(np.isfinite(vector).all())
