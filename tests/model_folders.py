"""Small folders of language models, in Hugging Face's form: every byte is a token."""

from __future__ import annotations

import json
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


def tiny_model(place: Path, kind: str = "llama", *, seed: int = 0, **sizes: int) -> Path:
    """A folder with random weights: four blocks, 32 numbers wide; `kind` is its `model_type`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": VOCABULARY, "bos_token_id": 257, "eos_token_id": 258}
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    own = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 512}
    if kind == "gpt2":
        own = {"n_positions": 512}
    about = AutoConfig.for_model(kind, **(common | shape | own | sizes))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(about)
    text_folder(place, about=about.to_dict())
    held = {name: values.contiguous() for name, values in model.state_dict().items()}
    if about.tie_word_embeddings:
        held.pop("lm_head.weight", None)
    save_file(held, place / "model.safetensors", {"format": "pt"})
    return place
