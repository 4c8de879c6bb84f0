"""Encoders in a folder of Hugging Face's form: what fits them, their layers, their weights.

A text is read whole, or an image, and a new head says what it is. The head reads the mean over a
text's tokens: without anything trained that tells texts apart better than the first token of a
BERT does (Reimers and Gurevych 2019, table 6), and it is the same for every kind of encoder. What a
BERT calls its pooler was trained for another question and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.data.tables.guess import quoted
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.pieces import KEY as VOCABULARY
from fedlearn.models.architectures import classes_in, context_of, counts_in, settings_of
from fedlearn.models.encoder_stages import (
    ImageBlock,
    ImageEmbed,
    Pool,
    Pooled,
    Prepared,
    TextBlock,
    TextEmbed,
)
from fedlearn.models.encoders import ENCODERS, KEYS, EncoderKind, our_name
from fedlearn.models.finetune import stages
from fedlearn.models.folders import KEY, Folder
from fedlearn.models.model import NAMES
from fedlearn.models.preparation import preparation_of, unprepared
from fedlearn.tasks import ImageInput, Input, Task, TextInput

_PLACES: Final = 512
"""Of a BERT whose config.json does not say."""


def encoder_problems(texts: FolderTexts, folder: str, task: Task) -> Iterator[str]:
    """What of the folder does not fit the task, or cannot be built."""
    about, shape = texts.about, task.input
    kind = ENCODERS[about["model_type"]]
    if task.next_tokens:
        yield (
            f"{KEY}={folder}: reads texts whole and continues none; choose task=classification, "
            "or a model that continues texts"
        )
    if not isinstance(shape, kind.reads):
        yield (
            f"{KEY}={folder}: reads {NAMES[kind.reads]}, and the scenario's records are "
            f"{NAMES[type(shape)]}"
        )
    elif isinstance(shape, ImageInput):
        yield from unprepared(texts.naming, texts.preparation, about, shape)
    elif isinstance(shape, TextInput):
        way_out = f"scenario.tokenizer.kind=wordpiece {VOCABULARY}={quoted(folder)}"
        known = {"max_position_embeddings": _PLACES, **about}
        yield from text_problems(folder, known, shape, way_out, unused=_before_places(kind, about))
        yield from _unlike_bert(texts)
        if kind.counts_tokens and about.get("pad_token_id", shape.pad_id) != shape.pad_id:
            yield (
                f"{texts.naming}: counts places from after token {about['pad_token_id']} "
                f"(pad_token_id), and its tokenizer fills up with {shape.pad_id}"
            )


def _unlike_bert(texts: FolderTexts) -> Iterator[str]:
    """Settings that our stages do not know."""
    if texts.about.get("is_decoder"):
        yield f"{texts.naming}: is a decoder (is_decoder), which looks at earlier tokens alone"
    places = texts.about.get("position_embedding_type", "absolute")
    if places != "absolute":
        yield f"{texts.naming}: has places of type {places!r}; absolute ones are read"


def text_problems(
    folder: str, about: Mapping[str, Any], text: TextInput, way_out: str, *, unused: int = 0
) -> Iterator[str]:
    """Where records are not what a model reads, of whose places some are `unused`.

    `way_out` says which settings take its tokenizer.
    """
    if text.tokenizer != folder:
        yield (
            f"{KEY}={folder}: knows the tokens of its own tokenizer, and the records hold those of "
            f"{text.tokenizer or 'a hash'}; set {way_out}"
        )
    rows = next(counts_in(about, "vocab_size"), 0)
    if text.tokenizer == folder and text.vocabulary > rows:
        yield (
            f"{KEY}={folder}: its tokenizer has {text.vocabulary} tokens and its weights have "
            f"{rows}; take the tokenizer that belongs to the weights"
        )
    most = context_of(about, text.max_length) - unused
    if text.max_length > most:
        yield (
            f"scenario.tokenizer.max_length={text.max_length}: {KEY}={folder} looks at {most} "
            "tokens at the most; set scenario.tokenizer.max_length to that or less"
        )


def _before_places(kind: EncoderKind, about: Mapping[str, Any]) -> int:
    """Rows of the table of places before that of the first token."""
    padding = next(counts_in(about, "pad_token_id"), 0)
    return 1 + padding if kind.counts_tokens else 0


def encoder_network(
    texts: FolderTexts, task: Task, pool: Pool, precision: torch.dtype
) -> nn.Sequential:
    """Stages of a record on its way to `[n, task.num_outputs]`: those that read it, and `head`.

    Raises:
        ConfigError: its settings are none of such a model.
    """
    reader = encoder_reader(texts, task.input, precision, pool)
    kind = ENCODERS[texts.about["model_type"]]
    settings = settings_of(kind.module, kind.config, texts.about)
    head = nn.Linear(settings.hidden_size, task.num_outputs)
    return stages(**dict(reader.named_children()), head=head)


def encoder_reader(
    texts: FolderTexts, shape: Input, precision: torch.dtype, pool: Pool = "auto"
) -> nn.Sequential:
    """Stages of a record on its way to one vector: `embed`, `block0` and so on, and `pool`, before
    them `prepare` where it is an image.

    Raises:
        ConfigError: its settings are none of such a model.
    """
    kind = ENCODERS[texts.about["model_type"]]
    settings = settings_of(kind.module, kind.config, texts.about)
    of_text = isinstance(shape, TextInput)
    parts: dict[str, nn.Module] = {}
    if isinstance(shape, TextInput):
        parts["embed"] = TextEmbed(settings, shape.pad_id, counts_tokens=kind.counts_tokens)
    else:
        parts["prepare"] = Prepared(preparation_of(texts.preparation, texts.about))
        parts["embed"] = ImageEmbed(settings)
    for i, layer in enumerate(layers := _blocks(kind, settings)):
        last = i == len(layers) - 1
        parts[f"block{i}"] = TextBlock(layer) if of_text else _image_block(layer, settings, last)
    for stage in parts.values():
        stage.to(precision)
    return stages(**parts, pool=Pooled(pool, of_text=of_text))


def _image_block(layer: nn.Module, settings: Any, last: bool) -> ImageBlock:
    """A block; the last one with the model's last norm after it."""
    width, eps = settings.hidden_size, settings.layer_norm_eps
    return ImageBlock(layer, nn.LayerNorm(width, eps=eps) if last else nn.Identity())


def _blocks(kind: EncoderKind, settings: Any) -> list[nn.Module]:
    made = getattr(classes_in(kind.module), kind.block)
    try:
        layers = [made(settings) for _ in range(settings.num_hidden_layers)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{KEY}: no layers can be made of its config.json ({error})") from None
    for layer in layers:
        for name, module in layer.named_modules():
            if name.endswith(KEYS):
                module.bias = None
    return layers


def encoder_weights(folder: Folder, precision: torch.dtype) -> dict[str, Tensor]:
    """All weights but those of the head, by the names of our stages."""
    kind = ENCODERS[folder.about["model_type"]]
    settings = settings_of(kind.module, kind.config, folder.about)
    with torch.device("meta"):
        [block, *_] = _blocks(kind, settings) or [nn.Identity()]
    inside = frozenset(name for name, _ in block.named_parameters())
    count = settings.num_hidden_layers
    named = {our_name(kind, theirs, count, inside): theirs for theirs in folder.tensors}
    named.pop("", None)
    return {
        ours: _table(ours, folder.tensors[theirs]).to(precision, copy=True)
        for ours, theirs in named.items()
    }


def _table(ours: str, values: Tensor) -> Tensor:
    """Rows of a table, where folders have them in a tensor of three axes."""
    return values.flatten(0, 1) if ours.startswith("embed.") and values.dim() == 3 else values
