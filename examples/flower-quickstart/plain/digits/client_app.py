"""What a site does: train on its records, and test on them."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits.task import Net, load_data
from digits.task import test as test_net
from digits.task import train as train_net

app = ClientApp()


def _received(message: Message) -> Net:
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net


def _records(context: Context):
    return load_data(
        int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    )


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model that came, and send it back."""
    torch.manual_seed(0)
    net, (records, _) = _received(message), _records(context)
    settings = context.run_config
    loss = train_net(net, records, int(settings["local-epochs"]), float(settings["learning-rate"]))
    metrics = {"train_loss": loss, "num-examples": len(records.dataset)}
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Test the model that came."""
    net, (_, records) = _received(message), _records(context)
    loss, accuracy = test_net(net, records)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(records.dataset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
