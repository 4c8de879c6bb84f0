"""What encoders for search find in each firm's own index: `python benchmarks/precedents.py RUN...`.

For runs of `experiment=legal_precedents`. Every firm's test clauses, of drafters whom no site has,
are put into an index of their own and asked for by their headings; the first run's encoder before
training is the first row. This ranks clauses among those of the same firm, where the figures of a
run rank each among public ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.datasets.contracts import Clause, dealt, stored_clauses
from fedlearn.data.texts.public import parts_of
from fedlearn.report.export import tuned_part
from fedlearn.retrieval import Document, Index, SearchModel


def main(folders: Sequence[str]) -> None:
    """Print a line for the untouched encoder and one for each run."""
    cache = default_cache(os.environ)
    models: dict[str, SearchModel] = {}
    for folder in folders:
        file, vector = tuned_part(Path(folder))
        model = SearchModel(file=file, vector=vector, cache=cache)
        # The map of a query's vector begins as the identity, which all zeros are.
        models.setdefault("untouched", replace(model, vector=np.zeros_like(vector)))
        models[folder] = model
    firms = _firms(cache)
    places: dict[str, list[list[int]]] = {name: [] for name in models}
    for clauses in firms.values():
        index = Index.of(_documents(clauses), models["untouched"])
        for name, model in models.items():
            places[name].append(_places(index, model, clauses))
    print(
        "| | recall at 1 | recall at 10 | MRR | worst firm, recall at 10 |\n|---|---|---|---|---|"
    )
    for name, by_firm in places.items():
        everywhere = np.concatenate([np.array(own) for own in by_firm])
        worst = min(float(np.mean(np.array(own) <= 10)) for own in by_firm)
        first, ten = (np.mean(everywhere <= depth) for depth in (1, 10))
        print(f"| {name} | {first:.3f} | {ten:.3f} | {np.mean(1 / everywhere):.3f} | {worst:.3f} |")


def _firms(cache: Path) -> dict[str, list[Clause]]:
    """The test clauses of every firm, as scenario `precedents` deals them out."""
    clauses = stored_clauses(cache)
    is_train, sites = dealt(clauses, 8, 0.2, 0)
    found: dict[str, list[Clause]] = {}
    for clause, part, train, site in zip(clauses, parts_of(clauses), is_train, sites, strict=True):
        if not part and not train:
            found.setdefault(str(site), []).append(clause)
    return found


def _documents(clauses: Sequence[Clause]) -> list[Document]:
    return [Document(ids=(str(i),), text=clause.text) for i, clause in enumerate(clauses)]


def _places(index: Index, model: SearchModel, clauses: Sequence[Clause]) -> list[int]:
    vectors, _ = model.query_vectors([clause.heading for clause in clauses])
    answers = (index.find(vector, len(clauses)) for vector in vectors)
    return [1 + [hit.ids[0] for hit in hits].index(str(i)) for i, hits in enumerate(answers)]


if __name__ == "__main__":
    main(sys.argv[1:])
