"""The experiments on texts on their real data, one round each.

Of the pretrained blocks one is used at most, and of a text the first 16 tokens: encoding
all texts with all blocks takes many minutes, and only once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedlearn.config import compose
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate


@pytest.mark.slow
@pytest.mark.usefixtures("text_cache")
@pytest.mark.parametrize(
    ("experiment", "sites", "records", "classes", "quick"),
    [
        ("legal_contracts", 21, 3_041, 18, ["model.depth=1"]),
        ("financial_news", 5, 7_674, 8, ["model.depth=1"]),
        ("medical_codes", 5, 59_576, 22, ["model.depth=0", "model.sketch=256"]),
    ],
)
def test_experiment__runs_a_round_on_its_real_data(
    tmp_path: Path, experiment: str, sites: int, records: int, classes: int, quick: list[str]
) -> None:
    overrides = [f"experiment={experiment}", f"out={tmp_path / 'run'}", "rounds=1", *quick]
    overrides.append("scenario.tokenizer.max_length=16")
    simulate(compose(overrides), Silent(), Stop())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    dealt = result["data"]["sites"].values()
    assert len(dealt) == sites
    assert sum(site["train"] + site["test"] for site in dealt) == records
    assert result["privacy"]["delta"] < 1 / records
    assert result["model"]["trainable"] < 100_000
    # A step from the uniform prediction, whose loss is log(classes); categories that were never
    # seen are answered with more confidence than they deserve.
    found = result["final"]["evaluate"]
    assert found["loss"] < math.log(classes) or found["accuracy"] > 3 / classes


@pytest.mark.slow
def test_own_texts__train_with_one_command_and_beat_a_constant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = {"claim": ["refund", "damage", "late"], "praise": ["great", "thanks", "quick"]}
    lines = [
        json.dumps({"text": " ".join([*rng.choice(words[kind], 3), f"n{i}"]), "kind": kind})
        for i in range(150)
        for kind in ("claim", "claim", "praise")
    ]
    (tmp_path / "mails.jsonl").write_text("\n".join(lines))
    overrides = ["scenario=text", "scenario.label=kind", "scenario.tokenizer.kind=hashing"]
    overrides += [f"scenario.path={tmp_path / 'mails.jsonl'}", f"out={tmp_path / 'run'}"]
    overrides += ["model=text", "model.pretrained=''", "model.width=16", "partition=iid"]
    simulate(compose([*overrides, "partition.num_sites=3", "rounds=30"]), Silent(), Stop())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["final"]["evaluate"]["accuracy"] > 0.8  # a constant has two thirds
    assert result["privacy"]["epsilon"] == pytest.approx(4, rel=0.01)
