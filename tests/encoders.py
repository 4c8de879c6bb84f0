"""Tiny encoders in folders as transformers writes them, with random weights and real tokenizers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

PIECES: Final = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *(
        "the",
        "licence",
        "License",
        "license",
        "##s",
        "##d",
        "un",
        "##aff",
        "##able",
        "ends",
        "Ends",
    ),
    *("a", "á", "b", "##a", "##b", "!", "中", "国", "合", "同", "##国", "e", "é", "É", "E", "Ends"),
]
TEXTS: Final = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
KINDS: Final = (*TEXTS, "vit")
SIDE: Final = 8
_BERT: dict[str, Any] = {
    "vocab_size": len(PIECES),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 34,
    "pad_token_id": 0,
}


def settings_of(kind: str) -> dict[str, Any]:
    """The arguments of a config of transformers."""
    if kind == "distilbert":
        own = {"dim": 16, "n_layers": 3, "n_heads": 4, "hidden_dim": 24}
        return {"vocab_size": len(PIECES), "max_position_embeddings": 34, "pad_token_id": 0} | own
    if kind == "vit":
        sizes = {"image_size": SIDE, "patch_size": 4, "num_channels": 3}
        return {k: v for k, v in _BERT.items() if k not in ("vocab_size", "pad_token_id")} | sizes
    if kind == "bert":  # of the form that `model=text` knows
        return _BERT | {"max_position_embeddings": 512, "intermediate_size": 64}
    return _BERT | {"pad_token_id": 1, "type_vocab_size": 1}


@cache
def whole_encoder(kind: str) -> nn.Module:
    """The model as transformers builds it, with a head of another task; no weight is one that
    models begin with."""
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForMaskedLM

    made = AutoModelForImageClassification if kind == "vit" else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        model = made.from_config(AutoConfig.for_model(kind, **settings_of(kind)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    found: nn.Module = model.eval()
    return found


def save_encoder(kind: str, folder: Path, **stated: Any) -> Path:
    """A folder of that model; `stated` is of its tokenizer's settings, or of its images'."""
    whole_encoder(kind).save_pretrained(folder)  # type: ignore[operator]
    if kind == "vit":
        _write(folder / "preprocessor_config.json", prepared(**stated))
    elif kind in ("bert", "distilbert"):
        (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
        _write(folder / "tokenizer_config.json", {"do_lower_case": True, **stated})
    else:
        byte_pairs().save(str(folder / "tokenizer.json"))
        _write(folder / "tokenizer_config.json", {"pad_token": "<pad>", **stated})
    return folder


def prepared(**stated: Any) -> dict[str, Any]:
    """What a preprocessor_config.json says."""
    size = {"height": SIDE, "width": SIDE}
    return {
        "do_resize": True, "size": size, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.2, 0.1],
    } | stated  # fmt: skip


def byte_pairs() -> Tokenizer:
    """A tokenizer as RoBERTa has it, of so many tokens as the list of pieces has."""
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = list("abcdefghilnorstu,.! ")[: len(PIECES) - len(marks) - 3]
    byte_of = {" ": "Ġ"}
    known = [*marks, *(byte_of.get(one, one) for one in letters), "th", "the", "Ġthe"]
    made = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(known)},
            [("t", "h"), ("th", "e"), ("Ġ", "the")],
            unk_token="<unk>",  # no password
        )
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(marks)
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return made


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
