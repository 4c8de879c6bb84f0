"""An index of one's own documents, made and asked where they are.

Documents are read by the public encoder as it is, queries by the model that was tuned
(`fedlearn.models.retriever`): the index stays right when a better model of the same encoder comes,
and says so when one of another encoder does. Nothing of it leaves its folder, which its owner alone
may read: it holds the documents, and their vectors tell nearly as much (Morris et al. 2023, "Text
Embeddings Reveal (Almost) As Much As Text").

A long document is read in pieces that overlap, and is found by the best of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedlearn import models
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import PRIVATE, possible, write_atomically
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, load_vector
from fedlearn.data.texts.json_lines import cell, is_lines, read_objects
from fedlearn.data.texts.pieces import Pieces, pieces_of
from fedlearn.data.texts.tokens import tokenize
from fedlearn.models.model import SearchingModel
from fedlearn.models.retriever import document_reader, query_reader, vectors_of
from fedlearn.prediction import ModelFile
from fedlearn.tasks import SearchTask

SCHEMA: Final = "fedlearn/index/v1"
ABOUT, VECTORS, DOCUMENTS = "index.json", "vectors.safetensors", "documents.jsonl"
_NAMED: Final = ("encoder", "built_from", "tokens", "model", "model_sha256", "base")
_OVERLAP: Final = 4
"""A piece begins with so great a part of the one before it: a quarter."""
_AT_ONCE: Final = 65536
"""Vectors that are compared with a query at a time."""
_SHOWN: Final = 240
"""Characters of a document that an answer shows."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text of one's own, by all of the names that it was given under."""

    ids: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A document that answers a query; `score` is the cosine of its best piece, from -1 to 1."""

    ids: tuple[str, ...]
    score: float
    text: str

    @property
    def beginning(self) -> str:
        """Its first words."""
        words = " ".join(self.text.split())
        return words if len(words) <= _SHOWN else f"{words[:_SHOWN].rstrip()} ..."


@dataclass(frozen=True, kw_only=True)
class SearchModel:
    """What reads queries: `vector`, the trained part of the model that `file` describes."""

    file: ModelFile
    vector: Vector
    cache: Path

    def __post_init__(self) -> None:
        task = self.file.learned.of(self.file.task)
        if not isinstance(task, SearchTask) or not isinstance(self.file.model, SearchingModel):
            raise ConfigError(
                f"task={task.kind}: its model finds no documents; give a run of task=retrieval, "
                "such as experiment=legal_precedents"
            )

    @property
    def task(self) -> SearchTask:
        """What was learned."""
        found = self.file.learned.of(self.file.task)
        assert isinstance(found, SearchTask)  # noqa: S101  (seen when it was made)
        return found

    @property
    def encoder(self) -> SearchingModel:
        """The model before training."""
        found = self.file.model
        assert isinstance(found, SearchingModel)  # noqa: S101
        return found

    def query_vectors(self, queries: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors of length one, `float32[n, width]`, and how many queries were cut off.

        Raises:
            ConfigError, DataError: the encoder is not there, or is another one.
        """
        most, _ = self.task.lengths
        tokenizer = replace(self._tokenizer(), max_length=most)
        tokens = tokenize(tokenizer, queries, self.cache)
        weights = self.encoder.query_weights(self.cache)
        made = models.build(
            self.encoder, self.task, Streams(self.file.seed), self.file.finetune, weights
        )
        load_vector(made.model, self.vector)
        read = query_reader(made.whole().eval(), self.encoder.width())
        with torch.no_grad():
            return read(torch.from_numpy(tokens.ids)).numpy(), tokens.cut

    def _tokenizer(self) -> Any:
        return self.file.scenario.tokenizer  # type: ignore[attr-defined]


def read_documents(path: Path, text: str = "text", name: str = "id") -> tuple[list[Document], int]:
    """The documents in lines of JSON, and how many lines had none.

    Those with the same words are one document with several names; a name that is not given is the
    number of the line.

    Raises:
        DataError: the file cannot be read, has no such key or no text, or a name twice.
    """
    if not is_lines(path):
        raise DataError(
            f"{path}: documents are lines of JSON in a file .jsonl, as "
            f'{{"{name}": "a-17", "{text}": "..."}}'
        )
    rows = read_objects(path, "utf-8")
    if not any(text in row for _, row in rows):
        raise DataError(f"{path}: no line has a key {text!r} (--text)")
    named = [(cell(row.get(name, line)), cell(row.get(text, "")).strip()) for line, row in rows]
    there = [(own, content) for own, content in named if content]
    texts: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    for own, content in there:
        words = " ".join(content.split())
        if taken.setdefault(own, words) != words:
            raise DataError(f"{path}: two documents have the {name} {own!r}; give each its own")
        if own not in (names := texts.setdefault(content, [])):
            names.append(own)
    if not texts:
        raise DataError(f"{path}: no line has a text under {text!r}")
    found = [Document(ids=tuple(names), text=content) for content, names in texts.items()]
    return found, len(named) - len(there)


def pieces_of_text(pieces: Pieces, text: str, most: int) -> list[list[int]]:
    """The ids of a document in pieces of `most` tokens at the most, each between the marks that
    the tokenizer puts at the ends of a text; a piece begins with the last quarter of the one
    before.

    **Guarantees:** every token of the document is in a piece, and a document that fits is one,
    read as a record's is.
    """
    whole, marks = pieces.encode(text), pieces.encode("")
    if len(whole) <= most:
        return [whole]
    lead, end = (marks[:1], marks[1:]) if len(marks) == 2 else ([], [])
    body = whole[len(lead) : len(whole) - len(end)]
    room = most - len(lead) - len(end)
    step = max(1, room - room // _OVERLAP)
    starts = range(0, max(1, len(body) - (room - step)), step)
    return [[*lead, *body[at : at + room], *end] for at in starts]


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Documents with the vectors of their pieces: `float32[n, width]` of length one.

    `owner: int64[n]` is the place of the document that a piece is of; `encoder` is the hash of
    the weights that made the vectors, and `tokens` how many a piece has at the most.
    """

    documents: tuple[Document, ...]
    vectors: NDArray[np.float32]
    owner: NDArray[np.int64]
    encoder: str
    tokens: int
    built_from: str = ""
    """The hash of what the encoder's folder says besides its weights."""
    model: str = ""
    """The folder of the model that asks..."""
    model_sha256: str = ""
    """... the hash of what was trained of it when the index was made..."""
    base: str = ""
    """... and where its encoder lies, if it is not where the model says."""

    @classmethod
    def of(
        cls, documents: Sequence[Document], model: SearchModel, folder: str = "", base: str = ""
    ) -> Index:
        """The index of documents for a model that lies in `folder`, and its encoder in `base`.

        Raises:
            ConfigError, DataError: the encoder is not there, or is another one than in training.
        """
        _, most = model.task.lengths
        model.encoder.query_weights(model.cache)  # refused if it is another one
        found = [
            pieces_of_text(pieces_of(model.encoder.folder, model.cache), one.text, most)
            for one in documents
        ]
        shape = tokenize(replace(model._tokenizer(), max_length=2), [""], model.cache).shape
        rows = [row for pieces in found for row in pieces]
        ids = np.full((len(rows), most), shape.pad_id, np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        reader = document_reader(model.encoder.folder, model.cache)
        return cls(
            documents=tuple(documents),
            vectors=vectors_of(reader, ids, shape.pad_id),
            owner=np.repeat(np.arange(len(found)), [len(pieces) for pieces in found]),
            encoder=model.encoder.pinned().sha256,
            built_from=model.encoder.built_from(),
            tokens=most,
            model=folder,
            model_sha256=model.file.sha256,
            base=base,
        )

    def find(self, query: NDArray[np.float32], most: int) -> list[Hit]:
        """The documents that are nearest to a query's vector, the best first; equals in their
        order."""
        best = np.full(len(self.documents), -np.inf, np.float64)
        for at in range(0, len(self.vectors), _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            np.maximum.at(best, self.owner[some], self.vectors[some] @ query)
        order = np.argsort(-best, kind="stable")[:most]
        return [
            Hit(
                ids=self.documents[place].ids,
                score=float(best[place]),
                text=self.documents[place].text,
            )
            for place in order.tolist()
        ]

    def check(self, model: SearchModel) -> None:
        """Refuse a model whose encoder is not the one that read the documents.

        Raises:
            ConfigError: it is another one, or put together otherwise.
        """
        if model.encoder.pinned().sha256 != self.encoder:
            raise ConfigError(
                f"model.sha256={model.encoder.sha256}: the index was made by an encoder with the "
                f"weights {self.encoder}; make it anew by `fedlearn index`"
            )
        if model.encoder.built_from() != self.built_from:
            raise ConfigError(
                f"model.folder={model.encoder.folder}: config.json is not what it was when the "
                "index was made, so that queries would be read otherwise than documents; put it "
                "back, or make the index anew by `fedlearn index`"
            )

    # --- its folder ---

    def write(self, target: Path) -> None:
        """Into a folder that is not there yet, for its owner alone.

        Raises:
            ConfigError: it is there, or cannot be written.
        """
        if target.exists():
            raise ConfigError(f"--to {target}: exists; choose a folder that does not")
        about = {"schema": SCHEMA, **{name: getattr(self, name) for name in _NAMED}}
        lines = (
            json.dumps({"ids": one.ids, "text": one.text}, ensure_ascii=True)
            for one in self.documents
        )
        with possible("written", f"--to {target}", ConfigError):
            target.mkdir(parents=True, mode=0o700)
            for name, content in (
                (DOCUMENTS, "\n".join(lines).encode()),
                (VECTORS, save({"vectors": self.vectors, "owner": self.owner})),
                (ABOUT, json.dumps(about, indent=1).encode()),
            ):
                write_atomically(target / name, content, PRIVATE)

    @classmethod
    def read(cls, folder: Path) -> Index:
        """What `write` wrote.

        Raises:
            DataError: there is none, or it is damaged.
        """
        try:
            about = json.loads((folder / ABOUT).read_bytes())
            rows = [json.loads(line) for line in (folder / DOCUMENTS).read_bytes().splitlines()]
            arrays = load((folder / VECTORS).read_bytes())
            found = cls(
                documents=tuple(_document(row) for row in rows),
                vectors=arrays["vectors"],
                owner=arrays["owner"],
                **{name: about[name] for name in _NAMED},
            )
        except OSError as error:
            raise DataError(
                f"{folder}: holds no index ({error.strerror}); `fedlearn index` makes one"
            ) from None
        except Exception as error:  # noqa: BLE001  (whatever a damaged file leads to)
            raise DataError(f"{folder}: is damaged ({error}); make it anew") from None
        if problems := list(found._damage(about)):
            raise DataError([f"{folder}: {problem}; make it anew" for problem in problems])
        return found

    def _damage(self, about: dict[str, Any]) -> Iterator[str]:
        if about.get("schema") != SCHEMA:
            yield f"schema is {about.get('schema')!r}; this version reads {SCHEMA!r}"
        texts = [name for name in _NAMED if name != "tokens"]
        if wrong := [name for name in texts if not isinstance(about[name], str)]:
            yield f"no text is under {', '.join(wrong)}"
        if self.vectors.dtype != np.float32 or self.vectors.ndim != 2:
            yield "its vectors are none"
        elif not np.isfinite(self.vectors).all():
            yield "its vectors are not finite"
        places = self.owner
        if places.shape != self.vectors.shape[:1] or places.dtype != np.int64:
            yield "it does not say whose its vectors are"
        elif not np.array_equal(np.unique(places), np.arange(len(self.documents))):
            yield "its vectors are of other documents"


def _document(row: Any) -> Document:
    ids, text = row["ids"], row["text"]
    if not isinstance(text, str) or not all(isinstance(one, str) for one in ids):
        raise TypeError("a document without a text, or a name")
    return Document(ids=tuple(ids), text=text)
