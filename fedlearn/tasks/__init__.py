"""What is learned: the form of a record, what it is answered with, and what the answer is worth.

One kind of task is one file (`fedlearn.tasks.task` says what it has to hold), one entry of
`TASKS` and one YAML in `configs/task`.
"""

from __future__ import annotations

from typing import Final

from fedlearn.core.registry import Family
from fedlearn.tasks.classification import Classification, ClassificationTask
from fedlearn.tasks.inputs import (
    SQUASH_UNIT,
    ImageInput,
    Input,
    SeriesInput,
    TableInput,
    TextInput,
    shape_of,
)
from fedlearn.tasks.labels import JOINED, Labels, LabelsTask
from fedlearn.tasks.language import Language, LanguageTask
from fedlearn.tasks.regression import Regression, RegressionTask
from fedlearn.tasks.retrieval import Retrieval, RetrievalTask
from fedlearn.tasks.survival import Survival, SurvivalTask
from fedlearn.tasks.task import (
    LabelColumn,
    Loss,
    Metric,
    Outputs,
    SearchTask,
    Targets,
    Task,
    TaskConfig,
    TaskForm,
    named_classes,
)

__all__ = [
    "CLASSIFICATION",
    "JOINED",
    "SQUASH_UNIT",
    "TASKS",
    "Classification",
    "ClassificationTask",
    "ImageInput",
    "Input",
    "LabelColumn",
    "Labels",
    "LabelsTask",
    "Language",
    "LanguageTask",
    "Loss",
    "Metric",
    "Outputs",
    "Regression",
    "RegressionTask",
    "Retrieval",
    "RetrievalTask",
    "SearchTask",
    "SeriesInput",
    "Survival",
    "SurvivalTask",
    "TableInput",
    "Targets",
    "Task",
    "TaskConfig",
    "TaskForm",
    "TextInput",
    "metric_called",
    "named_classes",
    "shape_of",
]

TASKS: Family[TaskConfig] = Family(
    "task", "fedlearn.tasks", (Classification, Regression, Labels, Language, Survival, Retrieval)
)
"""The settings of every kind of task."""

CLASSIFICATION: Final[TaskConfig] = Classification()
"""What is learned where nothing else is asked for."""


def metric_called(name: str) -> Metric:
    """The metric of this key, of whichever task has it: for a table of runs of several tasks."""
    options = TASKS.known.values()
    found = (option.learns.metric(name) for option in options)
    return next((metric for metric in found if metric.meaning), CLASSIFICATION.learns.metric(name))
