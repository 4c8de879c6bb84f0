"""What the `local` engine costs beside the training inside it: ratio to a bare loop.

Both sides train the same CNN of some 60,000 parameters on the same batches of
the same ten clients and average the same vectors; the final models are equal, bit for bit.
Rounds of all sides alternate; the ratio is the median over the rounds.

    python benchmarks/engine.py [--rounds 15] [--workers 1 2] [--json PATH]
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from peers import missing, skipped
from pfl_round import check, pfl_round
from table import Table, parser, ratios, spread, write
from torch import Tensor, nn

from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector, to_vector
from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.flower.grid import SiteGrid
from fedlearn.models.initialise import initialise
from fedlearn.rounds import RoundNote, TrainReply
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training.device import CPU, keep_freed_memory, place
from fedlearn.training.local import train
from fedlearn.training.settings import Training
from server.average import RunningSum
from simulations.engines.local import InProcessGrid, Workers, make_contexts

CLIENTS, RECORDS = 10, 320
TRAINING = Training(
    optimizer="sgd",
    learning_rate=0.05,
    momentum=0.0,
    weight_decay=0.0,
    local_steps=10,
    sample_rate=0.1,
    nominal_records=RECORDS,
    dp_engine="fast",
    max_batch=1024,
)


def make_model() -> nn.Module:
    """A CNN of 61,026 parameters for 1x28x28 images."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 30), nn.ReLU(), nn.Linear(30, 10),
    )  # fmt: skip
    initialise(model, torch.Generator().manual_seed(0))
    return model


def make_data() -> list[tuple[Tensor, Tensor]]:
    """Noise images with random labels: time does not depend on what they show."""
    rng = Streams(0).get("benchmark")
    images = rng.standard_normal((CLIENTS, RECORDS, 1, 28, 28), np.float32)
    labels = rng.integers(0, 10, (CLIENTS, RECORDS))
    return [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(images, labels, strict=True)]


def train_client(
    model: nn.Module, data: tuple[Tensor, Tensor], client: int, number: int, vector: Vector
) -> Vector:
    """One client's round: the part that both sides have in common."""
    load_vector(model, vector)
    rng = Streams(0).get("batches", client, number)
    train(model, *data, TRAINING, loss=cross_entropy, rng=rng)
    return to_vector(model)


def bare_round() -> Callable[[int, Vector], Vector]:
    """A loop over clients and a mean."""
    model, data = make_model(), make_data()

    def one(number: int, vector: Vector) -> Vector:
        total = np.zeros(vector.size)
        for client in range(CLIENTS):
            own = train_client(model, data[client], client, number, vector)
            total += np.multiply(own, float(RECORDS), dtype=np.float64)
        return np.asarray(total / (CLIENTS * RECORDS), np.float32)

    return one


def rounds_of(
    app: ClientApp, clients: int, staff: Workers | None = None
) -> Callable[[int, Vector], Vector]:
    """Rounds of `app` at so many sites, through in-process grid, site grid and running mean."""
    contexts = make_contexts(clients, {})
    names = {f"site-{i}": node for i, node in enumerate(contexts)}
    sites = SiteGrid(InProcessGrid(app, contexts, staff=staff), names)
    nodes = [names[site] for site in sites.sites]

    def one(number: int, vector: Vector) -> Vector:
        note = RoundNote(terms="", run_id="benchmark", round=number, cohort=clients)
        mean = RunningSum.of_models(vector.size)
        sites.exchange(flower.round_messages("train", note, vector, nodes), keep=mean.take)
        return mean.result()

    return one


def engine_round(workers: int, device: torch.device = CPU) -> Callable[[int, Vector], Vector]:
    """The same through ClientApp and the engine.

    On a GPU in `workers` processes, or in this one: it must not have used it before.
    """
    model, data, app = make_model(), make_data(), ClientApp()

    @app.train()
    def train_app(message: Message, context: Context) -> Message:
        request = flower.read_train_request(message)
        client = int(str(context.node_config["partition-id"]))
        place(model, device)
        vector = train_client(model, data[client], client, request.round, request.model)
        reply = TrainReply(site=str(client), model=vector, weight=float(RECORDS), spent=())
        return Message(flower.train_reply(reply), reply_to=message)

    return rounds_of(app, CLIENTS, Workers(workers=workers, pays=0.0))


def peer() -> Callable[[int, Vector], Vector]:
    """The round by pfl, checked."""
    model, data, batch = make_model(), make_data(), round(TRAINING.sample_rate * RECORDS)
    one = pfl_round(model, data, rate=TRAINING.learning_rate, batch=batch)
    check(one, model, data, TRAINING.learning_rate, batch)
    return one


def main() -> None:
    """Print medians, spread and ratios."""
    options = parser(__doc__, rounds=15, workers=[1, 2]).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as `simulate` does; the bare loop runs under it as well
    private.redirect_log(logging.NullHandler())
    sides = {"bare": bare_round(), **{f"{n} workers": engine_round(n) for n in options.workers}}
    if missing("pfl") is None:
        sides["pfl"] = peer()
    vectors = {side: to_vector(make_model()) for side in sides}
    clocks = {"wall": time.perf_counter, "CPU": time.process_time}
    taken: dict[str, dict[str, list[float]]] = {s: {c: [] for c in clocks} for s in sides}
    for number in range(1, options.rounds + 2):
        for side, one in sides.items():
            began = {clock: now() for clock, now in clocks.items()}
            vectors[side] = one(number, vectors[side])
            for clock, now in clocks.items():
                taken[side][clock].append(now() - began[clock])
    for side, vector in vectors.items():
        same = side == "pfl" or np.array_equal(vectors["bare"], vector)
        assert same, f"{side} must compute the same"
    table = Table(
        side="side", clock="clock", seconds=("a round", ".3f", " s"),
        ratio=("over the bare loop", ".3f"),
    )  # fmt: skip
    for side in sides:
        # What workers do is not CPU time of this process.
        for clock in clocks if side in ("bare", "1 workers", "pfl") else ("wall",):
            times, own = taken[side][clock][1:], taken["bare"][clock][1:]  # the first warms up
            row = {"seconds": spread(times), "ratio": ratios(times, own)}
            table.row({"side": side, "clock": clock, **row})
    print(*("", *skipped("engine")), sep="\n")
    write(options.json, {"parameters": len(vectors["bare"]), "rows": table.rows})


if __name__ == "__main__":
    main()
