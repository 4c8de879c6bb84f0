"""Where records come from, and how they are dealt out to sites.

A scenario's config becomes a `Pool` (`load_pool`), a partition says which site
holds which row (`Partition.assign`), and `deal` hands them over.
Nothing here knows models, privacy or Flower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family
from fedlearn.core.rng import Streams
from fedlearn.data.arrays import Given
from fedlearn.data.datasets.answering import Answering
from fedlearn.data.datasets.codes import Codes
from fedlearn.data.datasets.contracts import Contracts
from fedlearn.data.datasets.credit import Credit
from fedlearn.data.datasets.drafting import Drafting
from fedlearn.data.datasets.fashion import Fashion
from fedlearn.data.datasets.heart import Heart
from fedlearn.data.datasets.incomes import Incomes
from fedlearn.data.datasets.news import News
from fedlearn.data.datasets.precedents import Precedents
from fedlearn.data.datasets.reviews import Reviews
from fedlearn.data.datasets.risk import Risk
from fedlearn.data.images.folders import Images
from fedlearn.data.images.medmnist import MedMnist
from fedlearn.data.partition import Dirichlet, Files, Iid, Natural, Partition, Quantity
from fedlearn.data.pool import Pool, Records, SiteData, deal, split_notes, with_validation
from fedlearn.data.scenario import Dataset, Reading, Scenario
from fedlearn.data.tables.csv import Csv
from fedlearn.data.texts.files import OwnText
from fedlearn.data.texts.huggingface import HuggingFace
from fedlearn.data.texts.passages import OwnPassages
from fedlearn.tasks import CLASSIFICATION, TaskConfig

__all__ = [
    "DATASETS",
    "PARTITIONS",
    "SCENARIOS",
    "Answering",
    "Codes",
    "Contracts",
    "Credit",
    "Csv",
    "Dataset",
    "Drafting",
    "Fashion",
    "Given",
    "Heart",
    "HuggingFace",
    "Images",
    "Incomes",
    "MedMnist",
    "News",
    "OwnPassages",
    "OwnText",
    "Partition",
    "Pool",
    "Precedents",
    "Reading",
    "Records",
    "Reviews",
    "Risk",
    "Scenario",
    "SiteData",
    "deal",
    "load_pool",
]

PUBLIC: tuple[type[Scenario], ...] = (
    Heart,
    Credit,
    Incomes,
    Risk,
    Codes,
    Contracts,
    Drafting,
    Precedents,
    News,
    Reviews,
    Fashion,
)
"""In the order of `fedlearn data list`."""

SCENARIOS: Family[Scenario] = Family(
    "scenario",
    "fedlearn.scenarios",
    (*PUBLIC, Csv, MedMnist, Images, Answering, OwnText, OwnPassages, HuggingFace, Given),
    base=Scenario,
)
PARTITIONS: Family[Partition] = Family(
    "partition",
    "fedlearn.partitions",
    (Natural, Iid, Dirichlet, Quantity, Files),
    base=Partition,
)

DATASETS: Mapping[str, Dataset] = {
    scenario.kind: scenario.dataset for scenario in PUBLIC if scenario.dataset is not None
}
"""The public sets that scenarios can fetch by themselves, by name."""


def load_pool(
    scenario: Scenario,
    streams: Streams,
    cache: Path,
    group_by: str = "",
    task: TaskConfig = CLASSIFICATION,
    *,
    by_record: bool = False,
    complete: bool = False,
    by_name: bool = False,
) -> Pool:
    """The records of a scenario, read as `Reading` says.

    Raises:
        DataError: the data cannot be read, fetched or learned from.
        ConfigError: the scenario's config does not fit its data, or the task its labels.
    """
    reading = Reading(
        streams=streams,
        cache=cache,
        group_by=group_by,
        task=task,
        by_record=by_record,
        complete=complete,
        by_name=by_name,
    )
    pool = scenario.load(reading)
    if not isinstance(pool.task, task.learns):
        raise ConfigError(
            f"task={task.kind}: the labels of scenario={scenario.kind} are for "
            f"task={pool.task.kind}; choose that, or a table or texts of your own"
        )
    learned = task.of(pool.task.form)
    try:
        learned.check(pool.labels)
    except ValueError as error:
        raise ConfigError(
            f"task={task.kind}: cannot learn scenario={scenario.kind} with these settings: {error}"
        ) from None
    if pool.is_validation is None:  # a split by time has chosen them already
        pool = with_validation(pool, scenario.validation_fraction, streams)
    notes = (*pool.notes, *split_notes(pool))
    return replace(pool, task=learned, notes=notes)
