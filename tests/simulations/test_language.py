"""Language models of every family with layers here, tuned by sites with tiny random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.owner import owner_of
from clients.site import open_site
from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, DataError, StoppedError
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.check.files import check
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.language import Encoder
from fedlearn.models.huggingface import HuggingFaceModel
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.model_folders import APART, tiny_model
from tests.simulations.small import environment, table


def run(out: Path, *words: str, stop: Stop | None = None) -> dict[str, Any]:
    simulate(compose([*words, f"out={out}"]), Silent(), stop or Stop())
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
    words = (*report.settings, f"model.folder={folder}", "privacy=none",
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


def drafts(path: Path, records: int = 40) -> Path:
    """Prompts with completions of three offices; no two records are alike."""
    words = {"red": "stop", "green": "go on", "blue": "look"}
    rows = [
        {"prompt": f"{word} {i}: ", "completion": answer, "office": f"o{i % 3}", "person": f"p{i}"}
        for i in range(records)
        for word, answer in words.items()
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def adapters(tmp_path: Path, kind: str = "llama") -> list[str]:
    folder = tiny_model(tmp_path / "tiny", kind)
    layers = "[q,v,wo]" if kind in APART else "[q_proj,v_proj,down_proj]"
    return [
        "task=language", "scenario=language", f"scenario.path={drafts(tmp_path / 'd.jsonl')}",
        "scenario.site=office", "scenario.tokenizer.max_length=24", "model=huggingface",
        f"model.folder={folder}", "training.finetune=lora", "training.lora_stages=2",
        f"training.lora_layers={layers}", "training.max_batch=32",
    ]  # fmt: skip


@pytest.mark.slow
def test_adapters__under_shared_noise_and_masks_are_all_that_travels(tmp_path: Path) -> None:
    found = run(tmp_path / "run", *adapters(tmp_path), "privacy=distributed", "secagg=masked",
                "evaluation=pooled", "rounds=2", "training.lora_frozen_a=true", "audit=mislabelled",
                "audit.canaries=20")  # fmt: skip
    # B alone, of rank 8: 32 + 16 + 32 numbers an adapter's end, in two blocks.
    assert found["model"]["trainable"] == 2 * 8 * (32 + 16 + 32)
    assert found["privacy"]["epsilon"] == pytest.approx(4, rel=0.01)
    assert set(found["final"]["evaluate"]) == set(found["final"]["uninformed"])
    assert found["final"]["uninformed"]["nats_per_token"] == pytest.approx(5.55, abs=0.3)
    assert found["audit"]["verdict"] == "consistent with the promise"
    # An update is a few kilobytes for each site, whatever the model's size.
    sent = found["rounds"][-1]["bytes"]
    assert max(sent.values()) < 3 * 40 * found["model"]["trainable"]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["record", "person"])
def test_answers__of_a_model_that_reads_prompts_apart_are_learned_under_noise_and_masks(
    tmp_path: Path, unit: str
) -> None:
    person = ["scenario.person=person", "scenario.records_per_person=4"]
    found = run(tmp_path / "run", *adapters(tmp_path, "t5"), "privacy=distributed",
                "secagg=masked", "evaluation=pooled", "rounds=2",
                *(person if unit == "person" else []))  # fmt: skip
    # Two blocks of a decoder have q and v twice each, 32 to 32, and wo, 48 to 32; of rank 8.
    assert found["model"]["trainable"] == 2 * 8 * (4 * (32 + 32) + 48 + 32)
    assert found["privacy"]["unit"] == unit
    assert found["privacy"]["epsilon"] == pytest.approx(4, rel=0.01)
    assert set(found["final"]["evaluate"]) == {"nats_per_token", "perplexity", "token_accuracy"}
    assert set(found["final"]["uninformed"]) == set(found["final"]["evaluate"])


@pytest.mark.slow
def test_adapters__leave_slots_for_an_audit(tmp_path: Path) -> None:
    found = run(tmp_path / "run", *adapters(tmp_path), "privacy=record", "secagg=off", "rounds=2",
                "audit=slots")  # fmt: skip
    assert found["audit"]["verdict"] == "consistent with the promise"


@pytest.mark.slow
def test_adapters__are_the_same_after_a_stop_and_in_processes_of_ray(tmp_path: Path) -> None:
    # Ray starts actors of its own, so that run is made as a user would make it.
    words = [*adapters(tmp_path), "privacy=none", "secagg=off", "training.learning_rate=0.3"]
    whole = run(tmp_path / "whole", *words, "rounds=3")
    stop = Stop()
    stop.after_round.set()
    with pytest.raises(StoppedError):
        run(tmp_path / "parts", *words, "rounds=3", stop=stop)
    parts = run(tmp_path / "parts", *words, "rounds=3", "resume=true")
    assert parts["model"]["sha256"] == whole["model"]["sha256"]
    assert parts["final"] == whole["final"]
    words += ["rounds=3", "engine=ray", f"out={tmp_path / 'ray'}"]
    command = [sys.executable, "-m", "fedlearn", "simulate", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ray = json.loads((tmp_path / "ray" / "result.json").read_text())
    assert ray["model"]["sha256"] == whole["model"]["sha256"]
    assert ray["final"] == whole["final"]


@pytest.mark.slow
def test_hidden_states__kept_in_half_precision_change_little(tmp_path: Path) -> None:
    words = [*adapters(tmp_path), "privacy=none", "secagg=off", "training.learning_rate=0.3"]
    exact, half = (
        run(tmp_path / kept, *words, "rounds=3", f"model.kept={kept}") for kept in ("fp32", "fp16")
    )
    assert half["model"]["sha256"] != exact["model"]["sha256"]
    for name, value in exact["final"]["evaluate"].items():
        assert half["final"]["evaluate"][name] == pytest.approx(value, rel=0.01)


@pytest.mark.slow
def test_hidden_states__of_the_same_weights_with_other_settings_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path / "cache"))
    words = [*adapters(tmp_path), "privacy=none", "secagg=off", f"out={tmp_path / 'run'}"]
    config = compose(words)
    pinned = replace(config, model=config.model.pinned())
    # As settings of before, which name the weights alone.
    assert isinstance(pinned.model, HuggingFaceModel)
    config = replace(config, model=replace(pinned.model, config_sha256=""))
    about = tmp_path / "tiny" / "config.json"

    def seen(eps: float) -> torch.Tensor:
        about.write_text(json.dumps(json.loads(about.read_bytes()) | {"rms_norm_eps": eps}))
        return open_site(owner_of(config, "o0"), config).test_tensors[0].clone()

    first, other = seen(1e-6), seen(10.0)
    assert not torch.allclose(first, other, rtol=0.1)
    torch.testing.assert_close(seen(1e-6), first, rtol=0, atol=0)
    folders = [*(tmp_path / "cache" / "encoded").iterdir()]
    assert [len([*folder.glob("*.npy")]) for folder in folders] == [1, 1]
    # A run of now is refused by a site whose config.json is another.
    assert seen(10.0).shape
    with pytest.raises(ConfigError, match=r"model\.config_sha256=.* are others here"):
        open_site(owner_of(pinned, "o0"), pinned)


@pytest.mark.slow
def test_a_head_that_is_a_vocabulary__is_not_to_be_trained(tmp_path: Path) -> None:
    words = [word for word in adapters(tmp_path) if not word.startswith("training.lora")]
    with pytest.raises(ConfigError, match=r"choose training\.finetune=lora, or last_k"):
        run(tmp_path / "run", *words, "training.finetune=full")


def test_a_table__is_not_for_language_models(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task=language learns from texts alone; choose scenario"):
        run(tmp_path / "table", *table(tmp_path), "task=language")


@pytest.mark.slow
def test_a_task__that_the_records_are_not_for_is_refused_with_a_way_out(tmp_path: Path) -> None:
    words = [word for word in adapters(tmp_path) if word != "task=language"]
    with pytest.raises(ConfigError, match="of scenario=language are for task=language; choose"):
        run(tmp_path / "texts", *words)
