"""The same weights under another config.json are another model, and no site trains it unseen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedlearn.core.errors import ConfigError
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.in_folder import FolderModel
from fedlearn.models.retriever import Retriever

ABOUT: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "layer_norm_eps": 1e-12,
    "hidden_act": "gelu", "rope": {"theta": 10_000},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folder")
    save_file({"embeddings.word_embeddings.weight": torch.ones(3, 8)}, place / "model.safetensors")
    say(place, ABOUT)
    return place


def say(place: Path, about: dict[str, Any], indent: int | None = None) -> None:
    (place / "config.json").write_text(json.dumps(about, indent=indent))


@pytest.fixture(params=[HuggingFaceModel, Retriever])
def pinned(request: pytest.FixtureRequest, folder: Path) -> FolderModel:
    say(folder, ABOUT)
    found = request.param(folder=str(folder)).pinned()
    assert isinstance(found, FolderModel)
    return found


@pytest.mark.parametrize(
    "changed",
    [{"num_attention_heads": 4}, {"layer_norm_eps": 1e-5}, {"hidden_act": "relu"},
     {"rope": {"theta": 500_000}}, {"a_new_key": 1}],
)  # fmt: skip
def test_weights__under_another_config_json_are_refused(
    pinned: FolderModel, folder: Path, changed: dict[str, Any]
) -> None:
    assert pinned.same(folder) == (pinned.sha256, pinned.config_sha256)
    say(folder, ABOUT | changed)
    with pytest.raises(ConfigError, match=r"model.config_sha256=.* here.*config_sha256=''") as why:
        pinned.weights(folder)
    assert len(why.value.problems) == 1
    other = replace(pinned, sha256="", config_sha256="").pinned()
    assert other.sha256 == pinned.sha256
    assert other.config_sha256 != pinned.config_sha256


def test_both__are_named_where_both_are_others(pinned: FolderModel, folder: Path) -> None:
    say(folder, ABOUT | {"hidden_act": "relu"})
    with pytest.raises(ConfigError) as why:
        replace(pinned, sha256="0" * 64).weights(folder)
    assert [one.partition("=")[0] for one in why.value.problems] == [
        "model.sha256",
        "model.config_sha256",
    ]


def test_preparation__of_images_is_compared_as_well(pinned: FolderModel, folder: Path) -> None:
    beside = folder / "preprocessor_config.json"
    beside.write_text('{"image_mean": [0.5]}')
    with pytest.raises(ConfigError, match=r"config_sha256"):
        pinned.same(folder)
    beside.unlink()
    assert pinned.same(folder)


@given(st.permutations(list(ABOUT)), st.sampled_from([None, 1, 4]))
def test_config_json__written_otherwise_is_the_same(
    folder: Path, order: list[str], indent: int | None
) -> None:
    say(folder, ABOUT)
    known = HuggingFaceModel(folder=str(folder)).pinned()
    say(folder, {key: ABOUT[key] for key in order}, indent)
    assert known.same(folder) == (known.sha256, known.config_sha256)


def test_settings__of_before_compare_the_weights_alone(pinned: FolderModel, folder: Path) -> None:
    before = replace(pinned, config_sha256="")
    assert before.pinned() == before
    say(folder, ABOUT | {"hidden_act": "relu"})
    assert before.same(folder)[0] == pinned.sha256


def test_pinned__folder_has_the_hash_of_its_weights_and_is_not_fetched() -> None:
    found = HuggingFaceModel(folder="minilm").pinned()
    assert len(found.sha256) == 64
    assert not found.config_sha256
