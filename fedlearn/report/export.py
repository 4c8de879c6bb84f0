"""`fedlearn export`: a model with its card and its privacy statement, from a run's folder alone.

The model that is written is, byte for byte, the one whose hash was checked, and
the folder appears as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from fedlearn import prediction
from fedlearn.config import decode, encode, load, to_tree
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible
from fedlearn.core.language import language_of
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.prediction import ModelFile, values_of
from fedlearn.report.facts import Facts, public_settings
from fedlearn.report.texts import code_block, render
from fedlearn.results.reading import parse_result, read_bytes, task_of
from fedlearn.results.result import ResultFile
from fedlearn.tasks import TaskForm

MODEL: Final = "model.safetensors"
ASKED: Final = prediction.FILE
CARD: Final = "model_card.md"
STATEMENT: Final = "privacy_statement.md"


def export(run: Path, target: Path, code: str | None = None) -> tuple[Path, ...]:
    """Write model, card, statement and `model.json` of the run in `run` into the new `target`.

    `code` is the language of card and statement; None for that of the run's config.

    Raises:
        ConfigError: `target` exists or cannot be made, or there is no such language.
        DataError: `run` holds no result or no model yet, or the model is not the
            one that the result names.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"--to {target}: exists; choose a folder that does not")
    result_bytes, config_bytes = read_bytes(run / "result.json"), read_bytes(run / "config.yaml")
    result = parse_result(run / "result.json", result_bytes)
    model = _checked_model(run / MODEL, result)
    hashes = {
        MODEL: _sha256(model),
        "the run's result.json": _sha256(result_bytes),
        "the run's config.yaml": _sha256(config_bytes),
    }
    language = language_of(code or result.config.get("report", {}).get("language", "en"))
    facts = Facts(result=result, hashes=hashes, language=language)
    card = render("model_card.md.j2", settings=code_block(facts.settings), **facts.texts)
    statement = render("privacy_statement.md.j2", **facts.texts)
    files = {MODEL: model, CARD: card.encode(), STATEMENT: statement.encode()}
    if (asked := model_file(result)) is not None:
        files[ASKED] = encode(asked).encode()
    _write(target, files)
    return tuple(target / name for name in files)


def notes(target: Path) -> Iterator[str]:
    """What whoever asks the model in the folder `target` has to know."""
    if not (target / ASKED).exists():
        yield "the run is of an older release, so fedlearn predict cannot ask its model"
    elif unnamed := prediction.unnamed_categories(prediction.load(target).file):
        yield (
            f"the categories of {', '.join(unnamed)} were found in records and are not in the "
            "export; fedlearn predict finds them in the table that was trained on (--like TABLE). "
            "Name them in scenario.categories, and they are part of the model"
        )


def model_file(result: ResultFile) -> ModelFile | None:
    """How the model of a run is built and asked; None for a result of an older release."""
    if result.model.input is None or not task_of(result).num_outputs:
        return None
    settings, config = public_settings(result.config), load(result.config)
    tree = {
        "task": to_tree(TaskForm(input=result.model.input, classes=tuple(result.data.classes))),
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


def _write(target: Path, files: dict[str, bytes]) -> None:
    with possible("written", f"--to {target}", ConfigError):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for name, content in files.items():
                (staging / name).write_bytes(content)
            staging.chmod(0o755)
            staging.rename(target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
