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
"""All that continue texts that there are layers for."""
APART: Final = ("t5", "mt5")
"""All that read a prompt and write its answer; a T5 here has one table for both ends, an mT5 a
vocabulary of its own and blocks with gates. Far from where they begin their answers are steep."""


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
    if kind in APART:
        return _settings_apart(kind) | sizes
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


def _settings_apart(kind: str) -> dict[str, Any]:
    """Two blocks to read and three to write."""
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3}
    common = {"vocab_size": VOCABULARY, "pad_token_id": 256, "eos_token_id": 258, "num_heads": 4}
    near = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
    own = {"decoder_start_token_id": 256, "feed_forward_proj": "relu"}
    if kind == "mt5":
        own |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return common | shape | near | own


@cache
def random_model(kind: str, *, seed: int = 0, moved: float = 0.2, **sizes: int) -> Any:
    """The model as transformers builds it, each weight `moved` from where models begin."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        about = transformers.AutoConfig.for_model(kind, **settings_of(kind, **sizes))
        model = auto_class(kind).from_config(about)
        if kind == "mt5":  # a folder's vocabulary is its own, whatever a release makes anew
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(moved * torch.randn_like(parameter))
    return model.eval()


def auto_class(kind: str) -> Any:
    """The class of transformers that loads such a model."""
    import transformers

    name = "AutoModelForSeq2SeqLM" if kind in APART else "AutoModelForCausalLM"
    return getattr(transformers, name)


def tiny_model(
    place: Path, kind: str = "llama", *, seed: int = 0, moved: float = 0.0, **sizes: int
) -> Path:
    """A folder of such a model with a tokenizer and a chat template; `kind` is its `model_type`."""
    model = random_model(kind, seed=seed, moved=moved, **sizes)
    about, held = model.config.to_dict(), model.state_dict()
    if kind in APART:
        about |= {"tie_word_embeddings": kind == "t5", "n_positions": 512}
        held = {name: values for name, values in held.items() if "embed_tokens" not in name}
    else:  # in any spelling
        about["max_position_embeddings"] = model.config.max_position_embeddings
    # A tokenizer of bytes is none of those that transformers has for a T5.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} if kind in APART else {}
    text_folder(place, about=about, settings=settings)
    held = {name: values.contiguous() for name, values in held.items()}
    if about["tie_word_embeddings"]:
        held.pop("lm_head.weight", None)
    save_file(held, place / "model.safetensors", {"format": "pt"})
    return place
