"""What the server does: start from one model, and average what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from fedlearn.flower import secure

from digits.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Some rounds of federated averaging."""
    torch.manual_seed(0)
    strategy = FedAvg()
    result = strategy.start(
        grid=secure(grid, strategy),
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    if path := str(context.run_config["result"]):
        rounds = {n: dict(found) for n, found in result.evaluate_metrics_clientapp.items()}
        Path(path).write_text(json.dumps(rounds))
