"""`fedlearn export`: a model with its card and its privacy statement, from a run's folder alone.

The model that is written is, byte for byte, the one whose hash was checked, and
the folder appears as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup
from safetensors import SafetensorError

from fedlearn import prediction
from fedlearn.config import decode, encode, load, to_tree
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible
from fedlearn.core.language import language_of
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.core.weights import values_of
from fedlearn.data.texts.folders import PINNED
from fedlearn.prediction import ModelFile, Predictor
from fedlearn.report import plain
from fedlearn.report.facts import Facts, public_settings
from fedlearn.report.forms import FORMS, INT8, README, base_of, front_matter, loading, write_int8
from fedlearn.report.made_smaller import (
    Costs,
    Held,
    Weigh,
    Weighed,
    sites_of,
    texts_of,
    write_costs,
)
from fedlearn.report.shapes import FILE as SHAPES
from fedlearn.report.shapes import Shapes, read_noise, shapes_of
from fedlearn.report.texts import code_block, render, texts
from fedlearn.report.written import Samples, public_prompts, samples_of
from fedlearn.results.categories import Categories, kept_categories
from fedlearn.results.reading import parse_result, read_bytes, read_result, task_of
from fedlearn.results.result import ResultFile
from fedlearn.tasks import TaskForm

MODEL: Final = "model.safetensors"
ASKED: Final = prediction.FILE
CARD: Final = "model_card.md"
STATEMENT: Final = "privacy_statement.md"
PLAIN: Final = "predict.py"


def export(
    run: Path,
    target: Path,
    code: str | None = None,
    *,
    form: str = "",
    categories: bool = False,
    weigh: Weigh = lambda before, after: Weighed(unmeasured="elsewhere"),
) -> tuple[Path, ...]:
    """Write the model of the run in `run`, its card and its statement into the new `target`.

    `form` is one of `fedlearn.report.forms.FORMS`, which other tools read, or `int8`; without, the
    model is written as the run has it, with `model.json` for `fedlearn predict`.

    `code` is the language of card and statement; None for that of the run's config. `categories`
    puts those into `model.json` that the run has found in records: values of records, which no
    promise is about. `weigh` measures what eight bits cost.

    Raises:
        ConfigError: `target` exists or cannot be made, the model has no such form, or there is no
            such language.
        DataError: `run` holds no result or no model yet, or the model is not the
            one that the result names.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"--to {target}: exists; choose a folder that does not")
    result, model, hashes = checked_run(run)
    refuse_half(run, result)
    language = language_of(code or result.config.get("report", {}).get("language", "en"))
    costs = None
    with new_folder(target) as folder:
        hashes = {f"the run's {MODEL}" if form else MODEL: _sha256(model), **hashes}
        facts = Facts(result=result, hashes=hashes, language=language)
        asked = asked_by(result, kept_categories(run) if categories else {})
        if form == INT8:
            costs = _write_int8(run, result, asked, weigh, folder)
        elif form:
            _write_form(run, facts, form, folder)
        else:
            _write_own(asked, model, folder)
            _write_shapes(run, result, asked, folder)
        write_texts(facts, _samples(run, result), folder, costs)
        names = sorted(path.name for path in folder.iterdir())
    return tuple(target / name for name in names)


def refuse_half(run: Path, result: ResultFile) -> None:
    """Refuse a model of which a part stays with every site: by itself it is none.

    Raises:
        ConfigError: with the way out.
    """
    part = load(result.config).training.personal
    if part != "none":
        raise ConfigError(
            f"{run}: the {part} of its model is every site's own, and without it there is no "
            "model. Say whose it is to be: fedlearn export RUN --site NAME --to FOLDER"
        )


def checked_run(run: Path) -> tuple[ResultFile, bytes, dict[str, str]]:
    """The result of a run, its file of weights, and the hashes of the others of its files.

    Raises:
        DataError: as `export`.
    """
    result_bytes, config_bytes = read_bytes(run / "result.json"), read_bytes(run / "config.yaml")
    result = parse_result(run / "result.json", result_bytes)
    hashes = {
        "the run's result.json": _sha256(result_bytes),
        "the run's config.yaml": _sha256(config_bytes),
    }
    return result, _checked_model(run / MODEL, result), hashes


def _write_int8(
    run: Path, result: ResultFile, asked: ModelFile | None, weigh: Weigh, folder: Path
) -> Costs:
    """The model in eight bits, read back, and what it costs."""
    if asked is None:
        raise DataError(f"{run}: its release did not say what a record looks like")
    before = open_model(run)
    size = write_int8(before, asked, folder)
    taken = (folder / MODEL).stat().st_size
    base, held = base_of(before, INT8), None
    if base is not None:
        held = Held(name=base.name, sha256=base.sha256, licence=base.licence)
    weighed = weigh(before, prediction.load(folder))
    return costs_of(result, (size, taken), weighed, form="int8", held=held)


def costs_of(result: ResultFile, sizes: tuple[int, int], weighed: Weighed, **more: Any) -> Costs:
    """What stands in `costs.json`, of what was made of a run's model; `sizes` are those of the
    run's and of this one, in bytes."""
    task = task_of(result)
    worst, lost = sites_of(task, weighed.per_site)
    return Costs(
        run_id=result.run_id,
        model_sha256=result.model.sha256,
        epsilon=result.privacy.epsilon,
        delta=result.privacy.delta,
        metric=task.leading.name,
        bytes_before=sizes[0],
        bytes_after=sizes[1],
        weighed=weighed,
        worst_site=worst,
        most_lost=lost,
        **more,
    )


def _write_own(asked: ModelFile | None, model: bytes, folder: Path) -> None:
    """The model as the run has it."""
    (folder / MODEL).write_bytes(model)
    if asked is not None:
        (folder / ASKED).write_text(encode(asked), encoding="utf-8")


def asked_by(result: ResultFile, found: Categories) -> ModelFile | None:
    """How an export is built and asked, with what was found in records where it may be there.

    None for a result of an older release.
    """
    settings = public_settings(result.config)
    if found:
        scenario = settings["scenario"]
        named = {name: list(own) for name, own in found.items()}
        settings |= {"scenario": scenario | {"categories": named | scenario["categories"]}}
    return model_file(result, settings)


def write_texts(
    facts: Facts,
    samples: Samples,
    folder: Path,
    costs: Costs | None = None,
    *,
    own_site: str = "",
) -> None:
    """Card and statement, and `costs.json` of what was made of the model; `own_site` is whose own
    model it is, if it is that of one site."""
    smaller = texts_of(costs, facts.task, facts.language)
    values = {**facts.texts, "samples": samples, "block": code_block, "smaller": smaller}
    values |= {"costs": costs, "own_site": own_site}
    card = render("model_card.md.j2", settings=code_block(facts.settings), **values)
    (folder / CARD).write_text(card, encoding="utf-8")
    if costs is not None:
        write_costs(folder, costs)
    statement = render("privacy_statement.md.j2", smaller=smaller, **facts.texts)
    (folder / STATEMENT).write_text(statement, encoding="utf-8")


def _samples(run: Path, result: ResultFile) -> Samples:
    """What its language model writes; the card does without where the public model is gone."""
    prompts = public_prompts(load(result.config))
    if not task_of(result).next_tokens or not prompts:
        return Samples()
    try:
        before, after = (open_model(run, tuned=tuned) for tuned in (False, True))
        return Samples(shown=samples_of(before, after, prompts))
    except (ConfigError, DataError):  # their texts name folders of this machine
        return Samples(failed=True)


def _write_form(run: Path, facts: Facts, form: str, folder: Path) -> None:
    """The model in a form of other tools, and a page that says what it is."""
    opened = open_model(run)
    base = base_of(opened, form)
    FORMS[form](opened, base, folder)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx"))
    low = getattr(opened.file.model, "precision", "fp32") != "fp32"
    values = {
        **facts.texts,
        "form": form,
        "base": base,
        "low": low,
        "written": {path.name: _file_sha256(path) for path in files},
        "front": Markup(yaml_file.dump(front_matter(form, base))),
        "load": code_block(loading(form, base)),
    }
    page = render("readme.md.j2", **texts(values, "handed"))
    (folder / README).write_text(page, encoding="utf-8")


def notes(target: Path) -> Iterator[str]:
    """What whoever asks the model in the folder `target` has to know."""
    if (target / README).exists():
        return  # other tools ask it
    if not (target / ASKED).exists():
        yield "the run is of an older release, so fedlearn predict cannot ask its model"
        return
    file = prediction.described(target)
    if unnamed := prediction.unnamed_categories(file.scenario, file.task.input):
        yield (
            f"the categories of {', '.join(unnamed)} were found in records and are not in the "
            "export; fedlearn predict finds them in the folder of the run or the table that was "
            "trained on (--like). Where whoever gets the export may know them: fedlearn export "
            "--categories"
        )
    base = getattr(file.model, "folder", "")
    if base and base not in PINNED and not (target / prediction.BASE).is_dir():
        yield (
            f"the model that it was tuned from ({base}) is not in the export; whoever asks it "
            "says where that lies (--base FOLDER)"
        )


def open_model(folder: Path, base: str = "", *, tuned: bool = True) -> Predictor:
    """The model of an export, or of the run in `folder`; arguments are those of `prediction.load`.

    Raises:
        DataError, ConfigError: as `prediction.load`, and as `export` does of a run.
    """
    if not _is_run(folder):
        return prediction.load(folder, base, tuned=tuned)
    result, file = _described(folder, base)
    if tuned:
        refuse_half(folder, result)
    vector = read_model(folder, result) if tuned else None
    return replace(prediction.predictor(file, vector), run=folder)


def tuned_part(folder: Path, base: str = "") -> tuple[ModelFile, Vector]:
    """How the model in such a folder is built, and what was trained of it; nothing is built yet.

    Raises:
        DataError, ConfigError: as `open_model`.
    """
    if not _is_run(folder):
        return prediction.tuned_part(folder, base)
    result, file = _described(folder, base)
    return file, read_model(folder, result)


def _is_run(folder: Path) -> bool:
    return not (folder / ASKED).exists() and (folder / "result.json").exists()


def _described(folder: Path, base: str) -> tuple[ResultFile, ModelFile]:
    if base:
        raise ConfigError(f"--base={base}: {folder} is a run, which names its folder; leave it out")
    result = read_result(folder)
    if (file := model_file(result, result.config)) is None:
        raise DataError(f"{folder}: its release did not say what a record looks like")
    return result, file


def model_file(result: ResultFile, settings: Mapping[str, Any]) -> ModelFile | None:
    """How the model of a run is built and asked, by what of its config is in `settings`.

    None for a result of an older release.
    """
    if result.model.input is None or not task_of(result).num_outputs:
        return None
    config = load(result.config)
    form = to_tree(TaskForm(input=result.model.input, classes=tuple(result.data.classes)))
    if settings is not result.config and "tokenizer" in form["input"]:  # as it stands in them
        form["input"] |= public_settings({"tokenizer": form["input"]["tokenizer"]})
    tree = {
        "task": form,
        "scenario": settings["scenario"],
        "model": settings["model"],
        "learned": to_tree(config.task),
        "finetune": to_tree(config.training.trained_part),
        "seed": result.config["seed"],
        "sha256": result.model.sha256,
    }
    return decode(ModelFile, json.dumps(tree))


def read_model(run: Path, result: ResultFile) -> Vector:
    """The trained model in the folder `run`: `float32[d]`; raises DataError as `export` does."""
    return values_of(_checked_model(run / MODEL, result))


def read_shapes(run: Path, result: ResultFile) -> Shapes | None:
    """The functions of the model in the folder `run`, where it is a sum of one for each column and
    is there as the result says."""
    if (run / MODEL).is_file() and (file := model_file(result, result.config)) is not None:
        return _shapes_in(run, result, file)
    return None


def _shapes_in(run: Path, result: ResultFile, file: ModelFile) -> Shapes | None:
    if file.model.axes(file.learned.of(file.task)) is None:
        return None
    vector = read_model(run, result)
    return shapes_of(file, vector, read_noise(run, vector.size))


def _write_shapes(run: Path, result: ResultFile, asked: ModelFile | None, folder: Path) -> None:
    """An additive model as plain numbers, and a program that needs nothing but numpy."""
    found = _shapes_in(run, result, asked) if asked is not None else None
    if found is not None:
        (folder / SHAPES).write_text(json.dumps(found.tree()), encoding="utf-8")
        (folder / PLAIN).write_text(Path(plain.__file__).read_text(encoding="utf-8"))


def _checked_model(path: Path, result: ResultFile) -> bytes:
    """The bytes of the model file, if its values have the hash of the result."""
    if not path.exists():
        raise DataError(
            f"{path}: the run has no model yet ({len(result.rounds)} rounds done, status "
            f"{result.status}); export it after its first round"
        )
    content = read_bytes(path)
    try:
        found = vector_digest(values_of(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a model that a run wrote: {error}") from None
    if found != result.model.sha256:
        raise DataError(
            f"{path}: has the SHA-256 {found}, but result.json names {result.model.sha256}: it is "
            "not the model of this run, or was altered. If the run is going on, wait for its end"
        )
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which is `target` once all of it is written; else there is none."""
    with possible("written", f"--to {target}", ConfigError):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield staging
            staging.chmod(0o755)
            staging.rename(target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
