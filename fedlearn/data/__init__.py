"""Where records come from, and how they are dealt out to sites.

A scenario's config becomes a `Pool` (`load_pool`), a partition says which site
holds which row (`fedlearn.data.partition.assign`), and `deal` hands them over.
Nothing here knows models, privacy or Flower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, assert_never

from fedlearn.core.registry import Family
from fedlearn.core.rng import Streams
from fedlearn.data.datasets import codes, contracts, credit, fashion, heart, lending, news, risk
from fedlearn.data.datasets.archives import ARCHIVES, Archive
from fedlearn.data.datasets.codes import Codes
from fedlearn.data.datasets.contracts import Contracts
from fedlearn.data.datasets.credit import Credit
from fedlearn.data.datasets.fashion import Fashion
from fedlearn.data.datasets.heart import Heart
from fedlearn.data.datasets.news import News
from fedlearn.data.datasets.risk import Risk
from fedlearn.data.images import folders, medmnist
from fedlearn.data.images.folders import Images
from fedlearn.data.images.medmnist import MedMnist, medmnist_problems
from fedlearn.data.partition import Partition
from fedlearn.data.pool import Pool, Records, SiteData, deal
from fedlearn.data.tables import csv
from fedlearn.data.tables.csv import Csv
from fedlearn.data.tables.csv_problems import settings_problems
from fedlearn.data.tables.scaling import Scaling
from fedlearn.data.texts import files, huggingface
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.huggingface import HuggingFace

Public = Heart | Codes | Contracts | Credit | Risk | News | Fashion
Own = Csv | MedMnist | Images | OwnText | HuggingFace
Scenario = Public | Own

SCENARIOS: Family[Scenario] = Family(
    "scenario",
    "fedlearn.scenarios",
    (
        Heart,
        Codes,
        Contracts,
        Credit,
        Risk,
        News,
        Fashion,
        Csv,
        MedMnist,
        Images,
        OwnText,
        HuggingFace,
    ),
)

__all__ = [
    "DATASETS",
    "SCENARIOS",
    "Codes",
    "Contracts",
    "Credit",
    "Csv",
    "Dataset",
    "Fashion",
    "Heart",
    "HuggingFace",
    "Images",
    "MedMnist",
    "News",
    "OwnText",
    "Partition",
    "Pool",
    "Records",
    "Risk",
    "Scenario",
    "SiteData",
    "Tells",
    "deal",
    "load_pool",
    "scaling_of",
    "scenario_problems",
    "tells",
    "under",
]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One line of `fedlearn data list`: public data that a scenario can fetch by itself."""

    name: str
    records: int
    sites: tuple[str, ...]
    classes: tuple[str, ...]
    licence: str
    source: str
    archive: Archive


DATASETS: Mapping[str, Dataset] = {
    "heart": Dataset(
        name="heart",
        records=740,
        sites=heart.SITES,
        classes=heart.CLASSES,
        licence=ARCHIVES["heart"].licence,
        source="UCI Heart Disease, as Fed-Heart-Disease in FLamby",
        archive=ARCHIVES["heart"],
    ),
    "credit": Dataset(
        name="credit",
        records=credit.RECORDS,
        sites=credit.SITES,
        classes=lending.CLASSES,
        licence=ARCHIVES["credit"].licence,
        source="PAKDD 2009 data mining competition: card applications of 31 shops in Brazil",
        archive=ARCHIVES["credit"],
    ),
    "risk": Dataset(
        name="risk",
        records=risk.RECORDS,
        sites=(),
        classes=lending.CLASSES,
        licence=ARCHIVES["credit"].licence,
        source="Give Me Some Credit (2011): borrowers, without a lender; sites by a partitioner",
        archive=ARCHIVES["credit"],
    ),
    "codes": Dataset(
        name="codes",
        records=codes.SIZE,
        sites=(),
        classes=codes.CLASSES,
        licence=ARCHIVES["codes"].licence,
        source="ICD-10-CM, US edition of April 2026: phrases and their chapters",
        archive=ARCHIVES["codes"],
    ),
    "contracts": Dataset(
        name="contracts",
        records=contracts.SIZE,
        sites=contracts.SITES,
        classes=contracts.CLASSES,
        licence=ARCHIVES["contracts"].licence,
        source="clauses of software agreements collected by ScanCode, by their headings",
        archive=ARCHIVES["contracts"],
    ),
    "news": Dataset(
        name="news",
        records=news.SIZE,
        sites=(),
        classes=news.CLASSES,
        licence=ARCHIVES["news"].licence,
        source="Reuters-21578 R8, standard split",
        archive=ARCHIVES["news"],
    ),
}


def load_pool(scenario: Scenario, streams: Streams, cache: Path, group_by: str = "") -> Pool:
    """The records of a scenario; `cache` is the folder that archives are kept in.

    `group_by` names the attribute that test records will be grouped by, if any; a
    scenario that has few of them offers all.

    Raises:
        DataError: the data cannot be read, fetched or learned from.
        ConfigError: the scenario's config does not fit its data.

    """
    match scenario:
        case Heart():  # its split is published, so it does not depend on the seed
            return heart.load(scenario, cache)
        case Credit():
            return credit.load(scenario, cache)
        case Risk():
            return risk.load(scenario, cache)
        case Codes():
            return codes.load(scenario, cache)
        case Contracts():
            return contracts.load(scenario, cache)
        case News():
            return news.load(scenario, cache)
        case Csv():
            return csv.load(scenario, streams.get("split"), group_by)
        case MedMnist():
            return medmnist.load(scenario, cache, streams.get("groups"))
        case Images():
            return folders.load(scenario, streams.get("split"))
        case Fashion():
            return fashion.load(scenario, cache)
        case OwnText():
            return files.load(scenario, streams.get("split"), cache)
        case HuggingFace():
            return huggingface.load(scenario, streams.get("split"), cache)
        case _:
            assert_never(scenario)


def scaling_of(scenario: Scenario) -> Scaling | None:
    """How the numbers of a table are scaled; None where a scenario has nothing to scale."""
    match scenario:
        case Heart() | Credit() | Risk() | Csv():
            return scenario.scaling
        case MedMnist() | Images() | Fashion():
            return None  # a pixel's range is that of its format
        case Codes() | Contracts() | News() | OwnText() | HuggingFace():
            return None
        case _:
            assert_never(scenario)


Tells = Literal["nothing", "columns", "names"]
"""Nothing that is not public; the form of every column; or that of a record, and classes."""


def tells(scenario: Scenario) -> Tells:
    """What sites tell of their own records before the first round, to agree on what is learned.

    Of a scenario that is not known to be public something is told.
    """
    if isinstance(scenario, Public):
        return "nothing"
    return "columns" if isinstance(scenario, Csv) else "names"


def under(scenario: Scenario, folder: Path) -> Scenario:
    """The same with absolute paths: relative ones are in `folder`."""
    match scenario:
        case Csv():
            return scenario.under(folder)
        case MedMnist() | Images() | Fashion() | OwnText() | HuggingFace() if scenario.path:
            return replace(scenario, path=str(folder / scenario.path))
        case _:
            return scenario


def scenario_problems(scenario: Scenario) -> Iterator[str]:
    """What is wrong with a scenario's config by itself, as `dotted.path: reason` lines."""
    match scenario:
        case MedMnist():
            yield from medmnist_problems(scenario)
        case Csv():
            yield from settings_problems(scenario)
        case _:
            pass
