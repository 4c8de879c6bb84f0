"""`fedlearn distill`: a smaller model learns what a run's model answers to public records.

No record of a site is learned from, so it costs no epsilon: the promise of the run holds for the
student as well. Whether a file is public nobody can see; a file that the run has learned from is
refused where it can be noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fedlearn import models, prediction
from fedlearn.config import RunConfig, decode, encode, to_tree
from fedlearn.config.composition import split
from fedlearn.config.saved import load_file
from fedlearn.core.errors import ConfigError, DataError, refuse
from fedlearn.core.language import language_of
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of, to_vector, vector_digest
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.generation.generator import TextGenerator
from fedlearn.generation.grading import passages_as_records
from fedlearn.models import Learner
from fedlearn.models.folders import KEY
from fedlearn.models.int8 import single_precision
from fedlearn.prediction import ModelFile, Predictor
from fedlearn.report.export import (
    ASKED,
    checked_run,
    costs_of,
    new_folder,
    open_model,
    write_texts,
)
from fedlearn.report.facts import Facts, public_settings
from fedlearn.report.made_smaller import Costs, Learned
from fedlearn.report.written import Samples
from fedlearn.results.folder import RunFolder
from fedlearn.results.reading import read_bytes
from fedlearn.results.result import ResultFile
from fedlearn.tasks import TextInput
from fedlearn.tasks.tokens import TokenLogits
from fedlearn.training.distillation import Distillation, distil, outputs_of
from simulations.costs import weighing
from simulations.overlap import is_of_run, overlap

Say = Callable[[str], None]

KEYS: Final = ("model", "training.finetune", "training.last_k", "training.lora_")
"""What a student may have for its own; all else is that of the run."""

_HASHES: Final[Mapping[str, Sequence[str]]] = {
    "model.folder": ("sha256", "config_sha256"),
    "model.build": ("sha256",),
}
"""The settings by which a model names what lies outside of this project."""


@dataclass(frozen=True, kw_only=True)
class Public:
    """A file of public records, as the run's model takes them."""

    path: Path
    records: torch.Tensor
    targets: torch.Tensor
    """Where there is an answer to learn: -1 in other places of a text."""
    notes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(read_bytes(self.path)).hexdigest()


def distill(
    run: Path,
    data: Path,
    to: Path,
    overrides: Sequence[str],
    how: Distillation,
    *,
    code: str | None = None,
    records: Path | None = None,
    written: Mapping[str, str] | None = None,
    say: Say = lambda note: None,
) -> Costs:
    """Train the student that `overrides` describe, and export it into the new folder `to`.

    Args:
        run: whose model is the teacher.
        data: public records, as `fedlearn predict` reads them; of language models with answers,
            which say where to listen.
        records: where both are weighed, if not at the run's sites.
        written: how `data` is written, where that is otherwise than in the run.
        say: told what of the records is unusual.

    Raises:
        ConfigError: the student is none, or no smaller than its teacher; `data` is what the run
            has learned from; `to` exists.
        DataError: `data` cannot be read, or the run has no model.
    """
    if to.exists() or to.is_symlink():
        raise ConfigError(f"--to {to}: exists; choose a folder that does not")
    result, _, hashes = checked_run(run)
    teacher = open_model(run)
    config = student_config(run, overrides)
    file = described(config, teacher, how.seed)
    student = build_student(file, teacher)
    public = read_public(teacher, data, written or {})
    for note in (*public.notes, *_of_private(result, public)):
        say(note)
    answers = outputs_of(teacher.network, public.records, how.batch)
    seen = answers.hidden if isinstance(answers, TokenLogits) else answers
    if not bool(torch.isfinite(seen).all()):
        raise DataError(f"{run}: its model answers with what is no number: training has diverged")
    first, last = distil(
        student, teacher.task, public.records, answers, public.targets, how,
        Streams(how.seed).get("distill"),
    )  # fmt: skip
    say(f"distance from the teacher on the public records: {first:.4f} before, {last:.4f} after")
    with new_folder(to) as folder:
        _write_student(folder, file, student)
        weighed = weighing(run, records)(teacher, prediction.load(folder, _base_of(config)))
        learned = _learned(file, student, public, how)
        sizes = (single_precision(teacher.network), 4 * learned.parameters)
        costs = costs_of(result, sizes, weighed, form="student", learned=learned)
        language = language_of(code or result.config.get("report", {}).get("language", "en"))
        facts = Facts(result=result, hashes=hashes, language=language)
        write_texts(facts, Samples(), folder, costs)
    return costs


# --- the student ---------------------------------------------------------------------------


def student_config(run: Path, overrides: Sequence[str]) -> RunConfig:
    """The config of the run with the student in the place of its model.

    Raises:
        ConfigError: the words are about something else, or describe no model.
    """
    keys = [split(word)[0] for word in overrides]
    strange = [word for word, key in zip(overrides, keys, strict=True) if not key.startswith(KEYS)]
    refuse(
        (f"{word}: belongs to the run; a student has model=..., model.* and training.finetune"
         for word in strange),
        ConfigError,
    )  # fmt: skip
    if not any(key == "model" or key.startswith("model.") for key in keys):
        raise ConfigError(
            "model: say which smaller model is to learn, as model=tabular "
            "model.architecture=linear, or model.width=16 for a narrower one of the same kind"
        )
    config = load_file(run / "config.yaml", [*_whole(keys), *overrides])
    return replace(config, model=config.model.pinned())


def _whole(keys: Sequence[str]) -> Iterator[str]:
    """A student of another kind is trained whole, unless its words say otherwise, and what it
    names has a hash of its own."""
    if "model" in keys and "training.finetune" not in keys:
        yield "training.finetune=full"
    # What is named outside of this project is another than the run's.
    yield from (f"model.{name}=''" for key in keys for name in _HASHES.get(key, ()))


def described(config: RunConfig, teacher: Predictor, seed: int) -> ModelFile:
    """How the student is built and asked, on this machine, before it has learned.

    Raises:
        ConfigError: it comes out of a folder whose tokenizer is another.
    """
    file = replace(
        teacher.file, model=config.model, finetune=config.training.trained_part, seed=seed
    )
    folder, before = _base_of(config), getattr(teacher.file.model, "folder", "")
    form = file.task.input
    if not folder or not isinstance(form, TextInput) or folder == before:
        return file
    cache = default_cache(os.environ)
    own, others = (FolderTexts(where, cache, KEY) for where in (folder, form.tokenizer))
    if own.tokenizer_sha256 != others.tokenizer_sha256:
        raise ConfigError(
            f"{KEY}={folder}: has another tokenizer than the run's model ({form.tokenizer}), so "
            "that neither knows the tokens of the other; choose a smaller model of the same family"
        )
    task = replace(file.task, input=replace(form, tokenizer=folder))
    return replace(file, task=task, scenario=file.scenario.based_on(folder, form.tokenizer))


def build_student(file: ModelFile, teacher: Predictor) -> Learner:
    """The student as it is before it learns.

    Raises:
        ConfigError: it does not fit the records of its teacher, or is not smaller.
    """
    task = file.learned.of(file.task)
    refuse(models.problems(file.model, task), ConfigError)
    weights = file.model.weights(default_cache(os.environ))
    student = models.build(file.model, task, Streams(file.seed), file.finetune, weights)
    own, others = (single_precision(net) // 4 for net in (student.whole(), teacher.network))
    if own >= others:
        raise ConfigError(
            f"model: has {own:,} parameters, and its teacher {others:,}; choose a smaller one "
            "(model.width, model.depth, or another model)"
        )
    return student


def _write_student(folder: Path, file: ModelFile, student: Learner) -> None:
    """The student as a run's model is exported, without what only says where things lie here."""
    vector = to_vector(student.model)
    if not np.isfinite(vector).all():
        raise ConfigError("--rate: training has diverged; choose a smaller one")
    RunFolder(folder).write_model(vector, layout_of(student.model))
    tree = to_tree(replace(file, sha256=vector_digest(vector)))
    tree |= public_settings({name: tree[name] for name in ("model", "scenario")})
    if "tokenizer" in (form := tree["task"]["input"]):
        form |= public_settings({"tokenizer": form["tokenizer"]})
    text = encode(decode(ModelFile, json.dumps(tree)))
    (folder / ASKED).write_text(text, encoding="utf-8")


def _base_of(config: RunConfig) -> str:
    """Where the public model lies that a student starts from; empty where it has none."""
    found: str = getattr(config.model, "folder", "")
    return found


def _learned(file: ModelFile, student: Learner, public: Public, how: Distillation) -> Learned:
    shape = getattr(file.model, "architecture", "")
    return Learned(
        model=" ".join(filter(None, (file.model.kind, shape))),
        parameters=single_precision(student.whole()) // 4,
        file=public.path.name,
        file_sha256=public.sha256,
        records=len(public.records),
        steps=how.steps,
        batch=how.batch,
        learning_rate=how.learning_rate,
        temperature=how.temperature,
        seed=how.seed,
    )


# --- public records -------------------------------------------------------------------------


def read_public(teacher: Predictor, path: Path, written: Mapping[str, str]) -> Public:
    """The records of a file in the form of the run.

    Raises:
        ConfigError, DataError: they cannot be read, or hold nothing to listen to.
    """
    if teacher.task.next_tokens:
        generator = TextGenerator.of(teacher, default_cache(os.environ), **written)
        found = passages_as_records(generator, path)
        ids, targets = torch.from_numpy(found.ids), torch.from_numpy(found.targets)
        return Public(path=path, records=ids, targets=targets, notes=found.notes)
    rows = teacher.read(path, None, **written)
    if not len(rows.features):
        raise DataError(f"{path}: holds no records")
    features = torch.from_numpy(np.ascontiguousarray(rows.features))
    targets = torch.zeros(len(features), dtype=torch.int64)
    return Public(path=path, records=features, targets=targets, notes=rows.notes)


def _of_private(result: ResultFile, public: Public) -> Iterator[str]:
    """A note on records that are a site's own as well.

    Raises:
        ConfigError: the file is one that the run has learned from, or holds more of a site's
            records than chance explains.
    """
    if is_of_run(public.path, result):
        raise ConfigError([_refused(public.path, "is the file that the run has learned from")])
    if (found := overlap(public.records.numpy(), result)) is None:
        yield "the run's records are not here, so nobody has compared the public ones with them"
        return
    if found.is_own:
        why = (
            f"{found.common} of its {found.records} records are also those of a site, more than "
            "chance explains"
        )
        raise ConfigError([_refused(public.path, why)])
    if found.common:
        yield (
            f"{found.common} of {found.records} public records look like one of a site, as chance "
            "may have it; if they are the same people's, they are no public records"
        )


def _refused(path: Path, why: str) -> str:
    return (
        f"--data {path}: {why}; what a student learns from is public, or its epsilon would be "
        "none. Give records that are nobody's secret"
    )
