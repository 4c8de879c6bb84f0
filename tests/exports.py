"""Exports of language models that no run has made: adapters with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from fedlearn import models
from fedlearn.config import encode
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of, to_vector, vector_digest
from fedlearn.data import Scenario
from fedlearn.data.texts.language import LanguageTokens
from fedlearn.data.texts.passages import OwnPassages
from fedlearn.models import Finetune
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.prediction import ModelFile
from fedlearn.tasks import TaskForm, TextInput
from fedlearn.tasks.language import Language
from tests.model_folders import VOCABULARY

ADAPTERS = Finetune(mode="lora", lora_rank=4, lora_stages=2)


def language_export(
    place: Path,
    base: Path,
    part: Finetune = ADAPTERS,
    *,
    scenario: Scenario | None = None,
    most: int = 64,
    named: str = "",
) -> Path:
    """An export of a model of the folder `base`, whose trained part was moved at random."""
    config = HuggingFaceModel(folder=str(base)).pinned()
    shape = TextInput(vocabulary=VOCABULARY, max_length=most, pad_id=256, tokenizer=str(base))
    form, streams = TaskForm(input=shape), Streams(0)
    made = models.build(config, Language().of(form), streams, part, config.weights(place))
    coins = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=coins))
    vector, layout = to_vector(made.model), layout_of(made.model)
    tokens = LanguageTokens(folder=str(base), max_length=most)
    file = ModelFile(
        task=form,
        learned=Language(),
        scenario=scenario or OwnPassages(path="-", tokenizer=tokens),
        model=config,
        finetune=part,
        seed=0,
        sha256=vector_digest(vector),
    )
    place.mkdir()
    text = encode(file).replace(json.dumps(str(base)), json.dumps(named or str(base)))
    (place / "model.json").write_text(text)
    tensors = {name: np.ascontiguousarray(one) for name, one in layout.split(vector).items()}
    save_file(tensors, place / "model.safetensors", {"order": json.dumps([*tensors])})
    return place
