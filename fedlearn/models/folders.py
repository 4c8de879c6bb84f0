"""Folders of pretrained models, as Hugging Face writes them: what is in one, and its weights.

JSON and safetensors are read, nothing else: no code of the folder is run and nothing is
unpickled. What a model takes of memory is asked before a number of it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedlearn.core.errors import ConfigError, collected, refuse, some
from fedlearn.core.files import possible
from fedlearn.data import memory
from fedlearn.data.texts.folders import FolderTexts

KEY: Final = "model.folder"
BYTES: Final = 4
"""Of a number in memory, where nobody says otherwise."""

CONSTANTS: Final = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".position_ids")
"""How names end of what folders of older releases hold beside weights."""

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_OTHER_FORMS: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")


class Tensors(Mapping[str, Tensor]):
    """The weights of a folder by name, each read when it is asked for."""

    def __init__(self, parts: Mapping[str, Path]) -> None:
        self._parts = dict(sorted(parts.items()))
        self._open: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        path = self._parts[name]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        found: Tensor = self._open[path].get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Folder:
    """A model in a folder; `parameters` is how many numbers its weights are."""

    path: Path
    about: Mapping[str, Any]
    """Its `config.json`."""
    tensors: Tensors
    parameters: int
    texts: FolderTexts
    parts: tuple[Path, ...]
    """The files of its weights."""

    @property
    def tokenizer_json(self) -> str:
        """Its tokenizer, as the package `tokenizers` reads it."""
        return self.texts.tokenizer_json

    @property
    def chat_template(self) -> str:
        """The template that turns a conversation into text; empty where the model has none."""
        return self.texts.chat_template

    @cached_property
    def sha256(self) -> str:
        """What tells its weights from others: of the file, or of those of all its parts."""
        hashes = []
        for part in self.parts:
            with part.open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        return (
            hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        )


def open_folder(where: str, cache: Path, *, size: int = BYTES) -> Folder:
    """The model in the folder `where`, or the pinned one of that name; no weight is read yet.

    Args:
        where: a folder, or a name of `fedlearn.data.texts.folders.PINNED`.
        cache: the folder that archives are kept in.
        size: bytes that a number will take in memory.

    Raises:
        ConfigError: it has no weights in safetensors, or not all of them, or quantised ones; it
            needs code of its own; it would not fit into memory. All of these, by `model.folder`.
        DataError: the pinned model is not cached and cannot be had.
    """
    texts = FolderTexts(where, cache, KEY)
    problems = list(_unfit(texts))
    parts: Mapping[str, Path] = {}
    shapes: dict[str, int] = {}
    with collected(problems):
        parts = {n: p for n, p in _parts_of(texts).items() if not n.endswith(CONSTANTS)}
        shapes = _shapes(texts, parts)
    parameters = sum(shapes.values())
    refuse([*problems, *_too_large(texts.naming, parameters * size, size)], ConfigError)
    return Folder(
        path=texts.path,
        about=texts.about,
        tensors=Tensors(parts),
        parameters=parameters,
        texts=texts,
        parts=tuple(sorted(set(parts.values()))),
    )


def _unfit(texts: FolderTexts) -> Iterator[str]:
    if not isinstance(texts.about.get("model_type"), str):
        yield f"{texts.naming}: config.json names no model_type, so nothing says what it is"
    if texts.about.get("quantization_config"):
        yield (
            f"{texts.naming}: its weights are quantised (quantization_config), which cannot be "
            "trained; take the model that it was made from, in float32, float16 or bfloat16"
        )


def _too_large(naming: str, needed: int, size: int) -> Iterator[str]:
    there = memory.installed()
    if needed > there:
        yield (
            f"{naming}: its {needed // size / 1e6:,.0f} million parameters take "
            f"{memory.gigabytes(needed)} of memory, and there are {memory.gigabytes(there)}; a "
            f"model of at most {there // size / 1e6:,.0f} million parameters fits here"
        )


def _parts_of(texts: FolderTexts) -> Mapping[str, Path]:
    """The file of every tensor."""
    if (texts.path / _INDEX).is_file():
        return _indexed(texts)
    path = texts.path / _WHOLE
    if not path.is_file():
        others = sorted(p.name for form in _OTHER_FORMS for p in texts.path.glob(form))
        there = f"there are {some(others, 3)}, which are not read" if others else "nor any other"
        raise ConfigError(
            f"{texts.naming}: has no {_WHOLE} ({there}); with transformers, "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder) writes it "
            "(AutoModelForSeq2SeqLM of a T5, AutoModel where texts or images are read whole), on "
            "a machine of somebody who trusts the folder"
        )
    return dict.fromkeys(_names_in(texts, path), path)


def _indexed(texts: FolderTexts) -> Mapping[str, Path]:
    try:
        found = json.loads((texts.path / _INDEX).read_bytes()).get("weight_map")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{texts.naming}: {_INDEX} cannot be read ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(n, str) for n in found.values()):
        raise ConfigError(f"{texts.naming}: {_INDEX} has no weight_map of names")
    files = sorted(set(found.values()))
    if outside := [name for name in files if Path(name).name != name]:
        raise ConfigError(f"{texts.naming}: {_INDEX} names files elsewhere: {some(outside, 3)}")
    with possible("read", texts.naming, ConfigError):  # a name may be longer than one can be
        missing = [name for name in files if not (texts.path / name).is_file()]
    if missing:
        raise ConfigError(
            f"{texts.naming}: {len(missing)} of {len(files)} parts of its weights are missing: "
            f"{some(missing, 3)}; download the folder again"
        )
    held = {file: set(_names_in(texts, texts.path / file)) for file in files}
    if absent := [name for name, file in found.items() if name not in held[file]]:
        raise ConfigError(
            f"{texts.naming}: its parts lack {len(absent)} of the weights that {_INDEX} names: "
            f"{some(absent, 3)}; download the folder again"
        )
    return {name: texts.path / file for name, file in found.items()}


def _names_in(texts: FolderTexts, path: Path) -> list[str]:
    with possible("read", path, ConfigError):
        try:
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        except SafetensorError as error:
            raise ConfigError(f"{texts.naming}: {path.name} is damaged ({error})") from None


def _shapes(texts: FolderTexts, parts: Mapping[str, Path]) -> dict[str, int]:
    """How many numbers every tensor has.

    Raises:
        ConfigError: some are no floats.
    """
    sizes: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for path in sorted(set(parts.values())):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                if name in parts:
                    piece = file.get_slice(name)
                    sizes[name], kinds[name] = math.prod(piece.get_shape()), piece.get_dtype()
    if strange := sorted({kind for kind in kinds.values() if kind not in _FLOATS}):
        raise ConfigError(
            f"{texts.naming}: has weights of {', '.join(strange)}, which cannot be trained; take "
            "the model in float32, float16 or bfloat16"
        )
    return sizes
