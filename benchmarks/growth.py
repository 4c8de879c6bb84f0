"""What the `local` engine itself costs a client, by the number of parameters and of clients.

    python benchmarks/growth.py [--json PATH]

Rounds through ClientApp, in-process grid, site grid and running mean,
with sites that send back the model as it came: all that is left is the engine. CPU
time, medians; the mean is checked.
"""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
from engine import rounds_of
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from table import Spread, Table, parser, spread, taken, write

from fedlearn.flower import messages as flower
from fedlearn.flower import private
from fedlearn.rounds import TrainReply
from fedlearn.training.device import keep_freed_memory

CASES = [*((clients, 10**3) for clients in (10, 100, 1000)), *((10, 10**n) for n in range(4, 8))]
"""Clients and parameters."""


def idle_app() -> ClientApp:
    """Sites that train nothing."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        request = flower.read_train_request(message)
        site = f"site-{context.node_config['partition-id']}"
        reply = TrainReply(site=site, model=request.model, weight=1.0, spent=())
        return Message(flower.train_reply(reply), reply_to=message)

    return app


def measure(clients: int, parameters: int, rounds: int) -> Spread:
    """CPU milliseconds of a round for each client."""
    one, vector = rounds_of(idle_app(), clients), np.arange(parameters, dtype=np.float32)

    def checked(number: int) -> None:
        assert np.array_equal(one(number, vector), vector)

    times = [taken(partial(checked, number)) for number in range(1, rounds + 2)]
    return spread(times[1:]).times(1e3 / clients)


def main() -> None:
    """Print the table, write JSON."""
    options = parser(__doc__, rounds=7).parse_args()
    private.redirect_log(logging.NullHandler())
    keep_freed_memory()
    table = Table(
        clients=("clients", ","), parameters=("parameters", ","),
        ms=("CPU of a client and round", ".2f", " ms"),
        of_megabyte=("of 1 MB of parameters", ".2f", " ms"),
    )  # fmt: skip
    for clients, parameters in CASES:
        ms = measure(clients, parameters, options.rounds)
        of_megabyte = ms.median / (4e-6 * parameters) if parameters >= 10**5 else None
        row = {"clients": clients, "parameters": parameters, "ms": ms}
        table.row(row | {"of_megabyte": of_megabyte})
    write(options.json, {"rows": table.rows})


if __name__ == "__main__":
    main()
