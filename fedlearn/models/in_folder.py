"""Models whose pretrained weights lie in a folder of Hugging Face's form: what is the same of all.

A folder is two things: numbers, and a `config.json` that says what is computed with them. Either
of another kind is another model, so the hash of each is a setting, filled in where a run begins
and compared wherever the folder is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Name, config
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.texts.folders import PINNED_WEIGHTS, FolderTexts
from fedlearn.models.architectures import Architecture
from fedlearn.models.folders import KEY, open_folder
from fedlearn.models.forms import PublicBase
from fedlearn.models.model import Model
from fedlearn.models.seq2seq import Seq2SeqKind


@config
class FolderModel(Model):
    """A model that starts from the weights in `folder`."""

    kind: str
    has_all_weights: ClassVar[bool] = True
    folder: Name
    """A folder with config.json and model.safetensors, or the name of a pinned one."""
    sha256: str = ""
    """Of the weights; filled in at the start of a run, and then to be the same everywhere."""
    config_sha256: Annotated[str, Field(exclude_if=lambda known: not known)] = ""
    """Of what the folder says besides (`FolderTexts.sha256`), likewise: the same weights compute
    something else under another config.json. Of a pinned folder every file is compared anyway."""

    @property
    def starts_pretrained(self) -> bool:
        """Always."""
        return True

    def texts(self) -> FolderTexts:
        """What the folder says besides its weights.

        Raises:
            ConfigError, DataError: there is no such folder, or it cannot be used.
        """
        return FolderTexts(self.folder, default_cache(os.environ), KEY)

    def width(self) -> int:
        """Numbers of a token's vector, as the folder says; 1 where it does not."""
        about: Mapping[str, Any] = self.texts().about
        found = about.get("hidden_size", about.get("dim"))  # of DistilBERT
        return found if isinstance(found, int) else 1

    def built_from(self) -> str:
        """The hash of what the folder says besides its weights."""
        return self.texts().sha256

    def pinned(self) -> Self:
        """The settings with the hashes of what is in the folder.

        Raises:
            ConfigError, DataError: there is no such folder, or it cannot be used.
        """
        if self.sha256:  # compared when the weights are read
            return self
        if self.folder in PINNED_WEIGHTS:
            return replace(self, sha256=PINNED_WEIGHTS[self.folder])
        found = weights_hash(self.folder, default_cache(os.environ))
        return replace(self, sha256=found, config_sha256=self.built_from())

    def same(self, cache: Path) -> tuple[str, str]:
        """The hashes of the weights that are there, and of what is said of them.

        Raises:
            ConfigError: they are not those of the run; both, where both are others.
            DataError: the pinned model is not cached and cannot be had.
        """
        found = weights_hash(self.folder, cache), FolderTexts(self.folder, cache, KEY).sha256
        wanted = self.sha256, self.config_sha256
        named = ("sha256", "the weights in"), ("config_sha256", "config.json and its like in")
        if problems := [
            f"model.{key}={run}: {what} {self.folder} are others here: they have {here}. Put the "
            f"folder of the run there, or begin with these (model.{key}='')"
            for (key, what), run, here in zip(named, wanted, found, strict=True)
            if run not in ("", here)
        ]:
            raise ConfigError(problems)
        return found

    def writer(self) -> Architecture | Seq2SeqKind | None:
        """How it is put together, if it is one that writes texts."""
        return None

    def public_base(self, cache: Path) -> PublicBase:
        """The folder, with the licence that its card names."""
        texts = FolderTexts(self.folder, cache, KEY)
        return PublicBase(
            made_of=self.writer(),
            about=texts.about,
            path=texts.path,
            name=PurePath(self.folder).name,
            licence=texts.licence,
            sha256=self.sha256 or weights_hash(self.folder, cache),
        )

    def based_on(self, folder: str) -> Self:
        """The same model of a folder that lies elsewhere."""
        return replace(self, folder=folder)


def weights_hash(folder: str, cache: Path) -> str:
    """The hash of the weights of a folder.

    Raises:
        ConfigError, DataError: there is no such folder, or it cannot be used.
    """
    found = open_folder(folder, cache)
    stamps = tuple((part, part.stat().st_mtime_ns, part.stat().st_size) for part in found.parts)
    return _hash_of(folder, cache, stamps)


@lru_cache(maxsize=8)
def _hash_of(folder: str, cache: Path, stamps: tuple[Any, ...]) -> str:
    """Taken once while files have the same `stamps`."""
    return open_folder(folder, cache).sha256
