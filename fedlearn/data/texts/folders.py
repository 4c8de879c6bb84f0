"""Folders of pretrained language models, as Hugging Face writes them: what is read as text.

Of such a folder JSON and a template are read here, weights in `fedlearn.models.folders`: as
data, all of it. Not a line of code in it is run and nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fedlearn.core.errors import ConfigError, collected, refuse
from fedlearn.core.files import possible
from fedlearn.data.datasets import minilm, smollm2

PINNED: Final[Mapping[str, Callable[[Path], Path]]] = MappingProxyType(
    {smollm2.SMOLLM2: smollm2.smollm2_folder, minilm.MINILM: minilm.minilm_folder}
)
"""Public models that are fetched by name, and what makes their folder out of a cache."""

_LICENCES: Final[Mapping[str, str]] = MappingProxyType(
    {smollm2.SMOLLM2: "apache-2.0", minilm.MINILM: "apache-2.0"}
)

PINNED_WEIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {smollm2.SMOLLM2: smollm2.WEIGHTS_SHA256, minilm.MINILM: minilm.WEIGHTS_SHA256}
)
"""The hash of the weights of each, which is known before anything is fetched."""

TOKENIZER: Final = "tokenizer.json"
_LICENCE: Final = re.compile(r"^license:[ \t]*['\"]?([\w.+-]{1,60})['\"]?[ \t]*$", re.MULTILINE)
_ABOUT, _SETTINGS, _TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
_PREPARED = "preprocessor_config.json"


def folder_of(where: str, cache: Path) -> Path:
    """Where the model that `where` names lies: a folder, or that of a pinned model.

    Raises:
        DataError: the pinned model is not cached and cannot be had.
    """
    return PINNED[where](cache) if where in PINNED else Path(where)


class FolderTexts:
    """The texts of a folder; `key` is the setting that named it, in messages.

    Raises:
        ConfigError: there is no folder, or code of its own is needed to read what is in it.
    """

    def __init__(self, where: str, cache: Path, key: str) -> None:
        self._where = where
        self.path, self.naming = folder_of(where, cache), f"{key}={where}"
        with possible("read", self.naming, ConfigError):
            there = self.path.is_dir()
        if not there:
            raise ConfigError(
                f"{self.naming}: there is no such folder; give one with {_ABOUT}, {TOKENIZER} and "
                f"model.safetensors, or {' or '.join(PINNED)}"
            )
        problems: list[str] = []
        with collected(problems):
            self.about: Mapping[str, Any] = self._object(_ABOUT)
        with collected(problems):
            self.settings: Mapping[str, Any] = self._object(_SETTINGS, needed=False)
        refuse([*problems, *([] if problems else self._code())], ConfigError)

    def _code(self) -> Iterator[str]:
        for name, found in ((_ABOUT, self.about), (_SETTINGS, self.settings)):
            if found.get("auto_map"):
                yield (
                    f"{self.naming}: {name} asks for code that comes with the folder (auto_map), "
                    "and none is run; take a model whose code is part of transformers"
                )

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer, as the package `tokenizers` reads it.

        Raises:
            ConfigError: the folder has none in this form.
        """
        if not (self.path / TOKENIZER).is_file():
            raise ConfigError(
                f"{self.naming}: has no {TOKENIZER}; with transformers, "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it"
            )
        return self._text(TOKENIZER)

    @property
    def tokenizer_sha256(self) -> str:
        """What tells two tokenizers apart, in hexadecimal digits."""
        return hashlib.sha256(self.tokenizer_json.encode()).hexdigest()

    @property
    def chat_template(self) -> str:
        """The template that turns a conversation into text; empty where the model has none."""
        if (self.path / _TEMPLATE).is_file():
            return self._text(_TEMPLATE)
        found = self.settings.get("chat_template", "")
        if isinstance(found, list):  # several by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default", "")
        return found if isinstance(found, str) else ""

    @property
    def preparation(self) -> Mapping[str, Any]:
        """How the images of a model are prepared; empty where the folder does not say."""
        return self._object(_PREPARED, needed=False)

    @property
    def sha256(self) -> str:
        """What tells models of the same weights apart: how they are put together, and read."""
        both = [self.about, self.preparation]
        return hashlib.sha256(json.dumps(both, sort_keys=True).encode()).hexdigest()

    @property
    def licence(self) -> str:
        """What the model's card says in its head, as `apache-2.0`; empty where it says nothing."""
        if self._where in _LICENCES:
            return _LICENCES[self._where]
        card = self.path / "README.md"
        if not card.is_file():
            return ""
        with possible("read", card, ConfigError):
            head = card.read_text(encoding="utf-8", errors="replace").split("---")[:2]
        found = _LICENCE.search(head[1] if len(head) == 2 and not head[0].strip() else "")
        return found[1] if found else ""

    def token(self, role: str) -> str:
        """The token that the settings of the tokenizer have for a role, as `eos_token`."""
        found = self.settings.get(role)
        if isinstance(found, dict):
            found = found.get("content")
        # JSON can hold half a character.
        return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""

    def _text(self, name: str) -> str:
        with possible("read", self.path / name, ConfigError):
            content = (self.path / name).read_bytes()
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{self.naming}: {name} is not UTF-8") from None

    def _object(self, name: str, *, needed: bool = True) -> Mapping[str, Any]:
        if not (self.path / name).is_file():
            if not needed:
                return {}
            raise ConfigError(f"{self.naming}: has no {name}; {_what_it_is(self.path)}")
        try:
            found = json.loads(self._text(name))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.naming}: {name} is no JSON ({error})") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{self.naming}: {name} holds no JSON object")
        return found


def _what_it_is(path: Path) -> str:
    if (path / "adapter_config.json").is_file():
        return (
            "it holds adapters alone; merge them into their model (PeftModel.merge_and_unload) "
            "and save that"
        )
    return "save the model with transformers' save_pretrained(folder)"
