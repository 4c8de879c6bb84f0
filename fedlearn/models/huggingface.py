"""Pretrained models in a folder of Hugging Face's form: the layers of transformers, cut into
stages. Those that continue texts are in `fedlearn.models.causal_folders`, those that read a prompt
and write its answer in `fedlearn.models.seq2seq`, those that read a text or an image whole in
`fedlearn.models.encoder_folders`.

The folder gives numbers and settings alone (`fedlearn.models.folders`); every layer is a class of
the installed package transformers. Each stage maps a tensor to a tensor: the frozen ones are
computed once for every record, and adapters go where `training.lora_stages` and
`training.lora_layers` say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import nn

from fedlearn.core.settings import config
from fedlearn.data.tables.guess import quoted
from fedlearn.models.architectures import ARCHITECTURES, Architecture, context_of
from fedlearn.models.causal_folders import causal_network, causal_weights
from fedlearn.models.encoder_folders import (
    encoder_network,
    encoder_problems,
    encoder_weights,
    text_problems,
)
from fedlearn.models.encoder_stages import Pool
from fedlearn.models.encoders import ENCODERS
from fedlearn.models.folders import KEY, open_folder
from fedlearn.models.in_folder import FolderModel
from fedlearn.models.model import NAMES, Weights
from fedlearn.models.seq2seq import (
    SEQ2SEQ,
    Seq2SeqKind,
    seq2seq_network,
    seq2seq_problems,
    seq2seq_weights,
)
from fedlearn.models.text import LENGTH
from fedlearn.tasks import ImageInput, Task, TextInput

_KINDS: Final = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
_WRITERS: Final[Mapping[str, Architecture | Seq2SeqKind]] = MappingProxyType(
    {**ARCHITECTURES, **SEQ2SEQ}
)
"""What writes texts, by `model_type`; its vocabulary is its head."""


@config
class HuggingFaceModel(FolderModel):
    """The model of `folder`, whose weights stay as they are but for what is trained.

    One that writes texts (`task=language`) is trained by `training.finetune=lora`, adapters
    alone, or `last_k`, its last blocks; its vocabulary, which is most of a small model, never is.
    One that reads a text or an image whole gets a new head for the task, and any part is trained.
    """

    kind: Literal["huggingface"] = "huggingface"
    input = (TextInput, ImageInput)
    any_length: ClassVar[bool] = True
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the weights that stay as they are, and of what is computed with them."""
    kept: Literal["fp32", "bf16", "fp16"] = "fp32"
    """How a site keeps what the frozen blocks make of its records."""
    pool: Annotated[Pool, Field(exclude_if=lambda pool: pool == "auto")] = "auto"
    """What a new head reads: the `mean` over a record's tokens, or the `first` of them; `auto` is
    the mean of a text's, and the first of an image's, which is its class token."""

    def problems(self, task: Task) -> Iterator[str]:
        """What of the folder does not fit the task, or cannot be built."""
        texts = self.texts()
        kind = texts.about.get("model_type")
        if kind in ENCODERS:
            yield from encoder_problems(texts, self.folder, task)
            return
        if kind not in _WRITERS:
            yield (
                f"{KEY}={self.folder}: holds a model of type {kind!r}; there are layers for "
                f"{', '.join((*_WRITERS, *ENCODERS))}"
            )
        if kind in SEQ2SEQ:
            yield from seq2seq_problems(texts)
        yield from self._of_writing(task, texts.about)

    def _of_writing(self, task: Task, about: Mapping[str, Any]) -> Iterator[str]:
        if not isinstance(task.input, TextInput):
            yield (
                f"{KEY}={self.folder}: reads texts, and the scenario's records are "
                f"{NAMES[type(task.input)]}"
            )
            return
        if not task.next_tokens:
            yield (
                f"model.kind={self.kind}: {self.folder} writes texts, and task={task.kind} asks "
                "for something else; choose task=language, or the folder of a BERT"
            )
        if self.pool != "auto":
            yield f"model.pool={self.pool}: {self.folder} gets no new head; leave it out"
        way_out = f"scenario.tokenizer.folder={quoted(self.folder)}"
        yield from text_problems(self.folder, about, task.input, way_out)

    @property
    def learns_head(self) -> bool:
        """Whether it is a new one: a vocabulary stays as it is."""
        return self.texts().about.get("model_type") in ENCODERS

    def square_norm(self, task: Task, finetune: str) -> float | None:
        """Of a new head alone: what it reads has one length."""
        return 1 + LENGTH**2 if finetune == "head" and self.learns_head else None

    def last_width(self, task: Task) -> int:
        """Numbers of a token."""
        return self.width()

    def absolute_sum(self, task: Task) -> float:
        """Of features of one length, as of normal ones."""
        return LENGTH * math.sqrt(2 / math.pi * self.last_width(task))

    @property
    def keeps(self) -> torch.dtype:
        """As `kept` says."""
        return _KINDS[self.kept]

    def weights(self, cache: Path) -> Weights:
        """All weights of the folder, by the names of our stages.

        Raises:
            ConfigError: they are not those of the run, or not all there.
            DataError: the pinned model is not cached and cannot be had.
        """
        return _weights(self.folder, cache, self.same(cache), self.precision)

    def context(self, task: Task) -> int:
        """As the folder says; as many as a record has where it does not."""
        return context_of(self.texts().about, super().context(task))

    def writer(self) -> Architecture | Seq2SeqKind | None:
        """How it is put together, if it writes texts."""
        return _WRITERS.get(self.texts().about["model_type"])

    def network(self, task: Task) -> nn.Sequential:
        """`int64[batch, length]` -> `TokenLogits`, of a model that writes texts.

        Of one that reads whole records, `[batch, *task.input_shape]` ->
        `[batch, task.num_outputs]`.
        """
        texts = self.texts()
        kind, precision = texts.about["model_type"], _KINDS[self.precision]
        if kind in ENCODERS:
            return encoder_network(texts, task, self.pool, precision)
        of_kind = seq2seq_network if kind in SEQ2SEQ else causal_network
        return of_kind(texts, precision)


@lru_cache(maxsize=1)
def _weights(folder: str, cache: Path, known_by: tuple[str, str], precision: str) -> Weights:
    """Read once for all models of a process that are `known_by` the same hashes, none of which
    writes to them."""
    kind = _KINDS[precision]
    found = open_folder(folder, cache, size=kind.itemsize)
    model_type = found.about["model_type"]
    if model_type in ENCODERS:
        return MappingProxyType(encoder_weights(found, kind))
    of_kind = seq2seq_weights if model_type in SEQ2SEQ else causal_weights
    return MappingProxyType(of_kind(found, kind))
