"""The audit of repeated secrets: real runs, of which a site has canaries among its records."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedlearn as fl
from fedlearn.cli import main
from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import Vector, to_vector
from fedlearn.data.texts.folders import FolderTexts
from fedlearn.data.texts.language import Encoder
from fedlearn.models import Learner
from fedlearn.report.exposure import Exposure, read_exposure
from fedlearn.report.exposure_plot import alternative, png
from fedlearn.tasks import TaskForm, TextInput
from fedlearn.tasks.language import Language
from fedlearn.tasks.tokens import TokenLogits
from fedlearn.training.local import grade
from simulations.attacks import trials
from simulations.attacks.exposure.canaries import NEVER, drawn, inserted, others, together
from simulations.attacks.exposure.reading import likely, tree_of
from simulations.attacks.exposure.study import plan
from simulations.attacks.exposure.words import ExposureSettings, read_words
from tests.model_folders import text_folder
from tests.simulations.attacks.exposed import THOROUGH, exposed, letters, words_of
from tests.simulations.attacks.sabotages.noise import noised
from tests.simulations.small import table

# --- how likely candidates are -------------------------------------------------------

VOCABULARY = 12


class Small(nn.Module):
    """Sees the sum of the tokens so far; a texts's logits are written out, or not."""

    def __init__(self, *, written: bool) -> None:
        super().__init__()
        self.written = written
        self.first, self.rows = nn.Embedding(VOCABULARY, 6), nn.Embedding(VOCABULARY, 6)
        self.rows.weight.requires_grad_(False)
        with torch.no_grad():
            rng = torch.Generator().manual_seed(0)
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng))

    def forward(self, tokens: Tensor) -> Any:
        hidden = self.first(tokens).cumsum(1).tanh()
        found = TokenLogits(hidden=hidden, weight=self.rows.weight)
        return found.written_out() if self.written else found


def learner_of(*, written: bool) -> tuple[Learner, dict[str, Vector]]:
    model = Small(written=written)
    vector = to_vector(model)
    return Learner(frozen=None, model=model), {"one": vector, "other": (vector * 0.5)}


@pytest.mark.parametrize("written", [True, False])
def test_likely__is_what_grading_every_candidate_gives(written: bool) -> None:
    learner, vectors = learner_of(written=written)
    prompt = [3, 1, 4]
    # Of several lengths, some of which begin alike; one begins another.
    candidates = [[i, j] for i, j in itertools.product(range(4), range(5))] + [[7], [7, 2, 9]]
    found = likely(learner, vectors, prompt, tree_of(candidates))
    task = Language().of(TaskForm(input=TextInput(vocabulary=VOCABULARY, max_length=8)))
    for name, vector in vectors.items():
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(np.asarray(vector)), [learner.model.first.weight]
        )
        for row, candidate in enumerate(candidates):
            ids, targets = np.zeros((1, 8), np.int64), np.full((1, 8), -1, np.int64)
            whole = [*prompt, *candidate]
            ids[0, : len(whole)] = whole
            targets[0, 2 : 2 + len(candidate)] = candidate
            [[nats, *_]] = grade(learner.model, task, torch.from_numpy(ids), targets, 1)
            assert found[name].nats[row] == pytest.approx(nats, rel=1e-5)
            assert found[name].greedy[row] == (continued(learner.model, prompt, candidate))


def continued(model: nn.Module, prompt: list[int], wanted: list[int]) -> bool:
    """Whether a model writes this, token by token."""
    text = list(prompt)
    for _ in wanted:
        outputs = model(torch.tensor([text]))
        logits = outputs if isinstance(outputs, Tensor) else outputs.written_out()
        text.append(int(logits[0, -1].argmax()))
    return text[len(prompt) :] == wanted


def test_likely__takes_texts_of_one_length_where_a_model_needs_them() -> None:
    learner, vectors = learner_of(written=True)
    tree = tree_of([[1, 2], [3, 4]])
    lengths = list[int]()
    learner.model.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    short = likely(learner, vectors, [5], tree)
    filled = likely(learner, vectors, [5], tree, length=8, pad=11)
    assert {*lengths} == {1, 2, 8}
    for name in vectors:
        assert short[name].nats == pytest.approx(filled[name].nats)


def test_tree__asks_once_for_every_beginning() -> None:
    numbers = [[*map(int, f"{i:03d}")] for i in range(1000)]
    assert [len(level.prefixes) for level in tree_of(numbers)] == [1, 10, 100]


def test_likely__of_all_candidates_sums_to_what_the_first_tokens_leave() -> None:
    learner, vectors = learner_of(written=False)
    whole = [list(one) for one in itertools.product(range(VOCABULARY), repeat=2)]
    found = likely(learner, vectors, [0], tree_of(whole))["one"]
    assert np.exp(-found.nats).sum() == pytest.approx(1.0, rel=1e-5)
    assert found.greedy.sum() == 1


# --- canaries ------------------------------------------------------------------------


def encoder(tmp_path: Path) -> Encoder:
    folder = text_folder(tmp_path / "texts")
    return Encoder(FolderTexts(str(folder), folder, "folder"))


def test_canaries__are_drawn_by_the_seed_and_none_depends_on_how_many_there_are() -> None:
    few = ExposureSettings(canaries=2, repetitions=(1, 5))
    many = ExposureSettings(canaries=4, repetitions=(1, 3, 5))
    found, more = drawn(few, "{name}: ", 0), drawn(many, "{name}: ", 0)
    assert {(one.secret, one.repetitions) for one in found} <= {
        (one.secret, one.repetitions) for one in more
    }
    assert len({one.name for one in more}) == len(more) == 16
    assert {one.secret for one in drawn(many, "{name}: ", 1)} != {one.secret for one in more}
    assert all(one.prompt == f"{one.name}: " and len(one.secret) == 4 for one in more)
    assert sum(one.repetitions == NEVER for one in more) == 4


def test_candidates__are_all_others_or_as_many_as_are_drawn() -> None:
    settings = ExposureSettings(digits=2)
    canary = drawn(settings, "{name}", 0)[0]
    every = others(settings, canary, 0)
    assert sorted([*every, canary.secret]) == [f"{i:02d}" for i in range(100)]
    large = ExposureSettings(digits=9, candidates=50)
    one, other, *_ = drawn(large, "{name}", 0)
    assert len(others(large, one, 0)) == large.ranked_among - 1 == 49
    assert others(large, one, 0) == others(large, one, 0) != others(large, other, 0)


def test_inserted__records_hold_prompt_and_secret_and_learn_the_secret_alone(
    tmp_path: Path,
) -> None:
    settings, reader = ExposureSettings(canaries=2, repetitions=(1, 3)), encoder(tmp_path)
    canaries = drawn(settings, "Account of {name}: ", 0)
    like = fl_records(np.zeros((1, 40), np.int64))
    found = inserted(canaries, reader, like, 40)
    assert len(found) == settings.inserted == 8
    texts = [reader.text([i for i in row if i != reader.pad_id]) for row in found.features]
    learned = [reader.text([i for i in row if i >= 0]) for row in found.labels]
    wanted = [one for one in canaries for _ in range(one.repetitions)]
    assert texts == [one.prompt + one.secret for one in wanted]
    assert learned == [one.secret for one in wanted]


def test_inserted__records_of_a_canary_are_one_persons(tmp_path: Path) -> None:
    settings, reader = ExposureSettings(canaries=2, repetitions=(1, 3)), encoder(tmp_path)
    canaries = drawn(settings, "{name}: ", 0)
    mine = replace(fl_records(np.zeros((2, 40), np.int64)), persons=np.array(["a", "b"]))
    both = together(mine, inserted(canaries, reader, mine, 40))
    keys, counts = np.unique(both.persons, return_counts=True)
    assert sorted(counts.tolist()) == [1, 1, 1, 1, 3, 3]
    assert {f"canary {one.name}" for one in canaries if one.repetitions} < {*keys.tolist()}


def fl_records(rows: np.ndarray[Any, Any]) -> Any:
    from fedlearn.data import Records

    return Records(features=rows, labels=rows)


# --- what is refused -----------------------------------------------------------------


def test_words__that_are_wrong_are_refused_all_at_once() -> None:
    words = ["audit.digits=0", "audit.colour=red", "audit.canaries=none", "runs/a", "runs/b"]
    with pytest.raises(ConfigError) as refused:
        read_words(words)
    text = str(refused.value)
    for part in ("audit.digits", "audit.colour", "audit.canaries", "runs/b: one folder"):
        assert part in text, text
    with pytest.raises(ConfigError, match=r"audit\.repetitions=\[3, 3\]: give different"):
        read_words(["audit.repetitions=[3,3]"])
    with pytest.raises(ConfigError, match=r"audit\.prompt: \{name\} must stand in it once"):
        read_words(["audit.prompt=The number is "])
    found = read_words(["audit.repetitions=7", "audit.prompt={name} says: ", "rounds=3"])
    assert (found.settings.repetitions, found.settings.prompt) == ((7,), "{name} says: ")
    assert found.study == ("rounds=3",)


def test_task__that_writes_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"demo=exposure: .* task=classification writes none"):
        plan(read_words([*table(tmp_path), f"out={tmp_path / 'out'}"]))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["audit.canaries=30"], r"they are 420 records, more than the \d+ that o\d trains on"),
        (["audit.site=o9"], r"audit\.site: o9 is none of o0, o1"),
        (["audit.canaries=1", "audit.digits=12"],
         r"audit\.digits=12: prompt and secret of a canary take 3[3-9] tokens"),
        (["sites=here"], "every run of this audit would be paid for from the ledgers"),
        (["audit.canaries=1", "audit.prompt=" + "long " * 9 + "{name} "], "would be cut"),
    ],
)  # fmt: skip
def test_study__without_room_for_canaries_is_refused(
    tmp_path: Path, words: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(read_words([*letters(tmp_path, weights=False), *words, f"out={tmp_path / 'out'}"]))


def test_plan__has_the_study_and_its_twin_with_the_same_canaries(tmp_path: Path) -> None:
    words = [*letters(tmp_path, weights=False), f"out={tmp_path / 'out'}"]
    private = ["privacy=record", "privacy.epsilon=2", "evaluation=private", "audit.canaries=2"]
    both = plan(read_words([*words, *private]))
    one, twin = both.trials
    assert (one.config.privacy.kind, twin.config.privacy.kind) == ("record", "none")
    assert (one.config.evaluation, twin.config.evaluation) == ("private", "pooled")
    assert one.besides == twin.besides
    assert one.config.out != twin.config.out
    alone = plan(read_words([*words, "privacy=none", "audit.canaries=2"]))
    assert [trial.config.privacy.kind for trial in alone.trials] == ["none"]


@pytest.mark.parametrize("experiment", ["legal_drafting", "medical_codes_language",
                                        "financial_news_language"])  # fmt: skip
def test_scenario__has_a_prompt_of_its_own(experiment: str) -> None:
    prompt = compose([f"experiment={experiment}"]).scenario.canary
    assert prompt.count("{name}") == 1
    assert not list(ExposureSettings(prompt=prompt).problems())


# --- the whole -----------------------------------------------------------------------


@pytest.mark.slow
def test_canaries__under_masks_weigh_nothing_in_a_sum_that_counts_records(tmp_path: Path) -> None:
    words = ["secagg=masked", "privacy=none", "rounds=1", "training.finetune=last_k"]
    fewer = ["audit.canaries=1", "partition=iid", "partition.num_sites=3"]
    with pytest.MonkeyPatch.context() as patch:
        found = exposed(tmp_path, patch, *words, *fewer, "scenario.site=''")
    assert found.sites == 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exposure]:
    """A private run and its twin."""
    folder = tmp_path_factory.mktemp("exposure")
    with pytest.MonkeyPatch.context() as patch:
        return folder, exposed(folder, patch, *THOROUGH, "privacy.epsilon=8")


@pytest.mark.slow
def test_secrets__are_repeated_without_privacy_and_not_with_it(
    whole: tuple[Path, Exposure],
) -> None:
    _, found = whole
    private, plain = found.runs
    often, never = plain.level(10), plain.level(NEVER)
    assert often is not None
    assert never is not None
    # Three secrets of a thousand: the first of all has 10 bits, and chance below 3.1.
    assert often.first.exposure > 8
    assert often.first.chance < 1e-5
    assert often.greedy > 0
    assert often.first.auc == 1.0
    assert never.first.chance > 1e-3
    assert plain.verdict == "no promise was made"
    assert often.exposure_allowed is None
    for row in private.repeated:
        assert all(view.chance > 1e-5 for view in row.views)
    assert private.verdict == "consistent with the promise"
    assert private.epsilon == pytest.approx(8, rel=0.01)


@pytest.mark.slow
def test_audit__looks_from_every_seat_and_says_what_is_allowed(
    whole: tuple[Path, Exposure],
) -> None:
    _, found = whole
    assert found.exact
    assert found.candidates == 1000
    for row in itertools.chain.from_iterable(run.repeated for run in found.runs):
        places = {(view.seat, view.score) for view in row.views}
        assert len(places) == len(row.views) == 4
        assert all(1 <= rank <= 1000 for view in row.views for rank in view.ranks)
    once, often = (found.runs[0].level(times) for times in (1, 10))
    assert once is not None
    assert often is not None
    assert once.exposure_allowed is not None
    assert often.exposure_allowed is not None
    assert found.by_chance < once.exposure_allowed < often.exposure_allowed <= found.most


@pytest.mark.slow
def test_audit__leaves_figures_a_picture_and_a_report(
    whole: tuple[Path, Exposure], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = whole
    out = folder / "out"
    assert read_exposure(out) == found
    assert (out / "exposure.png").read_bytes() == png(found)
    page = (out / "report.html").read_text()
    assert "What the model repeats" in page
    assert alternative(found)[:60] in page
    assert found.example.split()[0] in page
    # The same again makes no run anew, from Python and from the command line.
    monkeypatch.setattr(trials, "run_all", lambda *_: pytest.fail("a run was made again"))
    made = json.loads((out / "exposure.json").read_text())
    words = words_of(folder, *THOROUGH, "privacy.epsilon=8")
    assert main(["audit", "demo=exposure", *words]) == 0
    again = json.loads((out / "exposure.json").read_text())
    assert again["runs"] == made["runs"]
    assert fl.audit(*words[:-1], demo="exposure", out=out).runs == found.runs
    with pytest.raises(ConfigError, match=r"fl\.audit: demo=inversion is for the command line"):
        fl.audit(*words, demo="inversion")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="of another study; choose another folder"):
        exposed(folder, monkeypatch, *THOROUGH, "privacy.epsilon=8", "audit.digits=2")


@pytest.mark.slow
def test_engine__that_adds_no_noise_and_claims_it_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noised(monkeypatch, lambda optimizer, sums, deviation: [torch.zeros_like(s) for s in sums])
    monkeypatch.setattr(trials, "staff", lambda workers, configs: (1, "here"))
    words = [*letters(tmp_path), *THOROUGH, "privacy.epsilon=0.25", "audit.canaries=3",
             "audit.digits=3", "audit.repetitions=4", f"out={tmp_path / 'out'}"]  # fmt: skip
    assert main(["audit", "demo=exposure", *words]) == 6
    found = read_exposure(tmp_path / "out")
    assert found is not None
    assert found.runs[0].verdict == "PROMISE BROKEN"
    assert "PROMISE BROKEN" in (tmp_path / "out" / "report.html").read_text()
