"""A run's config on its way through Flower's."""

from __future__ import annotations

from flwr.app import Context, RecordDict

from fedlearn import flower
from fedlearn.config import compose


def test_run_config__carries_the_config_exactly_and_else_the_overrides() -> None:
    config = compose(["rounds=3", "seed=12345678901234567890"])
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(),
        run_config=flower.run_config_of(config),
    )  # fmt: skip
    assert flower.config_of(context) == config
    context.run_config = {"config": "", "overrides": "rounds=3 model.width=8"}
    found = flower.config_of(context)
    assert (found.rounds, found.model.width) == (3, 8)
