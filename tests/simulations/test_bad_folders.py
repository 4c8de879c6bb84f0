"""What somebody gives who has the wrong folder or the wrong records: each is answered before
anything is trained, in a sentence with a way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedlearn.cli import main
from fedlearn.data import memory
from tests.model_folders import byte_tokenizer, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
    ),
]
Output = pytest.CaptureFixture[str]
PAIRS = [{"prompt": f"red {i}: ", "completion": "stop", "office": f"o{i % 3}"} for i in range(12)]
TALK = {"messages": [{"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Hi"}]}


def stated(folder: Path, name: str, **changed: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def unsafe(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def part_lost(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model-1.safetensors")
    files = dict.fromkeys(weights, "model-1.safetensors")
    files["model.norm.weight"] = "model-2.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def packed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.norm.weight": torch.zeros(32, dtype=torch.int8)},
              folder / "model.safetensors")  # fmt: skip


def without_end(folder: Path) -> None:
    byte_tokenizer("<pad>", "<s>").save(str(folder / "tokenizer.json"))
    stated(folder, "tokenizer_config.json", eos_token=None)
    stated(folder, "config.json", eos_token_id=None)


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no safetensors": (
        unsafe,
        r"pytorch_model.bin, which are not read\).*AutoModelForSeq2SeqLM of a T5",
    ),
    "code of its own": (
        lambda f: stated(f, "config.json", auto_map={"AutoModel": "x.Y"}),
        "asks for code that comes with the folder .* take a model whose code is part of",
    ),
    "another vocabulary": (
        lambda f: stated(f, "config.json", vocab_size=200),
        "ids up to 258, and its model a vocabulary of 200; they are not of one model",
    ),
    "a part lost": (part_lost, "1 of 2 parts .* missing: model-2.safetensors; download"),
    "quantised by its settings": (
        lambda f: stated(f, "config.json", quantization_config={"bits": 4}),
        "are quantised .* take the model that it was made from",
    ),
    "quantised in its weights": (packed, "weights of I8, .* take the model in float32"),
    "no end": (without_end, "names no token that ends a text"),
    "a kind without layers": (
        lambda f: stated(f, "config.json", model_type="bart"),
        "of type 'bart'; there are layers for llama,",
    ),
}


def words_of(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    path = folder.with_name("own.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    return [
        "task=language", "scenario=language", f"scenario.path={path}", "scenario.site=office",
        f"scenario.tokenizer.folder={folder}", "scenario.tokenizer.max_length=24",
        "model=huggingface", f"model.folder={folder}", "training.finetune=lora",
        "training.lora_stages=2", "secagg=off", "privacy=none", "rounds=1",
    ]  # fmt: skip


def complaint(words: list[str], out: Path, capsys: Output) -> str:
    assert main(["simulate", *words, f"out={out}"]) in (2, 4, 5)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    result = out / "result.json"
    assert not result.is_file() or json.loads(result.read_text())["status"] != "finished"
    return " ".join(captured.err.split())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder__that_is_none_to_train_says_so_with_a_way_out(
    tmp_path: Path, name: str, capsys: Output
) -> None:
    folder, (spoil, said) = tiny_model(tmp_path / "model"), FOLDERS[name]
    spoil(folder)
    found = complaint(words_of(folder, PAIRS), tmp_path / "run", capsys)
    assert re.search(said, found), found


RECORDS: dict[str, tuple[str, list[dict[str, Any]], list[str], str]] = {
    "a text for a T5": (
        "t5", [*PAIRS, {"text": "whole", "office": "o1"}], [],
        "line 13: 'text' is a text to go on with, .* give a prompt and a completion",
    ),
    "a conversation for a T5": (
        "t5", [*PAIRS, TALK | {"office": "o1"}], [],
        "goes on with no conversation; give records a prompt and a completion",
    ),
    "roles out of order": (
        "llama", [*PAIRS, TALK | {"office": "o1"}], [],
        "line 13: 'messages' message 1 is of role 'assistant', out of order: .* take turns",
    ),
    "nothing but empty answers": (
        "llama", [row | {"completion": " "} for row in PAIRS], [],
        "no record has anything to learn",
    ),
    "adapters that match nothing": (
        "llama", PAIRS, ["training.lora_layers=[query]"],
        "no layer is called query; .* there are q_proj, k_proj",
    ),
    "adapters of a T5 that match nothing": (
        "t5", PAIRS, ["training.lora_layers=[q_proj]"],
        "no layer is called q_proj; .* there are q, k, v, o, wi, wo",
    ),
    "longer than the model looks": (
        "llama", PAIRS, ["scenario.tokenizer.max_length=513"],
        "takes at most 512 tokens; set max_length to that or less",
    ),
    "longer than a T5 looks": (
        "t5", PAIRS, ["scenario.tokenizer.max_length=1025"],
        "takes at most 1024 tokens; set max_length to that or less",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records__that_a_model_does_not_learn_from_are_named_with_a_way_out(
    tmp_path: Path, name: str, capsys: Output
) -> None:
    kind, rows, more, said = RECORDS[name]
    folder = tiny_model(tmp_path / "model", kind)
    found = complaint([*words_of(folder, rows), *more], tmp_path / "run", capsys)
    assert re.search(said, found), found


def test_a_model__too_large_for_memory_is_refused_before_it_is_read_with_what_fits(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path / "model", "t5")
    monkeypatch.setattr(memory, "installed", lambda: 10_000)
    found = complaint(words_of(folder, PAIRS), tmp_path / "run", capsys)
    assert "a model of at most 0 million parameters fits here" in found


def test_a_tokenizer__without_padding_and_answers_that_are_empty_are_no_matter(
    tmp_path: Path, capsys: Output
) -> None:
    folder = tiny_model(tmp_path / "model")
    stated(folder, "tokenizer_config.json", pad_token=None)
    stated(folder, "config.json", pad_token_id=None)
    rows = [*PAIRS, {"prompt": "x", "completion": "", "office": "o1"}]
    assert main(["simulate", *words_of(folder, rows), f"out={tmp_path / 'run'}"]) == 0
    captured = capsys.readouterr()
    assert "line 13: nothing to learn (an empty 'completion'" in " ".join(
        (captured.out + captured.err).split()
    )
