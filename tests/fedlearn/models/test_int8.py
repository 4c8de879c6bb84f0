"""Weights in eight bits: how far they are from what they were, and that every model comes back."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load, save
from torch import Tensor, nn

from fedlearn import models
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.models.cnn import Cnn
from fedlearn.models.finetune import Finetune
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.int8 import (
    dequantised,
    in_eight_bits,
    quantised,
    read_back,
    single_precision,
)
from fedlearn.models.model import Model
from fedlearn.models.resnet import ResNet
from fedlearn.models.sequence import Sequence
from fedlearn.models.tabular import Tabular
from fedlearn.models.text import Text
from fedlearn.models.validate import made_up_records
from fedlearn.models.vit import ViT
from fedlearn.tasks import (
    ImageInput,
    Input,
    SeriesInput,
    TableInput,
    Task,
    TaskForm,
    TextInput,
)
from fedlearn.tasks.classification import ClassificationTask
from fedlearn.tasks.language import Language
from tests.effort import slow_but
from tests.model_folders import VOCABULARY, tiny_model

needs_text = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=9),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(MATRICES)
def test_quantised__is_within_half_a_scale_of_every_number(matrix: np.ndarray) -> None:
    whole, scales = quantised(torch.from_numpy(matrix))
    found = dequantised(whole, scales).numpy().astype(np.float64)
    for row, ours in zip(matrix.astype(np.float64), found, strict=True):
        largest = np.abs(row).max()
        assert np.abs(row - ours).max() <= largest / 254 * (1 + 1e-5)
        assert np.isclose(np.abs(ours).max(), largest, rtol=1e-6)
        assert (ours[row == 0] == 0).all()
    assert whole.dtype == torch.int8
    assert whole.min() >= -127


@given(MATRICES)
def test_quantised__of_what_it_gave_is_the_same_again(matrix: np.ndarray) -> None:
    whole, scales = quantised(torch.from_numpy(matrix))
    again, scaled = quantised(dequantised(whole, scales))
    assert torch.equal(whole, again)
    assert torch.allclose(scales, scaled, rtol=1e-6)


TABLE = TableInput(numeric=9, names=(*"abcdefghi", "kind"), cardinalities=(4,), squashed=(0,))
IMAGES = ImageInput(channels=1, height=16, width=16)
FAMILIES: dict[str, tuple[Model, Input]] = {
    name: (
        Tabular(architecture=name, width=16, depth=2, heads=4, norm="layer", dropout=0.1),
        TABLE,
    )
    for name in ("linear", "mlp", "ft_transformer")
} | {
    "batch_norm": (
        Tabular(architecture="mlp", width=16, depth=2, heads=4, norm="batch", dropout=0.0),
        TABLE,
    ),
    "cnn": (Cnn(width=8, depth=2, groups=2, dropout=0.0), IMAGES),
    "resnet": (ResNet(architecture="resnet8", width=8, groups=2, stem="small"), IMAGES),
    "vit": (ViT(patch=4, width=16, depth=1, heads=4, dropout=0.0), IMAGES),
    "sequence": (Sequence(width=8, depth=1, dropout=0.0), SeriesInput(row=TABLE, steps=3)),
    "text": (
        Text(pretrained="", width=16, depth=1, heads=4, words=True, sketch=8, dropout=0.0),
        TextInput(vocabulary=50, max_length=12, pad_id=0),
    ),
}


def moved(config: Model, task: Task, part: Finetune, cache: Path) -> nn.Module:
    """A model all of whose trained numbers are others than at the start."""
    learner = models.build(config, task, Streams(0), part, config.weights(cache))
    coins = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*learner.model.parameters(), *learner.model.buffers()):
            if tensor.dtype.is_floating_point and (tensor.requires_grad or tensor.is_leaf):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=coins).abs())
    return learner.whole().eval()


def by_hand(network: nn.Module, records: Tensor) -> Tensor:
    """What the network gives with its own matrices rounded in place, row by row, in float64."""
    with torch.no_grad():
        for weight in dict.fromkeys(network.parameters()):
            if weight.ndim < 2 or weight[0].numel() < 8:
                continue
            for row in weight:
                step = float(row.double().abs().max()) / 127
                row.copy_((row.double() / step).round() * step if step else row)
        found = network(records)
        return found.written_out() if hasattr(found, "written_out") else found


def checked(config: Model, task: Task, network: nn.Module) -> None:
    """Through a file and back, the model is the one that is rounded by hand."""
    tensors = load(save(in_eight_bits(network)))
    restored = models.restored(config, task, read_back(tensors)).eval()
    records = made_up_records(task, 5, torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, found = network(records), restored(records)
    if hasattr(found, "written_out"):
        before, found = before.written_out(), found.written_out()
    assert before.std() > 0.01
    assert not torch.equal(found, before)
    torch.testing.assert_close(found, by_hand(network, records), rtol=1e-4, atol=1e-5)
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert taken < single_precision(network)


@pytest.mark.parametrize("family", slow_but(lambda name: name in ("mlp", "text"), FAMILIES))
def test_models__of_every_family_come_back_as_their_rounded_weights_say(
    family: str, tmp_path: Path
) -> None:
    config, shape = FAMILIES[family]
    task = ClassificationTask(input=shape, classes=("x", "y", "z"))
    checked(config, task, moved(config, task, Finetune(), tmp_path))


@needs_text
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "mt5"])
def test_adapters__are_added_before_a_language_model_is_rounded(kind: str, tmp_path: Path) -> None:
    folder = str(tiny_model(tmp_path / "tiny", kind, moved=0.05))
    config = HuggingFaceModel(folder=folder)
    shape = TextInput(vocabulary=VOCABULARY, max_length=12, pad_id=256, tokenizer=folder)
    task = Language().of(TaskForm(input=shape))
    part = Finetune(mode="lora", lora_rank=2, lora_stages=2)
    network = moved(config, task, part, tmp_path)
    tensors = in_eight_bits(network)
    assert not any("lora" in name or "base_layer" in name for name in tensors)
    restored = models.restored(config, task, read_back(tensors)).eval()
    whole = models.restored(config, task, dict(whole_of(network))).eval()
    records = made_up_records(task, 3, torch.Generator().manual_seed(1))
    with torch.no_grad():
        merged = whole(records).written_out()
        torch.testing.assert_close(merged, network(records).written_out(), rtol=1e-4, atol=1e-4)
        found = restored(records).written_out()
    assert not torch.equal(found, merged)
    torch.testing.assert_close(found, by_hand(whole, records), rtol=1e-3, atol=1e-4)


def whole_of(network: nn.Module) -> dict[str, Tensor]:
    from fedlearn.models.forms import whole_weights

    return whole_weights(network)


def test_in_eight_bits__of_a_model_that_has_diverged_is_refused(tmp_path: Path) -> None:
    config, shape = FAMILIES["mlp"]
    task = ClassificationTask(input=shape, classes=("x", "y"))
    network = moved(config, task, Finetune(), tmp_path)
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan
    with pytest.raises(ConfigError, match="what is no number: its training has diverged"):
        in_eight_bits(network)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"a": torch.ones(2, 8, dtype=torch.int8)}, "without a scale for every row"),
        (
            {"a": torch.ones(2, 8, dtype=torch.int8), "a::scale": torch.ones(3)},
            "without a scale for every row",
        ),
        (
            {"a": torch.ones(2, 8, dtype=torch.int8), "a::scale": torch.tensor([1.0, torch.inf])},
            "its scales are no numbers",
        ),
        ({"a::scale": torch.ones(3)}, "scales of nothing"),
    ],
)
def test_read_back__refuses_what_was_written_by_nobody(
    spoiled: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        read_back(spoiled)


def test_restored__refuses_weights_of_another_model(tmp_path: Path) -> None:
    config, shape = FAMILIES["mlp"]
    task = ClassificationTask(input=shape, classes=("x", "y"))
    weights = whole_of(moved(config, task, Finetune(), tmp_path))
    name = next(iter(weights))
    with pytest.raises(ValueError, match="weights of another model: apart in"):
        models.restored(config, task, {n: w for n, w in weights.items() if n != name})
    with pytest.raises(ValueError, match=name):
        models.restored(config, task, weights | {name: weights[name][:1]})
