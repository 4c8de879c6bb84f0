"""Models with an encoder and a decoder in a folder of Hugging Face's form: T5 and its kin.

A prompt is read both ways, by the encoder, and its answer written by the decoder, which looks at
both. What a block is, and how a record is laid out, is in `fedlearn.models.seq2seq_stages`; names
and weights are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.models.architectures import classes_in, settings_of
from fedlearn.models.finetune import stages
from fedlearn.models.folders import KEY, Folder
from fedlearn.models.seq2seq_stages import (
    AnswerBlock,
    Distances,
    PromptBlock,
    Seq2SeqEmbed,
    Seq2SeqHead,
)

_OURS: Final = {
    "shared.weight": "embed.word.weight",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "embed.around.weight",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "embed.before.weight",
    "decoder.final_layer_norm.weight": "head.norm.weight",
    "lm_head.weight": "head.weight",
}
_THEIRS: Final = {ours: theirs for theirs, ours in _OURS.items()}
_ENCODER_NORM: Final = "encoder.final_layer_norm.weight"
_WORDS: Final = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""The table of words once more, in some folders."""
_IDLE: Final = "EncDecAttention.relative_attention_bias.weight"
"""How a name ends that no release reads."""


@dataclass(frozen=True, kw_only=True)
class Seq2SeqKind:
    """How one kind of such a model is put together, by the names that transformers uses."""

    module: str
    """Where its classes are."""
    of: str
    """How their names begin."""

    peft_task: ClassVar = "SEQ_2_SEQ_LM"
    auto_class: ClassVar = "AutoModelForSeq2SeqLM"
    pipeline: ClassVar = "text2text-generation"

    def ours(self, name: str, blocks: int) -> str:
        """What our stages call a tensor of a folder whose encoder has so many blocks; empty for
        what is there twice, or is read by nobody."""
        if name in _WORDS or name.endswith(_IDLE):
            return ""
        if name == _ENCODER_NORM:
            return f"encoder{blocks - 1}.norm.weight"
        part, _, rest = name.partition(".block.")
        if name in _OURS or not rest:
            return _OURS.get(name, name)
        number, _, rest = rest.partition(".")
        return f"{part}{number}.layer.{rest}"

    def theirs(self, name: str) -> str:
        """What transformers calls the tensor, or the layer, that our stages call `name`."""
        if name in _THEIRS:
            return _THEIRS[name]
        stage, _, rest = name.partition(".")
        if rest == "norm.weight":
            return _ENCODER_NORM
        part = stage.rstrip("0123456789")
        return f"{part}.block.{stage.removeprefix(part)}.{rest.removeprefix('layer.')}"


def _kind(module: str, of: str) -> Seq2SeqKind:
    return Seq2SeqKind(module=f"transformers.models.{module}.modeling_{module}", of=of)


SEQ2SEQ: Final[Mapping[str, Seq2SeqKind]] = MappingProxyType(
    {"t5": _kind("t5", "T5"), "mt5": _kind("mt5", "MT5")}
)
"""By `model_type` of a folder's config.json."""


def seq2seq_problems(texts: FolderTexts) -> Iterator[str]:
    """Where a folder does not say what lays out its records."""
    about = texts.about
    if about.get("is_encoder_decoder") is not True or not isinstance(_end(about), int):
        yield (
            f"{texts.naming}: config.json does not say is_encoder_decoder and eos_token_id, by "
            "which a prompt and its answer are told apart; save the folder anew with transformers"
        )


def _end(about: Mapping[str, Any]) -> Any:
    """The token that ends a prompt."""
    found = about.get("eos_token_id")
    return found[0] if isinstance(found, list) and found else found


def seq2seq_network(texts: FolderTexts, precision: torch.dtype) -> nn.Sequential:
    """`int64[n, length]` -> `TokenLogits`: stages `embed`, `encoder0` and so on, `decoder0` and so
    on, `head`.

    Raises:
        ConfigError: its settings are none of such a model.
    """
    kind = SEQ2SEQ[texts.about["model_type"]]
    settings, classes = _settings(kind, texts.about), classes_in(kind.module)
    reads, writes = copy(settings), copy(settings)
    reads.is_decoder, writes.is_decoder = False, True
    norm, width = getattr(classes, f"{kind.of}LayerNorm"), settings.d_model
    block, eps = getattr(classes, f"{kind.of}Block"), settings.layer_norm_epsilon
    embed = Seq2SeqEmbed(settings, _end(texts.about))
    around = Distances(embed.around, settings, both=True)
    before = Distances(embed.before, settings, both=False)
    count, parts = settings.num_layers, dict[str, nn.Module]()
    for i in range(count):
        last = norm(width, eps=eps) if i == count - 1 else nn.Identity()
        parts[f"encoder{i}"] = PromptBlock(block(reads, layer_idx=i), last, around)
    for i in range(settings.num_decoder_layers):
        parts[f"decoder{i}"] = AnswerBlock(block(writes, layer_idx=i), before)
    scaled = getattr(settings, "scale_decoder_outputs", False)
    head = Seq2SeqHead(norm(width, eps=eps), settings, scaled=scaled)
    return stages(embed=embed, **parts, head=head).to(precision)


def seq2seq_weights(folder: Folder, precision: torch.dtype) -> dict[str, Tensor]:
    """All weights, by the names of our stages; a vocabulary that is the table of words is there
    under both names, with the same numbers."""
    kind = SEQ2SEQ[folder.about["model_type"]]
    blocks = _settings(kind, folder.about).num_layers
    held = {theirs: kind.ours(theirs, blocks) for theirs in folder.tensors}
    found = {
        ours: folder.tensors[theirs].to(precision, copy=True)
        for theirs, ours in held.items()
        if ours
    }
    words = next((folder.tensors[name] for name in _WORDS if name in held), None)
    if "embed.word.weight" not in found and words is not None:
        found["embed.word.weight"] = words.to(precision, copy=True)
    tied = "head.weight" not in found and folder.about.get("tie_word_embeddings") is not False
    if tied and "embed.word.weight" in found:
        found["head.weight"] = found["embed.word.weight"]
    return found


def _settings(kind: Seq2SeqKind, about: Mapping[str, Any]) -> Any:
    settings = settings_of(kind.module, f"{kind.of}Config", about)
    if settings.num_layers < 1 or settings.num_decoder_layers < 1:
        raise ConfigError(f"{KEY}: config.json has no blocks (num_layers, num_decoder_layers)")
    return settings
