"""Models that continue texts, in a folder of Hugging Face's form: their layers and their weights.

What is between layers in transformers (positions, the causal mask) is made inside a stage here, so
that each maps a tensor to a tensor. Texts are filled up at the end: a token looks only at those
before it, so nothing that is filled in is ever seen, and there is no other mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.models.architectures import ARCHITECTURES, Architecture, classes_in, settings_of
from fedlearn.models.finetune import stages
from fedlearn.models.folders import Folder
from fedlearn.tasks.tokens import TokenLogits


def causal_network(texts: FolderTexts, precision: torch.dtype) -> nn.Sequential:
    """`int64[n, length]` -> `TokenLogits`: stages `embed`, `block0` and so on, `head`.

    The last norm is a part of the head: it is not adapted, as that is not.

    Raises:
        ConfigError: its settings are none of such a model.
    """
    made_of = ARCHITECTURES[texts.about["model_type"]]
    settings = _settings(made_of, texts.about)
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
    return stages(embed=embed, **blocks, head=head).to(precision)


def causal_weights(folder: Folder, precision: torch.dtype) -> dict[str, Tensor]:
    """All weights, by the names of our stages.

    Raises:
        ConfigError: blocks or words are not there.
    """
    made_of = ARCHITECTURES[folder.about["model_type"]]
    there = {made_of.ours(theirs): theirs for theirs in folder.tensors}
    tensors = {
        ours: folder.tensors[theirs].to(precision, copy=True) for ours, theirs in there.items()
    }
    tied = _settings(made_of, folder.about).tie_word_embeddings
    if tied and "embed.word.weight" in tensors:
        tensors["head.weight"] = tensors["embed.word.weight"]
    return _whole(folder, tensors)


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


def _settings(made_of: Architecture, about: Mapping[str, Any]) -> Any:
    """The settings as transformers has them, with an attention that is causal by itself."""
    return settings_of(made_of.module, made_of.config, about)


def _norm(made_of: Architecture, classes: Any, settings: Any) -> nn.Module:
    eps = getattr(settings, made_of.norm_eps)
    kind = getattr(classes, made_of.norm) if made_of.norm else nn.LayerNorm
    found: nn.Module = kind(settings.hidden_size, eps=eps)
    return found


def _whole(folder: Folder, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    blocks = {name.partition(".")[0] for name in tensors if name.startswith("block")}
    wanted = folder.about.get("num_hidden_layers", folder.about.get("n_layer", 0))
    if len(blocks) < wanted or "embed.word.weight" not in tensors:
        raise ConfigError(
            f"{folder.texts.naming}: its weights are not those of its config.json: there are "
            f"{len(blocks)} of {wanted} blocks; download the folder again"
        )
    return tensors
