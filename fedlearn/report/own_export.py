"""`fedlearn export --site`: a site's own model, from the folder of a run or an export of it, and
from the file that the site keeps."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlearn import models, prediction
from fedlearn.config import encode
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.language import language_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import Vector, vector_digest
from fedlearn.core.weights import values_of, with_values
from fedlearn.data.datasets.archives import default_cache
from fedlearn.models.own_parts import own_values
from fedlearn.prediction import ModelFile
from fedlearn.report.export import ASKED, MODEL, STATEMENT, checked_run, new_folder, write_texts
from fedlearn.report.export import asked_by as asked_of_run
from fedlearn.report.facts import Facts
from fedlearn.report.written import Samples
from fedlearn.results.own_model import OwnModel, read_own
from fedlearn.results.result import FinalResult, ResultFile


def export_own(
    source: Path, kept: Path, target: Path, site: str = "", code: str | None = None
) -> tuple[Path, ...]:
    """Write a site's own model into the new folder `target`, for `fedlearn predict`.

    Args:
        source: the folder of the run, or what was exported of it.
        kept: the file that the site keeps (`personal-*.safetensors`).
        target: with a privacy statement; from a run with a card as well, whose figures are
            those of the `site`.
        site: its name, where it is known.
        code: of the language of card and statement; None for that of the run.

    Raises:
        ConfigError: `target` exists or cannot be made.
        DataError: there is no such model, or it is not one of this run.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"--to {target}: exists; choose a folder that does not")
    own, result = read_own(kept), None
    hashes: dict[str, str] = {}
    if (source / ASKED).exists():
        asked: ModelFile | None = prediction.described(source)
        content = (source / MODEL).read_bytes()
    else:
        result, content, hashes = checked_run(source)
        asked = asked_of_run(result, {})
    if asked is None or asked.stored != "float32":
        raise DataError(f"{source}: a site's own model is made from a run, or its plain export")
    vector = _whole(kept, own, asked, values_of(content))
    asked = replace(asked, sha256=vector_digest(vector))
    with new_folder(target) as folder:
        (folder / MODEL).write_bytes(with_values(content, vector))
        (folder / ASKED).write_text(encode(asked), encoding="utf-8")
        if result is not None:
            language = language_of(code or result.config.get("report", {}).get("language", "en"))
            mine = of_site(result, site, asked.sha256)
            facts = Facts(result=mine, hashes=hashes, language=language)
            write_texts(facts, Samples(), folder, own_site=site or kept.name)
        elif (source / STATEMENT).exists():
            (folder / STATEMENT).write_bytes((source / STATEMENT).read_bytes())
        names = sorted(path.name for path in folder.iterdir())
    return tuple(target / name for name in names)


def _whole(kept: Path, own: OwnModel, file: ModelFile, shared: Vector) -> Vector:
    """The site's whole model: its own, or the shared one with its part."""
    if own.values.shape != shared.shape:
        raise DataError(
            f"{kept}: holds {own.values.size} numbers, and the model of the run has {shared.size}; "
            "give the file of this run"
        )
    if own.part == "none":
        return own.values
    task, weights = file.learned.of(file.task), file.model.weights(default_cache(os.environ))
    learner = models.build(file.model, task, Streams(file.seed), file.finetune, weights)
    return np.where(own_values(learner.model, own.part), own.values, shared)


def of_site(result: ResultFile, site: str, sha256: str) -> ResultFile:
    """What a run's result says of the own model of a site: its figures alone, where they are known.

    Where a part of a model is a site's own, the run's figures by site are those.
    """
    if result.own is not None:
        found = {name: one.value for name, one in result.own.per_site.get(site, {}).items()}
    else:
        found = dict(result.final.per_site.get(site, {}))
    none: Any = None
    return replace(
        result,
        model=replace(result.model, sha256=sha256),
        final=FinalResult(evaluate=found, per_site={}, worst_site=None),
        **dict.fromkeys(("baseline", "fairness", "own", "calibration", "by_class", "curves"), none),
    )
