"""`fedlearn distill`: a smaller model that learns from a run's, on public records."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from fedlearn.cli.completion import words
from fedlearn.cli.form import command, takes
from fedlearn.cli.results import LANGUAGE, WRITTEN, say_costs
from fedlearn.core.errors import DataError, as_options

if TYPE_CHECKING:
    from fedlearn.training.distillation import Distillation


@command(
    "distill",
    "distill runs/heart model.width=8 --data public.csv --to small",
    takes("run", "the folder of the run", "DIR", there=DataError),
    takes(
        "--data",
        "public records, as `fedlearn predict` reads them, without labels; of a language model "
        "with answers. What the run has learned from is refused where it can be noticed",
        "RECORDS",
        required=True,
        there=DataError,
    ),
    takes("--to", "the folder to be made, which must not exist", "FOLDER", required=True),
    takes(
        "overrides",
        "the smaller model, as Hydra overrides: model=..., model.*, training.finetune",
        "key=value",
        nargs="*",
        completed=words,
    ),
    takes("--steps", "of training (default: 400)", "N", type=int),
    takes("--batch", "records of a step (default: 32)", "N", type=int),
    takes("--rate", "of Adam, falling to zero (default: 0.005)", "R", type=float,
          dest="learning_rate"),
    takes("--temperature", "above 1 the less likely answers count for more (default: 2)", "T",
          type=float),
    takes("--seed", "of initial weights, batches and dropout (default: 0)", "N", type=int),
    takes(
        "--records",
        "on what both models are measured: a file as `fedlearn predict` reads it (default: the "
        "test records of the run's sites, where they are on this machine and its figures are "
        "exact)",
        "FILE",
        there=DataError,
    ),
    *(takes(f"--{name}", f"{way} (default: as in the run)") for name, way in WRITTEN.items()),
    LANGUAGE,
)  # fmt: skip
def distill(options: argparse.Namespace) -> None:
    """A smaller model that learns what a run's model answers to public records."""
    how = _how(options)
    from simulations.distilling import distill

    given = {name: getattr(options, name) for name in WRITTEN}
    to = Path(options.to)
    with as_options("scenario", WRITTEN):
        distill(
            Path(options.run),
            Path(options.data),
            to,
            options.overrides,
            how,
            code=options.language,
            records=None if options.records is None else Path(options.records),
            written={name: value for name, value in given.items() if value is not None},
            say=lambda note: print(f"note: {note}", file=sys.stderr),
        )
    for path in sorted(to.iterdir()):
        print(path)
    say_costs(to)


def _how(options: argparse.Namespace) -> Distillation:
    """What of the command line says how to learn, checked before a model is read."""
    from fedlearn.config import decode
    from fedlearn.training.distillation import Distillation

    named = {one.name: getattr(options, one.name) for one in fields(Distillation)}
    return decode(Distillation, json.dumps({n: v for n, v in named.items() if v is not None}))
