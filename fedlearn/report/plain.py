"""Ask an exported additive model about records, with numpy alone: this file needs nothing else.

    python predict.py records.csv            # a line for each record: what the model says of it

`shapes.json` beside it holds the model: for every column where its bins begin, in the column's own
units, and what each bin adds to the scores. An empty cell is a missing value. A category counts
by its exact name; where the export names none, by its code from 1. `interpreted` makes the
classifier or regressor of the package interpret of it, whose plots and tools then work.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Cells = Mapping[str, Sequence[Any]]


def bins_of(column: Mapping[str, Any], cells: Sequence[Any]) -> NDArray[np.int64]:
    """The place of each cell of a column in its `values`."""
    if column["kind"] == "categories":
        return np.array([_code(column, cell) for cell in cells], np.int64)
    numbers = np.array([_number(cell) for cell in cells], np.float64)
    found = np.searchsorted(np.array(column["cuts"], np.float64), numbers, side="right")
    return np.where(np.isnan(numbers), len(column["values"]) - 1, found)


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return float("nan")


def _code(column: Mapping[str, Any], cell: Any) -> int:
    if column["categories"] is not None:
        known = column["categories"]
        return known.index(str(cell)) + 1 if str(cell) in known else 0
    code = _number(cell)
    return int(code) if 0 <= code < len(column["values"]) else 0


def scores(model: Mapping[str, Any], cells: Cells) -> Floats:
    """What the columns add up to for each record: `float64[n, outputs]`."""
    missing = [one["name"] for one in model["columns"] if one["name"] not in cells]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    count = len(next(iter(cells.values()))) if cells else 0
    total = np.tile(np.array(model["intercept"], np.float64), (count, 1))
    for column in model["columns"]:
        values = np.array(column["values"], np.float64)
        total += values[bins_of(column, cells[column["name"]])]
    return total


def answers(model: Mapping[str, Any], cells: Cells) -> Floats:
    """Chances of the classes, which sum to 1; the number within its range; or plain scores."""
    found = scores(model, cells)
    if model["answers"] == "classes":
        powers = np.exp(found - found.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))
    if model["answers"] == "number":
        return np.clip(found, model["low"], model["high"])
    return found


def interpreted(model: Mapping[str, Any]) -> Any:
    """The same model as an object of interpret's own class, for `predict_proba` and its plots.

    It knows no counts of records, which nobody has told: every bin weighs the same.
    """
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    if model["answers"] == "scores":
        raise ValueError("interpret has no class for what this model says")
    of_classes = model["answers"] == "classes"
    made = (ExplainableBoostingClassifier if of_classes else ExplainableBoostingRegressor)()
    two = of_classes and len(model["classes"]) == 2
    made.bins_, made.term_scores_, made.standard_deviations_ = [], [], []
    made.feature_names_in_ = [column["name"] for column in model["columns"]]
    made.feature_types_in_ = []
    for column in model["columns"]:
        values = _terms(column, column["values"], two)
        deviation = column.get("deviation") or np.zeros_like(column["values"]).tolist()
        kind, bins = _bins(column)
        made.feature_types_in_.append(kind)
        made.bins_.append([bins])
        made.term_scores_.append(values)
        made.standard_deviations_.append(np.abs(_terms(column, deviation, two)))
    _finish(made, model, two)
    return made


def _bins(column: Mapping[str, Any]) -> tuple[str, Any]:
    if column["kind"] == "number":
        return "continuous", np.array(column["cuts"], np.float64)
    known = column["categories"] or [str(code) for code in range(1, len(column["values"]))]
    return "nominal", {name: code for code, name in enumerate(known, start=1)}


def _terms(column: Mapping[str, Any], values: Any, two: bool) -> Floats:
    """In the order of interpret: missing, the bins, unknown."""
    found = np.array(values, np.float64)
    found = found[:, 1] - found[:, 0] if two else found
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if column["kind"] == "number":
        return np.concatenate([found[-1:], found[:-1], found[-1:]])
    return np.concatenate([found, found[:1]])


def _finish(made: Any, model: Mapping[str, Any], two: bool) -> None:
    count, start = len(model["columns"]), np.array(model["intercept"], np.float64)
    made.term_features_ = [(i,) for i in range(count)]
    made.term_names_ = list(made.feature_names_in_)
    made.bin_weights_ = [np.ones(len(scores_)) for scores_ in made.term_scores_]
    made.bagged_scores_ = [scores_[None] for scores_ in made.term_scores_]
    made.n_features_in_, made.has_fitted_ = count, True
    made.feature_bounds_ = np.full((count, 2), np.nan)
    made.unique_val_counts_ = np.zeros(count, np.int64)
    made.bag_weights_, made.best_iteration_ = np.ones(1), np.zeros((1, 1), np.int64)
    made.link_param_ = float("nan")
    if model["answers"] == "classes":
        made.classes_ = np.array(model["classes"])
        made.link_ = "logit" if two else "mlogit"
        made.intercept_ = np.array([start[1] - start[0]]) if two else start
    else:
        made.link_, made.intercept_ = "identity", float(start[0])
        made.min_target_, made.max_target_ = model["low"], model["high"]
    made.bagged_intercept_ = np.atleast_2d(made.intercept_)


def load(path: Path) -> dict[str, Any]:
    """The model in a file `shapes.json`."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main(arguments: Sequence[str]) -> None:
    """Print what the model says of the records in a file."""
    model = load(Path(__file__).resolve().with_name("shapes.json"))
    with Path(arguments[0]).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(model["outputs"])
    if rows:
        table.writerows(answers(model, cells).tolist())


if __name__ == "__main__":
    main(sys.argv[1:])
