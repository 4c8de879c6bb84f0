"""How kinds of language models are put together, by the names that transformers and folders use.

A kind is one entry of `ARCHITECTURES`: whose layers map hidden states to hidden states, with a
causal attention of their own and no numbers beside weights, it takes no code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar, Final

from fedlearn.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one kind of model is put together, by the names that transformers and folders use."""

    module: str
    """Where its classes are."""
    peft_task: ClassVar = "CAUSAL_LM"
    auto_class: ClassVar = "AutoModelForCausalLM"
    pipeline: ClassVar = "text-generation"
    config: str
    block: str
    norm: str
    rotary: str = ""
    """What makes the angles of positions; empty where positions have vectors of their own."""
    prefix: str
    """Of all names in a folder but that of the head; some folders leave it out."""
    words: str
    places: str = ""
    blocks: str
    last_norm: str
    norm_eps: str

    def ours(self, name: str) -> str:
        """What our stages call a tensor of a folder."""
        if name == "lm_head.weight":
            return "head.weight"
        part, _, rest = name.removeprefix(self.prefix).partition(".")
        known = {
            self.words: "embed.word.",
            self.places: "embed.place.",
            self.last_norm: "head.norm.",
        }
        if part == self.blocks:
            number, _, rest = rest.partition(".")
            return f"block{number}.layer.{rest}"
        return known[part] + rest if part and part in known else name

    def theirs(self, name: str) -> str:
        """What transformers calls the tensor, or the layer, that our stages call `name`."""
        stage, _, rest = name.partition(".")
        if stage.startswith("block"):
            number = stage.removeprefix("block")
            return f"{self.prefix}{self.blocks}.{number}.{rest.removeprefix('layer.')}"
        if name == "head.weight":
            return "lm_head.weight"
        known = {"word": self.words, "place": self.places, "norm": self.last_norm}
        part, _, rest = rest.partition(".")
        return f"{self.prefix}{known[part]}.{rest}"


def _like_llama(name: str, of: str) -> Architecture:
    return Architecture(
        module=f"transformers.models.{name}.modeling_{name}",
        config=f"{of}Config",
        block=f"{of}DecoderLayer",
        norm=f"{of}RMSNorm",
        rotary=f"{of}RotaryEmbedding",
        prefix="model.",
        words="embed_tokens",
        blocks="layers",
        last_norm="norm",
        norm_eps="rms_norm_eps",
    )


ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        "llama": _like_llama("llama", "Llama"),
        "mistral": _like_llama("mistral", "Mistral"),
        "qwen2": _like_llama("qwen2", "Qwen2"),
        "qwen3": _like_llama("qwen3", "Qwen3"),
        "gpt2": Architecture(
            module="transformers.models.gpt2.modeling_gpt2",
            config="GPT2Config",
            block="GPT2Block",
            norm="",
            prefix="transformer.",
            words="wte",
            places="wpe",
            blocks="h",
            last_norm="ln_f",
            norm_eps="layer_norm_epsilon",
        ),
    }
)
"""By `model_type` of a folder's config.json."""


_DROPOUTS: Final = (
    *("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"),
    *("dropout", "dropout_rate", "hidden_dropout_prob", "attention_probs_dropout_prob"),
)


def context_of(about: Mapping[str, Any], otherwise: int) -> int:
    """Tokens that a model looks at, at the most, by its config.json: of prompt and answer together,
    of which a model that reads them apart has as many each."""
    names = ["max_position_embeddings", "n_positions"]
    names += ["sliding_window"] if about.get("use_sliding_window", True) else []
    if not (found := [*counts_in(about, *names)]):
        return otherwise
    return 2 * min(found) if about.get("is_encoder_decoder") is True else min(found)


def counts_in(about: Mapping[str, Any], *names: str) -> Iterator[int]:
    """Those of some settings that are counts: a file may hold anything."""
    for name in names:
        if isinstance(found := about.get(name), int) and found > 0:
            yield found


def settings_of(module: str, config: str, about: Mapping[str, Any]) -> Any:
    """The settings as transformers has them: without dropout, with torch's attention.

    Raises:
        ConfigError: the package is not installed, or the settings are none of such a model.
    """
    kind = getattr(classes_in(module), config)
    try:
        settings = kind.from_dict(dict(about))
    except Exception as error:  # noqa: BLE001  # of its own kinds, and of what checks for it
        raise ConfigError(f"model.folder: config.json is none of a {config} ({error})") from None
    for name in _DROPOUTS:
        if hasattr(settings, name):
            setattr(settings, name, 0.0)
    settings._attn_implementation = "sdpa"
    return settings


@lru_cache(maxsize=16)
def classes_in(module: str) -> Any:
    """A module of transformers.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return import_module(module)  # seconds
    except ImportError as error:
        raise ConfigError(
            f"model.kind=huggingface: needs the package transformers ({error}); install it with "
            "pip install 'fedlearn[text]'"
        ) from None
