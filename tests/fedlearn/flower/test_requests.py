"""What the coordinator asks, as sites read it."""

from __future__ import annotations

import numpy as np

from fedlearn import flower
from fedlearn.flower import private
from fedlearn.rounds import RoundNote


def test_round_messages__are_read_as_they_were_meant() -> None:
    note = RoundNote(run_id="r", round=4, cohort=2, clip_norm=0.25)
    model, besides = np.arange(5, dtype=np.float32), {"control": np.ones(5, np.float32)}
    private.new_run(run_id=1)
    messages = flower.round_messages("train", note, model, [7, 3], besides)
    assert [message.metadata.dst_node_id for message in messages] == [7, 3]
    for message in messages:
        request = flower.read_train_request(message)
        assert flower.read_note(message) == note
        assert (request.run_id, request.round, request.clip_norm) == ("r", 4, 0.25)
        assert (request.model == model).all()
        assert list(request.besides) == ["control"]
        assert (request.besides["control"] == 1).all()
