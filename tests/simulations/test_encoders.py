"""Encoders out of folders, trained by sites on texts and images: tiny random weights, true runs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedlearn.config import compose
from fedlearn.prediction import load
from fedlearn.report.export import export
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate
from tests.encoders import SIDE, save_encoder

pytestmark = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


def run(out: Path, *words: str) -> dict[str, Any]:
    simulate(compose([*words, f"out={out}"]), Silent(), Stop())
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def letters(path: Path) -> Path:
    """Texts of three firms; what they are, the case of one word says."""
    draw = np.random.default_rng(0)
    words = ["the", "a", "b", "ends", "unaffable", "licence"]
    rows = [
        {
            "text": " ".join([*draw.choice(words, 4), ("license", "License")[i % 2]]),
            "kind": ("noun", "title")[i % 2],
            "firm": f"f{i % 3}",
        }
        for i in range(90)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_cased_bert__learns_what_an_uncased_one_cannot_see(tmp_path: Path) -> None:
    path = letters(tmp_path / "letters.jsonl")
    auc = {}
    for name, cased in (("cased", True), ("uncased", False)):
        folder = save_encoder("bert", tmp_path / name, do_lower_case=not cased)
        found = run(tmp_path / f"run-{name}", "scenario=text", f"scenario.path={path}",
                    "scenario.label=kind", "scenario.site=firm", "scenario.tokenizer.max_length=12",
                    "model=huggingface", f"model.folder={folder}", "training.finetune=full",
                    "training.optimizer=adam", "training.learning_rate=0.01",
                    "training.local_steps=10", "privacy=none", "secagg=off", "rounds=5",
                    "evaluate_every=5")  # fmt: skip
        auc[name] = found["final"]["evaluate"]["auc"]
    assert auc["cased"] > 0.95
    export(tmp_path / "run-cased", tmp_path / "exported")
    assert str(tmp_path) not in (tmp_path / "exported" / "model.json").read_text()
    asked = load(tmp_path / "exported", str(tmp_path / "cased"))
    found_in = asked.answers(asked.read(path).features).argmax(1)
    wanted = [json.loads(line)["kind"] for line in path.read_text(encoding="utf-8").splitlines()]
    right = [asked.task.classes[i] == kind for i, kind in zip(found_in, wanted, strict=True)]
    assert np.mean(right) > 0.9
    assert auc["uncased"] < 0.75


@pytest.mark.slow
def test_adapters_of_a_vit__under_shared_noise_and_masks_are_all_that_travels(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    for i in range(48):
        pixels = draw.integers(0, 120, (SIDE + 3, SIDE + 3, 3))
        pixels[..., i % 2] += 120
        place = tmp_path / "images" / f"s{i % 3}" / ("red", "green")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    folder = save_encoder("vit", tmp_path / "vit")
    found = run(tmp_path / "run", "scenario=images", f"scenario.path={tmp_path / 'images'}",
                "scenario.sites=true", f"scenario.size={SIDE + 3}", "model=huggingface",
                f"model.folder={folder}", "training.finetune=lora", "training.lora_stages=1",
                "training.lora_layers=[q_proj]", "training.lora_rank=2", "privacy=distributed",
                "secagg=masked", "evaluation=pooled", "rounds=2", "model.kept=fp16")  # fmt: skip
    assert found["status"] == "finished"
    assert found["model"]["trainable"] == 2 * (16 + 16) + 2 * 16 + 2
    assert found["privacy"]["epsilon"] == pytest.approx(4, rel=0.01)
