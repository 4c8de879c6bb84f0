"""GGUF by a writer of our own, after its specification; and the pinned model out of its archive."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from fedlearn.core.errors import DataError
from fedlearn.data.datasets import smollm2
from fedlearn.data.datasets.archives import nothing_brought
from fedlearn.data.datasets.gguf import read_gguf
from fedlearn.data.datasets.smollm2 import WEIGHTS_SHA256, files_of, smollm2_folder
from tests.conftest import fetched
from tests.effort import examples

KINDS = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 8}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(found: Any) -> bytes:
    match found:
        case str():
            return struct.pack("<I", 8) + text(found)
        case bool():
            return struct.pack("<I?", 7, found)
        case int():
            return struct.pack("<Ii", 5, found)
        case float():
            return struct.pack("<If", 6, found)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(found)) + b"".join(map(text, found))
        case [int(), *_]:
            return struct.pack("<IIQ", 9, 5, len(found)) + struct.pack(f"<{len(found)}i", *found)
    raise TypeError(found)


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A file; of a tensor its kind, its shape as NumPy has it, and its bytes."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + value(one) for key, one in metadata.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += text(name) + axes + struct.pack("<IQ", KINDS[kind], len(data))
        data += content + bytes(-len(content) % 32)
    return head + bytes(-len(head) % 32) + data


halves = st.floats(-4, 4, width=16)


@settings(max_examples=examples(50), deadline=None)
@given(
    st.lists(st.tuples(halves, halves, st.binary(min_size=16, max_size=16)), min_size=1, max_size=4)
)
def test_q4_1__is_scale_times_place_plus_least_low_halves_first(blocks: list[Any]) -> None:
    content = b"".join(struct.pack("<ee", d, m) + packed for d, m, packed in blocks)
    found = read_gguf(gguf({}, {"w": ("Q4_1", (len(blocks), 32), content)}), "x").tensors["w"]
    for row, (scale, least, packed) in zip(found, blocks, strict=True):
        places = [byte % 16 for byte in packed] + [byte // 16 for byte in packed]
        wanted = [np.float32(scale) * np.float32(place) + np.float32(least) for place in places]
        assert row.tolist() == [float(one) for one in wanted]


@settings(max_examples=examples(50), deadline=None)
@given(
    st.lists(
        st.tuples(halves, st.lists(st.integers(-128, 127), min_size=32, max_size=32)),
        min_size=1,
        max_size=4,
    )
)
def test_q8_0__is_scale_times_a_signed_byte(blocks: list[Any]) -> None:
    content = b"".join(struct.pack("<e32b", scale, *own) for scale, own in blocks)
    found = read_gguf(gguf({}, {"w": ("Q8_0", (len(blocks), 32), content)}), "x").tensors["w"]
    assert found.tolist() == [[scale * one for one in own] for scale, own in blocks]


def test_gguf__has_its_metadata_and_plain_tensors_in_numpys_order() -> None:
    about = {"a.text": "é", "a.number": -3, "a.flag": True, "a.rate": 0.5, "a.list": ["x", "y"]}
    numbers = np.arange(6, dtype="<f4").reshape(2, 3)
    tensors = {
        "whole": ("F32", (2, 3), numbers.tobytes()),
        "half": ("F16", (2,), np.array([1, -2], "<f2").tobytes()),
    }
    found = read_gguf(gguf(about, tensors), "x")
    assert found.metadata == about
    assert found.tensors["whole"].tolist() == numbers.tolist()
    assert found.tensors["half"].tolist() == [1.0, -2.0]


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_gguf__that_is_damaged_is_a_data_error_whatever_is_wrong(data: st.DataObject) -> None:
    whole = bytearray(gguf({"a": ["x"], "b": 1}, {"w": ("Q8_0", (1, 32), bytes(34))}))
    cut = data.draw(st.integers(0, len(whole)))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DataError):
        read_gguf(bytes(whole[:cut]), "x")


# --- a Llama in GGUF as a folder ----------------------------------------------


def llama(heads: int = 2, groups: int = 1, width: int = 8) -> bytes:
    """A model of one block with random floats."""
    rng = np.random.default_rng(0)
    sizes = {
        "token_embd": (5, width), "output_norm": (width,), "blk.0.attn_norm": (width,),
        "blk.0.attn_q": (width, width), "blk.0.attn_k": (width // heads * groups, width),
        "blk.0.attn_v": (width // heads * groups, width), "blk.0.attn_output": (width, width),
        "blk.0.ffn_norm": (width,), "blk.0.ffn_gate": (12, width), "blk.0.ffn_up": (12, width),
        "blk.0.ffn_down": (width, 12),
    }  # fmt: skip
    about = {
        "llama.vocab_size": 5, "llama.embedding_length": width, "llama.feed_forward_length": 12,
        "llama.block_count": 1, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups, "llama.rope.dimension_count": width // heads,
        "llama.context_length": 16, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0, "tokenizer.ggml.tokens": ["<e>", "<s>", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 3, 1, 1, 1], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip
    tensors = {
        f"{name}.weight": ("F32", shape, rng.normal(size=shape).astype("<f4").tobytes())
        for name, shape in sizes.items()
    }
    return gguf(about, tensors)


def test_folder__turns_the_rows_of_query_and_key_and_of_nothing_else() -> None:
    source = read_gguf(llama(), "x")
    files = dict(files_of(source))
    weights = load(files["model.safetensors"])
    about = json.loads(files["config.json"])
    assert (about["num_key_value_heads"], about["rms_norm_eps"], about["vocab_size"]) == (
        1,
        1e-5,
        5,
    )
    assert len(weights) == len(source.tensors)
    value_rows = source.tensors["blk.0.attn_v.weight"]
    assert np.array_equal(weights["model.layers.0.self_attn.v_proj.weight"], value_rows)
    rows = source.tensors["blk.0.attn_q.weight"]
    turned = [
        rows[head * 4 + pair * 2 + part] for head in (0, 1) for part in (0, 1) for pair in (0, 1)
    ]
    assert np.array_equal(weights["model.layers.0.self_attn.q_proj.weight"], np.stack(turned))


def test_folder__its_tokenizer_joins_pairs_and_parts_digits() -> None:
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(dict(files_of(read_gguf(llama(), "x")))["tokenizer.json"].decode())
    assert made.encode("ab<s>ba").tokens == ["ab", "<s>", "b", "a"]
    assert made.pre_tokenizer.pre_tokenize_str("no 2024") == [
        ("no", (0, 2)), ("Ġ", (2, 3)), *((digit, (3 + i, 4 + i)) for i, digit in enumerate("2024")),
    ]  # fmt: skip


@pytest.mark.slow
def test_smollm2__out_of_its_archive_is_what_was_pinned_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = fetched(smollm2.SMOLLM2)
    (tmp_path / "archives").symlink_to(archive.parent)
    place = smollm2_folder(tmp_path)
    monkeypatch.setattr(smollm2, "read_gguf", None)  # nothing is converted again
    assert smollm2_folder(tmp_path) == place
    from fedlearn.models.folders import open_folder

    found = open_folder("smollm2-135m", tmp_path)
    assert (found.parameters, found.sha256) == (134_515_008, WEIGHTS_SHA256)
    assert "<|im_start|>" in found.chat_template
    for file in sorted(place.iterdir()):
        whole = file.read_bytes()
        file.write_bytes(b"altered")
        with pytest.raises(TypeError):  # it would be made again
            smollm2_folder(tmp_path)
        file.write_bytes(whole)


def test_smollm2__of_a_cache_without_it_says_what_to_fetch(tmp_path: Path) -> None:
    with nothing_brought(), pytest.raises(DataError, match="fedlearn data fetch smollm2-135m"):
        smollm2_folder(tmp_path)
