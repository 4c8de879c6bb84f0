"""The weights of a BERT (Devlin et al. 2019) under the names of `fedlearn.models.text`.

Our blocks lack three of its tensors, which change nothing or are part of
others: the bias of a key cancels in the softmax, that of a value goes through
the attention unchanged and so belongs to the output's, and the vector of the
first segment, which every token gets, belongs to those of the places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from fedlearn.core.errors import DataError
from fedlearn.models.text import Text

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
