"""A folder's own tokenizer gives the ids that transformers gives."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Made
from tokenizers import models

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.datasets.archives import default_cache
from fedlearn.data.datasets.minilm import minilm_folder
from fedlearn.data.texts.pieces import OwnPieces, Pieces, WordPiece, pieces_of
from fedlearn.data.texts.tokens import Tokenizer, tokenize
from tests.encoders import PIECES, byte_pairs

WORDS = [
    *PIECES,
    "Licences",
    "LICENSE",
    "合同",
    "中国",
    "ÁE",
    "ab!",
    "</s>",
    "<pad>",
    "the the",
    "\u2028",
]
TEXT = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=6).map(" ".join)
Cases = list[tuple[dict[str, Any], Pieces, Pieces]]
CASINGS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": False, "tokenize_chinese_chars": False},
    {"do_lower_case": None, "strip_accents": None},
]


def folder_of(place: Path, settings: dict[str, Any], tokenizer: Made | None = None) -> Path:
    place.mkdir(exist_ok=True)
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (place / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": 0}))
    if tokenizer is None:
        (place / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    else:
        tokenizer.save(str(place / "tokenizer.json"))
    return place


def whole(pieces: Pieces) -> Made:
    """What it is made of, to be written into a folder."""
    made: Made = pieces._tokenizer  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
) -> Cases:
    """Settings; the list under them; and tokenizer.json of the other case, under them."""
    found: Cases = []
    for number, casing in enumerate(CASINGS):
        place = tmp_path_factory.mktemp(f"folder{number}")
        listed = pieces_of(str(folder_of(place / "listed", casing)), place)
        other = {name: not value for name, value in casing.items() if isinstance(value, bool)}
        made = whole(WordPiece(PIECES, other))
        own = pieces_of(str(folder_of(place / "own", casing, made)), place)
        assert isinstance(own, OwnPieces)
        found.append((casing, listed, own))
    return found


@given(TEXT)
def test_casing__is_that_of_the_folders_settings_however_it_holds_its_tokenizer(
    folders: Cases, text: str
) -> None:
    for _, listed, own in folders:
        assert listed.encode(text) == own.encode(text)
        assert (listed.size, listed.pad_id, listed.unknown_id) == (len(PIECES), 0, 1)
        assert (own.size, own.pad_id, own.unknown_id) == (len(PIECES), 0, 1)


@pytest.mark.skipif(not find_spec("transformers"), reason="needs fedlearn[text]")
@pytest.mark.slow
def test_ids__are_those_of_transformers(
    folders: Cases,
) -> None:
    from transformers import BertTokenizer

    ids = {piece: i for i, piece in enumerate(PIECES)}
    theirs = [
        BertTokenizer(vocab=ids, **{k: v for k, v in casing.items() if v is not None})
        for casing, _, _ in folders
    ]

    @settings(deadline=None)  # its first use takes a second
    @given(TEXT)
    def same(text: str) -> None:
        for (_, listed, _), oracle in zip(folders, theirs, strict=True):
            assert listed.encode(text) == oracle(text, split_special_tokens=True)["input_ids"]

    same()


@pytest.mark.parametrize(
    ("casing", "expected"),
    [
        ({}, ["the", "licence", "##s", "a", "中", "国"]),
        ({"do_lower_case": False}, ["the", "licence", "##s", "á", "中", "国"]),
        ({"strip_accents": False}, ["the", "licence", "##s", "á", "中", "国"]),
        ({"tokenize_chinese_chars": False}, ["the", "licence", "##s", "a", "中", "##国"]),
    ],
)
def test_cased_and_chinese_folders__keep_what_tells_words_apart(
    tmp_path: Path, casing: dict[str, Any], expected: list[str]
) -> None:
    pieces = pieces_of(str(folder_of(tmp_path / "one", casing)), tmp_path)
    found = [PIECES[i] for i in pieces.encode("the licences á 中国")]
    assert found == ["[CLS]", *expected, "[SEP]"]
    upper = [PIECES[i] for i in pieces.encode("License")]
    assert upper[1] == ("License" if casing.get("do_lower_case") is False else "license")


def test_words_that_look_like_control_tokens__are_words(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "r", {"pad_token": "<pad>"}, byte_pairs())
    pieces = pieces_of(str(folder), tmp_path)
    assert pieces.encode("a \ud800")[0] == 0  # half a character, as JSON can hold it
    ids = pieces.encode("a</s><pad>")
    assert (ids[0], ids[-1], pieces.pad_id) == (0, 2, 1)
    assert not {0, 1, 2} & set(ids[1:-1])
    found = tokenize(Tokenizer(vocabulary=str(folder), max_length=6), ["", "the"], tmp_path)
    assert found.ids[0].tolist() == [0, 2, 1, 1, 1, 1]
    assert found.shape.pad_id == 1
    assert (found.cut, found.shape.vocabulary) == (0, len(byte_pairs().get_vocab()))


@pytest.mark.parametrize("lines", ["\n", "\r\n"])
def test_list__may_hold_what_other_programs_break_lines_at(tmp_path: Path, lines: str) -> None:
    more = [*PIECES, "\u2028", "\x85", "last"]
    place = folder_of(tmp_path / "one", {})
    (place / "vocab.txt").write_bytes((lines.join(more) + lines).encode())
    pieces = pieces_of(str(place), tmp_path)
    assert pieces.size == len(more)
    assert pieces.encode("last")[1] == len(more) - 1


def plain_tokenizer(*tokens: str) -> Made:
    return Made(models.WordLevel({token: i for i, token in enumerate(tokens)}, tokens[-1]))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (plain_tokenizer("a", "[UNK]"), "names no token that fills up short texts"),
        (plain_tokenizer("[PAD]", "[UNK]"), "marks no beginning and no end of a text"),
    ],
)
def test_tokenizers__of_models_that_continue_texts_are_refused(
    tmp_path: Path, content: Made, problem: str
) -> None:
    place = folder_of(tmp_path / "one", {}, content)
    if "a" in content.get_vocab():
        (place / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=problem):
        pieces_of(str(place), tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"normalizer": 3}', "1"])
def test_tokenizer_json__that_is_none_is_refused_by_the_setting(
    tmp_path: Path, content: str
) -> None:
    place = folder_of(tmp_path / "one", {"do_lower_case": True})
    (place / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"scenario\.tokenizer\.vocabulary=.*cannot be read"):
        pieces_of(str(place), tmp_path)


def test_code_of_a_folder__is_never_asked(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "one", {"auto_map": {"AutoTokenizer": "x.Y"}}, byte_pairs())
    with pytest.raises(ConfigError, match="auto_map"):
        pieces_of(str(place), tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("text_cache")
def test_minilm__has_the_same_ids_by_name_by_its_list_and_as_a_folder(tmp_path: Path) -> None:
    cache = default_cache(os.environ)
    listed, made = pieces_of("minilm", cache), pieces_of(str(minilm_folder(cache)), cache)
    assert isinstance(made, OwnPieces)

    @settings(deadline=None)
    @given(TEXT)
    def same(text: str) -> None:
        assert made.encode(text) == listed.encode(text)

    same()
    assert (made.size, made.pad_id, made.unknown_id) == (30522, 0, 100)
    with pytest.raises(DataError, match="cannot be read"):
        pieces_of(str(tmp_path / "none"), cache)
