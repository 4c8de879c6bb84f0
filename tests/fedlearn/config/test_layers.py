"""The files of `configs/` make together what Hydra makes of them, read once and without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedlearn.config import layers
from tests.effort import examples, thinned

GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(layers.CONFIGS.iterdir())
    if folder.is_dir()
}
REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


def by_hydra(*overrides: str) -> Any:
    """The oracle: Hydra reads the files itself."""
    with initialize_config_dir(str(layers.CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("run", list(overrides)))


def same_as_hydra(*overrides: str) -> None:
    try:
        expected = by_hydra(*overrides)
    except REFUSED:
        with pytest.raises(REFUSED):
            layers._from_files(overrides)
    else:
        assert layers._from_files(overrides) == expected


@pytest.mark.slow
@given(st.fixed_dictionaries({}, optional={g: st.sampled_from(o) for g, o in GROUPS.items()}))
@settings(max_examples=examples(200, few=3), deadline=None)
def test_files__make_together_what_hydra_makes_of_them(chosen: dict[str, str]) -> None:
    expected = by_hydra(*(f"{group}={option}" for group, option in chosen.items()))
    assert layers._together(chosen) == expected


def test_every_option__is_read_without_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(overrides: tuple[str, ...]) -> layers.Tree:
        raise AssertionError(overrides)

    monkeypatch.setattr(layers, "_by_hydra", refuse)
    for group, options in GROUPS.items():
        for option in options:
            tree = layers._from_files((f"{group}={option}",))
            assert tree == layers._together({group: option})


@pytest.fixture
def own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the files, to which a test adds its own."""
    folder = tmp_path / "configs"
    shutil.copytree(layers.CONFIGS, folder)
    monkeypatch.setattr(layers, "CONFIGS", folder)
    layers._from_files.cache_clear()
    layers._file.cache_clear()
    yield folder
    layers._from_files.cache_clear()
    layers._file.cache_clear()


GLOBAL = "# @package _global_\n"
FILES = {
    "overrides and values": GLOBAL + "defaults: [override /model: cnn]\nmodel: {width: 3}\n",
    "itself first": GLOBAL + "defaults: [_self_, override /model: cnn]\nrounds: 3\n",
    "another file below": GLOBAL + "defaults: [medical_heart, _self_]\nrounds: 3\n",
    "a choice by reference": GLOBAL + "defaults:\n  - override /model: ${engine}\nrounds: 3\n",
    "no such option": GLOBAL + "defaults: [override /model: none_such]\n",
    "no such group": GLOBAL + "defaults: [override /modell: cnn]\n",
    "an option that is no text": GLOBAL + "defaults: [override /model: 3]\n",
    "a group by another name": GLOBAL + "defaults: [model@second: cnn]\n",
    "its own group": GLOBAL + "defaults: [override /experiment: medical_heart]\n",
    "in its own group": "rounds: 3\n",
    "in a place of its own": "# @package privacy\nepsilon: 7.0\n",
    "a header that comes late": "# Words.\n# @package _global_\nrounds: 3\n",
    "a header of too many words": "# @package _global_ twice\nrounds: 3\n",
    "keys that are numbers": GLOBAL + "training: {class_weights: {0: 2.0}}\n",
    "a key twice": GLOBAL + "rounds: 3\nrounds: 4\n",
    "a value that is left open": GLOBAL + "rounds: '???'\nscenario: {fresh: '???'}\n",
    "a mapping over a reference": GLOBAL + "out: {a: 1}\n",
    "a mapping over a value": GLOBAL + "seed: {a: 1}\nsites: {b: [2]}\n",
    "a value over a mapping": GLOBAL + "privacy: 3\ntuned: {rates: null}\n",
    "a list over a mapping": GLOBAL + "tuned: {rates: [1]}\n",
    "lists and numbers": GLOBAL + "tuned: {tau: [1, 2e-3], share: 1_000, x: yes, y: 2020-01-01}",
    "settings of Hydra": GLOBAL + "hydra: {run: {dir: elsewhere}}\nrounds: 3\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", thinned(FILES.values()), ids=FILES)
def test_experiment__of_any_form_means_what_hydra_says(text: str, own_configs: Path) -> None:
    (own_configs / "experiment" / "mine.yaml").write_text(text)
    same_as_hydra("model=vit", "experiment=mine")


@pytest.mark.slow
def test_option__that_chooses_options_is_left_to_hydra(own_configs: Path) -> None:
    (own_configs / "privacy" / "strict.yaml").write_text(
        "defaults: [record, override /secagg: off]\nepsilon: 1.0\n"
    )
    for overrides in (("privacy=strict",), ("privacy=strict", "experiment=medical_imaging")):
        same_as_hydra(*overrides)


@pytest.mark.parametrize(
    "overrides",
    thinned(
        [
            ("model=cnn", "model=vit"),
            ("_self_=run",),
            ("~model",),
            ("experiment=null",),
            ("model=3",),
            ("none_such=cnn",),
            ("model=none_such",),
            ("+model=cnn",),
            ("model='cnn'",),
        ]
    ),
    ids=" ".join,
)
def test_override__that_is_more_than_a_choice_is_left_to_hydra(overrides: tuple[str, ...]) -> None:
    same_as_hydra(*overrides)
