"""One rule for names: what is a name anywhere stays one, and what is not is told why."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.names import MOST, lookalikes, name_problem, shown, site_name_problem
from fedlearn.data.datasets import contracts, credit, heart

PLACES = [
    "Krankenhaus Köln", "東京", "東京病院 2", "서울대병원", "Больница Томск", "Αθήνα", "ירושלים",
    "मुंबई अस्पताल", "โรงพยาบาล", "St. Mary's", "Łódź", "Diyarbakır", "الرياض", "Việt Đức",
    "site-000", "group-17", "firm_2.b", "1", "A", "Zürich Süd", "კლინიკა", "東京UFJ",
]  # fmt: skip


@pytest.mark.parametrize("name", [*PLACES, *heart.SITES, *contracts.SITES, *credit.SITES])
def test_name__of_a_place_is_one_in_every_language(name: str) -> None:
    assert site_name_problem(name) is None
    assert unicodedata.normalize("NFC", name) == name


def test_name__of_the_coordinator_is_free_for_the_coordinator() -> None:
    assert name_problem("server") is None
    assert "means somebody else" in str(site_name_problem("SERVER"))


@given(st.text(max_size=80))
def test_name__has_a_problem_or_is_harmless(text: str) -> None:
    if problem := site_name_problem(text):
        assert problem.isascii()
        assert problem.isprintable()
        assert len(problem) < 200
        return
    assert text.isprintable()
    assert text == text.strip(" .-_'")
    assert not set(text) & set('/\\:*?"<>|\0')
    assert 0 < len(text) <= MOST
    assert unicodedata.normalize("NFKC", text) == text


@given(
    st.sampled_from(PLACES), st.characters(categories=["Cc", "Cf", "Zs", "Po", "Sm", "So", "Co"])
)
def test_name__with_one_strange_character_is_none(place: str, sign: str) -> None:
    if sign not in " .',&+":
        assert site_name_problem(place[:1] + sign + place[1:]) is not None


def test_lookalikes__are_pairs_that_a_hasty_reader_takes_for_each_other() -> None:
    assert lookalikes(["cleveland", "Cleveland"]) == [
        "names 'cleveland' and 'Cleveland' look alike"
    ]
    for pair in (("barn", "bam"), ("site-10", "site-lo"), ("Ivy", "lvy"), ("Томск", "TOMCK")):
        assert bool(lookalikes(pair)) == (pair[0] != "Томск"), pair
    names = [f"site-{number:03d}" for number in range(1000)]
    assert lookalikes([*names, *names]) == []


def test_shown__is_short_and_cannot_draw() -> None:
    assert Counter(shown("\x1b[2J" * 10_000))["\x1b"] == 0
    assert len(shown("a" * 1_000_000)) < 70
