"""What a site gives of its table where nothing is private: of many records, once, and written."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from clients import statistics
from clients.policy import Policy
from clients.site import Site
from fedlearn.data import Records
from fedlearn.figures import CrossingPart, TableLayout, TableRows
from fedlearn.figures.layout import FIXED
from tests.fedlearn.figures.tables import ILL, LAYOUT, SMOKER, people


def site_of(count: int, persons: int | None = None, least: int = 10) -> Site:
    """Records of invented people, among them three smokers at the most; `persons` share them."""
    rows = people(count, np.random.default_rng(3))
    rows.features[:, SMOKER.at] = np.where(np.arange(count) < 3, 2, 1)
    whose = None if persons is None else np.array([f"p{i % persons}" for i in range(count)])
    records = Records(features=rows.features, labels=rows.labels, persons=whose)
    found = Policy(epsilon_total=1.0, delta=1e-5, unit="none", min_test_records=least)
    owner, data = SimpleNamespace(policy=found), SimpleNamespace(parts=(records,))
    return cast(Site, SimpleNamespace(owner=owner, data=data, config=None, task=None))


def given(monkeypatch: pytest.MonkeyPatch, site: Site, layout: TableLayout = LAYOUT) -> Any:
    """What the site gives, by the name of each part."""
    monkeypatch.setattr(statistics, "statistics_layout", lambda *_: layout)
    sums = layout.opened(statistics.given(site, None), statistics.exact_steps(layout))
    return {part.name: sums[at] for _, part, at in layout.slices()}


def test_categories__of_few_are_gaps_and_their_pairs_are_those_of_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = given(monkeypatch, site_of(100))
    assert found["smoker"] == pytest.approx([3, 97, 0], abs=1e-3)
    assert found["smoker, ill"] == pytest.approx(np.zeros(6), abs=1e-3), "rows and columns add up"


def test_class__of_few_is_not_what_others_leave_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(100)
    site.data.parts[0].labels[:] = np.arange(100) >= 97
    assert given(monkeypatch, site)["ill"] == pytest.approx([0, 0], abs=1e-3)
    site.data.parts[0].labels[:] = np.arange(100) >= 60
    assert given(monkeypatch, site)["ill"] == pytest.approx([60, 40], abs=1e-3)


def test_categories__count_persons_where_records_are_somebodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = TableLayout((SMOKER, ILL, CrossingPart(name="both", one=SMOKER, other=ILL)))
    site = site_of(200, persons=5, least=5)
    found = given(monkeypatch, site, layout)
    assert found["smoker"] == pytest.approx([200, 0, 0], abs=1e-3), "forty records of each of five"
    assert found["both"] == pytest.approx(np.zeros(6), abs=1e-3)


@pytest.mark.parametrize(("count", "persons"), [(9, None), (200, 5)])
def test_table__of_few_records_or_persons_is_that_of_nobody(
    monkeypatch: pytest.MonkeyPatch, count: int, persons: int | None
) -> None:
    found = given(monkeypatch, site_of(count, persons))
    assert all(not part.any() for part in found.values())


def test_table__of_an_owner_who_wants_none_of_that_is_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = site_of(9)
    owner: Any = site.owner
    owner.policy = replace(owner.policy, min_test_records=1, smallest_class=1)
    sums = LAYOUT.added(TableRows(
        features=site.data.parts[0].features, labels=site.data.parts[0].labels
    )).sum(0) / FIXED  # fmt: skip
    found = given(monkeypatch, site)
    assert np.concatenate([*found.values()]) == pytest.approx(sums, abs=1e-3)
