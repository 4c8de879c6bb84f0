"""Small language models in folders of Hugging Face's form, with random weights: every byte is a
token, unless a test wants weights alone."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PAD, START, END = "<pad>", "<s>", "</s>"
TEMPLATE: Final = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
VOCABULARY: Final = 259
KINDS: Final = ("llama", "gpt2", "qwen2", "qwen3", "mistral")
"""All that there are layers for."""


def byte_tokenizer(*controls: str) -> Tokenizer:
    """The 256 bytes, then control tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(control, normalized=False) for control in controls])
    return made


def text_folder(
    place: Path,
    *,
    about: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A folder without weights; `about` and `settings` are added to its two files of JSON."""
    place.mkdir(parents=True, exist_ok=True)
    made = byte_tokenizer(PAD, START, END) if tokenizer is None else tokenizer
    made.save(str(place / "tokenizer.json"))
    tokens = {"pad_token": PAD, "bos_token": START, "eos_token": END, "chat_template": TEMPLATE}
    config = {"model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 512}
    for name, content in (
        ("config.json", config | (about or {})),
        ("tokenizer_config.json", tokens | (settings or {})),
    ):
        (place / name).write_text(json.dumps(content), encoding="utf-8")
    return place


def settings_of(kind: str, **sizes: int) -> dict[str, Any]:
    """The settings of a model as transformers has them: four blocks, 32 numbers wide."""
    common = {"vocab_size": VOCABULARY, "pad_token_id": 256, "bos_token_id": 257}
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    own = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 512}
    if kind == "gpt2":
        own = {"n_positions": 512}
    if kind == "qwen3":
        own["head_dim"] = 4
    # Llama as SmolLM2 has it, with one table for both ends, and GPT-2; the others have two.
    tied = {"tie_word_embeddings": kind in ("llama", "gpt2")}
    return common | {"eos_token_id": 258} | shape | own | tied | sizes


@cache
def random_model(kind: str, *, seed: int = 0, moved: float = 0.2, **sizes: int) -> Any:
    """The model as transformers builds it, each weight `moved` from where models begin."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        about = AutoConfig.for_model(kind, **settings_of(kind, **sizes))
        model = AutoModelForCausalLM.from_config(about)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(moved * torch.randn_like(parameter))
    return model.eval()


def tiny_model(
    place: Path, kind: str = "llama", *, seed: int = 0, moved: float = 0.0, **sizes: int
) -> Path:
    """A folder of such a model with a tokenizer and a chat template; `kind` is its `model_type`."""
    model = random_model(kind, seed=seed, moved=moved, **sizes)
    places = {"max_position_embeddings": model.config.max_position_embeddings}  # in any spelling
    text_folder(place, about=model.config.to_dict() | places)
    held = {name: values.contiguous() for name, values in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        held.pop("lm_head.weight", None)
    save_file(held, place / "model.safetensors", {"format": "pt"})
    return place
