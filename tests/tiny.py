"""Tiny language models in folders as transformers writes them, with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

VOCABULARY = 40
KINDS = ("llama", "gpt2", "qwen2", "qwen3", "mistral")
_LLAMAS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def settings_of(kind: str) -> dict[str, Any]:
    """The arguments of a config of transformers."""
    if kind == "gpt2":
        return {
            "vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        }  # fmt: skip
    # Llama as SmolLM2 has it, with one table for both ends; the others have two.
    own = {"tie_word_embeddings": kind == "llama"}
    return _LLAMAS | own | ({"head_dim": 4} if kind == "qwen3" else {})


@cache
def whole_model(kind: str) -> nn.Module:
    """The model as transformers builds it; no weight is one that models begin with."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings_of(kind)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    found: nn.Module = model.eval()
    return found


def save_model(kind: str, folder: Path) -> Path:
    """A folder of that model: config.json and model.safetensors."""
    whole_model(kind).save_pretrained(folder)  # type: ignore[operator]
    return folder
