"""Studies made of what a program holds: arrays, tables, datasets and modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fedlearn as fl
from clients.records import forget
from fedlearn.cli import main
from fedlearn.config import compose
from fedlearn.core import objects
from tests.simulations.test_api import script

Arrays = tuple[Any, Any]


def site(records: int, seed: int = 0) -> Arrays:
    """A site whose class is the sign of its first column."""
    rng = np.random.default_rng([records, seed])
    features = rng.normal(size=(records, 5))
    return features, (features[:, 0] > 0).astype(int)


def three() -> dict[str, Any]:
    return {"north": site(60), "south": site(70), "west": site(50)}


def table(records: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(records)
    frame = pd.DataFrame({
        "age": rng.integers(20, 90, records),
        "smoker": rng.choice(["yes", "no"], records),
        "hospital": rng.choice(["a", "b", "c"], records),
    })  # fmt: skip
    return frame.assign(ill=np.where(frame.age > 55, "ill", "well"))


class Net(nn.Module):
    """Two layers, of which a copy is trained."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        out: torch.Tensor = self.second(torch.relu(self.first(x)))
        return out


# --- records ------------------------------------------------------------------------------


def test_study__of_arrays_trains_on_them_as_they_are(tmp_path: Path) -> None:
    study = fl.Study(data=three(), privacy=fl.NoPrivacy())
    run = fl.simulate(study, rounds=10, out=tmp_path / "run")
    assert run.metrics["accuracy"] > 0.8
    assert study.sites == {"north": 60, "south": 70, "west": 50}
    features = torch.from_numpy(three()["north"][0].astype(np.float32))
    said = run.model(features).argmax(1).numpy()
    assert (said == three()["north"][1]).mean() > 0.8


@pytest.mark.parametrize(
    "make",
    [lambda x, y: (x, y), lambda x, y: (x.tolist(), y.tolist()),
     lambda x, y: (torch.tensor(x), torch.tensor(y)), lambda x, y: (pd.DataFrame(x), pd.Series(y)),
     lambda x, y: TensorDataset(torch.tensor(x), torch.tensor(y)),
     lambda x, y: [(a, b) for a, b in zip(x, y, strict=True)]],
)  # fmt: skip
def test_study__is_the_same_however_arrays_are_given(make: Callable[[Any, Any], Any]) -> None:
    plain, other = fl.Study(three()), fl.Study({name: make(*own) for name, own in three().items()})
    assert other.words == plain.words


@pytest.mark.parametrize("make", [lambda frame: frame, pa.Table.from_pandas, "csv", "parquet"])
def test_study__is_the_same_however_tables_are_given(make: Any, tmp_path: Path) -> None:
    def given(name: str, frame: pd.DataFrame) -> Any:
        if not isinstance(make, str):
            return make(frame)
        path = tmp_path / f"{name}.{make}"
        frame.to_csv(path, index=False) if make == "csv" else frame.to_parquet(path)
        return path

    parts = {str(name): own.drop(columns="hospital") for name, own in table().groupby("hospital")}
    study = fl.Study({name: given(name, own) for name, own in parts.items()}, label="ill")
    assert study.task == fl.Study(parts, label="ill").task
    assert study.sites == {name: len(own) for name, own in parts.items()}


@pytest.mark.slow
def test_study__takes_one_table_with_its_columns_of_site_and_label(tmp_path: Path) -> None:
    ranges = {"columns": {"age": [20, 90]}}
    study = fl.Study(table(300), label="ill", site="hospital", scaling=ranges)
    run = fl.simulate(study, privacy=fl.NoPrivacy(), rounds=10, out=tmp_path / "run")
    assert list(run.per_site) == ["a", "b", "c"]
    assert not any("scenario." in note for note in run.notes)
    assert run.metrics["accuracy"] > 0.9
    assert run.config.scenario.scaling.columns == {"age": (20.0, 90.0)}  # type: ignore[union-attr]


@pytest.mark.slow
def test_study__of_images_takes_a_model_of_images(tmp_path: Path) -> None:
    images = {name: (torch.rand(30, 1, 8, 8), np.arange(30) % 3) for name in "abc"}
    settings = {"model.width": 4, "model.depth": 2, "model.groups": 2}
    study = fl.Study(images, privacy=fl.NoPrivacy(), **settings)
    assert study.model == "cnn"
    assert fl.simulate(study, rounds=1, out=tmp_path / "run").status == "finished"


@pytest.mark.slow
def test_study__with_a_frozen_part_leaves_nothing_of_its_records_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLEARN_CACHE", str(tmp_path / "cache"))
    images = {name: (torch.rand(30, 1, 12, 12), np.arange(30) % 2) for name in "abc"}
    study = fl.Study(images, model="scattering", privacy=fl.NoPrivacy())
    assert fl.simulate(study, rounds=1, out=tmp_path / "run").status == "finished"
    assert [*(tmp_path / "cache").rglob("*.npy")] == []


def test_study__sorts_classes_or_takes_them_in_the_order_given() -> None:
    named = {name: (x, np.array(["well", "ill"])[y]) for name, (x, y) in three().items()}
    assert fl.Study(named).task.classes == ("ill", "well")
    assert fl.Study(named, classes=["well", "ill", "dead"]).task.classes == ("well", "ill", "dead")
    assert fl.Study(three(), classes=["well", "ill"]).task.classes == ("well", "ill")
    with pytest.raises(fl.DataError, match="not among classes"):
        fl.Study(three(), classes=[3, 4])


def changed(change: Callable[[Any, Any], Any]) -> dict[str, Any]:
    return three() | {"north": change(*site(60))}


def gap(x: Any, y: Any) -> Arrays:
    x[3, 2] = np.nan
    return x, y


BAD: list[tuple[Callable[[Any, Any], Any], str]] = [
    (gap, r"site north: 1 of 60 records hold NaN or infinite features \(first: record 3\)"),
    (lambda x, y: (x * np.inf, y), "site north: 60 of 60 records"),
    (lambda x, y: (x, y[1:]), "site north: 60 records and 59 labels"),
    (lambda x, y: (x[:, :3], y), "not the same shape at all sites"),
    (lambda x, y: (x.astype(object), y), "site north: features are of dtype object"),
    (lambda x, y: (x, y + 0.5), "site north: labels are of dtype float64"),
    (lambda x, y: (x, [None, *map(str, y[1:])]), "site north: 1 of 60 records have no label"),
    (lambda x, y: (x[:0], y[:0]), "site north: no records"),
    (lambda x, y: (x[:, 0], y), "features have the shape"),
    (lambda x, y: (x.reshape(60, 5, 1), y), "channels, height, width"),
    (lambda x, y: ([[1, 2], [3]], y), "site north: features are no array"),
    (lambda x, y: (x, np.where(y == y[0], np.nan, y)), r"site north: \d+ of 60 .* no label"),
    (lambda x, y: (x, pd.Series([pd.NA, *y[1:]])), r"1 of 60 records have no label .*record 0"),
    (lambda x, y: (x, np.eye(2)[y]), r"give \[n\]; of one-hot rows, labels\.argmax\(1\)"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_study__names_the_site_whose_arrays_are_wrong(change: Any, said: str) -> None:
    with pytest.raises(fl.DataError, match=said) as error:
        fl.Study(changed(change))
    assert len(str(error.value).splitlines()) == 1


def test_study__of_one_class_has_nothing_to_learn() -> None:
    with pytest.raises(fl.DataError, match="one class"):
        fl.Study({name: (x, y * 0) for name, (x, y) in three().items()})


@pytest.mark.parametrize(
    ("data", "settings", "said"),
    [({}, {}, "no site"), ([1, 2], {}, "by site"), ({1: site(40)}, {}, "no name of a site"),
     ({"a": table()}, {}, "label"), ({"a": table(), "b": site(9)}, {"label": "ill"}, "some sites"),
     ({"a": table(), "b": table().drop(columns="age")}, {"label": "ill"}, "'age' is not at b"),
     ({"a": table(), "b": table()[:0]}, {"label": "ill"}, "site b: no records"),
     ({"a": table(), "b": table()}, {"label": "gone"}, "^label: no column 'gone' in data;"),
     ({"a": DataLoader(TensorDataset(torch.rand(4, 3), torch.ones(4)))}, {}, r"its `\.dataset`"),
     ({"a": [{"x": 1.0, "y": 1}] * 4}, {}, r"no pair \(x, y\) .* \(it is a dict\)"),
     (three(), {"name": "../x"}, "name='../x': is no plain name"),
     (three(), {"name": ""}, "is no plain name"), (three(), {"name": 3}, "is no plain name"),
     (table(), {"label": "ill"}, "^site: name the column that says whose a row is"),
     (table(), {"label": "ill", "site": "hospitl"}, "^site: no column 'hospitl'"),
     (table(), {"label": "ill", "site": "ill"}, "^label=ill: is another role"),
     (table(), {"label": ["ill"], "site": "hospital"}, "^label: is a list"),
     (table(), {"lable": "ill", "site": "hospital"}, "^lable: unknown key; did you mean label"),
     (table().set_index("hospital"), {"label": "ill", "site": "hospital"}, "reset_index"),
     (pd.concat({"x": table()}, axis=1), {"label": "ill", "site": "hospital"}, "2 levels"),
     (pd.concat([table(), table()], axis=1), {"label": "ill", "site": "hospital"}, "two columns"),
     (table().assign(born=pd.Timestamp("2020-02-03")), {"label": "ill", "site": "hospital"},
      r"drop it \(drop=\.\.\.\), or .*\(deidentify=\{\"years\": \{\"NAME\": 1\}\}\)"),
     ({"a": table().assign(x=[[1], "a", 2] * 20)}, {"label": "ill"}, "column x"),
     ({"a": "nowhere.csv"}, {"label": "ill"}, "nowhere.csv: cannot be read")],
)  # fmt: skip
def test_study__says_what_is_wrong_with_its_data(data: Any, settings: Any, said: str) -> None:
    with pytest.raises((fl.DataError, fl.ConfigError), match=said):
        fl.Study(data, **settings)


def test_study__takes_columns_whose_names_are_numbers_and_numbers_that_may_be_missing() -> None:
    numbered = table().rename(columns={"ill": 0, "hospital": 1})
    assert fl.Study(numbered, label=0, site=1).sites == fl.Study(
        table(), label="ill", site="hospital"
    ).sites  # fmt: skip
    nullable = {name: (pd.DataFrame(x).astype("Float64"), y) for name, (x, y) in three().items()}
    assert fl.Study(nullable).words == fl.Study(three()).words


def test_study__says_that_numbers_are_far_from_those_that_steps_are_made_for() -> None:
    large = {name: (x * 1e6, y) for name, (x, y) in three().items()}
    assert any("features reach" in note for note in fl.Study(large).notes)
    assert not any("features reach" in note for note in fl.Study(three()).notes)


def test_study__without_a_word_protects_records_and_none_is_no_word() -> None:
    privacy = compose(fl.Study(three()).words).privacy
    assert (privacy.unit, privacy.epsilon) == ("record", 4)  # type: ignore[union-attr]
    with pytest.raises(fl.ConfigError, match=r"privacy: None .*fl\.NoPrivacy\(\)"):
        fl.Study(three(), privacy=None)


# --- models -------------------------------------------------------------------------------


@pytest.mark.slow
def test_study__trains_a_copy_of_a_module_from_the_weights_that_it_has(tmp_path: Path) -> None:
    net = Net()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    study = fl.Study(three(), model=net, privacy=fl.NoPrivacy())
    with torch.no_grad():
        net.first.weight.zero_()  # later than the copy
    run = fl.simulate(study, rounds=1, learning_rate=1e-9, out=tmp_path / "run")
    trained = dict(run.model.named_parameters())
    for name, weight in before.items():
        torch.testing.assert_close(trained[f"model.{name}"].detach(), weight)


def test_study__with_a_module_is_private_to_the_epsilon_asked_for(tmp_path: Path) -> None:
    study = fl.Study(three(), model=Net(), privacy=fl.Record(epsilon=4, clip_norm=1))
    run = fl.simulate(study, rounds=2, out=tmp_path / "run")
    assert run.epsilon is not None
    assert 3.9 < run.epsilon <= 4
    assert run.privacy.clip_norm == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [Net, lambda: Net(4), lambda task: nn.Linear(task.input_shape[0], task.num_outputs)],
)
def test_study__calls_what_makes_a_module_under_the_seed_of_the_run(
    made: Any, tmp_path: Path
) -> None:
    study = fl.Study(three(), model=made, privacy=fl.NoPrivacy())
    shas = []
    for number, seed in enumerate((0, 0, 1)):
        torch.rand(number)  # the global generator moves on
        run = fl.simulate(study, rounds=1, seed=seed, out=tmp_path / str(number))
        shas.append(torch.cat([p.detach().ravel() for p in run.model.parameters()]))
    assert torch.equal(shas[0], shas[1])
    assert not torch.equal(shas[0], shas[2])


class Idle(nn.Module):
    """Has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(5, 2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        out: torch.Tensor = self.used(x)
        return out


NORM = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "said"),
    [(nn.Sequential(nn.Linear(5, 2), nn.Softmax(1)), "leave the softmax at its end out"),
     (NORM, r"1 \(BatchNorm1d\).*GroupNorm"), (Idle(), "no gradient ever reaches .*unused.weight"),
     (nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 2)), "Dropout.*rate"),
     (nn.Linear(5, 3), "it must give"), (nn.Linear(4, 2), "fails on one record"),
     (nn.Linear(5, 2).double(), "float64"), (lambda a, b: None, "takes a, b"),
     (lambda: 3, "not an nn.Module"), (3, "give an nn.Module"), ("cnn", "needs images"),
     ("tabulr", "did you mean tabular"), ("nowhere.at:all", "there is no module nowhere")],
)  # fmt: skip
def test_study__names_what_of_a_model_cannot_be_trained(model: Any, said: str) -> None:
    with pytest.raises(fl.ConfigError, match=said):
        fl.Study(three(), model=model)


@pytest.mark.slow
def test_simulate__averages_running_statistics_where_there_is_no_privacy(tmp_path: Path) -> None:
    study = fl.Study(three(), model=NORM, privacy=fl.NoPrivacy())
    run = fl.simulate(study, rounds=1, out=tmp_path / "run")
    assert float(run.model.state_dict()["model.1.running_var"].std()) > 0


def test_study__refuses_a_single_site_when_it_is_made() -> None:
    with pytest.raises(fl.ConfigError, match=r"has one site.*site=\.\.\."):
        fl.Study({"north": site(60)})


def test_study__names_the_layer_that_the_engine_cannot_clip() -> None:
    tied = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(fl.ConfigError, match=r"model: .*weight"):
        fl.Study(three(), model=tied)


# --- runs ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_simulate__of_a_study_writes_no_record_and_says_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table().assign(age=lambda own: own.age + 0.123456)
    study = fl.Study(frame, label="ill", site="hospital", privacy=fl.NoPrivacy())
    run = fl.simulate(study, rounds=1, out=tmp_path / "run")
    written = b"".join(path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    assert b".123456" not in written
    monkeypatch.setattr(objects, "_GIVEN", {})  # as in another process
    forget()
    again = ["--config", str(run.folder / "config.yaml"), f"out={tmp_path / 'again'}"]
    assert main(["simulate", *again]) == 2
    said = capsys.readouterr().err
    assert "was given from Python" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_simulate__resumes_a_study_only_as_it_was(tmp_path: Path) -> None:
    study = fl.Study(three(), model=Net(), privacy=fl.NoPrivacy())
    fl.simulate(study, rounds=1, out=tmp_path / "run")
    with pytest.raises(fl.ConfigError, match="rounds: differs"):
        fl.simulate(study, rounds=2, out=tmp_path / "run", resume=True)
    again = fl.Study(three(), model=Net(), privacy=fl.NoPrivacy())
    with pytest.raises(fl.ConfigError, match=r"model\.module: differs"):
        fl.simulate(again, rounds=1, out=tmp_path / "run", resume=True)


def test_simulate__of_a_study_refuses_processes_that_have_not_its_records() -> None:
    with pytest.raises(fl.ConfigError, match="engine=ray"):
        fl.simulate(fl.Study(three()), engine="ray")


@pytest.mark.slow
def test_simulate__of_two_sites_says_that_nothing_is_hidden_in_their_sum(tmp_path: Path) -> None:
    study = fl.Study({"north": site(60), "south": site(70)})
    run = fl.simulate(study, rounds=1, out=tmp_path / "run")
    assert run.config.secagg.kind == "off"
    assert any("secure aggregation is off" in note for note in run.notes)


def test_study__says_that_steps_are_scaled_for_other_sizes() -> None:
    many = {name: site(900) for name in three()}
    assert any("nominal_records" in note for note in fl.Study(many).notes)
    assert not any("nominal" in note for note in fl.Study(many, nominal_records=1000).notes)


@pytest.mark.slow
def test_compare__of_a_study_has_its_objects_in_every_process(tmp_path: Path) -> None:
    done = script(tmp_path, """
        import numpy as np
        from torch import nn
        import fedlearn as fl

        def site(n):
            X = np.random.default_rng(n).normal(size=(n, 3))
            return X, (X[:, 0] > 0).astype(int)

        study = fl.Study({"a": site(50), "b": site(60), "c": site(70)}, model=nn.Linear(3, 2))
        print(fl.compare(study, "rounds=1", epsilon=[1, 4]).to_frame()["status"].tolist())
        print(fl.compare(study, "rounds=1", threads=2, seed=[0, 1]).to_frame()["status"].tolist())
        print(fl.simulate(study, rounds=2, workers=2).status)
    """)  # fmt: skip
    assert done.stdout.splitlines() == [
        "['finished', 'finished']", "['finished', 'finished']", "finished"
    ], done.stderr  # fmt: skip
