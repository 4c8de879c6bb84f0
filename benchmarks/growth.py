"""What the `local` engine itself costs a client, by the number of parameters and of clients.

    python benchmarks/growth.py [--json PATH]

Rounds through ClientApp, in-process grid, site grid and running mean,
with sites that send back the model as it came: all that is left is the engine. CPU
time, medians; the mean is checked.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from table import Spread, Table, parser, spread, write

from fedlearn import flower
from fedlearn.flower import private
from fedlearn.rounds import RoundNote, TrainReply
from fedlearn.training.device import keep_freed_memory
from server.average import RunningSum
from server.grid import SiteGrid
from simulations.engines.local import InProcessGrid, make_contexts

CASES = [
    (10, 10**3),
    (100, 10**3),
    (1000, 10**3),
    (10, 10**4),
    (10, 10**5),
    (10, 10**6),
    (10, 10**7),
]
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
    contexts = make_contexts(clients, {})
    names = {f"site-{i}": node for i, node in enumerate(contexts)}
    sites = SiteGrid(InProcessGrid(idle_app(), contexts), names)
    vector = np.arange(parameters, dtype=np.float32)
    taken = []
    for number in range(1, rounds + 2):
        began = time.process_time()
        note = RoundNote(terms="", run_id="benchmark", round=number, cohort=clients)
        nodes = [names[site] for site in sites.sites]
        messages = flower.round_messages("train", note, vector, nodes)
        mean = RunningSum.of_models(vector.size)
        sites.exchange(messages, keep=mean.take)
        found = mean.result()
        taken.append(time.process_time() - began)
        assert np.array_equal(found, vector)
    return spread(taken[1:]).times(1e3 / clients)


def main() -> None:
    """Print the table, write JSON."""
    options_of = parser(__doc__)
    options_of.add_argument("--rounds", type=int, default=7)
    options = options_of.parse_args()
    private.redirect_log(logging.NullHandler())
    keep_freed_memory()
    rows = []
    table = Table("clients", "parameters", "CPU of a client and round", "of 1 MB of parameters")
    for clients, parameters in CASES:
        spent = measure(clients, parameters, options.rounds)
        rows.append({"clients": clients, "parameters": parameters, "ms": asdict(spent)})
        large = parameters >= 10**5
        of_megabyte = f"{spent.median / (4e-6 * parameters):.2f} ms" if large else ""
        table.row(f"{clients:,}", f"{parameters:,}", spent.shown(".2f", " ms"), of_megabyte)
    write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
