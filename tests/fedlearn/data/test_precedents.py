"""Scenario `precedents`: who is public, who is tested, and pairs that depend on themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.data import load_pool
from fedlearn.data.datasets.contracts import Clause, dealt, stored_clauses
from fedlearn.data.datasets.precedents import Precedents
from fedlearn.data.texts.public import LICENSORS, PUBLIC, parts_of, public_documents
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.tasks import Retrieval

TASK = Retrieval(query_tokens=8)
SCENARIO = Precedents(tokenizer=Tokenizer(max_length=24))


def test_drafters__are_set_aside_by_their_names_alone() -> None:
    few = [Clause(drafter=f"d{i}", family="f", heading="h", text=f"t{i}") for i in range(400)]
    parts = parts_of(few)
    assert 0.1 < parts.count("tests") / 400 < 0.22
    assert parts_of(few[100:]) == parts[100:]
    assert parts_of([Clause(drafter="", family="f", heading="h", text="t")]) == ["training"]


@pytest.mark.slow
def test_precedents__have_public_clauses_at_no_site_and_unseen_drafters_in_the_test(
    text_cache: Path,
) -> None:
    pool = load_pool(SCENARIO, Streams(0), text_cache, task=TASK)
    assert pool.natural_site is not None
    assert Precedents.dataset is not None
    assert len(pool) == Precedents.dataset.records == 3041 - PUBLIC["contracts"].count
    assert set(pool.natural_site) == set(Precedents.dataset.sites)
    assert not set(pool.natural_site) & LICENSORS
    assert pool.features.shape[1] == 8 + 24
    clauses = stored_clauses(text_cache)
    is_train, _ = dealt(clauses, 8, 0.2, 0)
    known = {c.drafter for c, own in zip(clauses, is_train, strict=True) if own}
    tested = [c for c, part, own in zip(clauses, parts_of(clauses), is_train, strict=True)
              if not part and not own]  # fmt: skip
    assert len(tested) == (~pool.is_train).sum() > 500
    assert not {c.drafter for c in tested} & known
    training, tests = public_documents("contracts", text_cache)
    assert not {c.text for c in tested} & {*training, *tests}
    assert not set(training) & set(tests)
    assert (pool.labels[pool.is_train] == 0).all()
    places = pool.labels[~pool.is_train, 1]
    assert 1 <= places.min() <= places.max() <= TASK.candidates
    assert np.mean(places <= 10) > 0.4


def test_precedents__of_another_task_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set task=retrieval, or scenario=contracts"):
        load_pool(SCENARIO, Streams(0), tmp_path)
