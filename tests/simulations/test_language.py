"""Language models of every family with layers here, tuned by sites with tiny random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedlearn.config import compose
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.check.files import check
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.language import Encoder
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.model_folders import tiny_model


def run(out: Path, *words: str) -> dict[str, Any]:
    simulate(compose([*words, f"out={out}"]), Silent(), Stop())
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("text_cache")
def test_legal_drafting__runs_with_a_tiny_model_under_noise_of_21_sites(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    found = run(tmp_path / "run", "experiment=legal_drafting", f"model.folder={folder}", "rounds=2",
                "training.lora_stages=2", "scenario.tokenizer.max_length=32")  # fmt: skip
    assert found["status"] == "finished"
    sites = found["data"]["sites"].values()
    assert len(sites) == 21
    assert sum(site["train"] + site["test"] for site in sites) == 3041
    assert found["final"]["evaluate"]["nats_per_token"] < 6.5
    assert found["model"]["trainable"] < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_own_conversations__train_as_data_check_says_and_are_learned(
    tmp_path: Path, kind: str
) -> None:
    replies = {"yes": "I agree.", "no": "I do not."}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{word} {number}"},
                {"role": "assistant", "content": reply},
            ],
            "hospital": f"h{number % 3}",
        }
        for number in range(30)
        for word, reply in replies.items()
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = check(path)
    assert not report.problems
    folder = tiny_model(tmp_path / "tiny", kind)
    words = (*report.settings, f"model.folder={folder}", "training.finetune=lora", "privacy=none",
             "training.learning_rate=0.5", "training.sample_rate=0.5",
             "scenario.tokenizer.max_length=64", "evaluate_every=19")  # fmt: skip
    short, long = (
        run(tmp_path / f"run{rounds}", *words, f"rounds={rounds}")["final"]["evaluate"]
        for rounds in (1, 20)
    )
    assert long["nats_per_token"] < short["nats_per_token"] - 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("text_cache")
@pytest.mark.parametrize(
    ("experiment", "answers"),
    [
        ("medical_codes_language", {"Neoplasms", "Diseases of the ear and mastoid process"}),
        ("financial_news_language", {"earnings", "crude oil"}),
    ],
)
def test_answering__experiments_have_labels_in_words_and_run(
    tmp_path: Path, experiment: str, answers: set[str]
) -> None:
    folder = tiny_model(tmp_path / "tiny")
    words = (f"experiment={experiment}", f"model.folder={folder}", "scenario.limit=400", "rounds=1",
             "training.lora_stages=1", "scenario.tokenizer.max_length=96",
             "training.nominal_records=60")  # fmt: skip
    config = compose(list(words))
    pool = load_pool(config.scenario, Streams(0), default_cache(os.environ), task=config.task)
    encoder = Encoder(FolderTexts(str(folder), folder, "folder"))
    found = {encoder.text([i for i in row if i >= 0]).strip() for row in pool.labels.tolist()}
    assert answers <= found
    assert len(pool) == 400
    assert run(tmp_path / "run", *words)["status"] == "finished"
