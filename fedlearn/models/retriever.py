"""Model `retriever`: an encoder for search, of which only the reading of queries learns.

A record is a query and, after it, its document (`fedlearn.tasks.retrieval`). The encoder of a
folder in Hugging Face's form reads both. Documents, a record's own and the public ones, are read by
it as it is: their vectors are computed once and never change. A query goes through the same
encoder, whose last blocks, or adapters in them, are trained.

Between its stages a record is `[n, query tokens + 1, width + 1]`: the last row is the vector of
the document, which no block touches; the last column is 1 where a query has a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.settings import Count, Name, config
from fedlearn.data.datasets.minilm import MINILM
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.public import PUBLIC, public_documents
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.models.encoder_folders import encoder_problems, encoder_reader, encoder_weights
from fedlearn.models.encoders import ENCODERS
from fedlearn.models.finetune import stages
from fedlearn.models.folders import KEY, open_folder
from fedlearn.models.in_folder import FolderModel
from fedlearn.models.model import SearchingModel, Weights, input_as
from fedlearn.tasks import SearchTask, Task, TextInput

_BATCH: Final = 32
_TOWER: Final = "documents.tower."


@config
class Retriever(FolderModel, SearchingModel):
    """The encoder of `folder`; documents keep the vectors that it has for them from the start.

    Trained by `training.finetune=last_k`, whose last stage is the map of a query's vector and the
    ones before it are the encoder's last blocks, or by `lora`, adapters in so many stages.
    """

    kind: Literal["retriever"] = "retriever"
    input = (TextInput,)
    folder: Name = MINILM
    """A folder with config.json and model.safetensors of a BERT and kin, or `minilm`."""
    public: Literal["contracts"] = "contracts"
    """The documents that everybody knows: what a query is told from."""
    public_tokens: Count = 128
    """Of each of them, at the most; as many as of a record's document."""

    def problems(self, task: Task) -> Iterator[str]:
        """What of the folder, or of the public documents, does not fit the task."""
        texts = self.texts()
        kind = texts.about.get("model_type")
        known = [name for name, one in ENCODERS.items() if one.reads is TextInput]
        if kind not in known:
            yield (
                f"{KEY}={self.folder}: holds a model of type {kind!r}; model.kind=retriever reads "
                f"{', '.join(known)}"
            )
            return
        if not isinstance(task, SearchTask):
            return
        query, document = task.lengths
        longest = replace(input_as(TextInput, task), max_length=max(query, document))
        yield from encoder_problems(texts, self.folder, task.on(longest))
        if self.public_tokens != document:
            yield (
                f"model.public_tokens={self.public_tokens}: documents of records have {document} "
                "tokens, and by another length public ones would be known; set it to that"
            )
        there = PUBLIC[self.public]
        for name, wanted, most in (
            ("negatives", task.negatives, there.training),
            ("candidates", task.candidates, 1 + there.tests),
        ):
            if wanted > most:
                yield (
                    f"task.{name}={wanted}: model.public={self.public} has documents for {most}; "
                    "set it to that or less"
                )

    @property
    def learns_head(self) -> bool:
        """It has none that could: similarities are what comes out."""
        return False

    def weights(self, cache: Path) -> Weights:
        """Those of the folder, for queries and for documents, and the vectors of public documents.

        Raises:
            ConfigError: they are not those of the run, or not all there.
            DataError: something pinned is not cached and cannot be had.
        """
        return _weights(self.folder, cache, self.same(cache), self.public, self.public_tokens)

    def query_weights(self, cache: Path) -> Weights:
        """The same with zeros for the vectors of public documents, which take a while to make and
        which no query needs.

        Raises:
            ConfigError, DataError: as `weights`.
        """
        self.same(cache)
        own = _encoder(self.folder, cache)
        width = own["embed.word.weight"].shape[1]
        return _placed(own, torch.zeros(PUBLIC[self.public].count, width))

    def network(self, task: Task) -> nn.Sequential:
        """`int64[n, query + document tokens]` -> similarities `[n, task.num_outputs]`."""
        if not isinstance(task, SearchTask):
            raise TypeError(f"task={task.kind} does not search: see `problems`")
        texts = self.texts()
        query, _ = task.lengths
        form = input_as(TextInput, task)
        tower, reader = (encoder_reader(texts, form, torch.float32) for _ in range(2))
        blocks = {n: QueryBlock(b) for n, b in reader.named_children() if n.startswith("block")}
        public = nn.Parameter(torch.empty(PUBLIC[self.public].count, self.width()))
        return stages(
            documents=Documents(tower, query),
            embed=QueryEmbed(reader.get_submodule("embed"), query),
            **blocks,
            pool=QueryPool(reader.get_submodule("pool")),
            turn=Turn(self.width()),
            head=Similarities(public, task, PUBLIC[self.public].training),
        )


class Documents(nn.Module):
    """Reads a record's document, and hands on the ids of its query with the vector.

    `fixed`: it never learns, whatever part of the model does.
    """

    fixed = True

    def __init__(self, tower: nn.Sequential, query_tokens: int) -> None:
        super().__init__()
        self.tower, self.query_tokens = tower, query_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """`int64[n, query + document tokens]` -> `float32[n, query tokens + width]`."""
        query, document = tokens[:, : self.query_tokens], tokens[:, self.query_tokens :]
        # Ids are far below 2^24, up to which single precision has every whole number.
        return torch.cat([query.float(), functional.normalize(self.tower(document), dim=1)], dim=1)


class QueryEmbed(nn.Module):
    """Vectors of a query's tokens; the vector of its document as a row after them."""

    def __init__(self, embed: nn.Module, query_tokens: int) -> None:
        super().__init__()
        self.embed, self.query_tokens = embed, query_tokens

    def forward(self, record: Tensor) -> Tensor:
        """`[n, query tokens + width]` -> `[n, query tokens + 1, width + 1]`."""
        hidden = self.embed(record[:, : self.query_tokens].long())
        document = functional.pad(record[:, self.query_tokens :], (0, 1)).unsqueeze(1)
        return torch.cat([hidden, document.to(hidden.dtype)], dim=1)


class QueryBlock(nn.Module):
    """A block that reads the query and leaves the document's vector alone."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, query tokens + 1, width + 1]` -> the same."""
        return torch.cat([self.block(hidden[:, :-1]), hidden[:, -1:]], dim=1)


class QueryPool(nn.Module):
    """One vector for the query, and the document's."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, hidden: Tensor) -> Tensor:
        """`[n, query tokens + 1, width + 1]` -> `[n, 2 width]`, each half of length one."""
        query = functional.normalize(self.pool(hidden[:, :-1]), dim=1)
        return torch.cat([query, hidden[:, -1, :-1].to(query.dtype)], dim=1)


class Turn(nn.Module):
    """A linear map of the query's vector, as what it adds to that: nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.added = nn.Linear(width, width, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """`[n, 2 width]` -> the same, each half of length one."""
        query, document = vectors.chunk(2, dim=1)
        turned = functional.normalize(query + self.added(query), dim=1)
        return torch.cat([turned, document.to(turned.dtype)], dim=1)


class Similarities(nn.Module):
    """Cosines of a query with its own document, then with the public ones of training and tests."""

    def __init__(self, public: nn.Parameter, task: SearchTask, first_of_tests: int) -> None:
        super().__init__()
        self.public = public
        self.learned = slice(task.negatives)
        self.tested = slice(first_of_tests, first_of_tests + task.candidates - 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """`[n, 2 width]` -> `[n, negatives + candidates]`."""
        query, document = vectors.chunk(2, dim=1)
        own = (query * document).sum(1, keepdim=True)
        public = torch.cat([self.public[self.learned], self.public[self.tested]]).to(query.dtype)
        return torch.cat([own, query @ public.T], dim=1)


# --- its weights ---------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _weights(
    folder: str, cache: Path, known_by: tuple[str, str], public: str, tokens: int
) -> Weights:
    """Read, and public documents with them, once for all models of a process that are `known_by`
    the same hashes, of weights and of what they are built from."""
    own = _encoder(folder, cache)
    training, tests = public_documents(public, cache)
    found = tokenize(Tokenizer(vocabulary=folder, max_length=tokens), [*training, *tests], cache)
    vectors = vectors_of(document_reader(folder, cache, own), found.ids, found.shape.pad_id)
    return _placed(own, torch.from_numpy(vectors))


def _encoder(folder: str, cache: Path) -> Weights:
    """The weights of a folder's encoder, by the names that its stages have by themselves."""
    found = encoder_weights(open_folder(folder, cache), torch.float32)
    return {name: values for name, values in found.items() if not name.startswith("head.")}


def _placed(own: Weights, public: Tensor) -> Weights:
    """An encoder's weights as those of our stages: once for queries, once for documents."""
    known = {"head.public": public}
    for name, values in own.items():
        stage, _, rest = name.partition(".")
        inside = "embed" if stage == "embed" else "block"
        known[f"{_TOWER}{name}"] = known[f"{stage}.{inside}.{rest}"] = values
    known["turn.added.weight"] = torch.zeros(public.shape[1], public.shape[1])
    return MappingProxyType(known)


def document_reader(folder: str, cache: Path, own: Weights | None = None) -> nn.Sequential:
    """What makes vectors of documents: the encoder of `folder` as it is, in evaluation mode."""
    texts = FolderTexts(folder, cache, KEY)
    pad_id = tokenize(Tokenizer(vocabulary=folder, max_length=2), [""], cache).shape.pad_id
    form = TextInput(vocabulary=1, max_length=2, pad_id=pad_id)
    made = encoder_reader(texts, form, torch.float32)
    made.load_state_dict(_encoder(folder, cache) if own is None else own)
    return made.eval().requires_grad_(requires_grad=False)


def query_reader(whole: nn.Module, width: int) -> Callable[[Tensor], Tensor]:
    """What the trained model `whole` makes of queries alone: `int64[n, query tokens]` to vectors
    `float32[n, width]` of length one."""
    named = {
        name: part
        for name, part in whole.named_modules()
        if isinstance(part, QueryEmbed | QueryBlock | QueryPool | Turn)
    }

    def read(tokens: Tensor) -> Tensor:
        found = functional.pad(tokens.float(), (0, width))  # of no document
        for part in named.values():
            found = part(found)
        return found[:, :width]

    return read


@torch.no_grad()
def vectors_of(reader: nn.Module, ids: NDArray[np.int64], pad_id: int) -> NDArray[np.float32]:
    """Vectors of length one for rows of ids, `float32[n, width]`, a few rows at a time.

    Rows of about one length go together, without the padding that none of them needs.
    """
    lengths = np.maximum((ids != pad_id).sum(1), 1)
    order, found = np.argsort(lengths, kind="stable"), []
    for start in range(0, len(ids), _BATCH):
        rows = order[start : start + _BATCH]
        found.append(reader(torch.from_numpy(ids[rows, : lengths[rows].max()])))
    if not found:
        return np.zeros((0, 0), np.float32)
    vectors = functional.normalize(torch.cat(found).float(), dim=1).numpy()
    back = np.empty_like(vectors)
    back[order] = vectors
    return back
