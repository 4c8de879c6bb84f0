"""A model as one vector: nothing is lost, reordered or confused."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
import torch
from torch import nn

from fedlearn.core.vector import (
    Layout,
    layout_of,
    load_vector,
    shared_tensors,
    to_vector,
    vector_digest,
)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def numbered(size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.arange(size, dtype=np.float32) + 0.5


def test_vector__round_trip_is_exact_and_keeps_no_memory() -> None:
    network = model()
    vector = numbered(layout_of(network).size)
    load_vector(network, vector)
    copy = to_vector(network)
    assert copy.dtype == np.float32
    assert (copy == vector).all()
    vector[:] = -1
    assert (to_vector(network) == copy).all()
    copy[:] = -2
    assert (to_vector(network) != -2).all()


def test_vector__holds_parameters_then_float_buffers_in_their_order() -> None:
    network = model()
    names = [name for name, _ in layout_of(network).entries]
    assert names == [
        "0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "1.running_mean", "1.running_var",
    ]  # fmt: skip
    with torch.no_grad():
        network[1].running_mean.fill_(3)
    parts = layout_of(network).split(to_vector(network))
    assert (parts["1.running_mean"] == 3).all()
    assert (parts["0.weight"] == network[0].weight.detach().numpy()).all()


def test_vector__leaves_out_frozen_parameters_and_integer_buffers() -> None:
    network = model()
    network[0].weight.requires_grad_(False)
    assert "0.weight" not in shared_tensors(network)
    assert not any("num_batches" in name for name in shared_tensors(network))
    frozen = network[0].weight.clone()
    load_vector(network, numbered(layout_of(network).size))
    assert (network[0].weight == frozen).all()


@pytest.mark.parametrize("change", [-1, 1])
def test_load_vector__refuses_another_length_and_changes_nothing(change: int) -> None:
    network = model()
    before = to_vector(network)
    with pytest.raises(ValueError, match=f"for a model of {len(before)} values"):
        load_vector(network, numbered(len(before) + change))
    assert (to_vector(network) == before).all()


def test_load_vector__refuses_a_matrix_of_the_right_size() -> None:
    network = nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError):
        load_vector(network, np.zeros((2, 2), np.float32))


def test_load_vector__takes_a_vector_that_cannot_be_written_to() -> None:
    network = model()
    vector = numbered(layout_of(network).size)
    vector.flags.writeable = False
    load_vector(network, vector)
    assert (to_vector(network) == vector).all()


def test_split__gives_views_in_shape() -> None:
    layout = Layout((("a", (2, 3)), ("b", ()), ("c", (4,))))
    vector = numbered(layout.size)
    parts = layout.split(vector)
    assert layout.size == 11
    assert {name: part.shape for name, part in parts.items()} == dict(layout.entries)
    parts["c"][:] = 0
    assert vector[7:].tolist() == [0] * 4


def test_layout_digest__tells_every_difference_of_names_shapes_and_order() -> None:
    entries = [
        (("a", (2, 3)),),
        (("a", (3, 2)),),
        (("a", (6,)),),
        (("b", (2, 3)),),
        (("a", (2, 3)), ("b", (1,))),
        (("b", (1,)), ("a", (2, 3))),
        (("a", (23,)),),
        (),
    ]
    assert len({Layout(entry).digest() for entry in entries}) == len(entries)
    assert layout_of(model()).digest() == layout_of(model()).digest()


def test_vector_digest__is_sha256_of_the_little_endian_bytes() -> None:
    values = [1.0, -2.5, float("nan"), 0.0]
    expected = hashlib.sha256(struct.pack("<4f", *values)).hexdigest()
    vector = np.array(values, np.float32)
    assert vector_digest(vector) == expected
    assert vector_digest(vector.astype(">f4")) == expected
    assert vector_digest(np.repeat(vector, 2)[::2]) == expected
