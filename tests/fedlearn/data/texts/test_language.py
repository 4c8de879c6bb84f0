"""Passages as ids: what is learned, what is cut off, and what a tokenizer has to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, processors

from fedlearn.core.errors import ConfigError
from fedlearn.data.texts.chat import Conversations
from fedlearn.data.texts.language import Encoder, LanguageTokens, Span, encode, open_encoder
from tests.effort import examples
from tests.model_folders import END, PAD, START, byte_tokenizer, text_folder

ANSWER = (Span("ask:"), Span(" reply", learned=True))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return opened(text_folder(tmp_path_factory.mktemp("model")))


def opened(folder: Path, **chosen: Any) -> Encoder:
    return open_encoder(LanguageTokens(folder=str(folder), **chosen), folder)


def words(encoder: Encoder, ids: np.ndarray[Any, Any]) -> str:
    return encoder.text([i for i in ids.tolist() if i >= 0])


# --- what is learned ----------------------------------------------------------


def test_encode__learns_the_answer_and_its_end_and_nothing_of_the_prompt(encoder: Encoder) -> None:
    found = encode(encoder, [ANSWER], 16)
    [ids], [targets] = found.ids, found.targets
    assert words(encoder, ids[:10]) == "ask: reply"
    assert ids[10:].tolist() == [encoder.end] + [encoder.pad_id] * 5
    assert (targets[:3] == -1).all()
    assert words(encoder, targets[3:9]) == " reply"
    assert targets[9:].tolist() == [encoder.end] + [-1] * 6
    assert (found.prompts_cut, found.answers_cut) == (0, 0)


def test_encode__learns_all_of_a_text_its_first_word_too(encoder: Encoder) -> None:
    [ids], [targets] = (
        getattr(encode(encoder, [(Span("whole", learned=True),)], 8), name)
        for name in ("ids", "targets")
    )
    assert ids[0] == encoder.start
    assert words(encoder, targets) == "whole"
    assert (targets >= 0).sum() == 6


passages = st.lists(
    st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=30)).map(
        lambda pair: (Span(pair[0]), Span(pair[1], learned=True))
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=examples(200), deadline=None)
@given(passages, st.integers(2, 80))
def test_encode__a_target_is_always_the_next_token_and_every_record_learns_something(
    encoder: Encoder, found: list[Any], most: int
) -> None:
    rows = encode(encoder, found, most)
    learned = rows.targets >= 0
    assert learned.any(1).all()
    assert not learned[:, -1].any()  # there is no token after the last one
    assert (rows.targets[:, :-1] == np.roll(rows.ids, -1, axis=1)[:, :-1])[learned[:, :-1]].all()
    alone = [encode(encoder, [one], most) for one in found]
    assert np.array_equal(np.concatenate([one.ids for one in alone]), rows.ids)
    assert sum(one.answers_cut for one in alone) == rows.answers_cut


@settings(max_examples=examples(200), deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_encode__words_come_back_whatever_the_language_and_none_is_a_control_token(
    encoder: Encoder, text: str
) -> None:
    for one in (text, f"{END}{text}{START}"):
        ids = encoder.ids(one)
        assert not {encoder.end, encoder.start, encoder.pad_id} & set(ids)
        assert encoder.text(ids) == one.encode("utf-8", "replace").decode()


def test_encode__takes_half_a_character_of_json_for_one_of_no_meaning(encoder: Encoder) -> None:
    assert encoder.text(encoder.ids(json.loads('"a\\ud800b"'))) == "a?b"


# --- what is too long ---------------------------------------------------------


def test_encode__cuts_a_prompt_from_the_left_so_that_the_answer_is_whole(encoder: Encoder) -> None:
    found = encode(encoder, [(Span("0123456789"), Span("reply", learned=True))], 12)
    assert words(encoder, found.ids[0]) == "456789reply"
    assert words(encoder, found.targets[0]) == "reply"
    assert (found.prompts_cut, found.answers_cut) == (1, 0)


def test_encode__cuts_an_answer_only_beside_half_a_row_of_prompt_and_counts_it(
    encoder: Encoder,
) -> None:
    found = encode(encoder, [(Span("0123456789"), Span("a long reply", learned=True))], 12)
    assert words(encoder, found.ids[0]) == "456789a long"
    assert words(encoder, found.targets[0]) == "a long"
    assert encoder.end not in found.targets
    assert (found.prompts_cut, found.answers_cut) == (1, 1)
    short = encode(encoder, [(Span("?"), Span("a long reply", learned=True))], 8)
    assert words(encoder, short.ids[0]) == "?a long "
    assert (short.prompts_cut, short.answers_cut) == (0, 1)


def test_encode__of_a_cut_prompt_keeps_the_token_that_begins_every_text(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(PAD, START, END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    encoder = opened(text_folder(tmp_path, tokenizer=tokenizer))
    found = encode(encoder, [(Span("0123456789"), Span("ok", learned=True))], 8)
    assert found.ids[0, 0] == encoder.start
    assert words(encoder, found.ids[0]) == "6789ok"


# --- prompts that are read apart --------------------------------------------------

APART = {"is_encoder_decoder": True, "eos_token_id": 258, "decoder_start_token_id": 256,
         "max_position_embeddings": None, "n_positions": 20}  # fmt: skip


def test_encode__puts_the_end_of_a_prompt_and_what_a_decoder_begins_with_before_an_answer(
    tmp_path: Path,
) -> None:
    encoder = opened(text_folder(tmp_path, about=APART), max_length=40)
    found = encode(encoder, [ANSWER, (Span(""), Span("x" * 9, learned=True))], 16)
    ids, alone = found.ids.tolist()
    assert ids[4:6] == alone[:2] == [258, 256]
    assert words(encoder, found.targets[0]) == " reply"
    assert found.targets[0].tolist()[5:13] == [*ids[6:12], 258, -1]
    assert (found.prompts_cut, found.answers_cut) == (0, 0)
    assert encoder.asked((Span("ask:"),)) == ids[:6]
    # However long a prompt is, its end stays, and so does a token of the answer.
    for most in (3, 4, 9):
        [row] = encode(encoder, [(Span("y" * 30), Span("no", learned=True))], most).ids.tolist()
        at = row.index(258)
        assert row[at + 1] == 256
        assert row[at + 2] == encoder.ids("n")[0]


def test_encoder__of_prompts_that_are_read_apart_says_what_it_cannot_take(tmp_path: Path) -> None:
    folder = text_folder(tmp_path, about=APART)
    encoder = opened(folder, max_length=40)
    for passage in ((Span("whole", learned=True),), (Span("", learned=True), Span("b"))):
        with pytest.raises(ValueError, match="give a prompt and a completion, or take a model"):
            encoder.asked(passage)
    with pytest.raises(ConfigError, match="goes on with no conversation; give records a prompt"):
        Conversations(encoder)
    with pytest.raises(ConfigError, match="takes at most 40 tokens"):
        opened(folder, max_length=41)
    with pytest.raises(ConfigError, match="max_length=2: of a prompt and an answer"):
        opened(folder, max_length=2)
    other = text_folder(tmp_path / "other", about=APART | {"eos_token_id": 257})
    with pytest.raises(ConfigError, match="ends a prompt with token 258, and its model with 257"):
        opened(other, max_length=40)


# --- what a folder has to be --------------------------------------------------


def test_encoder__without_padding_fills_up_with_the_end_which_is_learned_once(
    tmp_path: Path,
) -> None:
    folder = text_folder(
        tmp_path, settings={"pad_token": None}, tokenizer=byte_tokenizer(START, END)
    )
    encoder = opened(folder)
    found = encode(encoder, [ANSWER], 16)
    assert encoder.pad_id == encoder.end
    assert (found.targets == encoder.end).sum() == 1


@pytest.mark.parametrize(
    ("about", "settings", "says"),
    [
        ({"vocab_size": 258}, {}, "ids up to 258, and its model a vocabulary of 258"),
        ({"vocab_size": None}, {}, "names no vocab_size"),
        ({}, {"eos_token": None}, "no token that ends a text"),
        ({}, {"eos_token": "<strange>"}, "no token that ends a text"),
    ],
)
def test_encoder__refuses_a_folder_whose_parts_do_not_belong_together(
    tmp_path: Path, about: dict[str, Any], settings: dict[str, Any], says: str
) -> None:
    folder = text_folder(tmp_path, about=about, settings=settings)
    with pytest.raises(ConfigError, match=f"scenario.tokenizer.folder={folder}: .*{says}"):
        opened(folder)


@pytest.mark.parametrize(
    ("about", "end"),
    [
        ({"eos_token_id": 7}, 7),
        ({"eos_token_id": [9, 7]}, 9),
        ({"text_config": {}, "eos_token_id": 3}, 3),
    ],
)
def test_encoder__takes_the_end_from_the_model_where_the_tokenizer_names_none(
    tmp_path: Path, about: dict[str, Any], end: int
) -> None:
    assert opened(text_folder(tmp_path, about=about, settings={"eos_token": None})).end == end


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "Strange"}}'])
def test_encoder__refuses_what_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    (text_folder(tmp_path) / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        opened(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json; .*save_pretrained"):
        opened(tmp_path)


def test_encoder__refuses_records_that_are_longer_than_the_model_takes(tmp_path: Path) -> None:
    assert opened(text_folder(tmp_path), max_length=512).context == 512
    with pytest.raises(ConfigError, match=r"max_length=513: .* takes at most 512 tokens"):
        opened(tmp_path, max_length=513)


def test_encoder__takes_word_pieces_as_well(tmp_path: Path) -> None:
    pieces = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[SEP]", "say", "合"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken("[SEP]"), AddedToken("[PAD]")])
    folder = text_folder(
        tmp_path, settings={"eos_token": "[SEP]", "pad_token": "[PAD]"}, tokenizer=tokenizer
    )
    encoder = opened(folder)
    assert encode(encoder, [(Span("say"), Span("合", learned=True))], 4).ids.tolist() == [
        [3, 4, 2, 0]
    ]
