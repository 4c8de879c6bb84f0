"""A user's own model: what is tried before it trains, and what every mistake is told."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedlearn import models
from fedlearn.config import RunConfig, compose, decode, encode, load
from fedlearn.config.contradictions import private_learner_problems, private_model_problems
from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of, to_vector
from fedlearn.models.custom import Custom, source_digest
from fedlearn.models.finetune import Finetune, Learner
from fedlearn.tasks import ClassificationTask, ImageInput, SeriesInput, TableInput, Task, TextInput

TABLE = TableInput(numeric=3)
TASK = ClassificationTask(input=TABLE, classes=("well", "ill"))
FULL = Finetune()


def own(name: str, **settings: object) -> Custom:
    return Custom(build=f"tests.own_models:{name}", settings=settings)


def built(name: str, task: Task = TASK, finetune: Finetune = FULL, seed: int = 0) -> Learner:
    return models.build(own(name), task, Streams(seed), finetune)


def mistake(name: str, task: Task = TASK, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        models.build(own(name, **settings), task, Streams(0))
    (problem,) = caught.value.problems
    return problem


# --- what it gives ----------------------------------------------------------------


def test_custom__starts_from_the_seed_of_the_run_and_puts_the_generator_back() -> None:
    before = torch.get_rng_state()
    one, same, other = (to_vector(built("mlp", seed=seed).model) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one == same).all()
    assert (one != other).any()


def test_custom__takes_settings() -> None:
    model = models.build(own("mlp", width=5), TASK, Streams(0)).model
    assert layout_of(model).entries[0] == ("model.0.weight", (5, 3))


def test_custom__sees_rows_with_categories_one_hot_and_numbers_encoded() -> None:
    table = TableInput(numeric=2, cardinalities=(3,), squashed=(1,))
    whole = built("linear", replace(TASK, input=table)).whole()
    assert layout_of(whole).entries[0][1] == (2, 1 + 83 + 3)
    assert whole(torch.zeros(4, 3)).shape == (4, 2)


@pytest.mark.parametrize(
    ("form", "record"),
    [
        (ImageInput(channels=1, height=4, width=5), torch.zeros(1, 1, 4, 5)),
        (SeriesInput(steps=3, row=TableInput(numeric=1, cardinalities=(2,))), torch.zeros(1, 3, 3)),
    ],
)
def test_custom__reads_records_of_any_form(
    form: ImageInput | SeriesInput, record: torch.Tensor
) -> None:
    assert built("linear", replace(TASK, input=form)).whole()(record).shape == (1, 2)


def test_custom__keeps_the_stages_of_a_sequence_that_ends_in_a_head() -> None:
    learner = built("with_head", finetune=Finetune(mode="head"))
    assert learner.frozen is not None
    assert [name for name, _ in learner.model.named_parameters()] == ["head.weight", "head.bias"]


def test_custom__without_a_head_is_trained_whole() -> None:
    with pytest.raises(ConfigError, match="head: the model has no last stage"):
        built("mlp", finetune=Finetune(mode="head"))


# --- mistakes, the same from Python and from YAML -----------------------------------


@pytest.mark.parametrize(
    ("build", "why"),
    [
        ("no_such_module:linear", "there is no module no_such_module on sys.path or in "),
        ("tests.no_such_module:linear", "there is no module tests.no_such_module in "),
        ("tests.own_models:absent", "tests.own_models has no absent"),
        ("tests.own_models:NUMBER", "is a int and cannot be called"),
        ("tests.own_models", "must have the form package.module:function"),
        ("os:system", "os is part of Python and has no models"),
    ],
)
def test_custom__names_a_function_that_is_not_there(build: str, why: str) -> None:
    with pytest.raises(ConfigError) as from_python:
        models.build(Custom(build=build), TASK, Streams(0))
    with pytest.raises(ConfigError) as from_yaml:
        compose(["model=custom", f"model.build={build}"])
    assert from_python.value.problems == from_yaml.value.problems
    assert from_yaml.value.problems[0].startswith(f"model.build={build}: ")
    assert why in from_yaml.value.problems[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nothing", "model.build=tests.own_models:nothing: returns an object of type list"),
        ("failing", "fails when it is called with the task (RuntimeError: no such luck)"),
        ("narrow", "gives [1, 3] for one record float32[1, 3]; it must give [1, 2]"),
        ("clumsy", "fails on one record float32[1, 3] (RuntimeError: "),
        ("lazy", "model.weight, model.bias has no shape yet; give the size"),
        ("idle", "no gradient ever reaches model.spare.weight, model.spare.bias"),
        ("restless", "its initial weights are others at every call (model.weight)"),
    ],
)
def test_custom__is_tried_before_it_trains(name: str, why: str) -> None:
    assert why in mistake(name)


def test_custom__names_a_setting_that_its_function_does_not_take() -> None:
    assert "task, depth=2 (TypeError: mlp() got an unexpected keyword" in mistake("mlp", depth=2)


def test_custom__texts_come_as_token_ids() -> None:
    text = TextInput(vocabulary=9, max_length=4)
    assert "fails on one record int64[1, 4]" in mistake("linear", replace(TASK, input=text))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("recurrent", "model: model.lstm"),
        ("batch_norm", "model: layer model.1 (BatchNorm1d) mixes the records of a batch"),
    ],
)
def test_custom__is_refused_under_privacy_by_the_name_of_the_layer(name: str, why: str) -> None:
    private, plain = compose(["privacy=record"]), compose(["privacy=none"])
    model = built(name).model
    (found,) = private_model_problems(private, model)
    assert found.startswith(why)
    assert " use " in found
    assert private_model_problems(plain, model) == []


def test_custom__may_have_layers_that_nobody_knew() -> None:
    assert private_model_problems(compose(["privacy=record"]), built("scaled").model) == []


def under_privacy(way: str, *words: str) -> list[str]:
    settings = ("model=custom", "model.build=tests.own_models:odd", f"model.settings.way={way}")
    config = compose(["privacy=record", *settings, *words])
    return private_learner_problems(config, models.build(config.model, TASK, Streams(0)), TASK)


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("mixes", "depends on the others of its batch"),
        ("keeps", "its forward pass changes model.centre"),
        ("remembers", "depends on the others of its batch|remembers the records"),
        ("draws", "draws from torch's generator"),
    ],
)
def test_custom__is_refused_under_privacy_for_what_no_list_of_layers_shows(
    way: str, why: str
) -> None:
    before = torch.get_rng_state()
    (found,) = under_privacy(way)
    assert re.search(f"^model=custom: .*({why})", found)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_custom__needs_the_engine_that_looks_at_what_a_forward_pass_has_done() -> None:
    (found,) = under_privacy("nothing", "training.dp_engine=opacus")
    assert found.startswith("training.dp_engine=opacus: cannot tell whether model=custom keeps")
    assert under_privacy("nothing") == []
    assert under_privacy("mixes", "privacy=none") == []


@pytest.mark.parametrize(
    "shape",
    [
        TableInput(numeric=2, cardinalities=(3,), squashed=(1,)),
        ImageInput(channels=1, height=4, width=5),
        SeriesInput(steps=3, row=TableInput(numeric=1, cardinalities=(2,))),
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_custom__is_tried_on_records_of_any_form(
    shape: TableInput | ImageInput | SeriesInput,
) -> None:
    task = replace(TASK, input=shape)
    learner = models.build(own("linear"), task, Streams(0))
    config = compose(["privacy=record", "model=custom", "model.build=tests.own_models:linear"])
    assert private_learner_problems(config, learner, task) == []


# --- the source -------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of somebody's in the current folder, under a name that no other test has."""
    name = f"own_{abs(hash(tmp_path))}"
    path = tmp_path / f"{name}.py"
    path.write_text(Path("tests/own_models.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return path


def test_custom__is_found_in_the_current_folder_and_named_by_its_source(module: Path) -> None:
    config = compose(["model=custom", f"model.build={module.stem}:mlp", "model.settings.width=4"])
    assert isinstance(config.model, Custom)
    assert config.model.sha256 == source_digest(config.model.build)
    assert config.model.code() == (f"{module.stem}:mlp", config.model.sha256)
    assert config.model.settings == {"width": 4}
    assert decode(RunConfig, encode(config)) == config


def test_custom__refuses_a_config_of_another_source(module: Path) -> None:
    config = compose(["model=custom", f"model.build={module.stem}:mlp"])
    other = replace(config, model=replace(config.model, sha256="0" * 64))
    with pytest.raises(
        ConfigError, match=r"model\.sha256=0+: the source of own_.*:mlp has changed"
    ):
        load(json.loads(encode(other)))
    with pytest.raises(ConfigError, match="has changed, or is another here"):
        models.build(other.model, TASK, Streams(0))


def test_custom__refuses_source_that_changed_after_it_was_imported(module: Path) -> None:
    compose(["model=custom", f"model.build={module.stem}:mlp"])
    module.write_text(module.read_text() + "\n")
    with pytest.raises(ConfigError, match="has changed since this process imported it"):
        compose(["model=custom", f"model.build={module.stem}:mlp"])


def test_source__of_a_package_is_all_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / f"package_{abs(hash(tmp_path))}"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "nets.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    build = f"{package.name}.nets:linear"
    before = source_digest(build)  # nothing was imported
    (package / "parts.py").write_text("WIDTH = 3")
    assert source_digest(build) != before
