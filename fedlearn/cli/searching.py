"""`fedlearn index` and `fedlearn find`: one's own documents, searched by a tuned encoder."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.cli.form import command, takes
from fedlearn.cli.generation import BASE
from fedlearn.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedlearn.retrieval import SearchModel


@command(
    "index",
    "index runs/law documents.jsonl --to precedents",
    takes(
        "model",
        "a run of task=retrieval, or what `fedlearn export` made of it",
        "FOLDER",
        there=DataError,
    ),
    takes("documents", "lines of JSON with a text each (.jsonl)", "FILE", there=DataError),
    takes(
        "--to", "the folder of the index, which its owner alone may read", "FOLDER", required=True
    ),
    takes("--text", "the key of a text (default: text)", "KEY", default="text"),
    takes("--id", "the key of its name (default: id, or else its line)", "KEY", default="id"),
    BASE,
)
def index(options: argparse.Namespace) -> None:
    """An index of documents, for an encoder tuned for search; it stays where it is made."""
    from fedlearn.retrieval import Index, read_documents

    target = Path(options.to)
    if target.exists():
        raise ConfigError(f"--to {target}: exists; choose a folder that does not")
    model = _model(options.model, options.base or "")
    documents, without = read_documents(Path(options.documents), options.text, options.id)
    if without:
        print(f"note: {without} lines have no text and were left out", file=sys.stderr)
    base = str(Path(options.base).resolve()) if options.base else ""
    found = Index.of(documents, model, str(Path(options.model).resolve()), base)
    found.write(target)
    print(f"{target}: {len(found.documents)} documents in {len(found.vectors)} pieces")


@command(
    "find",
    "find precedents Confidentiality",
    takes("index", "what `fedlearn index` wrote", "FOLDER", there=DataError),
    takes("query", "what is looked for", "TEXT"),
    takes("--most", "documents to show (default: 10)", "N", type=int, default=10),
    takes("--model", "a model of the same encoder (default: that of the index)", "FOLDER"),
    BASE,
    takes("--json", "a line of JSON for every document, with all of its text", action="store_true"),
)
def find(options: argparse.Namespace) -> None:
    """The documents of an index that answer a query, the best first."""
    from fedlearn.core.names import harmless
    from fedlearn.retrieval import Index

    if options.most < 1:
        raise ConfigError(f"--most={options.most}: must be at least 1")
    if not options.query.strip():
        raise ConfigError("query: is empty; say what is looked for")
    there = Index.read(Path(options.index))
    own = "" if options.model else there.base
    model = _model(options.model or there.model, options.base or own)
    there.check(model)
    if not options.model and model.file.sha256 != there.model_sha256:
        print(
            f"note: the model in {there.model} was trained on since the index was made; documents "
            "are read as before, so the index is right for it",
            file=sys.stderr,
        )
    (vector,), cut = model.query_vectors([options.query])
    if cut:
        print("note: the query is longer than those of training and was cut off", file=sys.stderr)
    for one in there.find(vector, options.most):
        if options.json:
            print(json.dumps({"ids": one.ids, "score": one.score, "text": one.text}))
        else:
            print(f"{one.score:.3f}  {harmless(', '.join(one.ids))}  {harmless(one.beginning)}")


def _model(folder: str, base: str) -> SearchModel:
    from fedlearn.data.datasets.archives import default_cache
    from fedlearn.report.export import tuned_part
    from fedlearn.retrieval import SearchModel

    file, vector = tuned_part(Path(folder), base)
    return SearchModel(file=file, vector=vector, cache=default_cache(os.environ))
