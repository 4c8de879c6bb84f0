"""What a run lets out beside the model, in words: what is exact and outside of any epsilon."""

from __future__ import annotations

from fedlearn.config import RunConfig
from fedlearn.data import Csv, HuggingFace, Images, MedMnist, OwnText
from fedlearn.mechanisms import NoPrivacy
from fedlearn.metrics.fairness import GroupFairness
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, TextInput


def beside_the_model(config: RunConfig) -> str:
    """All of it."""
    return " ".join(filter(None, (released(config), told(config))))


def record_of(config: RunConfig, shape: Input) -> str:
    """What one record is, which is what record-level privacy protects."""
    match shape:
        case TableInput():
            return "a row"
        case ImageInput():
            return "a picture"
        case TextInput():
            return "a text"
        case SeriesInput():
            match config.scenario:
                case Csv(record=name):
                    return f"all rows of one {name!r}"
            return "a series"


def told(config: RunConfig) -> str:
    """What sites tell of their own data before the first round, to agree on what is learned."""
    match config.scenario:
        case Csv():
            magnitude = (
                " It told the magnitude of its numbers as well (its median in quarters of a "
                "decade), as runs without privacy do."
                if isinstance(config.privacy, NoPrivacy)
                else ""
            )
            return (
                "Before training every site told the coordinator of each column its name, whether "
                "it holds numbers or categories, whether it has gaps, how many categories there "
                "are and 64 bits of a hash of their names, and the names of the classes; no value "
                "of a record. What of this was found in records, and not given in the config, is "
                f"covered by no epsilon.{magnitude}"
            )
        case OwnText() | HuggingFace() | Images() | MedMnist():
            return (
                "Before training every site told the coordinator the form of its records and the "
                "names of the classes; where they were found in records, no epsilon covers them."
            )
        case _:
            return ""


def released(config: RunConfig) -> str:
    """What everyone learns from the evaluation that `config` asks for."""
    if config.evaluation == "pooled" and config.secagg.kind in ("masked", "two_server"):
        return f"Test metrics: only their sum over all sites was opened, exact.{_summed(config)}"
    return (
        "Test metrics: every site released its own, exact and not covered by any epsilon"
        f"{_by_group(config)}; evaluation=pooled under secure aggregation opens their sum alone."
    )


def _summed(config: RunConfig) -> str:
    if not isinstance(config.fairness, GroupFairness):
        return ""
    return (
        f" So were the sums over groups by {config.fairness.column!r}; the coordinator saw all of "
        f"them, and passed on those of at least {config.fairness.smallest} test records."
    )


def _by_group(config: RunConfig) -> str:
    if not isinstance(config.fairness, GroupFairness):
        return ""
    return (
        f", and with them those of its groups by {config.fairness.column!r} that have at least "
        f"{config.fairness.smallest} test records there"
    )
