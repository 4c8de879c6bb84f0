"""The forms that a model is exported in: our own, and those that other tools read.

A form writes files into a new folder, from the run that it is of; card and statement are written
beside them whatever the form.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safetensors.torch import save_file

from fedlearn.config import encode, to_tree
from fedlearn.core.errors import ConfigError
from fedlearn.data.datasets.archives import default_cache
from fedlearn.models.forms import (
    BESIDE,
    PublicBase,
    adapter_settings,
    adapter_weights,
    merged_settings,
    merged_weights,
)
from fedlearn.models.int8 import in_eight_bits, single_precision
from fedlearn.models.onnx_graph import write_graph
from fedlearn.prediction import BASE, FILE, TENSORS, ModelFile, Predictor

README: Final = "README.md"

INT8: Final = "int8"
"""A form of our own, with all weights of the model."""
GRAPH: Final = "model.onnx"
_TAKES: Final = "onnx.json"
_SETTINGS: Final = ("config.json", "preprocessor_config.json")

Form = Callable[[Predictor, PublicBase | None, Path], None]


def base_of(model: Predictor, form: str) -> PublicBase | None:
    """The public model that a model was tuned from; None where there is none and a form takes none.

    Raises:
        ConfigError: there is none, so that no other tool knows what to make of it.
    """
    found = model.file.model.public_base(default_cache(os.environ))
    if found is None and form in _OF_A_BASE:
        raise ConfigError(
            f"--to={form}: model.kind={model.file.model.kind} is tuned from no folder of Hugging "
            "Face's form, and has no form that transformers reads; give --to a folder"
        )
    return found


def _peft(model: Predictor, base: PublicBase | None, folder: Path) -> None:
    base = _there(base)
    settings = adapter_settings(model.network, base, model.file.finetune)
    save_file(adapter_weights(model.network, base), folder / "adapter_model.safetensors", _OF_TORCH)
    _write_json(folder / "adapter_config.json", settings)
    _beside(base, folder)


def _merged(model: Predictor, base: PublicBase | None, folder: Path) -> None:
    base = _there(base)
    save_file(merged_weights(model.network, base), folder / "model.safetensors", _OF_TORCH)
    _write_json(folder / "config.json", merged_settings(base))
    _beside(base, folder)


def _onnx(model: Predictor, base: PublicBase | None, folder: Path) -> None:
    graph = write_graph(folder / GRAPH, model.file.model, model.task, model.network)
    form = to_tree(model.file.task)
    if "tokenizer" in form["input"]:  # a folder of this machine, or a name
        form["input"]["tokenizer"] = Path(form["input"]["tokenizer"]).name
    # What outputs mean is part of a task's settings: of survival the ends of its intervals.
    learned = to_tree(model.file.learned)
    takes = {"schema": "fedlearn/onnx/v1", **vars(graph), "task": form, "settings": learned}
    _write_json(folder / _TAKES, takes)
    if base is not None:
        _beside(base, folder)


def _there(base: PublicBase | None) -> PublicBase:
    if base is None:
        raise TypeError("a form of what was tuned, of nothing: see `base_of`")
    return base


def write_int8(model: Predictor, asked: ModelFile, folder: Path) -> int:
    """All weights of a model in eight bits, with what `fedlearn predict` asks it by.

    Settings and tokenizer of the public model, where there is one, stand in a folder of their own,
    so that nothing else is needed. Returns the bytes that all weights take in single precision.

    Raises:
        ConfigError: they are no numbers.
    """
    path = folder / TENSORS
    tensors = in_eight_bits(model.network)
    save_file(tensors, path, {"format": "fedlearn/int8/v1"})
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    described = encode(replace(asked, stored="int8", file_sha256=digest))
    (folder / FILE).write_text(described, encoding="utf-8")
    if (base := model.file.model.public_base(default_cache(os.environ))) is not None:
        (folder / BASE).mkdir()
        _beside(base, folder / BASE, (*_SETTINGS, *BESIDE))
    return single_precision(model.network)


FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {"peft": _peft, "merged": _merged, "onnx": _onnx}
)
"""Those that other tools read, by the word that `fedlearn export --to` takes."""
_OF_A_BASE: Final = ("peft", "merged")

_LOADING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "peft": """from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained("FOLDER OF THE BASE MODEL")
model = PeftModel.from_pretrained(base, "THIS FOLDER")""",
        "merged": """from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")""",
        "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("THIS FOLDER/model.onnx")
[outputs] = session.run(None, {"records": records})  # an array as onnx.json says""",
    }
)
"""How each form is read, in Python, by the `auto_class` of its base."""


def loading(form: str, base: PublicBase | None) -> str:
    """How a form is read, in Python."""
    found = _LOADING[form]
    return found.format(auto_class=_there(base).kind.auto_class) if form in _OF_A_BASE else found


def front_matter(form: str, base: PublicBase | None) -> dict[str, str]:
    """The head of a model's page, as Hugging Face's Hub reads it."""
    if form not in _OF_A_BASE:
        of = {} if base is None else {"base_model": base.name}
        return {"library_name": form, **of}
    base = _there(base)
    library = "peft" if form == "peft" else "transformers"
    licence = {"license": base.licence} if base.licence else {}
    task = {"library_name": library, "pipeline_tag": base.kind.pipeline}
    return {**task, "base_model": base.name, **licence}


_OF_TORCH: Final = {"format": "pt"}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _beside(base: PublicBase, folder: Path, names: Sequence[str] = BESIDE) -> None:
    """The tokenizer and the chat template of the base, byte for byte."""
    for name in names:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, folder / name)
