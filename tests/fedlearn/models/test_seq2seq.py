"""Models with an encoder and a decoder: what transformers computes, of prompts and answers in one
row, and what is clipped of each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedlearn import models
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.data.texts.language import LanguageTokens, Span, encode, open_encoder
from fedlearn.models import Finetune, Learner
from fedlearn.models.continuing import AnswerReader, WholeReader, reader
from fedlearn.models.huggingface import HuggingFaceModel
from fedlearn.models.seq2seq import SEQ2SEQ
from fedlearn.models.seq2seq_stages import Distances, prompts_of
from fedlearn.tasks import ClassificationTask, LanguageTask, TextInput
from fedlearn.training.dp import ClippedGradients
from tests.model_folders import APART, VOCABULARY, auto_class, tiny_model

needs_transformers = pytest.mark.skipif(
    not find_spec("transformers") or not find_spec("peft"), reason="needs fedlearn[text]"
)
LENGTH = 48
PAD, END = 256, 258
LORA = Finetune(mode="lora", lora_rank=2, lora_stages=2)
PAIRS = (("what is it?", "a clause"), ("x" * 30, "no"), ("", "of law " * 9), ("say", "y" * 99))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind, with a tokenizer of bytes."""
    place = tmp_path_factory.mktemp("seq2seq")
    for kind in APART:
        tiny_model(place / kind, kind, moved=0.1)
    return place


def task_of(folder: Path) -> LanguageTask:
    text = TextInput(vocabulary=VOCABULARY, max_length=LENGTH, pad_id=PAD, tokenizer=str(folder))
    return LanguageTask(input=text)


def learner(folder: Path, part: Finetune = LORA) -> Learner:
    config = HuggingFaceModel(folder=str(folder))
    return models.build(config, task_of(folder), Streams(0), part, config.weights(folder))


def rows(folder: Path) -> tuple[Tensor, Tensor]:
    """Ids and targets of `PAIRS`, some of them cut."""
    tokens = LanguageTokens(folder=str(folder), max_length=LENGTH)
    passages = [(Span(asked), Span(said, learned=True)) for asked, said in PAIRS]
    found = encode(open_encoder(tokens, folder), passages, LENGTH)
    assert (found.prompts_cut, found.answers_cut) == (0, 2)
    return torch.from_numpy(found.ids), torch.from_numpy(found.targets)


# --- rows -------------------------------------------------------------------------------------


def test_prompts_of__are_up_to_their_end_and_halves_of_what_is_no_record() -> None:
    tokens = torch.tensor([[5, 9, 0, 7, 9], [9, 1, 1, 1, 1], [1, 2, 3, 4, 5]])
    assert prompts_of(tokens, 9).int().tolist() == [
        [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0],
    ]  # fmt: skip


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("both", [True, False], ids=["around", "before"])
def test_distances__are_those_of_transformers_near_and_far(both: bool) -> None:
    from transformers.models.t5 import modeling_t5

    near = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
    config = modeling_t5.T5Config(num_heads=3, is_decoder=not both, **near)
    theirs = modeling_t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    mine = Distances(theirs.relative_attention_bias, config, both=both)
    for queries, keys in ((90, 90), (1, 30), (2, 5)):
        expected = theirs.compute_bias(queries, keys, past_seen_tokens=keys - queries)
        assert torch.equal(mine(queries, keys, torch.zeros(())), expected)


# --- what transformers computes -----------------------------------------------------------------


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", APART)
@pytest.mark.parametrize(
    "part", [LORA, Finetune(mode="lora"), Finetune(mode="last_k", last_k=4)], ids=str
)
def test_losses__are_those_of_transformers_for_each_record_in_whatever_company(
    folders: Path, kind: str, part: Finetune
) -> None:
    ids, targets = rows(folders / kind)
    made, theirs = learner(folders / kind, part), auto_class(kind).from_pretrained(folders / kind)
    with torch.no_grad():
        found = task_of(folders / kind).loss(made.whole()(ids), targets)
        for row, target, loss in zip(ids.tolist(), targets.tolist(), found, strict=True):
            at = row.index(END) + 1
            answer = [t for t in target if t >= 0]
            said = row[at : at + len(answer)]  # from what a decoder begins with
            assert said == [PAD, *answer[:-1]]
            expected = theirs(input_ids=torch.tensor([row[:at]]), labels=torch.tensor([answer]))
            assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", APART)
def test_a_prompt__is_read_both_ways_an_answer_forwards_and_padding_never(
    folders: Path, kind: str
) -> None:
    made, (ids, _) = learner(folders / kind), rows(folders / kind)
    row = ids[:1]  # 11 tokens of a prompt, its end, what begins, 8 of an answer, its end

    def outputs(place: int) -> Tensor:
        other = row.clone()
        other[0, place] = 65
        with torch.no_grad():
            moved: Tensor = made.whole()(other).hidden - made.whole()(row).hidden
        return moved[0, 12:22].abs().amax(1) > 1e-6

    assert outputs(0).all()
    assert outputs(10).all()
    assert outputs(16).tolist() == [False] * 4 + [True] * 6
    assert not outputs(30).any()


@needs_transformers
@pytest.mark.slow
def test_an_encoder__that_does_not_learn_is_computed_once_and_its_answers_are_the_sites(
    folders: Path,
) -> None:
    made, whole = learner(folders / "t5"), learner(folders / "t5", Finetune(mode="lora"))
    assert made.frozen is not None
    names = [name for name, _ in made.frozen.named_children()]
    assert names == ["embed", "encoder0", "encoder1", "decoder0"]
    assert {name.partition(".")[0] for name, _ in layout_of(made.model).entries} == {
        "decoder1",
        "decoder2",
    }
    assert {name.partition(".")[0] for name, _ in layout_of(whole.model).entries} == {
        "encoder0", "encoder1", "decoder0", "decoder1", "decoder2",
    }  # fmt: skip
    ids, _ = rows(folders / "t5")
    with torch.no_grad():
        kept = made.frozen(ids)
        assert torch.equal(made.model(kept).hidden, made.whole()(ids).hidden)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [Finetune(mode="full"), Finetune(mode="last_k", last_k=6)], ids=str
)
def test_words_and_distances__are_never_trained(folders: Path, part: Finetune) -> None:
    with pytest.raises(ConfigError, match=r"stays as it is|5 stages .* without its vocabulary"):
        learner(folders / "t5", part)
    most = learner(folders / "t5", Finetune(mode="last_k", last_k=5))
    assert not any("embed" in name or "head" in name for name, _ in layout_of(most.model).entries)


# --- what is clipped ------------------------------------------------------------------------------


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", APART)
@pytest.mark.parametrize(
    "part",
    [
        LORA,
        Finetune(mode="lora", lora_rank=2, lora_frozen_a=True),
        Finetune(mode="last_k", last_k=2),
        Finetune(mode="last_k", last_k=5),
    ],
    ids=["lora", "lora_everywhere", "last_k", "all_blocks"],
)
def test_engine__clips_as_a_loop_over_records_in_double_precision_does(
    folders: Path, kind: str, part: Finetune
) -> None:
    made, task, bound = learner(folders / kind, part), task_of(folders / kind), 0.05
    coins = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_" in name and parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=coins))
    ids, targets = rows(folders / kind)
    hidden = ids if made.frozen is None else made.frozen(ids)
    found = ClippedGradients(made.model, clip_norm=bound).step(
        lambda: task.loss(made.model(hidden), targets)
    )
    wide = hidden.double() if hidden.is_floating_point() else hidden
    total = clipped_one_by_one(made.model.double(), wide, targets, bound)
    apart = sum(float((found.sums[name] - total[name]).square().sum()) for name in total)
    assert apart**0.5 < 1e-5 * sum(float(one.square().sum()) for one in total.values()) ** 0.5


def clipped_one_by_one(
    model: torch.nn.Module, hidden: Tensor, targets: Tensor, bound: float
) -> dict[str, Tensor]:
    """The sum of clipped gradients by parameter, of records that go through the model alone."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in learned.items()}
    for row, target in zip(hidden, targets, strict=True):
        known = target >= 0
        logits = model(row[None]).written_out()[0]
        loss = torch.nn.functional.cross_entropy(logits[known], target[known])
        gradients = torch.autograd.grad(loss, [*learned.values()])
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        assert norm > bound
        for name, gradient in zip(learned, gradients, strict=True):
            total[name] += gradient * bound / norm
    return total


# --- in use ------------------------------------------------------------------------------------


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", APART)
def test_cache__changes_nothing_but_the_time(folders: Path, kind: str) -> None:
    network = learner(folders / kind).whole()
    keeping, whole = reader(network), WholeReader(network)
    assert isinstance(keeping, AnswerReader)
    for ids in ([5, 80, 12, END, PAD], [44], [7, 8, 9], [1]):
        one, other = keeping.read(ids), whole.read(ids)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", APART)
def test_names__go_there_and_back(folders: Path, kind: str) -> None:
    names = SEQ2SEQ[kind]
    there = auto_class(kind).from_pretrained(folders / kind).state_dict()
    ours = {names.ours(name, 2) for name in there} - {""}
    made = learner(folders / kind, Finetune(mode="last_k", last_k=5)).whole()
    assert ours == {name.partition(".")[2] for name in made.state_dict()}
    assert {names.ours(names.theirs(name), 2) for name in ours} == ours


# --- what does not fit ----------------------------------------------------------------------------


def test_problems__of_a_task_or_a_folder_say_the_way_out(tmp_path: Path) -> None:
    from tests.model_folders import text_folder

    folder = text_folder(tmp_path / "t5", about={"model_type": "t5", "n_positions": 20})
    config, text = HuggingFaceModel(folder=str(folder)), task_of(folder).text
    unsaid, _ = models.problems(config, task_of(folder))
    assert "config.json does not say is_encoder_decoder" in unsaid
    told = {"model_type": "t5", "n_positions": 20, "is_encoder_decoder": True, "eos_token_id": END,
            "max_position_embeddings": None}  # fmt: skip
    text_folder(tmp_path / "t5", about=told)
    [long] = models.problems(config, task_of(folder))
    assert "looks at 40 tokens at the most" in long  # 20 of a prompt and as many of an answer
    found = models.problems(config, ClassificationTask(input=text, classes=("a", "b")))
    assert any("choose task=language, or the folder of a BERT" in one for one in found)
