"""Text of tuned models: token for token what transformers generates from the merged model."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlearn.core.errors import ConfigError
from fedlearn.generation.generator import Answer, TextGenerator, fitted
from fedlearn.generation.prompts import Prompt
from fedlearn.generation.sampling import Sampling
from fedlearn.models import Finetune
from fedlearn.models.continuing import KeepingReader, WholeReader, reader
from fedlearn.models.forms import merged_settings, merged_weights
from fedlearn.prediction import load
from tests.exports import ADAPTERS, language_export
from tests.model_folders import APART, KINDS, auto_class, tiny_model

needs_transformers = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)
pytestmark = [needs_transformers, pytest.mark.slow]

LAST = Finetune(mode="last_k", last_k=1)
CONTEXT = 96


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of every kind of model, and an export of each."""
    place = tmp_path_factory.mktemp("models")
    for kind in (*KINDS, *APART):
        size = "n_positions" if kind == "gpt2" else "max_position_embeddings"
        places = {} if kind in APART else {size: CONTEXT}
        tiny_model(place / kind, kind, moved=0.2, **places)
        language_export(place / f"{kind}-tuned", place / kind)
    language_export(place / "llama-last", place / "llama", LAST)
    return place


def generator(folder: Path) -> TextGenerator:
    return TextGenerator.of(load(folder), folder)


def write(one: TextGenerator, *prompts: str, **how: Any) -> list[Answer]:
    return list(one.answers(one.prompts.asked(prompts), Sampling(**how)))


def merged(folder: Path) -> Any:
    """The tuned model as transformers has it."""
    from transformers import AutoConfig

    model = load(folder)
    base = model.file.model.public_base(folder)
    assert base is not None
    made = auto_class(base.about["model_type"]).from_config(
        AutoConfig.for_model(**merged_settings(base)), attn_implementation="sdpa"
    )
    weights = merged_weights(model.network, base)
    own_head = "lm_head.weight" in weights
    if own_head:  # a release ties it whatever the settings say, unless a folder has another
        made.lm_head.weight = torch.nn.Parameter(torch.empty_like(made.lm_head.weight))
    lacking, strange = made.load_state_dict(weights, strict=False)
    assert strange == []
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in lacking} <= {
        "lm_head",
        "embed_tokens",  # of encoder and decoder: the table that they share
    }
    if not own_head:
        made.tie_weights()
    return made.eval()


@pytest.mark.parametrize("tuned", [*(f"{kind}-tuned" for kind in (*KINDS, *APART)), "llama-last"])
def test_greedy__is_token_for_token_what_transformers_generates(place: Path, tuned: str) -> None:
    mine, theirs = generator(place / tuned), merged(place / tuned)
    seen: set[int] = set()
    for prompt in ("red 3: ", "Governing Law\n", "x"):
        [asked] = mine.prompts.asked([prompt])
        # What begins an answer is its decoder's; transformers makes room in its cache for as many
        # blocks as an encoder has.
        apart = theirs.config.is_encoder_decoder
        read, before = (asked.ids[:-1], 1) if apart else (asked.ids, len(asked.ids))
        found = theirs.generate(
            torch.tensor([read]), do_sample=False, max_new_tokens=40, eos_token_id=258,
            pad_token_id=256, attention_mask=torch.ones(1, len(read), dtype=torch.int64),
            use_cache=not apart,
        )[0, before:].tolist()  # fmt: skip
        tokens, ended = mine._tokens(asked.ids, Sampling(max_tokens=40), None)  # type: ignore[arg-type]
        assert tokens == found
        seen |= set(tokens)
        assert ended == ("end" if found[-1] == 258 else "length")
    assert len(seen) > 3  # no model of one word


@pytest.mark.parametrize("kind", KINDS)
def test_cache__changes_nothing_but_the_time(place: Path, kind: str) -> None:
    network = load(place / f"{kind}-tuned").network
    keeping, whole = reader(network), WholeReader(network)
    assert isinstance(keeping, KeepingReader)
    for ids in ([5, 80, 12, 200, 9], [44], [7, 8, 9], [1]):
        one, other = keeping.read(ids), whole.read(ids)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_untuned__is_the_model_before_training(place: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(place / "llama").eval()
    found = load(place / "llama-tuned", tuned=False).network
    ids = [3, 70, 90]
    with torch.no_grad():
        expected = base(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(reader(found).read(ids), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(reader(load(place / "llama-tuned").network).read(ids), expected)


def test_an_answer__ends_at_any_token_of_the_end_and_is_given_without_it(place: Path) -> None:
    mine = generator(place / "llama-tuned")
    [first] = write(mine, "red 3: ", max_tokens=30)
    assert first.ended == "length"
    assert first.tokens == 30
    tokens, _ = mine._tokens(mine.prompts.asked(["red 3: "])[0].ids, Sampling(max_tokens=30), None)  # type: ignore[arg-type]
    last = tokens[9]
    mine.encoder.__dict__["ends"] = frozenset([last])
    [ended] = write(mine, "red 3: ", max_tokens=30)
    assert ended.ended == "end"
    assert ended.tokens == tokens.index(last) + 1
    assert ended.text == mine.encoder.text(tokens[: tokens.index(last)])


def test_stop_words__end_an_answer_before_the_first_of_them(place: Path) -> None:
    mine = generator(place / "qwen2-tuned")
    whole = next(
        one
        for prompt in ("a", "red", "1:", "Law")
        for one in write(mine, prompt, max_tokens=40)
        if sum(sign.isascii() for sign in one.text) > 8
    )
    at = next(i for i, sign in enumerate(whole.text) if sign.isascii() and i > 1)
    word = whole.text[at : at + 2]  # of two tokens: every byte is one
    [cut] = write(mine, whole.prompt, max_tokens=40, stop=("never there", word))
    assert cut.ended == "stop"
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.tokens < whole.tokens


def test_samples__depend_on_prompt_seed_and_number_alone(place: Path) -> None:
    mine = generator(place / "gpt2-tuned")
    how: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 12, "seed": 3}
    alone = write(mine, "red", samples=3, **how)
    among = write(mine, "blue", "red", samples=2, **how)
    assert [one.text for one in among[2:]] == [one.text for one in alone[:2]]
    assert len({one.text for one in alone}) == 3
    assert write(mine, "red", **{**how, "seed": 4})[0].text != alone[0].text
    sure = write(mine, "red", temperature=1.0, top_k=1, max_tokens=12)
    assert [one.text for one in sure] == [one.text for one in write(mine, "red", max_tokens=12)]


def test_no_global_generator__is_moved(place: Path) -> None:
    before = torch.random.get_rng_state()
    write(generator(place / "llama-tuned"), "red", temperature=1.0, max_tokens=3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_long_prompt__loses_its_beginning_and_that_is_said(place: Path) -> None:
    mine = generator(place / "llama-tuned")
    asked = mine.prompts.asked(["x" * 70, "y" * 200])
    how = Sampling(max_tokens=16)
    first, second = mine.answers(asked, how)
    assert (first.left_out, first.prompt_tokens) == (0, 70)
    assert (second.left_out, second.prompt_tokens) == (120, CONTEXT - 16)
    assert [*mine.notes(asked, how)] == [
        "1 of 2 prompts have more than the 80 tokens that the model has room for beside 16 of an "
        "answer; their beginnings are left out",
        "1 of 2 prompts are longer than the records that the model was trained on "
        "(scenario.tokenizer.max_length=64)",
    ]
    assert next(mine.answers([Prompt(1, "", asked[1].ids[-80:])], how)).text == second.text
    with pytest.raises(ConfigError, match="max_tokens=96: the model looks at 96 tokens"):
        write(mine, "x", max_tokens=96)
    assert write(mine, "x" * 99, max_tokens=95)[0].prompt_tokens == 1


def test_fitted__keeps_what_a_tokenizer_puts_first() -> None:
    assert fitted([9, 1, 2, 3, 4], 3, 1) == [9, 3, 4]
    assert fitted([9, 1, 2], 3, 1) == [9, 1, 2]
    assert fitted([9, 1, 2, 3, 4], 1, 1) == [4]


def test_an_export__finds_its_base_where_one_says(place: Path, tmp_path: Path) -> None:
    there = language_export(tmp_path / "moved", place / "llama", named="llama")
    with pytest.raises(ConfigError) as error:
        load(there)
    assert "there is no such folder" in str(error.value)
    assert "--base: give the folder" in str(error.value)
    mine = TextGenerator.of(load(there, str(place / "llama")), tmp_path)
    assert write(mine, "red", max_tokens=9) == write(
        generator(place / "llama-tuned"), "red", max_tokens=9
    )
    other = tiny_model(tmp_path / "other", moved=0.1, max_position_embeddings=CONTEXT)
    with pytest.raises(ConfigError, match=r"the weights in .*other are others here"):
        load(there, str(other))


def test_a_network_of_somebody_s_own__is_read_whole(place: Path) -> None:
    class Own(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot((ids.cumsum(1) + 1) % 258, 259).float()

    mine = replace(generator(place / "llama-tuned"), network=Own())
    assert isinstance(reader(Own()), WholeReader)
    [one] = write(mine, "ab", max_tokens=4)
    assert json.dumps(vars(one))
    assert one.tokens == 4


@pytest.mark.parametrize("part", [ADAPTERS, LAST], ids=lambda part: part.mode)
def test_exports__of_tests_differ_from_their_base(
    place: Path, tmp_path: Path, part: Finetune
) -> None:
    there = language_export(tmp_path / "one", place / "llama", part)
    tuned, untuned = (reader(load(there, tuned=one).network).read([5]) for one in (True, False))
    assert (tuned - untuned).abs().max() > 0.1
