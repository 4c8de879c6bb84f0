"""The forms that a model is exported in: our own, and those that other tools read.

A form writes files into a new folder, from the run that it is of; card and statement are written
beside them whatever the form.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safetensors.torch import save_file

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
from fedlearn.prediction import Predictor

README: Final = "README.md"

Form = Callable[[Predictor, PublicBase, Path], None]


def base_of(model: Predictor, form: str) -> PublicBase:
    """The public model that a model was tuned from.

    Raises:
        ConfigError: there is none, so that no other tool knows what to make of it.
    """
    found = model.file.model.public_base(default_cache(os.environ))
    if found is None:
        raise ConfigError(
            f"--to={form}: model.kind={model.file.model.kind} is tuned from no folder of Hugging "
            "Face's form, and has no form that transformers reads; give --to a folder"
        )
    return found


def _peft(model: Predictor, base: PublicBase, folder: Path) -> None:
    settings = adapter_settings(model.network, base, model.file.finetune)
    save_file(adapter_weights(model.network, base), folder / "adapter_model.safetensors", _OF_TORCH)
    _write_json(folder / "adapter_config.json", settings)
    _beside(base, folder)


def _merged(model: Predictor, base: PublicBase, folder: Path) -> None:
    save_file(merged_weights(model.network, base), folder / "model.safetensors", _OF_TORCH)
    _write_json(folder / "config.json", merged_settings(base))
    _beside(base, folder)


FORMS: Final[Mapping[str, Form]] = MappingProxyType({"peft": _peft, "merged": _merged})
"""By the word that `fedlearn export --to` takes."""

NOT_WRITTEN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "onnx": "takes tools that fedlearn does not bring; of a tuned language model --to merged "
        "writes a folder that Hugging Face's optimum turns into one (optimum-cli export onnx "
        "--model FOLDER OUT)",
        "int8": "takes a format that other tools read; of a tuned language model --to merged "
        "writes a folder that they quantise (llama.cpp, torchao, bitsandbytes), which costs no "
        "epsilon: measure at the sites what it costs in nats per token",
    }
)
"""Forms that there are elsewhere, and why not here."""

LOADING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "peft": """from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained("FOLDER OF THE BASE MODEL")
model = PeftModel.from_pretrained(base, "THIS FOLDER")""",
        "merged": """from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")""",
    }
)
"""How each form is read, in Python, by the `auto_class` of its base."""


def front_matter(form: str, base: PublicBase) -> dict[str, str]:
    """The head of a model's page, as Hugging Face's Hub reads it."""
    library = "peft" if form == "peft" else "transformers"
    licence = {"license": base.licence} if base.licence else {}
    task = {"library_name": library, "pipeline_tag": base.kind.pipeline}
    return {**task, "base_model": base.name, **licence}


_OF_TORCH: Final = {"format": "pt"}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _beside(base: PublicBase, folder: Path) -> None:
    """The tokenizer and the chat template of the base, byte for byte."""
    for name in BESIDE:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, folder / name)
