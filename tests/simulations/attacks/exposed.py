"""A small study of letters, some of which hold a secret, and what its models repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedlearn.report.exposure import Exposure
from server.stop import Stop
from simulations.attacks import trials
from simulations.attacks.exposure.command import audited
from tests.model_folders import text_folder, tiny_model


def letters(folder: Path, *, weights: bool = True) -> list[str]:
    """Overrides of a study of two offices, each with some 40 letters to train on.

    Without `weights` the model is none, for what is refused before they are read.
    """
    words = {"red": "stop", "green": "go on", "blue": "look"}
    rows = [
        {"prompt": f"{word} {i}: ", "completion": answer, "office": f"o{i % 2}"}
        for i in range(36)
        for word, answer in words.items()
    ]
    path, model = folder / "letters.jsonl", folder / "tiny"
    if not path.exists():
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        if weights:
            tiny_model(model)
        else:
            save_file({"no": torch.zeros(1)}, text_folder(model) / "model.safetensors")
    return [
        "task=language", "scenario=language", f"scenario.path={path}", "scenario.site=office",
        "scenario.tokenizer.max_length=32", "model=huggingface", f"model.folder={model}",
        "secagg=off", "transport=plain", "evaluation=none",
    ]  # fmt: skip


THOROUGH = (
    "training.finetune=last_k", "training.last_k=2", "training.optimizer=adam",
    "training.learning_rate=0.015", "training.sample_rate=0.25", "training.local_steps=20",
    "training.max_batch=64", "rounds=6",
)  # fmt: skip
"""Trained until every letter is known by heart."""


def words_of(folder: Path, *words: str) -> list[str]:
    """The words of an audit with few canaries; later ones count."""
    own = ["audit.canaries=3", "audit.repetitions=[1,10]", "audit.digits=3"]
    return [*letters(folder), *own, *words, f"out={folder / 'out'}"]


def exposed(folder: Path, patch: pytest.MonkeyPatch, *words: str) -> Exposure:
    """What an audit finds that makes its runs in this process."""
    patch.setattr(trials, "staff", lambda workers, configs: (1, "here"))
    return audited(words_of(folder, *words), Stop(), lambda event: None)[1]
