"""One's own texts for a language model: what is read, left out with a note, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data.pool import Pool
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.language import Encoder, LanguageTokens
from fedlearn.data.texts.passages import OwnPassages
from tests.model_folders import text_folder

from ..reading import loaded

ROWS: list[dict[str, Any]] = [
    {"prompt": "Notices\n", "completion": "In writing.", "firm": "north"},
    {"text": "All of it.", "firm": "south"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def written(tmp_path: Path, folder: Path) -> Any:
    def write(rows: list[dict[str, Any]] | bytes, name: str = "own.jsonl", **chosen: Any) -> Any:
        path = tmp_path / name
        lines = "".join(json.dumps(row) + "\n" for row in rows if isinstance(row, dict))
        path.write_bytes(rows if isinstance(rows, bytes) else lines.encode())
        tokenizer = LanguageTokens(folder=str(folder), max_length=64)
        return OwnPassages(path=str(path), tokenizer=tokenizer, **chosen)

    return write


def learned(pool: Pool, folder: Path) -> list[str]:
    encoder = Encoder(FolderTexts(str(folder), folder, "folder"))
    return [encoder.text([i for i in row if i >= 0]) for row in pool.labels.tolist()]


def test_language__reads_texts_completions_and_conversations_each_as_what_it_is(
    written: Any, folder: Path
) -> None:
    pool = loaded(written(ROWS))
    assert learned(pool, folder) == ["In writing.", "All of it.", "Yes"]
    assert pool.task.kind == "language"
    assert pool.task.input_shape == (64,)


def test_language__is_the_same_from_a_table(written: Any) -> None:
    lines = written(ROWS[:1] * 3, site="firm")
    table = written(b"prompt,completion,firm\n" + b'"Notices\n",In writing.,north\n' * 3, "own.csv")
    found = loaded(replace(table, site="firm"))
    assert found.natural_site is not None
    assert found.natural_site.tolist() == ["north"] * 3
    assert np.array_equal(found.labels[:, -40:], loaded(lines).labels[:, -40:])


MESSY = {
    "BOM": b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}\n',
    "CRLF": b'{"text": "a"}\r\n\r\n{"text": "b"}\r\n',
    "blank lines": b'\n{"text": "a"}\n  \n{"text": "b"}',
}


@pytest.mark.parametrize("content", MESSY.values(), ids=MESSY)
def test_language__reads_messy_files_as_clean_ones(
    written: Any, folder: Path, content: bytes
) -> None:
    assert learned(loaded(written(content)), folder) == ["a", "b"]


LANGUAGES = [
    "Der Kläger trägt die Kosten.",
    "Le présent contrat est régi par le droit français.",
    "本合同受中华人民共和国法律管辖。",
    "يخضع هذا العقد للقانون",
    "契約は日本法に準拠する。",
    "🙂",
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_language__gives_every_language_back_in_whatever_encoding_it_is_written(
    written: Any, folder: Path, encoding: str
) -> None:
    rows = [{"text": one[:20]} for one in LANGUAGES]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    pool = loaded(written(lines.encode(encoding), encoding=encoding))
    assert learned(pool, folder) == [row["text"] for row in rows]


def test_language__of_invalid_bytes_names_the_line_and_reads_by_record_goes_on(
    written: Any, folder: Path
) -> None:
    config = written(b'{"text": "fine"}\n{"text": "\xff\xfe bad"}\n')
    with pytest.raises(DataError, match="line 2: byte 0xff is not utf-8"):
        loaded(config)
    assert len(loaded(config, by_record=True)) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "assistant", "content": "x"}]}, "line 4: 'messages' message 1 is of"),
    ({"messages": "Hi"}, "line 4: 'messages' is no list of messages"),
    ({"text": ["a"]}, "line 4: 'text' holds no text"),
    ({"prompt": [1], "completion": "x"}, "line 4: 'prompt' holds no text"),
]


@pytest.mark.parametrize(("row", "says"), BAD)
def test_language__names_the_lines_that_are_no_records_and_by_record_leaves_them_out(
    written: Any, row: dict[str, Any], says: str
) -> None:
    config = written([*ROWS, row])
    with pytest.raises(DataError, match=says):
        loaded(config)
    assert len(loaded(config, by_record=True)) == 3


def test_language__lists_all_problems_of_a_file_at_once(written: Any) -> None:
    with pytest.raises(DataError) as caught:
        loaded(written([row for row, _ in BAD] + [ROWS[0]], site="firm"))
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": " \n"},
        {"prompt": "a", "completion": None},
        {"text": ""},
        {"other": 1},
        {"messages": []},
    ],
)
def test_language__leaves_out_what_has_nothing_to_learn_with_a_note(
    written: Any, row: dict[str, Any]
) -> None:
    pool = loaded(written([*ROWS, row]))
    assert len(pool) == 3
    assert any("line 4: nothing to learn" in note for note in pool.notes)
    with pytest.raises((DataError, ConfigError)):
        loaded(written([row]))


def test_language__notes_copies_and_what_did_not_fit(written: Any) -> None:
    long = {"prompt": "p" * 99, "completion": "c" * 99}
    notes = "\n".join(loaded(written([*ROWS, ROWS[0], long])).notes)
    assert "line 4: copies of an earlier record" in notes
    assert "own: 1 of 5 records are longer than scenario.tokenizer.max_length=64" in notes
    assert "1 of 5 answers did not fit" in notes


def test_language__copies_are_in_one_part_and_another_record_moves_none(written: Any) -> None:
    rows = [{"text": f"clause {i % 20}"} for i in range(60)]
    pool, fewer = loaded(written(rows)), loaded(written(rows[:59]))
    assert np.array_equal(pool.is_train[:59], fewer.is_train)
    assert np.array_equal(pool.is_train[:20], pool.is_train[20:40])
    assert 0 < pool.is_train.sum() < 60


def test_language__names_keys_that_are_not_there(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"has none of body, completion, messages.*text, firm"):
        loaded(written(ROWS[1:2], text="body"))
    with pytest.raises(ConfigError, match=r"scenario\.site: no key 'bank'"):
        loaded(written(ROWS, site="bank"))
    with pytest.raises(DataError, match="line 3: no site"):
        loaded(written(ROWS, site="firm"))


def test_language__a_conversation_for_a_model_without_template_is_the_users_to_mend(
    written: Any, tmp_path: Path
) -> None:
    plain = text_folder(tmp_path / "plain", settings={"chat_template": ""})
    config = replace(written(ROWS), tokenizer=LanguageTokens(folder=str(plain)))
    with pytest.raises(ConfigError, match="has no chat template"):
        loaded(config)
    assert len(loaded(config, by_record=True)) == 2


def test_agreed__takes_the_tokens_of_the_run_but_from_no_folder_that_a_site_does_not_name(
    written: Any, folder: Path
) -> None:
    own = written(ROWS)
    of_run = replace(own, path="theirs", tokenizer=LanguageTokens(max_length=32))
    assert own.agreed(of_run) == replace(own, tokenizer=of_run.tokenizer)
    strange = replace(of_run, tokenizer=LanguageTokens(folder="/secret"))
    with pytest.raises(ConfigError, match="/secret: reads a folder that this site's file does not"):
        own.agreed(strange)


def test_language__of_a_model_that_reads_prompts_apart_is_prompts_with_completions(
    written: Any, tmp_path: Path
) -> None:
    about = {"is_encoder_decoder": True, "eos_token_id": 258, "decoder_start_token_id": 256}
    apart = text_folder(tmp_path / "t5", about=about)
    tokenizer = LanguageTokens(folder=str(apart), max_length=64)
    texts = replace(written(ROWS[:2]), tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"line 2: 'text' is a text to go on with, .* a completion"):
        loaded(texts)
    assert learned(loaded(texts, by_record=True), apart) == ["In writing."]
    talks = replace(written([ROWS[0], ROWS[2]]), tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="goes on with no conversation"):
        loaded(talks)
    assert learned(loaded(talks, by_record=True), apart) == ["In writing."]
