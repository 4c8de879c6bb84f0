"""Pretrained language models in a folder of Hugging Face's form: the layers of transformers, cut
into stages.

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
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Self

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Name, config
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.texts.folders import PINNED_WEIGHTS, FolderTexts
from fedlearn.models.architectures import ARCHITECTURES, Architecture
from fedlearn.models.finetune import stages
from fedlearn.models.folders import KEY, Folder, open_folder
from fedlearn.models.model import Model, Weights, input_as
from fedlearn.tasks import Task, TextInput
from fedlearn.tasks.tokens import TokenLogits

_KINDS: Final = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
_DROPOUTS: Final = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")


@config
class HuggingFaceModel(Model):
    """A causal language model of `folder`, whose weights stay as they are but for what is trained.

    With `training.finetune=lora` adapters alone are trained and travel; with `last_k` the last
    blocks do. Its vocabulary, which is most of a small model, never does.
    """

    kind: Literal["huggingface"] = "huggingface"
    input = (TextInput,)
    has_all_weights: ClassVar[bool] = True
    learns_head: ClassVar[bool] = False
    folder: Name
    """A folder with config.json and model.safetensors, or `smollm2-135m`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the weights that stay as they are, and of what is computed with them."""
    kept: Literal["fp32", "bf16", "fp16"] = "fp32"
    """How a site keeps what the frozen blocks make of its records."""
    sha256: str = ""
    """Of the weights; filled in at the start of a run, and then to be the same everywhere."""

    def problems(self, task: Task) -> Iterator[str]:
        """What of the folder does not fit the task, or cannot be built."""
        text, about = input_as(TextInput, task), about_of(self.folder)
        if not task.next_tokens:
            yield (
                f"model.kind={self.kind}: continues texts, and task={task.kind} asks for something "
                "else; choose task=language, or model=text"
            )
        kind = about.get("model_type")
        if kind not in ARCHITECTURES:
            yield (
                f"{KEY}={self.folder}: holds a model of type {kind!r}; there are layers for "
                f"{', '.join(ARCHITECTURES)}"
            )
        yield from _of_texts(self.folder, about, text)

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
                f"have {found}. Put the folder of the run there"
            )
        return _weights(self.folder, cache, found, self.precision)

    def network(self, task: Task) -> nn.Sequential:
        """`int64[batch, length]` -> `TokenLogits`: stages `embed`, `block0` and so on, `head`.

        The last norm is a part of the head: it is not adapted, as that is not.
        """
        about = about_of(self.folder)
        made_of = ARCHITECTURES[about["model_type"]]
        settings = _settings(made_of, about)
        classes = _module(made_of)
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

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[n, length]` -> `[n, length, width]`."""
        found: Tensor = self.word(tokens)
        return found if self.place is None else found + self.place(_places(tokens))


class Block(nn.Module):
    """A layer of transformers, with what the whole model would hand to it."""

    def __init__(self, layer: nn.Module, rotary: nn.Module | None) -> None:
        super().__init__()
        self.layer = layer
        # No part of this module: its numbers are constants, and buffers of floats travel.
        self._rotary = (rotary,)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, length, width]` -> the same, in the precision of the layer's weights."""
        hidden = hidden.to(next(self.layer.parameters()).dtype)
        if not len(hidden):  # transformers cannot tell the shape of no heads
            return hidden
        [rotary] = self._rotary
        places = _places(hidden)
        angles = {} if rotary is None else {"position_embeddings": rotary(hidden, places)}
        found: Tensor = self.layer(hidden, attention_mask=None, position_ids=places, **angles)
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


def _places(values: Tensor) -> Tensor:
    """`int64[1, length]`, from 0."""
    return torch.arange(values.shape[1], device=values.device)[None]


# --- what is in a folder --------------------------------------------------------------


def about_of(folder: str) -> Mapping[str, Any]:
    """The config.json of a folder.

    Raises:
        ConfigError, DataError: it cannot be read.
    """
    return FolderTexts(folder, default_cache(os.environ), KEY).about


def _of_texts(folder: str, about: Mapping[str, Any], text: TextInput) -> Iterator[str]:
    """Where records are not what the model reads."""
    if text.tokenizer != folder:
        yield (
            f"{KEY}={folder}: knows the tokens of its own tokenizer, and the records hold those of "
            f"{text.tokenizer or 'a hash'}; set scenario.tokenizer.folder={folder}"
        )
    rows = about.get("vocab_size", 0)
    if text.tokenizer == folder and text.vocabulary > rows:
        yield (
            f"{KEY}={folder}: its tokenizer has {text.vocabulary} tokens and its weights have "
            f"{rows}; take the tokenizer that belongs to the weights"
        )
    names = ["max_position_embeddings", "n_positions"]
    names += ["sliding_window"] if about.get("use_sliding_window", True) else []
    most = min((n for name in names if (n := about.get(name))), default=text.max_length)
    if text.max_length > most:
        yield (
            f"scenario.tokenizer.max_length={text.max_length}: {KEY}={folder} looks at {most} "
            "tokens at the most; set scenario.tokenizer.max_length to that or less"
        )


def _settings(made_of: Architecture, about: Mapping[str, Any]) -> Any:
    """The settings as transformers has them: without dropout, with an attention that is causal by
    itself."""
    settings = getattr(_module(made_of), made_of.config).from_dict(dict(about))
    for name in _DROPOUTS:
        if hasattr(settings, name):
            setattr(settings, name, 0.0)
    settings._attn_implementation = "sdpa"
    return settings


def _norm(made_of: Architecture, classes: Any, settings: Any) -> nn.Module:
    eps = getattr(settings, made_of.norm_eps)
    kind = getattr(classes, made_of.norm) if made_of.norm else nn.LayerNorm
    found: nn.Module = kind(settings.hidden_size, eps=eps)
    return found


@lru_cache(maxsize=8)
def _module(made_of: Architecture) -> Any:
    try:
        return import_module(made_of.module)  # seconds
    except ImportError as error:
        raise ConfigError(
            f"model.kind=huggingface: needs the package transformers ({error}); install it with "
            "pip install 'fedlearn[text]'"
        ) from None


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
    made_of, kind = ARCHITECTURES[found.about["model_type"]], _KINDS[precision]
    there = {ours: theirs for theirs in found.tensors if (ours := _ours(made_of, theirs))}
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


_CONSTANTS: Final = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
"""What folders of older releases hold beside weights."""


def _ours(made_of: Architecture, name: str) -> str:
    """Our name of a tensor; empty for what is no weight of the model."""
    if name == "lm_head.weight":
        return "head.weight"
    part, _, rest = name.removeprefix(made_of.prefix).partition(".")
    if name.endswith(_CONSTANTS):
        return ""
    known = {
        made_of.words: "embed.word.",
        made_of.places: "embed.place.",
        made_of.last_norm: "head.norm.",
    }
    if part == made_of.blocks:
        number, _, rest = rest.partition(".")
        return f"block{number}.layer.{rest}"
    return known[part] + rest if part and part in known else name
