"""A smaller model out of a run's, in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlearn.report.made_smaller import Costs


def distill(
    run: Path | str,
    *overrides: str,
    data: Path | str,
    to: Path | str,
    records: Path | str | None = None,
    **how: Any,
) -> Costs:
    """Train a smaller model on what a run's model answers to public records, and export it.

    Args:
        run: the folder of the run, whose model is the teacher.
        overrides: the smaller model, as on the command line: `model=tabular`,
            `model.architecture=linear`, `model.width=16`.
        data: public records, as `fedlearn predict` reads them; of a language model with answers.
        to: the folder of the export, which must not exist.
        records: what both are measured on, if not the test records of the run's sites.
        how: `steps` (400), `batch` (32), `learning_rate` (0.005), `temperature` (2.0), `seed` (0).

    Returns:
        What it costs, as in `costs.json`: size, metrics of both models by site, where it does
        worst and where it lost most.

    Raises:
        ConfigError: it is no smaller model for these records, or `data` is what the run has
            learned from.
        DataError: there is no run, or the records cannot be read.
    """
    from fedlearn.config import decode
    from fedlearn.training.distillation import Distillation
    from simulations.distilling import distill

    wanted = decode(Distillation, json.dumps(how))
    measured = None if records is None else Path(records)
    return distill(Path(run), Path(data), Path(to), overrides, wanted, records=measured)
