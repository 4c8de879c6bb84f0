"""Pretrained models in a folder of Hugging Face's form: the layers of transformers, cut into
stages. Here are those that continue texts; those that read a text or an image whole are in
`fedlearn.models.encoder_folders`.

The folder gives numbers and settings alone (`fedlearn.models.folders`); every layer is a class of
the installed package transformers. What is between layers there (positions, the causal mask) is
made inside a stage here, so that each maps a tensor to a tensor: the frozen ones are computed once
for every record, and adapters go where `training.lora_stages` and `training.lora_layers` say.

Texts are filled up at the end. A token looks only at those before it, so nothing that is filled
in is ever seen, and there is no other mask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Name, config
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.tables.guess import quoted
from fedlearn.data.texts.folders import PINNED_WEIGHTS, FolderTexts
from fedlearn.models.architectures import (
    ARCHITECTURES,
    Architecture,
    classes_in,
    context_of,
    settings_of,
)
from fedlearn.models.encoder_folders import (
    encoder_network,
    encoder_problems,
    encoder_weights,
    text_problems,
)
from fedlearn.models.encoder_stages import Pool
from fedlearn.models.encoders import ENCODERS
from fedlearn.models.finetune import stages
from fedlearn.models.folders import KEY, Folder, open_folder
from fedlearn.models.forms import PublicBase
from fedlearn.models.model import NAMES, Model, Weights
from fedlearn.models.text import LENGTH
from fedlearn.tasks import ImageInput, Task, TextInput
from fedlearn.tasks.tokens import TokenLogits

_KINDS: Final = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)


@config
class HuggingFaceModel(Model):
    """The model of `folder`, whose weights stay as they are but for what is trained.

    One that continues texts (`task=language`) is trained by `training.finetune=lora`, adapters
    alone, or `last_k`, its last blocks; its vocabulary, which is most of a small model, never is.
    One that reads a text or an image whole gets a new head for the task, and any part is trained.
    """

    kind: Literal["huggingface"] = "huggingface"
    input = (TextInput, ImageInput)
    has_all_weights: ClassVar[bool] = True
    any_length: ClassVar[bool] = True
    folder: Name
    """A folder with config.json and model.safetensors, or `smollm2-135m` or `minilm`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the weights that stay as they are, and of what is computed with them."""
    kept: Literal["fp32", "bf16", "fp16"] = "fp32"
    """How a site keeps what the frozen blocks make of its records."""
    sha256: str = ""
    """Of the weights; filled in at the start of a run, and then to be the same everywhere."""
    pool: Annotated[Pool, Field(exclude_if=lambda pool: pool == "auto")] = "auto"
    """What a new head reads: the `mean` over a record's tokens, or the `first` of them; `auto` is
    the mean of a text's, and the first of an image's, which is its class token."""

    def problems(self, task: Task) -> Iterator[str]:
        """What of the folder does not fit the task, or cannot be built."""
        about = about_of(self.folder)
        kind = about.get("model_type")
        if kind in ENCODERS:
            texts = FolderTexts(self.folder, default_cache(os.environ), KEY)
            yield from encoder_problems(texts, self.folder, task)
            return
        if kind not in ARCHITECTURES:
            yield (
                f"{KEY}={self.folder}: holds a model of type {kind!r}; there are layers for "
                f"{', '.join((*ARCHITECTURES, *ENCODERS))}"
            )
        yield from self._of_continuing(task, about)

    def _of_continuing(self, task: Task, about: Mapping[str, Any]) -> Iterator[str]:
        if not isinstance(task.input, TextInput):
            yield (
                f"{KEY}={self.folder}: reads texts, and the scenario's records are "
                f"{NAMES[type(task.input)]}"
            )
            return
        if not task.next_tokens:
            yield (
                f"model.kind={self.kind}: {self.folder} continues texts, and task={task.kind} asks "
                "for something else; choose task=language, or the folder of a BERT"
            )
        if self.pool != "auto":
            yield f"model.pool={self.pool}: {self.folder} gets no new head; leave it out"
        way_out = f"scenario.tokenizer.folder={quoted(self.folder)}"
        yield from text_problems(self.folder, about, task.input, way_out)

    @property
    def learns_head(self) -> bool:
        """Whether it is a new one: a vocabulary stays as it is."""
        return about_of(self.folder).get("model_type") in ENCODERS

    def square_norm(self, task: Task, finetune: str) -> float | None:
        """Of a new head alone: what it reads has one length."""
        return 1 + LENGTH**2 if finetune == "head" and self.learns_head else None

    def last_width(self, task: Task) -> int:
        """Numbers of a token."""
        about = about_of(self.folder)
        width = about.get("hidden_size", about.get("dim"))  # of DistilBERT
        return width if isinstance(width, int) else 1

    @property
    def starts_pretrained(self) -> bool:
        """Always."""
        return True

    @property
    def keeps(self) -> torch.dtype:
        """As `kept` says."""
        return _KINDS[self.kept]

    def pinned(self) -> Self:
        """The settings with the hash of the weights in the folder.

        Raises:
            ConfigError, DataError: there is no such folder, or it cannot be used.
        """
        if self.sha256:  # compared when the weights are read
            return self
        known = PINNED_WEIGHTS.get(self.folder)
        return replace(self, sha256=known or _hash(self.folder, default_cache(os.environ)))

    def weights(self, cache: Path) -> Weights:
        """All weights of the folder, by the names of our stages.

        Raises:
            ConfigError: they are not those that `sha256` names, or not all there.
            DataError: the pinned model is not cached and cannot be had.
        """
        found = _hash(self.folder, cache)
        if self.sha256 not in ("", found):
            raise ConfigError(
                f"model.sha256={self.sha256}: the weights in {self.folder} are others here: they "
                f"have {found}. Put the folder of the run there, or begin with these "
                "(model.sha256='')"
            )
        return _weights(self.folder, cache, found, self.precision)

    def context(self, task: Task) -> int:
        """As the folder says; as many as a record has where it does not."""
        return context_of(about_of(self.folder), super().context(task))

    def public_base(self, cache: Path) -> PublicBase:
        """The folder, with the licence that its card names."""
        texts = FolderTexts(self.folder, cache, KEY)
        return PublicBase(
            made_of=ARCHITECTURES.get(texts.about["model_type"]),
            about=texts.about,
            path=texts.path,
            name=PurePath(self.folder).name,
            licence=texts.licence,
            sha256=self.sha256 or _hash(self.folder, cache),
        )

    def based_on(self, folder: str) -> Self:
        """The same model of a folder that lies elsewhere."""
        return replace(self, folder=folder)

    def network(self, task: Task) -> nn.Sequential:
        """`int64[batch, length]` -> `TokenLogits`: stages `embed`, `block0` and so on, `head`.

        The last norm is a part of the head: it is not adapted, as that is not. Of a model that
        reads whole records, `[batch, *task.input_shape]` -> `[batch, task.num_outputs]`.
        """
        about = about_of(self.folder)
        if about["model_type"] in ENCODERS:
            texts = FolderTexts(self.folder, default_cache(os.environ), KEY)
            return encoder_network(texts, task, self.pool, _KINDS[self.precision])
        made_of = ARCHITECTURES[about["model_type"]]
        settings = _settings(made_of, about)
        classes = classes_in(made_of.module)
        rotary = None
        if made_of.rotary:
            with torch.device("cpu"):  # its angles are computed, and no weights
                rotary = getattr(classes, made_of.rotary)(settings)
        layers = [
            Block(getattr(classes, made_of.block)(settings, number), rotary)
            for number in range(settings.num_hidden_layers)
        ]
        embed, blocks = Embed(made_of, settings), {f"block{i}": b for i, b in enumerate(layers)}
        tied = embed.word if settings.tie_word_embeddings else None
        head = Head(_norm(made_of, classes, settings), settings, tied)
        return stages(embed=embed, **blocks, head=head).to(_KINDS[self.precision])


class Embed(nn.Module):
    """A vector for every token, and for its place where the model has such."""

    def __init__(self, made_of: Architecture, settings: Any) -> None:
        super().__init__()
        self.word = nn.Embedding(settings.vocab_size, settings.hidden_size)
        rows = settings.max_position_embeddings if made_of.places else 0
        self.place = nn.Embedding(rows, settings.hidden_size) if rows else None

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        """`int64[n, length]` -> `[n, length, width]`; the first token stands at place `start`."""
        found: Tensor = self.word(tokens)
        return found if self.place is None else found + self.place(_places(tokens, start))


class Block(nn.Module):
    """A layer of transformers, with what the whole model would hand to it."""

    def __init__(self, layer: nn.Module, rotary: nn.Module | None) -> None:
        super().__init__()
        self.layer = layer
        # No part of this module: its numbers are constants, and buffers of floats travel.
        self._rotary = (rotary,)

    def forward(self, hidden: Tensor, start: int = 0, **seen: Any) -> Tensor:
        """`[n, length, width]` -> the same, in the precision of the layer's weights.

        The first token stands at place `start`; `seen` is what the layer has kept of those before.
        """
        hidden = hidden.to(next(self.layer.parameters()).dtype)
        if not len(hidden):  # transformers cannot tell the shape of no heads
            return hidden
        [rotary] = self._rotary
        places = _places(hidden, start)
        more = seen if rotary is None else {"position_embeddings": rotary(hidden, places), **seen}
        found: Tensor = self.layer(hidden, attention_mask=None, position_ids=places, **more)
        return found


class Head(nn.Module):
    """The last norm, and the rows of the vocabulary, or those that it is `tied` to. Nothing of
    it learns."""

    def __init__(self, norm: nn.Module, settings: Any, tied: nn.Embedding | None) -> None:
        super().__init__()
        self.norm = norm
        own = nn.Parameter(torch.empty(settings.vocab_size, settings.hidden_size))
        self.weight = tied.weight if tied else own

    def forward(self, hidden: Tensor) -> TokenLogits:
        """`[n, length, width]` -> logits that nobody has written out."""
        low = torch.is_autocast_enabled(hidden.device.type)
        return TokenLogits(self.norm(hidden.to(self.weight.dtype)), self.weight, low=low)


def _places(values: Tensor, start: int) -> Tensor:
    """`int64[1, length]`, from `start`."""
    return torch.arange(start, start + values.shape[1], device=values.device)[None]


# --- what is in a folder --------------------------------------------------------------


def about_of(folder: str) -> Mapping[str, Any]:
    """The config.json of a folder.

    Raises:
        ConfigError, DataError: it cannot be read.
    """
    return FolderTexts(folder, default_cache(os.environ), KEY).about


def _settings(made_of: Architecture, about: Mapping[str, Any]) -> Any:
    """The settings as transformers has them, with an attention that is causal by itself."""
    return settings_of(made_of.module, made_of.config, about)


def _norm(made_of: Architecture, classes: Any, settings: Any) -> nn.Module:
    eps = getattr(settings, made_of.norm_eps)
    kind = getattr(classes, made_of.norm) if made_of.norm else nn.LayerNorm
    found: nn.Module = kind(settings.hidden_size, eps=eps)
    return found


def _hash(folder: str, cache: Path) -> str:
    found = open_folder(folder, cache)
    stamps = tuple((part, part.stat().st_mtime_ns, part.stat().st_size) for part in found.parts)
    return _hash_of(folder, cache, stamps)


@lru_cache(maxsize=8)
def _hash_of(folder: str, cache: Path, stamps: tuple[Any, ...]) -> str:
    """The hash of weights, taken once while files have the same `stamps`."""
    return open_folder(folder, cache).sha256


@lru_cache(maxsize=1)
def _weights(folder: str, cache: Path, sha256: str, precision: str) -> Weights:
    """Read once for all models of a process, none of which writes to them."""
    found = open_folder(folder, cache, size=_KINDS[precision].itemsize)
    kind = _KINDS[precision]
    if found.about["model_type"] in ENCODERS:
        return MappingProxyType(encoder_weights(found, kind))
    made_of = ARCHITECTURES[found.about["model_type"]]
    there = {made_of.ours(theirs): theirs for theirs in found.tensors}
    tensors = {ours: found.tensors[theirs].to(kind, copy=True) for ours, theirs in there.items()}
    tied = _settings(made_of, found.about).tie_word_embeddings
    if tied and "embed.word.weight" in tensors:
        tensors["head.weight"] = tensors["embed.word.weight"]
    return MappingProxyType(_whole(found, tensors))


def _whole(folder: Folder, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    blocks = {name.partition(".")[0] for name in tensors if name.startswith("block")}
    wanted = folder.about.get("num_hidden_layers", folder.about.get("n_layer", 0))
    if len(blocks) < wanted or "embed.word.weight" not in tensors:
        raise ConfigError(
            f"{folder.texts.naming}: its weights are not those of its config.json: there are "
            f"{len(blocks)} of {wanted} blocks; download the folder again"
        )
    return tensors
