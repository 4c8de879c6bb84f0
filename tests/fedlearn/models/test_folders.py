"""Folders of pretrained models: what is read, what is refused, and that nothing in them is run."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  # what an attacker would put there
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedlearn.core.errors import ConfigError
from fedlearn.data import memory
from fedlearn.models.folders import open_folder

ABOUT = {"model_type": "llama", "hidden_size": 4, "vocab_size": 7}
TENSORS = {"words": torch.arange(28.0).reshape(7, 4), "norm": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    written(place, "config.json", ABOUT)
    written(place, "tokenizer.json", {"version": "1.0"})
    save_file(TENSORS, place / "model.safetensors")
    return place


def written(place: Path, name: str, content: Any) -> None:
    (place / name).write_text(json.dumps(content), encoding="utf-8")


def in_parts(place: Path, **weight_map: str) -> None:
    """The same weights in two parts with an index, of which `weight_map` is another opinion."""
    (place / "model.safetensors").unlink()
    files = {name: f"model-{i}.safetensors" for i, name in enumerate(TENSORS)}
    for name, file in files.items():
        save_file({name: TENSORS[name]}, place / file)
    written(place, "model.safetensors.index.json", {"weight_map": files | weight_map})


def refused(where: object, tmp_path: Path, kind: type[ConfigError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        open_folder(str(where), tmp_path / "cache")
    assert all(one.startswith(f"model.folder={where}: ") for one in caught.value.problems)
    return str(caught.value)


# --- what is read -------------------------------------------------------------


def test_folder__has_its_weights_texts_and_hash(folder: Path, tmp_path: Path) -> None:
    written(
        folder, "tokenizer_config.json", {"chat_template": "{{ messages }}", "eos_token": "</s>"}
    )
    found = open_folder(str(folder), tmp_path)
    assert found.about == ABOUT
    assert found.parameters == 32
    assert found.chat_template == "{{ messages }}"
    assert json.loads(found.tokenizer_json) == {"version": "1.0"}
    assert dict(found.tensors).keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)


def test_folder__in_parts_is_the_same_and_its_hash_tells_every_part(
    folder: Path, tmp_path: Path
) -> None:
    in_parts(folder)
    found = open_folder(str(folder), tmp_path)
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert found.parameters == 32
    before = found.sha256
    save_file({"norm": torch.zeros(4, dtype=torch.bfloat16)}, folder / "model-1.safetensors")
    assert open_folder(str(folder), tmp_path).sha256 != before


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, ""),
        ({"tokenizer_config.json": {"chat_template": "one"}}, "one"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tools", "template": "other"},
                        {"name": "default", "template": "one"},
                    ]
                }
            },
            "one",
        ),
        ({"tokenizer_config.json": {"chat_template": "old"}, "chat_template.jinja": "new"}, "new"),
    ],
)
def test_chat_template__is_found_in_all_places_where_it_is_kept(
    folder: Path, tmp_path: Path, files: dict[str, Any], template: str
) -> None:
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert open_folder(str(folder), tmp_path).chat_template == template


# --- what is refused ----------------------------------------------------------


def test_folder__that_is_not_there_names_what_would_do(tmp_path: Path) -> None:
    assert "smollm2-135m" in refused(tmp_path / "nowhere", tmp_path)


class Evil:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.ran,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt"])
def test_folder__with_pickled_weights_alone_is_refused_and_nothing_is_unpickled(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert name in refused(folder, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_folder__with_code_of_its_own_is_refused_and_it_is_not_run(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    asks = {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    written(folder, name, ABOUT | asks)
    assert "auto_map" in refused(folder, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": None}, "model_type"),
    ],
)
def test_config__that_no_training_can_start_from_is_refused(
    folder: Path, tmp_path: Path, about: dict[str, Any], says: str
) -> None:
    written(folder, "config.json", ABOUT | about)
    assert says in refused(folder, tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": "\xff"}', b"[" * 100_000])
def test_config__that_is_none_is_refused(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refused(folder, tmp_path)


def test_folder__of_adapters_alone_says_how_to_merge_them(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    written(folder, "adapter_config.json", {})
    assert "merge_and_unload" in refused(folder, tmp_path)


def test_parts__that_are_missing_or_lack_what_the_index_names_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    in_parts(folder, head="model-1.safetensors")
    assert "head" in refused(folder, tmp_path)
    (folder / "model-0.safetensors").unlink()
    assert "1 of 2 parts" in refused(folder, tmp_path)


@pytest.mark.parametrize("elsewhere", ["../model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_index__that_names_files_elsewhere_is_refused(
    folder: Path, tmp_path: Path, elsewhere: str
) -> None:
    in_parts(folder, norm=elsewhere)
    assert "elsewhere" in refused(folder, tmp_path)


@pytest.mark.parametrize("content", [b"", b"x" * 99, b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}more"])
def test_weights__that_are_damaged_are_refused(
    folder: Path, tmp_path: Path, content: bytes
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors is damaged" in refused(folder, tmp_path)


def test_weights__of_whole_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"packed": torch.zeros(2, dtype=torch.int8)}, folder / "model.safetensors")
    assert "I8" in refused(folder, tmp_path)


def test_model__too_large_for_memory_is_refused_before_it_is_read_with_what_fits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "installed", lambda: 32 * 4)
    assert open_folder(str(folder), tmp_path).parameters == 32
    monkeypatch.setattr(memory, "installed", lambda: 32 * 4 - 1)
    assert "parameters fits here" in refused(folder, tmp_path)
    assert open_folder(str(folder), tmp_path, size=2).parameters == 32


def test_problems__of_a_folder_are_all_said_at_once(folder: Path, tmp_path: Path) -> None:
    written(folder, "config.json", {"quantization_config": {"bits": 4}})
    (folder / "model.safetensors").unlink()
    said = refused(folder, tmp_path).splitlines()
    assert len(said) == 3
