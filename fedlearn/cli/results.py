"""Commands about what is there: `report`, `audit`, `export`, `predict`, and a site's `ledger`."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlearn.cli.completion import audit_words
from fedlearn.cli.form import command, takes
from fedlearn.cli.generation import BASE
from fedlearn.core.errors import ConfigError, DataError, as_options

if TYPE_CHECKING:
    from fedlearn.prediction import Predictor

LANGUAGE = takes(
    "--language",
    "of what is written: en, de, es, fr or zh (default: report.language of the run)",
    "CODE",
)


@command(
    "report",
    "report runs/heart",
    takes("folder", "what to report on; report.html goes there", "DIR", there=DataError),
    takes(
        "--explain",
        "add what the model of the run goes by in single records: `public` for the test "
        "records of a public data set, or a file of records that may be shown (.csv with the "
        "columns and units of a table of numbers, or .npz with the array `features`). The report "
        "then holds these records: explanations of a client's records are a release of data. "
        "Needs fedlearn[explain]",
        "RECORDS",
    ),
    LANGUAGE,
)
def report(options: argparse.Namespace) -> None:
    """Write report.html of a run, of a comparison, or of a folder of runs, from its files alone."""
    from fedlearn.report.page import write_report

    if options.explain is not None:
        from simulations.explaining import explain_run

        explain_run(Path(options.folder), options.explain)
    print(write_report(Path(options.folder), options.language))


@command(
    "audit",
    "audit runs/heart",
    takes(
        "words",
        "the folder of a run, refused if its model, data or config have changed; or what to "
        "run and measure, as Hydra overrides (audit=slots unless said otherwise); or a "
        "demonstration and its own key=value: demo=inversion (images from updates), demo=poison "
        "(sites that lie, audit.liars=N; of the study that other words describe), demo=exposure "
        "(what a language model repeats of secrets, audit.digits=N; likewise). references=N "
        "(default 4, from 8 with LiRA) trains so many models for membership inference. Ends with "
        "exit code 6 where the verdict is PROMISE BROKEN",
        "DIR | key=value | demo=NAME",
        nargs="+",
        completed=audit_words,
    ),
)
def audit(options: argparse.Namespace) -> None:
    """Measure privacy: of the run in a folder, of a new run, or in a demonstration."""
    _refuse_early(options.words)
    from simulations.attacks.audit import audit

    audit(options.words)


def _refuse_early(words: Sequence[str]) -> None:
    """Say at once what is wrong with the words of a new run, or that there is no such run.

    What else is wrong beside a folder is said by who reads all of the words.
    """
    of_run = [word for word in words if not word.startswith("references=")]
    if all("=" in word for word in of_run) and not any(w.startswith("demo=") for w in of_run):
        from fedlearn.config.words import refuse_words

        refuse_words(of_run)
    elif len(words) == 1 and "=" not in words[0] and not Path(words[0]).exists():
        raise DataError(f"{words[0]}: there is no such folder; give that of a run, or key=value")


RECORDS: Final = takes(
    "--records",
    "on what it is measured what int8 costs: a file as `fedlearn predict` reads it (default: the "
    "test records of the run's sites, where they are on this machine and its figures are exact)",
    "FILE",
)
FORMS: Final = ("peft", "merged", "int8", "onnx")
ELSEWHERE: Final = ("coreml", "gguf", "int4", "openvino", "safetensors", "tflite", "torchscript")
"""Forms that others write: whoever asks for one wants no folder of that name."""


@command(
    "export",
    "export runs/heart --to heart-model",
    takes("run", "the folder of the run", "DIR", there=DataError),
    takes(
        "--to",
        "the folder to be made, which must not exist; or a form: `int8` (all weights in eight "
        "bits, for fedlearn predict and generate), `onnx` (a graph that onnxruntime reads); of a "
        "tuned language model `peft` (the adapters, for PeftModel.from_pretrained) or `merged` "
        "(the whole model, for AutoModelForCausalLM.from_pretrained)",
        "FOLDER | FORM",
        required=True,
    ),
    takes("--folder", "made for a form (default: beside the run, as RUN-peft)", "FOLDER"),
    takes(
        "--categories",
        "name in it the categories that were found in records, so that it can be asked without "
        "the table: values of records, which no promise is about",
        action="store_true",
    ),
    RECORDS,
    takes(
        "--site",
        "instead of the shared model the own one of a site (strategy=ditto, mr_mtl, "
        "training.personal): its name in a simulation, or the file that the site keeps beside its "
        "ledger (personal-*.safetensors); the run may then be an export of it",
        "NAME | FILE",
    ),
    LANGUAGE,
)
def export(options: argparse.Namespace) -> None:
    """The model of a run with its model card and privacy statement."""
    from fedlearn.report.export import export, notes
    from simulations.costs import weighing

    run, form = Path(options.run), options.to if options.to in FORMS else ""
    if options.site is not None:
        _export_own(run, options, form)
        return
    if options.folder is not None and not form:
        raise ConfigError(f"--folder: goes with --to {', '.join(FORMS)}; --to names the folder")
    refuse_other_forms(options.to)
    if options.records is not None and form != "int8":
        raise ConfigError("--records: says on what --to int8 is measured; leave it out")
    beside = run.resolve().with_name(f"{run.resolve().name}-{form}")
    folder = Path(options.folder or beside) if form else Path(options.to)
    weigh = weighing(run, None if options.records is None else Path(options.records))
    made = export(
        run, folder, options.language, form=form, categories=options.categories, weigh=weigh
    )
    for path in made:
        print(path)
    say_costs(folder)
    for note in notes(folder):
        print(f"note: {note}")


def _export_own(run: Path, options: argparse.Namespace, form: str) -> None:
    """The own model of a site."""
    from clients.own_state import kept_model
    from fedlearn.report.own_export import export_own

    if form or options.folder or options.records or options.categories:
        raise ConfigError(
            "--site: a site's own model is exported as it is; leave out --folder, --records and "
            "--categories, and name a folder with --to"
        )
    refuse_other_forms(options.to)
    kept, named = kept_model(run, options.site)
    for path in export_own(run, kept, Path(options.to), named, options.language):
        print(path)


def refuse_other_forms(word: str) -> None:
    """Refuse a misspelt form, or one that there is none of, before it is taken for a folder."""
    meant = difflib.get_close_matches(word.lower(), FORMS, n=1, cutoff=0.7)
    path = Path(word).name != word
    if path or word in FORMS or not (meant or word.lower() in ELSEWHERE):
        return
    hint = f"; did you mean {meant[0]}?" if meant else ""
    raise ConfigError(
        f"--to {word}: there is no such form{hint} ({', '.join(FORMS)}); a folder of that name "
        f"is --to ./{word}"
    )


def say_costs(folder: Path) -> None:
    """What was lost where something was made of a model, line by line."""
    from fedlearn.prediction import described
    from fedlearn.report.made_smaller import in_words, read_costs

    if (costs := read_costs(folder)) is not None:
        file = described(folder)
        print("\n".join(in_words(costs, file.learned.of(file.task))))


WRITTEN = {
    "separator": "comma, semicolon, tab or pipe",
    "encoding": "such as cp1252",
    "sheet": "the one of an Excel file that holds them",
    "decimal": ". or ,",
    "text": "the column of the texts",
}


@command(
    "predict",
    "predict heart-model new.csv --to said.csv",
    takes(
        "model", "as `fedlearn export` wrote it, or the folder of a run", "FOLDER", there=DataError
    ),
    takes(
        "records",
        "a table (CSV, Parquet, Excel) with the columns and units of the run, texts (also JSONL), "
        "or .npz with the array `features`; no label is needed. Of a language model: prompts with "
        "completions, texts or conversations, whose answers it is measured on",
        "RECORDS",
        there=DataError,
    ),
    takes("--to", "the table (default: the screen)", "FILE"),
    takes(
        "--like",
        "the table that was trained on, or the folder of the run, for categories that the run "
        "did not name",
        "TABLE | RUN",
        there=DataError,
    ),
    takes(
        "--option",
        "of a language model: an answer to choose among, for prompts alone; given twice or more "
        "(default: those of the scenario, where it has some)",
        "TEXT",
        action="append",
        default=[],
    ),
    BASE,
    *(takes(f"--{name}", f"{way} (default: as in the run)") for name, way in WRITTEN.items()),
)
def predict(options: argparse.Namespace) -> None:
    """What an exported model says of records in a file, as a table."""
    from fedlearn.report.export import open_model

    model = open_model(Path(options.model), options.base or "")
    to = None if options.to is None else Path(options.to)
    given = {name: getattr(options, name) for name in WRITTEN}
    written = {name: value for name, value in given.items() if value is not None}
    with as_options("scenario", WRITTEN):
        _predict(model, options, written, to)


def _predict(
    model: Predictor, options: argparse.Namespace, written: dict[str, str], to: Path | None
) -> None:
    from fedlearn.prediction import write_table

    if model.task.next_tokens:
        _grade(model, options, written, to)
        return
    if model.task.searches:
        raise ConfigError(
            f"task={model.task.kind}: answers a query with documents; make an index of yours by "
            f"`fedlearn index {options.model} documents.jsonl --to FOLDER`, and ask it by "
            "`fedlearn find FOLDER QUERY`"
        )
    if options.option:
        raise ConfigError(f"--option: task={model.task.kind} has answers of its own; leave it out")
    like = None if options.like is None else Path(options.like)
    found = model.read(Path(options.records), like, **written)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    write_table(model, found, to)


def _grade(
    model: Predictor, options: argparse.Namespace, written: dict[str, str], to: Path | None
) -> None:
    """The same of a language model."""
    from fedlearn.data.datasets.archives import default_cache
    from fedlearn.generation.generator import TextGenerator
    from fedlearn.generation.grading import chosen, graded
    from fedlearn.prediction import write_rows

    cache, path = default_cache(os.environ), Path(options.records)
    generator = TextGenerator.of(model, cache, **written)
    known = tuple(options.option) or model.file.scenario.options(cache)
    found = chosen(generator, path, known) if known else graded(model, generator, path)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    write_rows(found.header, found.rows, to)


# --- what a site has spent ----------------------------------------------------------------


@command(
    "ledger show",
    "ledger show state/ledger.jsonl --delta 1e-5",
    takes("path", "ledger.jsonl of a site, or its folder", "LEDGER", there=DataError),
    takes("--delta", "at which epsilon is stated (default: 1e-5)", type=float, default=1e-5),
)
def ledger_show(options: argparse.Namespace) -> None:
    """What each run has spent, and what that amounts to."""
    from clients.ledger import report

    report.show(_ledger_at(options.path), options.delta)


@command(
    "ledger verify",
    "ledger verify state/ledger.jsonl --receipts runs/heart/receipts",
    takes("path", "ledger.jsonl of a site, or its folder", "LEDGER", there=DataError),
    takes("--head", "a hash noted earlier: the ledger must have grown from it", "HASH"),
    takes(
        "--receipts",
        "files, or folders of runs: the ledger must have grown from each (else exit code 7)",
        "PATH",
        nargs="+",
        default=[],
    ),
    takes("--roster", "the pinned roster with the site's key", "PATH"),
)
def ledger_verify(options: argparse.Namespace) -> None:
    """Whether a ledger is intact, and what its site has signed for others."""
    from clients.ledger import report

    path = _ledger_at(options.path)
    report.show_head(path, options.head)
    if options.receipts:
        roster = Path(options.roster) if options.roster else None
        report.check_receipts(path, [Path(place) for place in options.receipts], roster)


def _ledger_at(given: str) -> Path:
    path = Path(given)
    return path / "ledger.jsonl" if path.is_dir() else path
