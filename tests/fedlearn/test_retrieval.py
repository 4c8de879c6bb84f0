"""An index of one's own documents: made, asked, moved, damaged, out of date."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlearn import models
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import to_vector, vector_digest
from fedlearn.data.datasets.precedents import Precedents
from fedlearn.data.texts.pieces import pieces_of
from fedlearn.data.texts.tokens import Tokenizer
from fedlearn.models import Finetune
from fedlearn.models.retriever import Retriever
from fedlearn.prediction import ModelFile, Predictor, load
from fedlearn.report.forms import base_of, write_int8
from fedlearn.retrieval import Document, Index, SearchModel, pieces_of_text, read_documents
from fedlearn.tasks import Retrieval, TaskForm, TextInput
from tests.encoders import PIECES, save_encoder

QUERY, DOCUMENT = 8, 10
TEXTS = ["the licence ends", "unaffable license!", "a á b", "中国合同", "é E the the"]
pytestmark = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SearchModel:
    """An encoder as it was before training."""
    folder = save_encoder("bert", tmp_path_factory.mktemp("search") / "enc")
    shape = TextInput(vocabulary=len(PIECES), max_length=QUERY + DOCUMENT, tokenizer=str(folder))
    settings = Retrieval(query_tokens=QUERY, negatives=4, candidates=12)
    config = Retriever(folder=str(folder), public_tokens=DOCUMENT).pinned()
    task = settings.of(TaskForm(input=shape))
    finetune = Finetune(mode="last_k")
    made = models.build(config, task, Streams(0), finetune, config.query_weights(folder))
    vector = to_vector(made.model)
    tokens = Tokenizer(vocabulary=str(folder), max_length=DOCUMENT)
    file = ModelFile(
        task=task.form, learned=settings, scenario=Precedents(tokenizer=tokens), model=config,
        finetune=finetune, seed=0, sha256=vector_digest(vector),
    )  # fmt: skip
    return SearchModel(file=file, vector=vector, cache=folder)


def test_int8__of_a_search_model_names_its_base_and_needs_no_other_folder(
    model: SearchModel, tmp_path: Path
) -> None:
    file, config = model.file, model.encoder
    made = models.build(config, file.learned.of(file.task), Streams(0), file.finetune,
                        config.query_weights(model.cache))  # fmt: skip
    before = Predictor(file=file, network=made.whole().eval())
    base = base_of(before, "int8")
    assert base is not None
    assert (base.name, base.sha256) == ("enc", config.sha256)
    write_int8(before, file, tmp_path)
    away = Path(config.folder).rename(tmp_path / "away")
    try:
        after = load(tmp_path)
        ids = torch.randint(5, len(PIECES), (3, QUERY + DOCUMENT))
        torch.testing.assert_close(after.network(ids), before.network(ids), atol=0.05, rtol=0)
    finally:
        away.rename(config.folder)


def documents(*texts: str) -> list[Document]:
    return [Document(ids=(f"d{i}",), text=text) for i, text in enumerate(texts)]


def test_find__has_the_words_of_a_document_lead_to_it_in_any_script(model: SearchModel) -> None:
    found = Index.of(documents(*TEXTS), model)
    vectors, cut = model.query_vectors(TEXTS)
    assert not cut
    for i, (text, vector) in enumerate(zip(TEXTS, vectors, strict=True)):
        first, *rest = found.find(vector, 3)
        assert (first.ids, first.text) == ((f"d{i}",), text)
        assert first.score == pytest.approx(1, abs=1e-4)
        assert len(rest) == 2
        assert first.score >= rest[0].score >= rest[1].score


def test_find__takes_the_best_piece_of_every_document(model: SearchModel) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 16)).astype(np.float32)
    owner = np.array([0, 1, 1, 1, 2, 3, 3])
    found = replace(Index.of(documents("a", "b", "the", "un"), model), vectors=vectors, owner=owner)
    query = rng.normal(size=16).astype(np.float32)
    best = {f"d{i}": max(vectors[owner == i] @ query) for i in range(4)}
    answers = found.find(query, 10)
    assert [one.ids[0] for one in answers] == sorted(best, key=lambda name: -best[name])
    assert [one.score for one in answers] == pytest.approx(sorted(best.values(), reverse=True))


@given(st.lists(st.sampled_from(["the", "a", "中", "unaffable", "b"]), max_size=60),
       st.integers(6, 14))  # fmt: skip
def test_pieces__hold_every_token_of_a_document_between_marks(
    model: SearchModel, words: list[str], most: int
) -> None:
    pieces = pieces_of(model.encoder.folder, model.cache)
    lead, end = pieces.encode("")
    found = pieces_of_text(pieces, " ".join(words), most)
    assert all(len(one) <= most and one[0] == lead and one[-1] == end for one in found)
    whole = pieces.encode(" ".join(words))
    assert (found == [whole]) == (len(whole) <= most)
    body = whole[1:-1]
    at = 0
    for one in found:
        inside = one[1:-1]
        begins = next(i for i in range(at, -1, -1) if body[i : i + len(inside)] == inside)
        at = max(at, begins + len(inside))
    assert at == len(body)
    if len(found) > 1:
        assert sum(map(len, found)) < 2 * len(body) + most * 2


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_documents__of_the_same_words_are_one_and_empty_ones_none(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "d.jsonl",
        {"id": "a", "text": "the licence"}, {"text": "  "}, {"id": "b", "text": "the licence"},
        {"id": 7, "text": "ends"}, {"text": "un"}, {"other": 1},
    )  # fmt: skip
    found, without = read_documents(path)
    assert [one.ids for one in found] == [("a", "b"), ("7",), ("5",)]
    assert without == 2


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (({"id": "a", "text": "x"}, {"id": "a", "text": "y"}), "two documents have the id 'a'"),
        (({"body": "x"},), "no line has a key 'text'"),
        (({"text": ""},), "no line has a text"),
        ((["text"],), "not a JSON object"),
    ],
)
def test_documents__that_cannot_be_told_apart_or_are_none_are_refused(
    tmp_path: Path, rows: tuple[object, ...], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_documents(lines(tmp_path / "d.jsonl", *rows))
    with pytest.raises(DataError, match=r"lines of JSON in a file \.jsonl"):
        read_documents(tmp_path / "d.txt")


def test_index__is_its_owners_alone_and_is_read_as_it_was_written(
    model: SearchModel, tmp_path: Path
) -> None:
    found, target = Index.of(documents(*TEXTS), model, "runs/law"), tmp_path / "index"
    found.write(target)
    assert target.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.iterdir())
    back = Index.read(target)
    assert back.documents == found.documents
    assert np.array_equal(back.vectors, found.vectors)
    assert np.array_equal(back.owner, found.owner)
    assert (back.encoder, back.model, back.model_sha256) == (
        model.encoder.sha256, "runs/law", model.file.sha256)  # fmt: skip
    back.check(model)
    with pytest.raises(ConfigError, match="exists; choose a folder"):
        found.write(target)


def test_index__of_another_encoder_is_refused(model: SearchModel) -> None:
    found = replace(Index.of(documents("a"), model), encoder="0" * 64)
    with pytest.raises(ConfigError, match="make it anew by `fedlearn index`"):
        found.check(model)


def test_index__of_the_same_weights_put_together_otherwise_is_refused(
    model: SearchModel, tmp_path: Path
) -> None:
    found = Index.of(documents("a"), model)
    moved = shutil.copytree(model.encoder.folder, tmp_path / "enc")
    other = replace(model, file=replace(model.file, model=model.encoder.based_on(str(moved))))
    found.check(other)
    about = moved / "config.json"
    about.write_text(json.dumps(json.loads(about.read_bytes()) | {"layer_norm_eps": 1.0}))
    with pytest.raises(ConfigError, match="not what it was when the index was made"):
        found.check(other)


@pytest.mark.parametrize("name", ["index.json", "vectors.safetensors", "documents.jsonl"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"ids": 1, "text": 2}', b"\xff\x00"])
def test_index__that_is_damaged_is_said_to_be(
    model: SearchModel, tmp_path: Path, name: str, content: bytes
) -> None:
    target = tmp_path / "index"
    Index.of(documents("a", "the"), model).write(target)
    (target / name).write_bytes(content)
    with pytest.raises(DataError, match="make it anew"):
        Index.read(target)
    (target / name).unlink()
    with pytest.raises(DataError, match="holds no index"):
        Index.read(target)


@pytest.mark.parametrize("name", ["model", "base", "encoder"])
def test_index__that_names_what_is_no_text_is_damaged(
    model: SearchModel, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "index"
    Index.of(documents("a"), model).write(target)
    about = target / "index.json"
    about.write_text(json.dumps(json.loads(about.read_bytes()) | {name: 5}))
    with pytest.raises(DataError, match=f"no text is under {name}; make it anew"):
        Index.read(target)


def test_search__of_a_model_that_finds_nothing_is_refused(model: SearchModel) -> None:
    from fedlearn.models.huggingface import HuggingFaceModel
    from fedlearn.tasks import Classification

    form = TaskForm(input=model.file.task.input, classes=("a", "b"))
    other = replace(model.file, learned=Classification(), task=form,
                    model=HuggingFaceModel(folder=model.encoder.folder))  # fmt: skip
    with pytest.raises(ConfigError, match="its model finds no documents"):
        SearchModel(file=other, vector=model.vector, cache=model.cache)
