"""Config: every option composes, every mistake is named, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn.algorithms import FedAdam
from fedlearn.config import KIND, RunConfig, compose, decode, encode, load, plan_of, to_tree
from fedlearn.config.composition import compose_tree
from fedlearn.config.contradictions import task_problems
from fedlearn.config.decoding import TAGGED
from fedlearn.config.layers import CONFIGS
from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import Family
from fedlearn.data import DATASETS, Csv, Heart
from fedlearn.mechanisms import RecordPrivacy
from fedlearn.privacy.calibration import fitting_delta
from fedlearn.tasks import ClassificationTask, ImageInput
from tests.effort import examples

HINTS = get_type_hints(RunConfig)
GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
UNIONS = sorted(set(GROUPS) - {"experiment", "training"})
NEEDED = {
    "csv": ["scenario.path=t.csv", "scenario.label=y"],
    "images": ["scenario.path=pictures"],
    "text": ["scenario.path=t.jsonl", "scenario.label=y"],
    "huggingface": ["scenario.path=saved"],
    "scenario=answering": ["scenario.of=codes"],
    "scenario=language": ["scenario.path=t.jsonl"],
    "task=regression": ["task.low=0", "task.high=1"],
    "task=survival": ["task.horizon=365"],
    "medmnist": ["scenario.path=t.npz"],
    "medical_imaging": ["scenario.path=t.npz"],
    "fairness=groups": ["fairness.column=sex", "fairness.values=[a,b]"],
    "files": ["sites=sites"],
    **{f"robust={rule}": ["secagg=off"] for rule in ("krum", "bulyan", "trimmed_mean", "median")},
    "robust=proofs": ["secagg=two_server"],
    "strategy=python": ["strategy.name=mine"],
    "scenario=python": ["scenario.records=mine"],
    "model=python": ["model.module=mine"],
    "model=custom": ["model.build=tests.own_models:linear"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def kinds(group: str) -> dict[str, type]:
    """The classes of the family or union behind a group, by `kind`."""
    families: dict[str, Family[Any]] = {family.group: family for family in Family.all}
    if group in families:
        return dict(families[group].known)
    hint = HINTS[group]
    classes = [hint] if isinstance(hint, type) else list(get_args(hint))
    return {get_args(get_type_hints(c)["kind"])[0]: c for c in classes}


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert caught.value.exit_code == 2
    return sorted(caught.value.problems)


# --- The folder of YAML files ---------------------------------------------------


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(
            group, option, marks=pytest.mark.slow if i % 3 and group != "experiment" else ()
        )
        for group in GROUPS
        for i, option in enumerate(options(group))
    ],
)
def test_configs__every_option_of_every_group_composes(group: str, option: str) -> None:
    chosen = f"{group}={option}"
    needed = NEEDED.get(chosen) or (NEEDED.get(option, []) if group != "model" else [])
    config = compose([chosen, *needed])
    if group == "experiment":
        assert config.experiment == option
    elif group in UNIONS:
        assert getattr(config, group).kind == option
    assert decode(RunConfig, encode(config)) == config


@pytest.mark.parametrize("group", UNIONS)
def test_configs__the_files_of_a_group_are_the_kinds_of_its_union(group: str) -> None:
    assert options(group) == sorted(kinds(group))


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in UNIONS for option in options(group)]
)
def test_configs__a_file_lists_every_field_of_its_kind(group: str, option: str) -> None:
    listed = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text())
    assert sorted(listed) == sorted(
        field.name for field in dataclasses.fields(kinds(group)[option])
    )


def test_configs__the_training_file_lists_every_field() -> None:
    listed = yaml.safe_load((CONFIGS / "training" / "default.yaml").read_text())
    assert list(listed) == [field.name for field in dataclasses.fields(HINTS["training"])]


def test_configs__the_tree_has_the_keys_of_the_run_config() -> None:
    names = {field.name for field in dataclasses.fields(RunConfig)}
    assert {*compose_tree([])} == names - {"parent"}  # found out, and nobody's to say


@pytest.mark.parametrize("option", options("experiment"))
def test_configs__an_experiment_is_private_by_default_and_can_be_plain(option: str) -> None:
    chosen = [f"experiment={option}", *NEEDED.get(option, [])]
    private = compose(chosen)
    assert plan_of(private, sites=3, dimension=10) is not None
    assert plan_of(compose([*chosen, "privacy=none"])) is None


@pytest.mark.parametrize("option", options("experiment"))
def test_configs__an_experiment_has_a_delta_that_fits_its_records(option: str) -> None:
    config = compose([f"experiment={option}", *NEEDED.get(option, [])])
    public = DATASETS.get(config.scenario.kind)
    if public is None:
        pytest.skip("nobody knows how many records there are")
    assert config.privacy.delta is not None
    assert config.privacy.delta <= fitting_delta(public.records)


# --- Round trips ----------------------------------------------------------------


BASE = compose(["strategy=fedadam"])
positive = st.floats(min_value=5e-324, max_value=1.7e308)
text = st.text(min_size=1, max_size=20)


@st.composite
def run_configs(draw: st.DrawFn) -> RunConfig:
    """Configs with awkward numbers and texts in every place that takes them."""
    replace = dataclasses.replace
    training = replace(
        BASE.training,
        learning_rate=draw(positive),
        weight_decay=draw(st.floats(0, 1e300)),
        momentum=draw(st.floats(0, math.nextafter(1, 0))),
        sample_rate=draw(st.floats(5e-324, 1)),
        local_steps=draw(st.integers(1, 10**30)),
    )
    privacy = RecordPrivacy(
        epsilon=draw(positive), delta=draw(st.floats(1e-12, math.nextafter(1, 0)))
    )
    scenario = Csv(
        path=draw(text),
        label=draw(text),
        drop=tuple(draw(st.lists(text, max_size=3))),
        categories={draw(text): (draw(text),)},
    )
    strategy = BASE.strategy
    assert isinstance(strategy, FedAdam)
    return replace(
        BASE,
        experiment=draw(text),
        scenario=draw(st.sampled_from([scenario, Heart()])),
        training=training,
        privacy=privacy,
        strategy=replace(strategy, tau=draw(positive)),
        seed=draw(st.integers(0, 2**200)),
        resume=draw(st.booleans()),
        out=draw(text),
    )


@given(run_configs())
@settings(max_examples=examples(60), deadline=None)
def test_json__round_trip_is_exact(config: RunConfig) -> None:
    encoded = encode(config)
    assert decode(RunConfig, encoded) == config
    assert encode(decode(RunConfig, encoded)) == encoded


@given(run_configs())
@settings(max_examples=examples(30), deadline=None)
def test_yaml__of_a_resolved_config_loads_back_to_an_equal_one(config: RunConfig) -> None:
    assert load(yaml.safe_load(yaml.safe_dump(to_tree(config), sort_keys=False))) == config


# --- Mistakes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("rounds=0", "rounds=0: must be > 0"),
        ("rounds=1000000000", "rounds=1000000000: must be <= 1000000"),
        ("rounds=1.5", "rounds=1.5: must be a valid integer"),
        ("rounds=ten", "rounds=ten: must be a valid integer"),
        ("rounds='3'", "rounds=3: must be a valid integer"),
        ("rounds=null", "rounds=null: must be a valid integer"),
        ("rounds=true", "rounds=true: must be a valid integer"),
        ("resume=1", "resume=1: must be a valid boolean"),
        ("seed=-1", "seed=-1: must be >= 0"),
        ("out=''", "out=: "),
        ("privacy.epsilon=-1.0", "privacy.epsilon=-1.0: must be > 0"),
        ("privacy.epsilon=nan", "privacy.epsilon=NaN: must be a finite number"),
        ("privacy.epsilon=inf", "privacy.epsilon=Infinity: must be a finite number"),
        ("privacy.delta=1", "privacy.delta=1: must be < 1"),
        ("privacy.epsilon=null", "privacy.epsilon: give either privacy.epsilon"),
        ("privacy.noise_multiplier=1.0", "privacy.noise_multiplier=1.0: the noise follows"),
        ("training.sample_rate=1.5", "training.sample_rate=1.5: must be <= 1"),
        ("training.momentum=1", "training.momentum=1: must be < 1"),
        ("training.optimizer=lion", "training.optimizer=lion: must be 'sgd' or 'adam'"),
        ("engine.kind=bogus", "engine.kind=bogus: must be one of 'local', 'ray'"),
        ("strategy.min_sites=[1]", "strategy.min_sites=[1]: must be a valid integer"),
        ("model.architecture=resnet", "model.architecture=resnet: must be 'linear', 'mlp' or"),
        ("model.architecure=mlp", "did you mean model.architecture?"),
        ("ronds=3", "ronds=3: unknown key; did you mean rounds?"),
        ("partition.clients=4", "partition.clients=4: unknown key"),
        (
            "scenario.label=y",
            "scenario.label=y: unknown key here; scenario=csv, huggingface, text have it",
        ),
        ("+training.speed=3", "training.speed=3: unknown key"),
        (
            "privacy=recrod",
            "must be one of client, distributed, none, record; did you mean record?",
        ),
        ("experiment=medical_hart", "did you mean medical_heart?"),
        ("partition=zipf", "must be one of dirichlet, files, iid, natural, quantity"),
        ("foo", "foo: must have the form key=value"),
        ("rounds=[1", "rounds=[1: "),
        (
            "privacy.epsilon=0,5",
            "privacy.epsilon=0,5: must be one value: a number has a point (0.5)",
        ),
        ("out=true", "out=true: must be a valid string; write it in quotes, as in 'true'"),
        ("purpose=a,b", "a comma is put in quotes (\"purpose='...'\")"),
    ],
)
def test_compose__names_the_mistake_by_its_path(override: str, problem: str) -> None:
    (found,) = mistakes(override)
    assert problem in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("scenario.scaling.kind=bogus", "scenario.scaling.kind=bogus: must be one of "),
        ("scenario.scaling.columns.age=[1,x]", "scenario.scaling.columns.age.1=x: "),
        ("scenario.scaling.unlisted=maybe", "scenario.scaling.unlisted=maybe: must be "),
    ],
)
def test_compose__names_a_mistake_in_a_union_inside_a_union_once(override: str, path: str) -> None:
    (found,) = mistakes(override)
    assert found.startswith(path)


def test_compose__reports_all_mistakes_at_once() -> None:
    found = mistakes(
        "privacy=recrod", "rounds=0", "model.widht=3", "training.learning_rate=-1", "seed=x", "bar"
    )
    assert [problem.split(":")[0] for problem in found] == [
        "bar", "model.widht=3", "privacy=recrod", "rounds=0", "seed=x", "training.learning_rate=-1",
    ]  # fmt: skip


def test_compose__asks_for_what_must_be_given() -> None:
    assert mistakes("scenario=csv") == [
        "scenario.label: must be given, as scenario.label=...",
        "scenario.path: must be given, as scenario.path=...",
    ]


@pytest.mark.parametrize("content", ["", "{", "1}, {", "null", "[]", '{"rounds": 1}'])
def test_decode__refuses_what_is_not_a_config(content: str) -> None:
    with pytest.raises(ConfigError):
        decode(RunConfig, content)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, dict) and tree:
        for key, child in tree.items():
            yield from leaves(child, (*path, key))
    else:
        yield path


def test_load__refuses_a_wrong_type_anywhere() -> None:
    """Nothing is coerced: an object where a number, a text or a list belongs is an error."""
    for path in leaves(to_tree(BASE)):
        refuses_an_object_at(path)


def refuses_an_object_at(path: tuple[str, ...]) -> None:
    tree = to_tree(BASE)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = {"surprise": {"no": "value"}}
    with pytest.raises(ConfigError) as caught:
        load(tree)
    (problem,) = caught.value.problems
    assert problem.startswith(".".join(path))


def test_problems__say_that_opacus_engines_clip_in_fp32_only() -> None:
    overrides = ["experiment=medical_heart", "training.precision=bf16", "training.dp_engine=opacus"]
    with pytest.raises(ConfigError, match=r"^training\.precision=bf16: .*dp_engine=fast"):
        compose(overrides)
    assert compose([*overrides, "privacy=none"]).training.precision == "bf16"
    assert compose([*overrides[:2]]).training.precision == "bf16"


def test_task_problems__say_what_does_not_fit_the_records() -> None:
    image = ClassificationTask(input=ImageInput(channels=1, height=8, width=8), classes=("a", "b"))
    assert [p.split(":")[0] for p in task_problems(BASE, image)] == ["model=tabular"]


def test_plan__covers_all_steps_of_all_rounds() -> None:
    plan = plan_of(compose(["rounds=7", "training.local_steps=3", "training.sample_rate=0.2"]))
    assert plan is not None
    assert (plan.total_event.steps, plan.sample_rate) == (21, 0.2)
    assert plan.epsilon <= 4.0


def test_configs__live_beside_the_packages() -> None:
    assert (CONFIGS / "run.yaml").is_file()
    assert Path(CONFIGS).is_absolute()


def test_tagged__are_the_unions_of_a_run() -> None:
    hints = get_type_hints(RunConfig, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    unions = {
        n for n, found in marks.items() if any(m == KIND or isinstance(m, Family) for m in found)
    }
    assert unions == TAGGED


def test_load__takes_a_config_that_was_written_before_there_were_further_groups() -> None:
    tree = to_tree(BASE)
    for later in ("fairness", "audit", "tracking"):
        del tree[later]
    assert load(tree) == BASE


def test_compose__keeps_what_an_option_leaves_to_the_user_beside_an_experiment() -> None:
    groups = ["fairness=groups", "fairness.column=age", "fairness.edges=[55]"]
    fairness = compose(["experiment=medical_heart", *groups]).fairness
    assert (fairness.kind, fairness.column) == ("groups", "age")  # type: ignore[union-attr]
    own = ["scenario=csv", "scenario.path=a.csv", "scenario.label=b"]
    assert compose(["experiment=medical_heart", *own]).scenario.path == "a.csv"  # type: ignore[union-attr]
