"""How kinds of encoders are put together, by the names that transformers and folders use.

An encoder reads a text or an image whole, both ways, and a new head classifies what it makes of
it. Whatever head a folder has beside (of masked words, of other classes) is left out, and so is
the bias of a key: it cancels in the softmax, and where it is trained it is noise for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from fedlearn.tasks import ImageInput, TextInput

_WORDS: Final = {
    "embeddings.word_embeddings": "embed.word",
    "embeddings.position_embeddings": "embed.place",
    "embeddings.token_type_embeddings": "embed.segment",
    "embeddings.LayerNorm": "embed.norm",
}
_PATCHES: Final = {
    "embeddings.cls_token": "embed.first.weight",
    "embeddings.position_embeddings": "embed.place.weight",
    "embeddings.patch_embeddings.projection": "embed.pixels",
}
_SINCE_5: Final = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""What transformers calls layers of a ViT that folders call as they always did."""
KEYS: Final = ("self.key", "attention.key", ".k_lin", ".k_proj")
"""How names of the layers end that make keys."""
_IDLE: Final = tuple(f"{key}.bias" for key in KEYS)


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """How one kind of encoder is put together."""

    module: str
    """Where its classes are."""
    config: str
    block: str
    reads: type[TextInput | ImageInput] = TextInput
    prefix: str
    """Of names in a folder whose model had a head of its own."""
    blocks: str = "encoder.layer"
    outside: Mapping[str, str] = field(default_factory=lambda: _WORDS)
    """Our names of what is outside of blocks, by how names in a folder begin."""
    last_norm: str = ""
    """What comes after the last block, and is a part of it here."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """How parts of a block are called by its class, by how names in a folder begin."""
    others: tuple[str, ...] = ("pooler.", "cls.", "classifier.", "qa_outputs.", "lm_head.")
    """How names begin of what is no part of the encoder."""
    counts_tokens: bool = False
    """Whether places are counted from after the id of padding, as fairseq does."""


def _like_bert(name: str, of: str, prefix: str = "roberta.") -> EncoderKind:
    return EncoderKind(
        module=f"transformers.models.{name}.modeling_{name}",
        config=f"{of}Config",
        block=f"{of}Layer",
        prefix=prefix,
        counts_tokens=prefix == "roberta.",
    )


ENCODERS: Final[Mapping[str, EncoderKind]] = MappingProxyType(
    {
        "bert": _like_bert("bert", "Bert", "bert."),
        "roberta": _like_bert("roberta", "Roberta"),
        "xlm-roberta": _like_bert("xlm_roberta", "XLMRoberta"),
        "camembert": _like_bert("camembert", "Camembert"),
        "distilbert": EncoderKind(
            module="transformers.models.distilbert.modeling_distilbert",
            config="DistilBertConfig",
            block="TransformerBlock",
            prefix="distilbert.",
            blocks="transformer.layer",
            others=("vocab_", "pre_classifier.", "classifier.", "qa_outputs."),
        ),
        "vit": EncoderKind(
            module="transformers.models.vit.modeling_vit",
            config="ViTConfig",
            block="ViTLayer",
            reads=ImageInput,
            prefix="vit.",
            outside=_PATCHES,
            last_norm="layernorm",
            renamed=_SINCE_5,
            others=("pooler.", "classifier.", "decoder.", "embeddings.mask_token"),
        ),
    }
)
"""By `model_type` of a folder's config.json."""


def our_name(kind: EncoderKind, theirs: str, blocks: int, inside: frozenset[str]) -> str:
    """Our name of a tensor; empty for what is no part of the encoder.

    Args:
        theirs: its name in a folder.
        blocks: how many blocks the model has.
        inside: the names that the class of a block has for its own.
    """
    name = theirs.removeprefix(kind.prefix).replace(".gamma", ".weight").replace(".beta", ".bias")
    if name.startswith(kind.others):
        return ""
    if name.startswith(f"{kind.blocks}."):
        number, _, rest = name.removeprefix(f"{kind.blocks}.").partition(".")
        own = _of_class(kind, rest, inside)
        return "" if own.endswith(_IDLE) else f"block{number}.layer.{own}"
    outside = dict(kind.outside)
    if kind.last_norm:
        outside[kind.last_norm] = f"block{blocks - 1}.norm"
    for begins, ours in outside.items():
        if name == begins or name.startswith(f"{begins}."):
            return ours + name.removeprefix(begins)
    return name


def _of_class(kind: EncoderKind, name: str, inside: frozenset[str]) -> str:
    """Releases of transformers differ in this: what the class has is taken."""
    for begins, theirs in kind.renamed.items():
        changed = theirs + name.removeprefix(begins)
        if name.startswith(f"{begins}.") and changed in inside:
            return changed
    return name
