"""What a language model says of records: as an evaluation measures it, or which answer it takes."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.data import Answering, OwnPassages
from fedlearn.data.texts.language import LanguageTokens
from fedlearn.generation.generator import TextGenerator
from fedlearn.generation.grading import chosen, graded
from fedlearn.models.continuing import reader
from fedlearn.prediction import Predictor, load
from tests.exports import language_export
from tests.model_folders import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    tiny_model(place / "llama", moved=0.2, max_position_embeddings=128)
    language_export(place / "tuned", place / "llama")
    tokens = LanguageTokens(folder=str(place / "llama"), max_length=64)
    scenario = Answering(of="news", tokenizer=tokens)
    language_export(place / "answering", place / "llama", scenario=scenario)
    return place


def opened(folder: Path) -> tuple[Predictor, TextGenerator]:
    model = load(folder)
    return model, TextGenerator.of(model, folder)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def nats(one: TextGenerator, prompt: list[int], answer: list[int]) -> list[tuple[float, bool]]:
    """Token by token, as a reader of the text has them."""
    text, found = reader(one.network), []
    logits = text.read(prompt)
    for token in answer:
        chance = logits.double().log_softmax(0)
        found.append((-float(chance[token]), int(chance.argmax()) == token))
        logits = text.read([token])
    return found


def test_graded__is_what_a_reader_has_token_by_token(place: Path, tmp_path: Path) -> None:
    model, mine = opened(place / "tuned")
    rows = [{"prompt": "red: ", "completion": "stop"}, {"completion": ""}, {"text": "Look."}]
    found = graded(model, mine, lines(tmp_path / "a.jsonl", *rows))
    encoder = mine.encoder
    assert encoder.end is not None
    expected = []
    for line, way, prompt, answer in ((1, "prompt", "red: ", "stop"), (3, "text", "", "Look.")):
        [asked] = mine.prompts.asked([prompt], way)  # type: ignore[arg-type]
        each = nats(mine, asked.ids, [*encoder.ids(answer), encoder.end])
        mean = np.mean(each, axis=0)
        expected.append((line, len(each), mean[0], mean[1]))
    for row, wanted in zip(found.rows, expected, strict=True):
        assert row[:2] == wanted[:2]
        assert float(str(row[2])) == pytest.approx(wanted[2], rel=1e-4)
        assert float(str(row[3])) == pytest.approx(wanted[3], abs=1e-6)
    tokens = sum(one[1] for one in expected)
    together = sum(one[1] * one[2] for one in expected) / tokens
    said, _, rest = found.notes[-1].partition(": nats per token ")
    assert said == f"2 records, {tokens} answer tokens"
    assert float(rest.split(",")[0]) == pytest.approx(together, abs=2e-4)
    assert "line 2: nothing to learn" in found.notes[0]


def test_graded__writes_prompts_as_the_scenario_does(place: Path, tmp_path: Path) -> None:
    model, mine = opened(place / "answering")
    short = {"prompt": "Oil rose.", "completion": "crude oil"}
    whole = {"prompt": "Oil rose.\nTopic:", "completion": " crude oil"}
    one, other = graded(model, mine, lines(tmp_path / "a.jsonl", short, whole)).rows
    assert one[1:] == other[1:]


def test_graded__asks_for_no_site_and_no_person(place: Path, tmp_path: Path) -> None:
    base = place / "llama"
    tokens = LanguageTokens(folder=str(base), max_length=64)
    scenario = OwnPassages(path="-", site="firm", person="client", tokenizer=tokens)
    model, mine = opened(language_export(tmp_path / "tuned", base, scenario=scenario))
    path = lines(tmp_path / "a.jsonl", {"prompt": "red: ", "completion": "stop"})
    assert len(graded(model, mine, path).rows) == 1
    assert len(mine.prompts.read(path)) == 1


def test_graded__of_prompts_alone_says_what_is_for_them(place: Path, tmp_path: Path) -> None:
    model, mine = opened(place / "tuned")
    with pytest.raises(ConfigError) as error:
        graded(model, mine, lines(tmp_path / "a.jsonl", {"prompt": "red: "}))
    assert "`fedlearn generate` answers them, and --option names" in str(error.value)
    with pytest.raises(DataError, match="no record has anything to learn"):
        graded(model, mine, lines(tmp_path / "a.jsonl", {"prompt": "x", "completion": ""}))


def test_graded__says_what_it_cut(place: Path, tmp_path: Path) -> None:
    model, mine = opened(place / "tuned")
    long = {"prompt": "x" * 100, "completion": "y" * 100}
    notes = graded(model, mine, lines(tmp_path / "a.jsonl", long)).notes
    assert any("max_length=64: 1 records whose prompts lost" in note for note in notes)


def test_chosen__has_the_chances_of_whole_answers(place: Path, tmp_path: Path) -> None:
    _, mine = opened(place / "tuned")
    options = ("stop", "go on", "g")
    path = lines(tmp_path / "a.jsonl", {"prompt": "red: "}, {"prompt": "x" * 300})
    found = chosen(mine, path, options)
    assert found.header == ("line", "predicted", *(f"chance of {one}" for one in options))
    assert found.notes == ("1 prompts are too long for the model; their beginnings are left out",)
    assert mine.encoder.end is not None
    odds = [
        math.exp(-sum(one for one, _ in nats(mine, mine.prompts.asked(["red: "])[0].ids, ending)))
        for option in options
        for ending in [[*mine.encoder.ids(option), mine.encoder.end]]
    ]
    chances = [float(str(cell)) for cell in found.rows[0][2:]]
    assert chances == pytest.approx([one / sum(odds) for one in odds], abs=1e-5)
    assert found.rows[0][1] == options[int(np.argmax(odds))]


def test_chosen__of_an_answer_is_no_matter_of_the_others(place: Path, tmp_path: Path) -> None:
    _, mine = opened(place / "tuned")
    path = lines(tmp_path / "a.jsonl", {"prompt": "red: "})

    def odds(*options: str) -> float:
        cells = chosen(mine, path, options).rows[0][2:]
        return float(str(cells[0])) / float(str(cells[1]))

    assert odds("go", "no") == pytest.approx(odds("go", "no", "a much longer one"), rel=1e-2)


@pytest.mark.parametrize("options", [("a",), ("a", "a"), ("a", "b" * 200)])
def test_chosen__refuses_options_that_leave_no_choice(
    place: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    _, mine = opened(place / "tuned")
    with pytest.raises(ConfigError, match="--option: "):
        chosen(mine, lines(tmp_path / "a.jsonl", {"prompt": "x"}), options)


def test_options__of_a_scenario_are_its_answers(place: Path, tmp_path: Path) -> None:
    model, mine = opened(place / "answering")
    options = model.file.scenario.options(tmp_path)
    assert len(options) == 8
    found = chosen(mine, lines(tmp_path / "a.jsonl", {"prompt": "Oil rose by a dollar."}), options)
    assert found.rows[0][1] in options
    assert mine.prompts.scenario.as_answer("earnings") == " earnings"
