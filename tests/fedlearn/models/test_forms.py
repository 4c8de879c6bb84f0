"""What transformers and peft make of what is handed on, is what the tuned model says."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from fedlearn.core.errors import ConfigError
from fedlearn.models import Finetune
from fedlearn.models.architectures import ARCHITECTURES
from fedlearn.models.forms import adapter_settings, merged_weights
from fedlearn.prediction import load
from fedlearn.report.forms import FORMS, base_of
from tests.exports import ADAPTERS, language_export
from tests.model_folders import APART, KINDS, auto_class, tiny_model

needs_transformers = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)
pytestmark = [needs_transformers, pytest.mark.slow]

FROZEN_A = Finetune(mode="lora", lora_rank=3, lora_alpha=5.0, lora_frozen_a=True)
LAST = Finetune(mode="last_k", last_k=2)
IDS = torch.tensor([[4, 80, 12, 258, 256, 77, 99]])
"""Of what is read apart, three tokens of a prompt with its end and three of an answer."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bases")
    for kind in (*KINDS, *APART):
        tiny_model(place / kind, kind, moved=0.1 if kind in APART else 0.2)
    return place


def written(form: str, tuned: Path, to: Path) -> Path:
    model = load(tuned)
    to.mkdir()
    FORMS[form](model, base_of(model, form), to)
    return to


def expected(tuned: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load(tuned).network(IDS).written_out()
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            found: torch.Tensor = model.eval()(IDS[:, :4], decoder_input_ids=IDS[:, 4:]).logits
        else:
            found = model.eval()(IDS).logits
    return found


def check_close(one: torch.Tensor, other: torch.Tensor) -> None:
    """But for rounding, over the largest where that is large."""
    atol = 1e-5 * max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=atol)


def of_answers(all_of: torch.Tensor, kind: str) -> torch.Tensor:
    """Those that transformers says of a row."""
    return all_of[:, 4:] if kind in APART else all_of


# peft calls an old name of transformers.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", [*KINDS, *APART])
@pytest.mark.parametrize("part", [ADAPTERS, FROZEN_A], ids=["lora", "frozen_a"])
def test_peft__loads_adapters_that_give_the_same_logits(
    bases: Path, tmp_path: Path, kind: str, part: Finetune
) -> None:
    from peft import PeftModel

    tuned = language_export(tmp_path / "tuned", bases / kind, part)
    folder = written("peft", tuned, tmp_path / "peft")
    base = auto_class(kind).from_pretrained(bases / kind)
    before = logits(base)
    found = logits(PeftModel.from_pretrained(base, folder))
    check_close(found, of_answers(expected(tuned), kind))
    assert (found - before).abs().max() > 0.1


@pytest.mark.parametrize("kind", [*KINDS, *APART])
@pytest.mark.parametrize("part", [FROZEN_A, LAST], ids=["lora", "last_k"])
def test_transformers__loads_a_merged_folder_that_gives_the_same_logits(
    bases: Path, tmp_path: Path, kind: str, part: Finetune
) -> None:
    from transformers import AutoTokenizer

    tuned = language_export(tmp_path / "tuned", bases / kind, part)
    folder = written("merged", tuned, tmp_path / "merged")
    model, info = auto_class(kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    check_close(logits(model), of_answers(expected(tuned), kind))
    text = "Governing Law: " * 3
    with (
        (folder / "tokenizer.json").open("rb") as one,
        (bases / kind / "tokenizer.json").open("rb") as other,
    ):
        assert one.read() == other.read()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text, add_special_tokens=False).input_ids == list(_bytes_of(folder, text))


def _bytes_of(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    found: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_names__go_there_and_back(bases: Path, kind: str) -> None:
    made_of = ARCHITECTURES[kind]
    with safe_open(bases / kind / "model.safetensors", framework="pt") as file:
        there = [name for name in file.keys() if made_of.ours(name)]  # noqa: SIM118
    assert there
    assert [made_of.theirs(made_of.ours(name)) for name in there] == there


@pytest.mark.parametrize("kind", ["llama", "qwen2", *APART])
def test_merged__has_what_its_base_has_once(bases: Path, tmp_path: Path, kind: str) -> None:
    tuned = load(language_export(tmp_path / "tuned", bases / kind))
    with safe_open(bases / kind / "model.safetensors", framework="pt") as file:
        assert set(merged_weights(tuned.network, base_of(tuned, "merged"))) == set(file.keys())


def test_peft__is_refused_where_whole_blocks_were_trained(bases: Path, tmp_path: Path) -> None:
    tuned = load(language_export(tmp_path / "tuned", bases / "llama", LAST))
    with pytest.raises(
        ConfigError, match=r"--to=peft: the run trained whole blocks .*last_k.*merged"
    ):
        adapter_settings(tuned.network, base_of(tuned, "peft"), LAST)


def test_merged__of_a_run_in_bfloat16_is_in_single_precision_and_near(
    bases: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tuned = language_export(tmp_path / "tuned", bases / "llama")
    settings = json.loads((tuned / "model.json").read_text())
    settings["model"]["precision"] = "bf16"
    (tuned / "model.json").write_text(json.dumps(settings))
    folder = written("merged", tuned, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    apart = (logits(model) - expected(tuned).float()).abs().mean()
    assert apart < 0.05 * logits(model).abs().mean()


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model", "apache-2.0"),
        ("---\ntags: [x]\nlicense: 'mit'\n---\n", "mit"),
        ("# A model\n---\nlicense: mit\n---\n", ""),
        ("---\nlicense: |\n  <b>mine</b>\n---\n", ""),
        (None, ""),
    ],
)
def test_licence__is_what_the_head_of_a_card_says(
    tmp_path: Path, card: str | None, licence: str
) -> None:
    base = tiny_model(tmp_path / "base", moved=0.2)
    if card is not None:
        (base / "README.md").write_text(card)
    tuned = load(language_export(tmp_path / "tuned", base))
    assert base_of(tuned, "merged").licence == licence


def test_merged__weights_are_ones_own_and_not_those_of_the_process(
    bases: Path, tmp_path: Path
) -> None:
    model = load(language_export(tmp_path / "tuned", bases / "llama", ADAPTERS))
    before = expected(tmp_path / "tuned")
    base = base_of(model, "merged")
    assert base is not None
    for weight in merged_weights(model.network, base).values():
        weight.zero_()
    torch.testing.assert_close(expected(tmp_path / "tuned"), before, atol=0, rtol=0)
    assert before.abs().max() > 0.1
