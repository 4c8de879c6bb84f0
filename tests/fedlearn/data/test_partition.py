"""The battery finds the partitioners from their union; what is special to one follows below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import PARTITIONS
from fedlearn.data.partition import (
    Assignment,
    Dirichlet,
    Files,
    Iid,
    Natural,
    Partition,
    Quantity,
)
from fedlearn.data.pool import Pool

Make = Callable[..., Pool]
KINDS: tuple[type[Partition], ...] = PARTITIONS.own
ARTIFICIAL = [kind for kind in KINDS if kind not in (Natural, Files)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
every_artificial = pytest.mark.parametrize("kind", ARTIFICIAL, ids=lambda kind: kind.kind)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sizes(assignment: Assignment) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([len(rows) for rows in assignment.values()])


@every_kind
@pytest.mark.parametrize("seed", range(20))
def test_partition__gives_every_row_to_exactly_one_site(
    kind: type[Partition], seed: int, make_pool: Make
) -> None:
    pool = make_pool(size=400)
    assignment = kind().assign(pool, rng(seed))
    np.testing.assert_array_equal(
        np.sort(np.concatenate(list(assignment.values()))), np.arange(400)
    )
    assert list(assignment) == sorted(assignment)
    for rows in assignment.values():
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert pool.is_train[rows].any()


@every_kind
def test_partition__is_a_function_of_config_pool_and_stream(
    kind: type[Partition], make_pool: Make
) -> None:
    pool = make_pool(size=400)
    one, same, other = (kind().assign(pool, rng(seed)) for seed in (1, 1, 2))
    assert all((one[site] == same[site]).all() for site in one)
    if kind in ARTIFICIAL:
        assert any(not np.array_equal(one[site], other[site]) for site in one)


@every_artificial
def test_partition__refuses_more_sites_than_training_rows(
    kind: type[Partition], make_pool: Make
) -> None:
    with pytest.raises(DataError, match=r"num_sites=10.*9 training records.*fewer sites"):
        kind().assign(make_pool(size=60, train=9), rng())


@every_artificial
def test_partition__of_one_site_holds_everything(kind: type[Partition], make_pool: Make) -> None:
    assignment = replace(kind(), num_sites=1).assign(make_pool(), rng())  # type: ignore[arg-type]
    assert list(assignment) == ["site-000"]
    assert len(assignment["site-000"]) == 60


def test_partition__draws_again_until_every_site_can_train(make_pool: Make) -> None:
    pool = make_pool(size=300, train=4)  # 3 of 4 draws leave a site without
    for seed in range(10):
        assignment = Iid(num_sites=3).assign(pool, rng(seed))
        assert all(pool.is_train[rows].any() for rows in assignment.values())


def test_partition__names_sites_so_that_names_and_numbers_sort_alike(make_pool: Make) -> None:
    names = list(Iid(num_sites=1001).assign(make_pool(size=1200, train=1200), rng()))
    assert names[0] == "site-0000"
    assert names[-1] == "site-1000"
    assert names == sorted(names)


def test_natural__is_the_site_column(heart_pool: Pool) -> None:
    assignment = Natural().assign(heart_pool, rng())
    assert heart_pool.natural_site is not None
    for site, rows in assignment.items():
        np.testing.assert_array_equal(rows, np.flatnonzero(heart_pool.natural_site == site))


def test_natural__refuses_records_without_sites(make_pool: Make) -> None:
    with pytest.raises(DataError, match="partition=iid"):
        Natural().assign(replace(make_pool(), natural_site=None), rng())


@pytest.mark.parametrize("num_sites", [2, 3, 7, 59])
def test_iid__sites_differ_by_at_most_one_row(num_sites: int, make_pool: Make) -> None:
    spread = sizes(Iid(num_sites=num_sites).assign(make_pool(train=60), rng()))
    assert spread.max() - spread.min() <= 1


def test_iid__puts_a_row_at_every_site_equally_often(make_pool: Make) -> None:
    pool = make_pool(size=12, train=12)
    draws, generator = 2000, rng()
    hits = sum(0 in Iid(num_sites=3).assign(pool, generator)["site-000"] for _ in range(draws))
    # Binomial(2000, 1/3): six standard deviations, a false alarm in 5 * 10^8 runs.
    assert abs(hits - draws / 3) < 6 * np.sqrt(draws * 2 / 9)


def skew(pool: Pool, assignment: Assignment) -> float:
    """Mean total variation distance between a site's labels and everyone's."""
    overall = np.bincount(pool.labels) / len(pool)
    shares = [
        np.bincount(pool.labels[rows], minlength=len(overall)) / len(rows)
        for rows in assignment.values()
    ]
    return float(np.mean([np.abs(share - overall).sum() / 2 for share in shares]))


def test_dirichlet__label_skew_grows_as_alpha_falls(make_pool: Make) -> None:
    pool = make_pool(size=3000, classes=5)
    mean_skew = [
        np.mean([skew(pool, Dirichlet(alpha=alpha).assign(pool, rng(s))) for s in range(10)])
        for alpha in (1000.0, 10.0, 1.0, 0.1)
    ]
    assert mean_skew[0] < 0.05
    assert mean_skew[-1] > 0.5
    assert (np.diff(mean_skew) > 0.05).all()


def test_dirichlet__shares_have_the_variance_of_the_distribution(make_pool: Make) -> None:
    pool, generator = make_pool(size=2000, classes=2, train=2000), rng()
    config = Dirichlet(num_sites=4, alpha=2.0)
    draws = [config.assign(pool, generator)["site-000"] for _ in range(500)]
    shares = [(pool.labels[rows] == 0).sum() / 1000 for rows in draws]
    # Var = (1/4)(3/4)/9; its estimate over 500 draws has a relative deviation near
    # sqrt(2.3/500) = 7 percent: 45 percent is over six of them.
    assert np.mean(shares) == pytest.approx(1 / 4, abs=6 * np.sqrt(3 / 16 / 9 / 500))
    assert np.var(shares) == pytest.approx(3 / 16 / 9, rel=0.45)


@pytest.mark.parametrize("alpha", [1e-3, 5e-324])
def test_dirichlet__that_leaves_sites_empty_is_refused_with_the_way_out(
    alpha: float, make_pool: Make
) -> None:
    with pytest.raises(DataError, match=r"larger partition\.alpha"):
        Dirichlet(num_sites=8, alpha=alpha).assign(make_pool(), rng())


def test_dirichlet__refuses_an_infinite_alpha() -> None:
    with pytest.raises(ConfigError, match="alpha=Infinity"):
        Dirichlet(alpha=float("inf"))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_quantity__sizes_follow_the_exponent(exponent: float, make_pool: Make) -> None:
    pool = make_pool(size=5000)
    weights = np.arange(1, 6) ** -exponent
    expected = 5000 * weights / weights.sum()
    found = sizes(Quantity(num_sites=5, exponent=exponent).assign(pool, rng()))
    assert np.abs(found - expected).max() <= 1
