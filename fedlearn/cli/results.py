"""Commands about a run that is there: `report`, `audit`, `export` and `predict`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedlearn.cli.form import Commands, add


def add_report(commands: Commands[argparse.ArgumentParser]) -> None:
    """`report`."""
    report = add(
        commands,
        "report",
        "write report.html of a run, of a comparison, or of a folder of runs, from its files alone",
        "report runs/heart",
        _report,
    )
    report.add_argument("folder", metavar="DIR", help="what to report on; report.html goes there")
    report.add_argument(
        "--explain",
        metavar="RECORDS",
        help="add what the model of the run goes by in single records: `public` for the test "
        "records of a public data set, or a file of records that may be shown (.csv with the "
        "columns and units of a table of numbers, or .npz with the array `features`). The report "
        "then holds these records: explanations of a client's records are a release of data. "
        "Needs fedlearn[explain]",
    )


def add_audit(commands: Commands[argparse.ArgumentParser]) -> None:
    """`audit`."""
    audit = add(
        commands,
        "audit",
        "measure privacy: of the run in a folder, of a new run, or in a demonstration",
        "audit runs/heart",
        _audit,
    )
    audit.add_argument(
        "words",
        nargs="+",
        metavar="DIR | key=value | demo=NAME",
        help="the folder of a run, refused if its model, data or config have changed; or what to "
        "run and measure, as Hydra overrides (audit=slots unless said otherwise); or a "
        "demonstration and its own key=value. references=N (default 4, from 8 with LiRA) trains "
        "so many models for membership inference. Ends with exit code 6 where the verdict is "
        "PROMISE BROKEN",
    )


def add_export(commands: Commands[argparse.ArgumentParser]) -> None:
    """`export`."""
    export = add(
        commands,
        "export",
        "the model of a run with its model card and privacy statement",
        "export runs/heart --to heart-model",
        _export,
    )
    export.add_argument("run", metavar="DIR", help="the folder of the run")
    export.add_argument("--to", required=True, metavar="FOLDER", help="made; must not exist")


def add_predict(commands: Commands[argparse.ArgumentParser]) -> None:
    """`predict`."""
    predict = add(
        commands,
        "predict",
        "what an exported model says of records in a file, as a table",
        "predict heart-model new.csv --to said.csv",
        _predict,
    )
    predict.add_argument("model", metavar="FOLDER", help="as `fedlearn export` wrote it")
    predict.add_argument(
        "records",
        metavar="RECORDS",
        help="a table (CSV, Parquet) with the columns and units of the run, texts (CSV, JSONL), or "
        ".npz with the array `features`; no label is needed",
    )
    predict.add_argument("--to", metavar="FILE", help="the table (default: the screen)")
    predict.add_argument(
        "--like",
        metavar="TABLE",
        help="the table that was trained on, for categories that the run did not name",
    )
    for name, way in (
        ("separator", "comma, semicolon, tab or pipe"),
        ("encoding", "such as cp1252"),
        ("decimal", ". or ,"),
        ("text", "the column of the texts"),
    ):
        predict.add_argument(f"--{name}", help=f"{way} (default: as in the run)")


def _report(options: argparse.Namespace) -> int:
    from fedlearn.report.page import write_report

    if options.explain is not None:
        from simulations.explaining import explain_run

        explain_run(Path(options.folder), options.explain)
    print(write_report(Path(options.folder)))
    return 0


def _audit(options: argparse.Namespace) -> int:
    from simulations.attacks.audit import audit

    audit(options.words)
    return 0


def _export(options: argparse.Namespace) -> int:
    from fedlearn.report.export import export, notes

    folder = Path(options.to)
    for path in export(Path(options.run), folder):
        print(path)
    for note in notes(folder):
        print(f"note: {note}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from fedlearn.prediction import load, write_table

    model = load(Path(options.model))
    names = ("separator", "encoding", "decimal", "text")
    written = {name: value for name in names if (value := getattr(options, name)) is not None}
    like = None if options.like is None else Path(options.like)
    found = model.read(Path(options.records), like, **written)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    write_table(model, found, None if options.to is None else Path(options.to))
    return 0
