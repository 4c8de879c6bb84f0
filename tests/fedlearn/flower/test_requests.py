"""What the coordinator asks, as sites read it."""

from __future__ import annotations

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fedlearn import flower


def test_train_request__is_read_from_what_a_strategy_sends() -> None:
    config = ConfigRecord({"server-round": 4, "run-id": "r", "proximal-mu": 0.25})
    model = np.arange(5, dtype=np.float32)
    content = RecordDict({"arrays": flower.arrays_of(model), "config": config})
    message = Message(content, dst_node_id=7, message_type="train")
    request = flower.read_train_request(message)
    assert (request.run_id, request.round, request.proximal_mu) == ("r", 4, 0.25)
    assert (request.model == model).all()
