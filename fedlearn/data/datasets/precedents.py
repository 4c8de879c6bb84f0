"""Scenario `precedents`: clauses of software agreements, to be found by a heading.

The clauses of scenario `contracts`, at the same drafters and firms: the query is the heading that a
drafter gave a section, the document what stands under it. Clauses of public licences, of texts that
nobody signed, and of some small drafters are no site's: they are what everybody knows
(`fedlearn.data.texts.public`). Test clauses are of drafters whom no site has in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError
from fedlearn.core.settings import Count, Natural, Probability, config
from fedlearn.data.datasets.archives import ARCHIVES
from fedlearn.data.datasets.contracts import SITES, SIZE, dealt, stored_clauses
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.texts.bm25 import Bm25
from fedlearn.data.texts.public import LICENSORS, PUBLIC, parts_of, public_documents
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from fedlearn.tasks import SearchTask, Task, TaskForm

_PUBLIC: Final = "contracts"
_LONGEST: Final = 2**20
"""Tokens of a record, more than any has: what a query's are does not depend on it."""


@config
class Precedents(Scenario):
    """Headings and clauses; `firms`, `test_fraction` and `split` are those of `contracts`."""

    kind: Literal["precedents"] = "precedents"
    tells = "nothing"
    dataset = Dataset(
        records=SIZE - PUBLIC[_PUBLIC].count,
        sites=tuple(site for site in SITES if site not in LICENSORS),
        classes=(),
        source="the same clauses, to be found by their headings among public ones",
        archive=ARCHIVES["contracts"],
    )
    firms: Count = 8
    test_fraction: Probability = 0.2
    split: Natural = 0
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    """Of documents; a query has `task.query_tokens` of the same."""

    def load(self, reading: Reading) -> Pool:
        """The 2,226 pairs, their clauses fetched when they are not in the cache.

        Raises:
            ConfigError: the task is another one.
        """
        if not reading.task.learns.searches:
            raise ConfigError(
                f"task.kind={reading.task.kind}: scenario=precedents has no labels; set "
                "task=retrieval, or scenario=contracts for the kinds of these clauses"
            )
        found = stored_clauses(reading.cache)
        is_train, sites = dealt(found, self.firms, self.test_fraction, self.split)
        own = np.array([not part for part in parts_of(found)])
        clauses = [clause for clause, is_own in zip(found, own, strict=True) if is_own]
        pairs = [(clause.heading, clause.text) for clause in clauses]
        task, ids = _pairs(self.tokenizer, pairs, reading)
        test = ~is_train[own]
        return Pool(
            name="precedents",
            task=task,
            features=ids,
            labels=_targets(pairs, test, task, reading),
            is_train=~test,
            natural_site=sites[own],
        )


def _pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], reading: Reading
) -> tuple[SearchTask, NDArray[np.int64]]:
    """Rows of ids: a query, filled up to its length, and its document."""
    documents = tokenize(tokenizer, [document for _, document in pairs], reading.cache)
    longest = replace(documents.shape, max_length=_LONGEST)
    query, _ = _searching(reading.task.of(TaskForm(input=longest))).lengths
    asked = replace(tokenizer, max_length=query)
    queries = tokenize(asked, [query for query, _ in pairs], reading.cache)
    ids = np.concatenate([queries.ids, documents.ids], axis=1)
    form = TaskForm(input=replace(documents.shape, max_length=ids.shape[1]))
    return _searching(reading.task.of(form)), ids


def _searching(task: Task) -> SearchTask:
    """The same, of which `load` has seen that it searches."""
    if not isinstance(task, SearchTask):
        raise TypeError(f"task={task.kind} does not search")
    return task


def _targets(
    pairs: Sequence[tuple[str, str]], test: NDArray[np.bool_], task: SearchTask, reading: Reading
) -> NDArray[np.int64]:
    """Everybody's own document; and of test records where BM25 has it, by all of its words."""
    _, public = public_documents(_PUBLIC, reading.cache)
    ranking = Bm25(public[: task.candidates - 1])
    found = np.zeros((len(pairs), 2), np.int64)
    for row in np.flatnonzero(test).tolist():
        found[row, 1] = ranking.place(*pairs[row])
    return found
