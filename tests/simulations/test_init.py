"""A run that begins from the model of another one: what it takes over, refuses and promises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedlearn.config import compose, load, to_tree
from fedlearn.config.parent import Parent
from fedlearn.config.saved import load_file as load_config
from fedlearn.core.errors import ConfigError
from fedlearn.report.export import export
from server.federation import Federation
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

from .small import table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parents")


@pytest.fixture(scope="module")
def words(folder: Path) -> list[str]:
    return [*table(folder), "privacy=none"]


@pytest.fixture(scope="module")
def first(folder: Path, words: list[str]) -> Path:
    return run(words, folder / "first", "rounds=3")


@pytest.fixture(scope="module")
def private(folder: Path, words: list[str]) -> Path:
    return run(words, folder / "private", "privacy=record", "privacy.epsilon=2", "rounds=1")


def run(words: Sequence[str], out: Path, *more: str) -> Path:
    begin([*words, f"out={out}", *more])
    return out


def begin(words: Sequence[str]) -> None:
    simulate(compose(words), Silent(), Stop())


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_first_round__begins_where_the_parent_has_ended(
    folder: Path, words: list[str], first: Path
) -> None:
    still = run(
        words, folder / "still", f"init={first}", "rounds=1", "training.learning_rate=1e-30"
    )
    for name, values in load_file(first / "model.safetensors").items():
        np.testing.assert_allclose(load_file(still / "model.safetensors")[name], values, atol=1e-6)
    assert result(still)["final"]["evaluate"] == pytest.approx(result(first)["final"]["evaluate"])


def test_terms__have_the_hash_of_the_parent_and_not_where_it_lies(
    folder: Path, words: list[str], first: Path
) -> None:
    copy = shutil.copytree(first, folder / "copy of first")
    here, there, fresh = (compose([*words, *more]) for more in
                          ([f"init={first}"], [f"init={copy}"], []))  # fmt: skip
    assert here.terms == there.terms != fresh.terms
    tensors = load_file(copy / "model.safetensors")
    save_file({n: v + 1 for n, v in tensors.items()}, copy / "model.safetensors")
    with pytest.raises(ConfigError, match=r"is not the model that result\.json .* speaks of"):
        compose([*words, f"init={copy}"])
    other = compose([*words, f"init={copy}/model.safetensors"])
    assert other.terms != here.terms
    assert other.parent == Parent(sha256=other.parent.sha256 if other.parent else "")


def test_site__that_is_sent_a_config_opens_no_file(words: list[str], first: Path) -> None:
    tree = to_tree(compose([*words, f"init={first}"])) | {"init": "/etc/passwd"}
    assert load(tree).parent == compose([*words, f"init={first}"]).parent


def test_promises__of_a_line_of_runs_add_up(folder: Path, words: list[str], private: Path) -> None:
    child = run(words, folder / "child", f"init={private}", "privacy=record", "privacy.epsilon=1")
    parent = compose([*words, f"init={child}"]).parent
    assert parent is not None
    spent = [result(one)["privacy"] for one in (private, child)]
    assert parent.epsilon == pytest.approx(sum(one["epsilon"] for one in spent))
    assert parent.delta == pytest.approx(sum(one["delta"] for one in spent))
    assert (parent.unit, parent.generation, parent.run_id) == ("record", 2, result(child)["run_id"])


def test_promise__of_a_line_with_a_run_that_promises_nothing_is_none(
    folder: Path, words: list[str], first: Path
) -> None:
    child = run(words, folder / "late", f"init={first}", "privacy=record", "privacy.epsilon=1")
    parent = compose([*words, f"init={child}"]).parent
    assert parent is not None
    assert (parent.unit, parent.epsilon, parent.delta) == ("none", None, None)


def test_promise__is_never_taken_from_whoever_writes_the_config(
    folder: Path, words: list[str], first: Path
) -> None:
    with pytest.raises(ConfigError):
        compose([*words, f"init={first}", "+parent.epsilon=0"])
    tree = to_tree(compose([*words, f"init={first}"]))
    path = folder / "lying.yaml"
    path.write_text(json.dumps(tree | {"parent": to_tree(Parent(sha256="0", epsilon=0.0))}))
    assert load_config(path, []).parent == compose([*words, f"init={first}"]).parent
    path.write_text(json.dumps({**tree, "init": ""}))
    assert load_config(path, []).parent is None


def test_config_of_a_run__takes_keys_that_it_leaves_out_by_default(first: Path) -> None:
    found = load_config(
        first / "config.yaml", ["spare_rounds=1", "robust=none", f"init={first}", "out=x"]
    )
    assert found.spare_rounds == 1
    assert found.parent is not None
    with pytest.raises(ConfigError, match="did you mean rounds"):
        load_config(first / "config.yaml", ["ronds=1"])


class Heard(Silent):
    """A listener that keeps the notes of a run."""

    notes: tuple[str, ...] = ()

    def started(self, federation: Federation, first_round: int) -> None:
        """Keep them."""
        self.notes = federation.notes


def notes_of(words: Sequence[str]) -> str:
    heard = Heard()
    simulate(compose(words), heard, Stop())
    return " ".join(heard.notes)


def other_header(folder: Path, name: str, old: str, new: str) -> str:
    """A copy of the table in which the text `old` is `new`."""
    path = folder / f"{name}.csv"
    path.write_text((folder / "my.csv").read_text().replace(old, new))
    return f"scenario.path={path}"


def test_other_columns__of_the_same_shape_are_refused_by_name(
    folder: Path, words: list[str], first: Path
) -> None:
    other = other_header(folder, "weight", "age", "weight")
    with pytest.raises(ConfigError, match=r"not age, but weight\. Give it the columns") as refused:
        begin([*words, other, f"init={first}", f"out={folder}/no"])
    assert "begin without init" in str(refused.value)
    begin([*words, other, f"out={folder}/without"])


def test_other_columns__are_refused_of_an_export_too(
    folder: Path, words: list[str], first: Path
) -> None:
    export(first, folder / "exported")
    other = other_header(folder, "size", "age", "size")
    with pytest.raises(ConfigError, match="not age, but size"):
        begin([*words, other, f"init={folder}/exported", f"out={folder}/no"])


def test_classes__in_another_order_are_refused_and_others_are_noted(
    folder: Path, words: list[str], first: Path
) -> None:
    given = [*words, f"init={first}", "rounds=1"]
    with pytest.raises(ConfigError, match=r"set scenario\.classes=\[0,1\]"):
        begin([*given, "scenario.classes=['1','0']", f"out={folder}/no"])
    other = other_header(folder, "letters", ",1\n", ",b\n")
    assert "were 0, 1, and are 0, b" in notes_of([*given, other, f"out={folder}/letters"])
    assert not notes_of([*given, f"out={folder}/same"])


def test_other_classes__keep_the_body_and_get_a_new_head(
    folder: Path, words: list[str], first: Path
) -> None:
    path = folder / "three.csv"
    lines = (folder / "my.csv").read_text().splitlines()
    more = [line[:-1] + "2" if i % 5 == 0 else line for i, line in enumerate(lines[1:])]
    path.write_text("\n".join([lines[0], *more]))
    given = [*words, f"scenario.path={path}", f"init={first}", "training.learning_rate=1e-30"]
    said = notes_of([*given, f"out={folder}/three"])
    child = load_file(folder / "three" / "model.safetensors")
    before = load_file(first / "model.safetensors")
    same = [name for name in child if child[name].shape == before[name].shape]
    assert 0 < len(same) < len(child)
    new = [name for name in child if name not in same]
    assert f"{len(new)} of {len(child)} tensors begin anew" in said
    assert all(name in said for name in new)
    for name in same:
        np.testing.assert_allclose(child[name], before[name], atol=1e-6)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["model.architecture=linear"], "tensors that this run does not train"),
        (["training.finetune=head"], "training.finetune=full; set that"),
        (["seed=1"], "set seed=0"),
        (["scenario.test_fraction=0.5"], "set scenario.test_fraction=0.25"),
        (["scenario.units={{age:10}}"], "learned; set scenario.units="),
        (["scenario.map={{smoker:{{no:yes}}}}"], "learned; set scenario.map="),
        (["init={folder}/nowhere"], "no .* there"),
        (["out={first}"], "would be written over"),
    ],
)
def test_parent__that_does_not_fit_is_refused_with_the_way_out(
    folder: Path, words: list[str], first: Path, more: list[str], reason: str
) -> None:
    given = [f"init={first}", f"out={folder}/no", *more]
    with pytest.raises(ConfigError, match=reason):
        begin([*words, *(one.format(folder=folder, first=first) for one in given)])


def test_weights__that_are_damaged_or_not_finite_are_refused(
    folder: Path, words: list[str], first: Path
) -> None:
    tensors = load_file(first / "model.safetensors")
    bad = folder / "bad.safetensors"
    for content in ({n: v * np.nan for n, v in tensors.items()}, {"x": np.zeros(2, np.float32)}):
        save_file(content, bad)
        with pytest.raises(ConfigError, match=r"init=.*(not finite|no tensor of this model)"):
            begin([*words, f"init={bad}", f"out={folder}/no"])
    bad.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="no file of weights"):
        begin([*words, f"init={bad}", f"out={folder}/no"])
    (folder / "damaged").mkdir()
    shutil.copy(first / "model.safetensors", folder / "damaged")
    (folder / "damaged" / "result.json").write_text('{"schema": []}')
    with pytest.raises(ConfigError, match="was written by no run"):
        compose([*words, f"init={folder}/damaged"])
