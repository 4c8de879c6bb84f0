"""What is made of a run's model: eight bits, or a student; and what that costs at the sites."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedlearn as fl
from clients.records import read_simulated
from fedlearn import prediction
from fedlearn.cli import main
from fedlearn.config import load
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.language import codes, language
from fedlearn.report.export import export, open_model
from fedlearn.report.made_smaller import in_words, read_costs
from simulations.costs import weighing
from simulations.overlap import Overlap

pytestmark = pytest.mark.slow

Output = pytest.CaptureFixture[str]
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two hospitals whose model tells apart what it was shown."""
    folder = tmp_path_factory.mktemp("runs")
    table = folder / "private.csv"
    table.write_text(rows(np.random.default_rng(0), 160))
    out = folder / "run"
    assert main(["simulate", "scenario=csv", f"scenario.path={table}", "scenario.label=ill",
                 "scenario.site=hospital", "secagg=off", "privacy=none", "rounds=6",
                 "training.optimizer=adam", "training.learning_rate=0.02",
                 "training.local_steps=20", "model.architecture=mlp", "model.width=24",
                 f"out={out}"]) == 0  # fmt: skip
    return out


def rows(rng: np.random.Generator, count: int, *, labelled: bool = True) -> str:
    """A table of patients: who is old or has a high pressure, but not both, is ill."""
    lines = ["age,pressure,smoker,hospital,ill" if labelled else "age,pressure,smoker"]
    for i in range(count):
        age, pressure = rng.uniform(20, 90), rng.uniform(90, 180)
        ill = (age > 55) != (pressure > 135)
        more = f",{('north', 'south')[i % 2]},{int(ill)}" if labelled else ""
        lines.append(f"{age:.3f},{pressure:.3f},{('no', 'yes')[i % 3 == 0]}{more}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def small(run: Path) -> Path:
    """The run in eight bits."""
    assert main(["export", str(run), "--to", "int8"]) == 0
    return run.with_name("run-int8")


def tree(path: Path) -> Tree:
    found: Tree = json.loads(path.read_text())
    return found


def test_int8__says_at_every_site_what_both_models_get_there(run: Path, small: Path) -> None:
    """Against hits counted here, on the test records that the run's config gives every site."""
    found = tree(small / "costs.json")
    _, sites = read_simulated(load(tree(run / "result.json")["config"]))
    own = found["weighed"]["per_site"]
    assert own.keys() == sites.keys() == {"north", "south"}
    models = {"before": open_model(run), "after": prediction.load(small)}
    hits = {
        (name, when): float(
            np.mean(model.answers(site.test.features).argmax(1) == site.test.labels)
        )
        for name, site in sites.items()
        for when, model in models.items()
    }
    for (name, when), share in hits.items():
        assert own[name][when]["accuracy"] == pytest.approx(share)
    assert own["north"]["before"] == pytest.approx(
        tree(run / "result.json")["final"]["per_site"]["north"]
    )
    assert hits[found["worst_site"], "after"] == min(hits["north", "after"], hits["south", "after"])
    assert own["north"]["before"]["loss"] != own["north"]["after"]["loss"]
    assert min(hits.values()) > 0.6


def test_int8__predicts_by_itself_and_takes_a_third(run: Path, small: Path, tmp_path: Path) -> None:
    alone, new = tmp_path / "alone", tmp_path / "new.csv"
    shutil.copytree(small, alone)
    new.write_text(rows(np.random.default_rng(5), 40, labelled=False))
    said = {}
    for name, model in (("run", run), ("alone", alone)):
        to = tmp_path / f"{name}.csv"
        like = ["--like", str(run.with_name("private.csv"))]
        assert main(["predict", str(model), str(new), "--to", str(to), *like]) == 0
        said[name] = np.loadtxt(to, delimiter=",", skiprows=1, usecols=(2, 3))
    assert 0 < np.abs(said["run"] - said["alone"]).max() < 0.05
    costs = tree(small / "costs.json")
    assert costs["bytes_after"] == (small / "model.safetensors").stat().st_size
    assert costs["bytes_after"] < costs["bytes_before"] / 2


def test_int8__on_a_file_says_how_alike_answers_are(
    run: Path, tmp_path: Path, capsys: Output
) -> None:
    file = tmp_path / "new.npz"
    shape = open_model(run).task.input_shape
    features = np.random.default_rng(1).uniform(-1, 1, (300, *shape)).astype("f4").round(2)
    features[:, -1] = 0
    np.savez(file, features=features)
    folder = tmp_path / "small"
    words = ["export", str(run), "--to", "int8", "--folder", str(folder), "--records", str(file)]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = tree(folder / "costs.json")["weighed"]
    one, other = (m.answers(features) for m in (open_model(run), prediction.load(folder)))
    assert found["agreement"]["largest"] == pytest.approx(np.abs(one - other).max())
    assert found["agreement"]["same"] == pytest.approx(np.mean(one.argmax(1) == other.argmax(1)))
    assert found["per_site"] == {}
    assert "(300 records) both give the same answer to" in said


def test_int8__is_not_measured_on_a_file_of_records_of_the_run(run: Path, tmp_path: Path) -> None:
    """Exact figures of private records would stand beside an epsilon that does not hold them."""
    own = run.with_name("private.csv")
    first, *others = own.read_text().splitlines()
    (turned := tmp_path / "turned.csv").write_text("\n".join([first, *reversed(others)]))
    (same := tmp_path / "same.csv").symlink_to(own)
    for file in (own, same, turned):
        with pytest.raises(ConfigError, match="records of the run's own sites"):
            export(run, tmp_path / "small", form="int8", weigh=weighing(run, file))
    assert not (tmp_path / "small").exists()


def test_int8__shows_no_more_of_test_records_than_its_run(run: Path, tmp_path: Path) -> None:
    """Private figures are not undone by measuring anew, nor are sums over sites taken apart."""
    for kind, reason, sites in (
        ("private", "private", 0),
        ("none", "no_tests", 0),
        ("pooled", "", 0),
    ):
        copy = shutil.copytree(run, tmp_path / kind)
        result = tree(copy / "result.json")
        result["config"]["evaluation"] = kind
        result["final"]["per_site"], result["final"]["worst_site"] = {}, None
        if kind == "private":
            result["config"]["privacy"] = {"kind": "record", "epsilon": 4.0, "delta": 1e-5}
        (copy / "result.json").write_text(json.dumps(result))
        export(copy, tmp_path / f"{kind}-small", form="int8", weigh=weighing(copy))
        found = tree(tmp_path / f"{kind}-small" / "costs.json")["weighed"]
        assert found["unmeasured"] == reason
        assert len(found["per_site"]) == sites
        assert (found["all_sites"] is None) == (reason != "")


def test_int8__of_a_run_whose_records_are_elsewhere_says_so(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "result.json").write_text(
        (copy / "result.json").read_text().replace("private.csv", "gone.csv")
    )
    export(copy, tmp_path / "small", form="int8", weigh=weighing(copy))
    assert tree(tmp_path / "small" / "costs.json")["weighed"]["unmeasured"] == "elsewhere"
    card = (tmp_path / "small" / "model_card.md").read_text()
    assert "What it costs at the sites was not measured: the test records of the run" in card


def test_int8__that_was_altered_is_refused(run: Path, small: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small, tmp_path / "small"))
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors: has the SHA-256"):
        prediction.load(copy)


def test_int8__is_no_model_to_go_on_from(run: Path, small: Path, capsys: Output) -> None:
    words = ["simulate", "--config", str(run / "config.yaml"), f"init={small}", "out=nowhere"]
    assert main(words) == 2
    assert "an export in int8 is for use, and no model to go on from" in capsys.readouterr().err


def test_costs__are_said_in_every_language(small: Path) -> None:
    costs, file = read_costs(small), prediction.described(small)
    assert costs is not None
    said = {code: in_words(costs, file.learned.of(file.task), language(code)) for code in codes()}
    assert len({lines[0] for lines in said.values()}) == len(said)
    assert all("north" in " ".join(lines) or "south" in " ".join(lines) for lines in said.values())


def test_records__are_asked_for_with_int8_alone(run: Path, capsys: Output) -> None:
    assert main(["export", str(run), "--to", "onnx", "--records", "x.csv"]) == 2
    assert "--records: says on what --to int8 is measured" in capsys.readouterr().err


# --- students -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def public(run: Path) -> Path:
    """Records that nobody has."""
    file = run.with_name("public.csv")
    file.write_text(rows(np.random.default_rng(7), 300, labelled=False))
    return file


def test_distill__makes_a_smaller_model_that_answers_as_its_teacher(
    run: Path, public: Path, tmp_path: Path, capsys: Output
) -> None:
    to = tmp_path / "student"
    words = ["distill", str(run), "--data", str(public), "--to", str(to), "model.width=8"]
    assert main([*words, "--steps", "600", "--rate", "0.01"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    costs, result = tree(to / "costs.json"), tree(run / "result.json")
    assert f"It does worst at {costs['worst_site']}" in said
    assert costs["learned"]["parameters"] * 4 == costs["bytes_after"] < costs["bytes_before"]
    assert costs["learned"]["records"] == 300
    assert costs["model_sha256"] == result["model"]["sha256"]
    assert tree(to / "model.json")["sha256"] != result["model"]["sha256"]
    teacher, student = open_model(run), prediction.load(to)
    fresh = teacher.read(public).features[:200]
    fresh = fresh + np.float32(0.002) * np.eye(*fresh.shape, dtype="f4")
    same = teacher.answers(fresh).argmax(1) == student.answers(fresh).argmax(1)
    assert same.mean() > 0.95
    card = (to / "model_card.md").read_text()
    statement = (to / "privacy_statement.md").read_text()
    for text in (card, statement):
        assert "That these records are public, and no site's own, is the word of" in text
        assert result["model"]["sha256"] in text


def test_distill__reads_no_private_record(run: Path, public: Path, tmp_path: Path) -> None:
    """The same student, bit for bit, where the table of the sites is gone."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for name in ("result.json", "config.yaml"):
        text = (copy / name).read_text().replace("private.csv", "gone.csv")
        (copy / name).write_text(text)
    found = []
    like = str(run.with_name("private.csv"))
    features = open_model(run).read(public, Path(like)).features
    np.savez(tmp_path / "public.npz", features=features)
    for name, folder in (("here", run), ("gone", copy)):
        to = tmp_path / name
        fl.distill(folder, "model.width=8", data=tmp_path / "public.npz", to=to, steps=5)
        found.append(tree(to / "model.json")["sha256"])
    assert found[0] == found[1]
    assert tree(tmp_path / "gone" / "costs.json")["weighed"]["unmeasured"] == "elsewhere"


def test_distill__refuses_what_the_run_has_learned_from(run: Path, tmp_path: Path) -> None:
    own = run.with_name("private.csv")
    lines = own.read_text().splitlines()
    shuffled = [lines[0], *(lines[1:][i] for i in np.random.default_rng(1).permutation(160))]
    without = [",".join(line.split(",")[:3]) for line in shuffled]
    for name, text in (("same", own.read_text()), ("shuffled", "\n".join(without))):
        copy = tmp_path / f"{name}.csv"
        copy.write_text(text)
        with pytest.raises(ConfigError, match="what a student learns from is public"):
            fl.distill(run, "model.width=8", data=copy, to=tmp_path / "student", steps=1)
    assert not (tmp_path / "student").exists()


def mixed(run: Path, public: Path, to: Path, count: int) -> Path:
    """Public records, and so many of the sites' own."""
    own = run.with_name("private.csv").read_text().splitlines()[1 : count + 1]
    to.write_text(public.read_text() + "\n".join(",".join(row.split(",")[:3]) for row in own))
    return to


def test_distill__says_where_some_records_may_be_a_sites_own(
    run: Path, public: Path, tmp_path: Path, capsys: Output
) -> None:
    file = mixed(run, public, tmp_path / "mixed.csv", 2)
    words = ["distill", str(run), "--data", str(file), "--to", str(tmp_path / "student")]
    assert main([*words, "model.width=8", "--steps", "1"]) == 0
    assert "note: 2 of 302 public records look like one of a site" in capsys.readouterr().err
    written = "".join(path.read_text() for path in (tmp_path / "student").glob("*.[jm]*[nd]"))
    assert "look like one" not in written


def test_distill__refuses_more_records_of_sites_than_chance_explains(
    run: Path, public: Path, tmp_path: Path
) -> None:
    """One in sixteen is far below half of the file, and the promise would be wrong for them."""
    file = mixed(run, public, tmp_path / "mixed.csv", 20)
    with pytest.raises(ConfigError, match="20 of its 320 records are also those of a site"):
        fl.distill(run, "model.width=8", data=file, to=tmp_path / "student", steps=1)
    with pytest.raises(ConfigError, match="records of the run's own sites"):
        export(run, tmp_path / "small", form="int8", weigh=weighing(run, file))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("values", [30, 100, 1000])
def test_strangers__are_hardly_ever_taken_for_a_sites_own(values: int) -> None:
    """However coarse columns are; a tenth of a file that is a site's own is noticed where not."""
    draw = np.random.default_rng(values)
    strangers = tenth = 0
    for _ in range(200):
        sites, file = ([*map(bytes, draw.integers(0, values, (n, 2)))] for n in (400, 150))
        strangers += Overlap.between(file, sites).is_own
        tenth += Overlap.between([*file[15:], *sites[:15]], sites).is_own
    assert strangers <= 4
    assert tenth == 200 or values < 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "model: say which smaller model is to learn"),
        (["model.width=24"], "and its teacher 4,826; choose a smaller one"),
        (["model.width=8", "rounds=3"], "rounds=3: belongs to the run"),
        (["model.widht=8"], "model.widht"),
        (["model=cnn"], "needs images"),
        (["model.width=8", "--steps", "0"], "steps=0: must be"),
        (["model.width=8", "--temperature", "0"], "temperature=0.0: must be"),
        (["model.width=8", "--rate", "1e30"], "--rate: training has diverged"),
    ],
)
def test_distill__says_what_is_wrong(
    run: Path, public: Path, tmp_path: Path, words: list[str], said: str, capsys: Output
) -> None:
    to = tmp_path / "student"
    assert main(["distill", str(run), "--data", str(public), "--to", str(to), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not to.exists()
