"""Conversations: written by the model's own template, of which transformers is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlearn.core.errors import ConfigError
from fedlearn.data.texts.chat import Conversations
from fedlearn.data.texts.language import LanguageTokens, Span, open_encoder
from tests.model_folders import END, TEMPLATE, text_folder

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}


def conversations(folder: Path, template: str = TEMPLATE) -> Conversations:
    text_folder(folder, settings={"chat_template": template})
    return Conversations(open_encoder(LanguageTokens(folder=str(folder)), folder))


def test_passage__learns_every_reply_up_to_the_token_that_ends_it(tmp_path: Path) -> None:
    found = conversations(tmp_path).passage([SYSTEM, USER, REPLY, USER, REPLY])
    assert found == (
        Span("<s>system: Be kind.</s>\n<s>user: Hi</s>\n<s>assistant: ", control=True),
        Span("Hello</s>", learned=True, control=True),
        Span("\n<s>user: Hi</s>\n<s>assistant: ", control=True),
        Span("Hello</s>", learned=True, control=True),
    )


def test_passage__its_control_tokens_are_single_ids_and_end_once(tmp_path: Path) -> None:
    chat = conversations(tmp_path)
    ids, learned = chat.encoder.encoded(chat.passage([USER, REPLY]))
    assert chat.encoder.text([i for i, own in zip(ids, learned, strict=True) if own]) == "Hello"
    assert ids[0] == chat.encoder.start
    assert ids.count(chat.encoder.end or 0) == 2
    assert ids[-1] == chat.encoder.end


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("Hi", "is no list of messages"),
        ([], "is no list of messages"),
        ([REPLY], "message 1 is of role 'assistant', out of order"),
        ([USER, USER, REPLY], "message 2 is of role 'user', out of order"),
        ([SYSTEM, USER, REPLY, REPLY], "message 4 is of role 'assistant', out of order"),
        ([USER, SYSTEM, REPLY], "message 2 is of role 'system', out of order"),
        ([USER], "ends without a reply"),
        ([SYSTEM], "ends without a reply"),
        ([USER, {"role": "assistant", "content": " "}], "holds an empty reply"),
        ([USER, {"role": "tool", "content": "x"}], "message 2 has no content that is text, or"),
        ([USER, {"role": "assistant"}], "message 2 has no content that is text, or"),
        ([{"role": ["user"], "content": "x"}, REPLY], "message 1 has no content that is text, or"),
        ([USER, {"role": "assistant", "content": f"a{END}b"}], "message 2 holds '</s>'"),
        (["Hi", REPLY], "message 1 has no content that is text, or"),
    ],
)
def test_passage__says_which_message_is_wrong(tmp_path: Path, messages: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        conversations(tmp_path).passage(messages)


def test_passage__of_a_template_that_rewrites_earlier_replies_learns_the_last_alone(
    tmp_path: Path,
) -> None:
    shortened = (
        "{% for m in messages %}{{ m.role[0] }}:{% if loop.last or m.role == 'user' %}"
        "{{ m.content }}{% else %}-{% endif %}</s>{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    found = conversations(tmp_path, shortened).passage([USER, REPLY, USER, REPLY])
    assert found == (
        Span("u:Hi</s>a:-</s>u:Hi</s>a:", control=True),
        Span("Hello</s>", learned=True, control=True),
    )


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system message') }}", "refuses it: no system message"),
        ("{{ messages[9].content.upper() }}", "refuses it"),
        ("{{ 1 / 0 }}", "refuses it"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses it"),
        ("{% if add_generation_prompt %}think{% endif %}{{ messages }}", "otherwise"),
    ],
)
def test_template__that_refuses_or_reaches_for_more_than_words_is_an_error_of_the_record(
    tmp_path: Path, template: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        conversations(tmp_path, template).passage([USER, REPLY])


def test_template__that_is_none_or_is_missing_is_an_error_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scenario\.tokenizer\.folder=.*chat template is none"):
        conversations(tmp_path, "{% for %}")
    with pytest.raises(ConfigError, match="has no chat template"):
        conversations(tmp_path, "")


def test_template__knows_no_date_so_that_every_day_writes_the_same(tmp_path: Path) -> None:
    dated = "{{ strftime_now('%Y') if strftime_now is defined else 'fixed' }}"
    assert conversations(tmp_path, dated).written([USER]) == "fixed"


@pytest.mark.slow
@pytest.mark.parametrize("asks", [True, False])
def test_written__is_what_transformers_writes(tmp_path: Path, asks: bool) -> None:
    from transformers import AutoTokenizer

    intricate = (
        "{%- if messages[0]['role'] == 'system' -%}\n  {{ bos_token + messages[0].content }}\n"
        "{%- endif %}\n{% for m in messages %}\n"
        "  {% if m.role == 'tool' %}{% continue %}{% endif %}"
        "\n{{ m | tojson }}\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}\n"
        "{% if add_generation_prompt %}<go>{% endif %}"
    )
    for template in (TEMPLATE, intricate):
        ours = conversations(tmp_path, template)
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        for messages in ([USER], [SYSTEM, USER, REPLY], [{"role": "user", "content": " 合同<é> "}]):
            wanted = theirs.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=asks
            )
            assert ours.written(messages, asks=asks) == wanted
