"""The three public sets of texts, from their real archives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fedlearn.data import DATASETS
from fedlearn.data.datasets import codes, contracts, drafting, news, reviews
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Pool, deal
from fedlearn.data.texts.tokens import Tokenizer

from .reading import loaded

pytestmark = pytest.mark.slow
HASHING = Tokenizer(kind="hashing", max_length=16)


@pytest.fixture(scope="module")
def contract_pool(text_cache: Path) -> Pool:
    return loaded(contracts.Contracts(tokenizer=HASHING), text_cache)


def test_news__has_the_published_split_and_topics(text_cache: Path) -> None:
    pool = loaded(news.News(tokenizer=HASHING), text_cache)
    assert (pool.is_train.sum(), (~pool.is_train).sum()) == (5485, 2189)
    assert pool.task.classes == news.CLASSES == DATASETS["news"].classes
    # Cardoso-Cachopo's table of R8: training and test stories by topic.
    table = {"acq": (1596, 696), "crude": (253, 121), "earn": (2840, 1083), "grain": (41, 10),
             "interest": (190, 81), "money-fx": (206, 87), "ship": (108, 36),
             "trade": (251, 75)}  # fmt: skip
    for topic, (train, test) in table.items():
        mine = pool.labels == news.CLASSES.index(topic)
        assert ((mine & pool.is_train).sum(), (mine & ~pool.is_train).sum()) == (train, test)


def test_reviews__are_each_there_once_and_of_one_class(review_cache: Path) -> None:
    pool = loaded(reviews.Reviews(tokenizer=HASHING), review_cache)
    assert len(pool) == reviews.SIZE == DATASETS["reviews"].records
    assert pool.task.classes == reviews.CLASSES == DATASETS["reviews"].classes
    texts = reviews.reviews_in(review_cache)
    assert {value: [*texts.values()].count(value) for value in (0, 1)} == {0: 9031, 1: 8332}
    assert 0.24 < (~pool.is_train).mean() < 0.26
    assert any("喜欢" in text for text in texts)


def test_codes__are_all_phrases_once_with_whole_categories_held_out(text_cache: Path) -> None:
    pool, other = (
        loaded(codes.Codes(tokenizer=HASHING, split=split), text_cache) for split in (0, 1)
    )
    assert len(pool) == codes.SIZE == DATASETS["codes"].records
    assert pool.task.classes == codes.CLASSES
    assert 0.2 < (~pool.is_train).mean() < 0.3
    assert not np.array_equal(pool.is_train, other.is_train)
    # Chapter 2 (neoplasms) is C00-D49, chapter 22 holds codes for special purposes (U).
    assert np.bincount(pool.labels).min() > 0
    category = pool.attributes["category"]
    assert not set(category[pool.is_train]) & set(category[~pool.is_train])
    assert {label[:1] for label in category[pool.labels == 21]} == {"U"}


def test_contracts__are_the_clauses_of_the_reference(contract_pool: Pool) -> None:
    assert len(contract_pool) == contracts.SIZE
    assert contract_pool.task.classes == contracts.CLASSES
    sizes = dict(zip(contracts.CLASSES, np.bincount(contract_pool.labels), strict=True))
    assert {name: sizes[name] for name in ("redistribution_source", "warranty", "termination")} == {
        "redistribution_source": 354, "warranty": 298, "termination": 265,
    }  # fmt: skip
    assert min(sizes.values()) == sizes["trademarks_publicity"] == 72


def test_contracts__are_tested_on_drafters_whom_no_site_has_seen(
    contract_pool: Pool, text_cache: Path
) -> None:
    found = contracts.stored_clauses(text_cache)
    drafters = np.array([clause.drafter for clause in found])
    assert not set(drafters[contract_pool.is_train]) & set(drafters[~contract_pool.is_train])
    sites = deal(contract_pool, Natural().assign(contract_pool, np.random.default_rng(0)))
    assert (
        tuple(sites) == tuple(sorted(contracts.SITES)) == tuple(sorted(DATASETS["contracts"].sites))
    )
    for name, site in sites.items():
        assert (len(site.test) > 0) == name.startswith("firm-")
    assert 0.12 < (~contract_pool.is_train).mean() < 0.3


def test_drafting__has_the_same_clauses_at_the_same_sites_with_headings_that_are_not_learned(
    contract_pool: Pool, text_cache: Path
) -> None:
    found = contracts.stored_clauses(text_cache)
    is_train, sites = contracts.dealt(found, firms=8, test_fraction=0.2, split=0)
    assert np.array_equal(is_train, contract_pool.is_train)
    assert contract_pool.natural_site is not None
    assert sites.tolist() == contract_pool.natural_site.tolist()
    for (heading, clause), one in zip(drafting.passages(found), found, strict=True):
        assert (heading.learned, clause.learned) == (False, True)
        plain = re.sub(r"[^a-z ]", "", heading.text.lower()).strip()
        assert re.search(contracts.FAMILIES[one.family], plain)
        assert clause.text == one.text


def test_contracts__split_is_the_same_for_every_run_and_another_on_demand(
    contract_pool: Pool, text_cache: Path
) -> None:
    again, other = (
        loaded(contracts.Contracts(tokenizer=HASHING, split=split), text_cache) for split in (0, 1)
    )
    assert again.sha256 == contract_pool.sha256
    assert not np.array_equal(other.is_train, contract_pool.is_train)


def test_contracts__taken_out_anew_equal_those_in_the_cache(
    text_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "archives").symlink_to(text_cache / "archives")
    fresh = contracts.stored_clauses(tmp_path)
    assert contracts.stored_clauses(text_cache) == fresh
    (path,) = (tmp_path / "derived").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"altered!]")
    assert contracts._read(path) is None
    path.write_bytes(whole)
    assert contracts._read(path) == fresh


def test_clauses__leave_headings_and_near_copies_out(tmp_path: Path) -> None:
    import zipfile

    body = "The licensor gives no warranty of any kind, whether express or implied, for the work"
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        for i in range(70):
            words = " ".join(f"word{i}x{j}" for j in range(30)).translate(
                str.maketrans("0123456789", "abcdefghij")
            )
            copy = body if i % 7 == 0 else words
            wheel.writestr(
                f"d/{i:02d}.LICENSE",
                f"---\nkey: k{i}\nowner: Owner {i}\nlanguage: en\n---\n\n1. Preamble\n{'x ' * 99}\n"
                f"2. No Warranty. {copy}\n   and more of it {copy}\n",
            )
    found = contracts.clauses(tmp_path / "x.whl")
    assert len(found) == 61
    assert {clause.family for clause in found} == {"warranty"}
    assert found[0].text == f"{body} and more of it {body}"
    assert found[0].drafter == "Owner 0"
