"""What is asked has the tokens that come before an answer in training, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Answering, Drafting, Scenario
from fedlearn.data.texts.chat import Conversations
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.language import Encoder, Passage, Span
from fedlearn.data.texts.passages import OwnPassages
from fedlearn.generation.prompts import Prompts
from tests.model_folders import TEMPLATE, text_folder

ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(FolderTexts(str(text_folder(tmp_path_factory.mktemp("m"))), Path(), "folder"))


def prompts(encoder: Encoder, scenario: Scenario | None = None) -> Prompts:
    rows = OwnPassages(path="-")
    return Prompts(scenario or rows, rows, encoder)


def before_the_answer(encoder: Encoder, passage: Passage) -> list[int]:
    ids, learned = encoder.encoded(passage)
    last = max(i for i, one in enumerate(learned) if one)
    first = last
    while learned[first - 1]:
        first -= 1
    return ids[:first]


@ONCE
@given(WORDS, WORDS.filter(str.strip))
def test_a_prompt__has_the_tokens_that_it_has_before_a_completion(
    encoder: Encoder, prompt: str, answer: str
) -> None:
    [asked] = prompts(encoder).asked([prompt])
    record = (Span(prompt), Span(answer, learned=True))
    assert asked.ids == before_the_answer(encoder, record)


@ONCE
@given(WORDS)
def test_a_beginning_of_a_text__has_the_tokens_of_that_text(encoder: Encoder, text: str) -> None:
    [asked] = prompts(encoder).asked([text], "text")
    ids, learned = encoder.encoded((Span(text + "more", learned=True),))
    assert asked.ids == ids[: len(asked.ids)]
    assert not learned[0]


ROLES = st.lists(st.tuples(WORDS, WORDS.filter(str.strip)), min_size=1, max_size=3)


@ONCE
@given(st.booleans(), ROLES)
def test_a_conversation__asks_with_the_tokens_that_it_has_before_its_last_reply(
    encoder: Encoder, system: bool, turns: list[tuple[str, str]]
) -> None:
    messages = [{"role": "system", "content": "Be brief."}] if system else []
    for user, reply in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    chat = Conversations(encoder)
    asked = encoder.asked(chat.asked(messages[:-1]))
    assert asked == before_the_answer(encoder, chat.passage(messages))
    assert asked == encoder.asked(chat.asked(messages))  # a reply that is there is not looked at


def test_a_message__is_written_by_the_template_of_the_model(encoder: Encoder) -> None:
    [asked] = prompts(encoder).asked(["Hello"], "message")
    assert TEMPLATE.startswith("{% for")
    assert asked.ids == encoder.ids("<s>user: Hello</s>\n<s>assistant: ", control=True)


@pytest.mark.parametrize(
    ("scenario", "given", "written"),
    [
        (Drafting(), "Governing Law", "Governing Law\n"),
        (Drafting(), "Governing Law\n", "Governing Law\n"),
        (Answering(), "a cough", "Diagnosis: a cough\nChapter:"),
        (Answering(), "Diagnosis: a cough\nChapter:", "Diagnosis: a cough\nChapter:"),
        (Answering(of="news"), "word " * 99, "word " * 69 + "word\nTopic:"),
    ],
)
def test_a_prompt__is_written_as_the_scenario_writes_its_own(
    encoder: Encoder, scenario: Scenario, given: str, written: str
) -> None:
    [asked] = prompts(encoder, scenario).asked([given])
    assert asked.given == given
    assert asked.ids == encoder.asked((Span(written),))


def test_control_tokens_in_a_prompt__are_words_and_in_a_message_refused(encoder: Encoder) -> None:
    [asked] = prompts(encoder).asked(["</s>"])
    assert asked.ids == encoder.ids("</s>")
    assert encoder.end not in asked.ids
    with pytest.raises(ConfigError, match=r"--prompt: message 1 holds '</s>'"):
        prompts(encoder).asked(["</s>"], "message")


def test_a_model_without_a_template__knows_no_messages(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "m", settings={"chat_template": ""})
    encoder = Encoder(FolderTexts(str(folder), Path(), "folder"))
    with pytest.raises(ConfigError, match="has no chat template"):
        prompts(encoder).asked(["Hello"], "message")


def test_file__of_prompts_texts_and_conversations_is_read_by_line(
    encoder: Encoder, tmp_path: Path
) -> None:
    talk = [{"role": "user", "content": "Hello"}]
    rows = [{"prompt": "a", "completion": "b"}, {"text": "c"}, {"messages": talk}]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = prompts(encoder).read(path)
    assert [(one.line, one.given) for one in found] == [(1, "a"), (2, "c"), (3, "Hello")]
    by_hand = [(["a"], "prompt"), (["c"], "text"), (["Hello"], "message")]
    assert [one.ids for one in found] == [
        prompts(encoder).asked(texts, way)[0].ids  # type: ignore[arg-type]
        for texts, way in by_hand
    ]


def test_table__of_prompts_is_read_as_well(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,who\nred,me\n007,you\n")
    found = prompts(encoder).read(tmp_path / "p.csv")
    assert [(one.line, one.given) for one in found] == [(2, "red"), (3, "007")]


def test_file__with_lines_that_ask_nothing_is_refused_with_all_of_them(
    encoder: Encoder, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    out_of_order = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Hello"}]
    rows = [{"prompt": "a"}, {"answer": "b"}, {"prompt": 3}, {"messages": out_of_order},
            {"messages": "Hello"}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as error:
        prompts(encoder).read(path)
    said = str(error.value)
    assert "lines 2, 3: has none of prompt, text, messages that is a text" in said
    assert "line 4: 'messages' message 1 is of role 'assistant', out of order" in said
    assert "line 5: 'messages' is no list of messages" in said
    path.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        prompts(encoder).read(path)
