"""The front door for Python: runs, comparisons and audits from a script or a notebook."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fedlearn as fl
from fedlearn.config import compose
from simulations.api.asking import key_of, words_of

ROOT = Path(__file__).resolve().parents[2]
HEART = ("experiment=medical_heart", "rounds=2")


@pytest.fixture(scope="module")
def heart(heart_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> fl.Result:
    """A finished private run of two rounds."""
    out = tmp_path_factory.mktemp("api") / "heart"
    return fl.simulate(*HEART, epsilon=2, out=out)


def script(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `text` as somebody's own script in `folder`."""
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, str(path)], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


# --- names ----------------------------------------------------------------------------------


def test_names__are_those_of_the_contract_and_nothing_else() -> None:
    assert dir(fl) == sorted(fl.__all__)
    assert {"simulate", "compare", "audit", "load_run", "Result", "ClippedGradients", "epsilon",
            "Record", "Distributed", "Client", "NoPrivacy"} <= set(dir(fl))  # fmt: skip
    assert all(getattr(fl, name) is not None for name in dir(fl))


def test_names__are_all_described() -> None:
    for name in set(dir(fl)) - {"__version__"}:
        assert inspect.getdoc(getattr(fl, name)), name


def test_import__loads_nothing_before_it_is_asked_for(tmp_path: Path) -> None:
    done = script(tmp_path, """
        import sys
        import fedlearn
        heavy = {"torch", "flwr", "hydra", "numpy", "pydantic", "simulations", "server", "clients"}
        print(sorted(heavy & set(sys.modules)))
    """)  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["server.py", "clients.py", "simulations/__init__.py"])
def test_import__names_the_file_that_hides_a_package(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    done = script(tmp_path, """
        import fedlearn as fl
        try:
            fl.simulate("experiment=medical_heart", rounds=0)
        except fl.ConfigError as error:
            print(error)
    """)  # fmt: skip
    assert done.stdout.startswith(f"{tmp_path / name}: hides the package"), done.stderr
    command = subprocess.run(
        [sys.executable, "-m", "fedlearn", "simulate", "rounds=0"], cwd=tmp_path,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert command.returncode == 2
    assert f"{tmp_path / name}: hides the package" in command.stderr


@pytest.mark.slow
def test_import__is_not_hindered_by_folders_of_the_same_names(tmp_path: Path) -> None:
    for name in ("configs", "server", "clients"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs" / "run.yaml").write_text("rounds: x")
    done = script(tmp_path, """
        import fedlearn as fl
        try:
            fl.simulate("experiment=medical_heart", rounds=0)
        except fl.ConfigError as error:
            print(error)
    """)  # fmt: skip
    assert done.stdout.strip() == "rounds=0: must be > 0", done.stderr


# --- words ----------------------------------------------------------------------------------


def test_words__that_programs_use_mean_what_they_always_did() -> None:
    """A new option that ends as another does would take the short name from both."""
    names = json.loads((ROOT / "tests" / "vectors" / "short_names.json").read_text())
    assert {name: key_of(name) for name in names} == names


def test_words__take_keywords_by_the_name_that_ends_their_key() -> None:
    assert words_of(["a=1"], {"rounds": 3, "epsilon": 0.5, "class_weights": {"ill": 2.0}}) == [
        "a=1", "rounds=3", "privacy.epsilon=0.5", "training.class_weights.ill=2.0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["plain", "two words", "it's", "Größe", "a,b", "a=b", "2024", "null", "back\\", "${x}"]
)
def test_words__keep_a_text_as_it_is(text: str) -> None:
    given = ["scenario=csv", "scenario.path=x", "privacy=none"]
    assert compose(words_of(given, {"label": text})).scenario.label == text  # type: ignore[union-attr]


def test_words__give_every_value_of_an_object() -> None:
    made = fl.Record(epsilon=3, clip_norm=0.7, delta=1e-6)
    config = compose(words_of(["experiment=medical_heart"], {"privacy": made}))
    assert config.privacy == made
    assert compose(words_of([], {"privacy": made, "epsilon": 1})).privacy.epsilon == 1  # type: ignore[union-attr]


def test_words__refuse_an_object_in_whose_place_another_class_would_run() -> None:
    class Quieter(fl.Record):
        """What somebody makes of an option, and no config can name."""

    with pytest.raises(fl.ConfigError, match=r"privacy: is a .*Quieter, and privacy=record is"):
        words_of([], {"privacy": Quieter(epsilon=1)})
    assert "privacy=record" in words_of([], {"privacy": fl.Record(epsilon=1)})


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"epsilom": 1}, "did you mean epsilon"), ({"kind": 1}, "may be"), ({"rounds": 0}, "> 0"),
     ({"privacy": 3}, "must be one of"), ({"rounds": object()}, "must be a number")],
)  # fmt: skip
def test_words__that_mean_nothing_are_refused_by_name(settings: Any, said: str) -> None:
    with pytest.raises(fl.ConfigError, match=said):
        fl.simulate(*HEART, **settings)


@pytest.mark.parametrize(
    ("word", "said"),
    [("experiment=medical_heart rounds=2", "holds several words"),
     (["experiment=medical_heart", "rounds=2"], "one by one"), ({"a": 1}, r"fl\.Study\(data")],
)  # fmt: skip
def test_words__that_are_none_are_refused_with_what_can_be_written(word: Any, said: str) -> None:
    for call in (fl.simulate, fl.compare):
        with pytest.raises(fl.ConfigError, match=said):
            call(word)
    assert words_of(["scenario.path=a b=c"], {}) == ["scenario.path=a b=c"]


def test_simulate__of_nothing_says_what_can_be_learned_from() -> None:
    for call in (fl.simulate, fl.compare):
        with pytest.raises(fl.ConfigError, match=r"nothing to learn from: .*fl\.Study"):
            call(rounds=2)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, r"privacy=fl\.NoPrivacy\(\)"), (fl.Record, "is the class RecordPrivacy"),
     ([fl.NoPrivacy()], "must be a")],
)  # fmt: skip
def test_privacy__that_does_not_say_what_it_is_is_refused(value: Any, said: str) -> None:
    with pytest.raises(fl.ConfigError, match=f"privacy: .*{said}"):
        fl.simulate(*HEART, privacy=value)


def test_compare__says_that_it_takes_values_and_no_objects() -> None:
    with pytest.raises(fl.ConfigError, match="privacy: values are compared, and not objects"):
        fl.compare(*HEART, privacy=[fl.NoPrivacy(), fl.Record(epsilon=1)])
    with pytest.raises(fl.ConfigError, match="epsilon: holds no value"):
        fl.compare(*HEART, epsilon=[])


# --- runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_simulate__gives_what_the_folder_holds(heart: fl.Result) -> None:
    stored = json.loads((heart.folder / "result.json").read_text())
    assert heart.metrics == stored["final"]["evaluate"]
    assert heart.per_site == stored["final"]["per_site"]
    assert heart.epsilon == stored["privacy"]["epsilon"]
    assert heart.epsilon is not None
    assert 1.9 < heart.epsilon <= 2
    assert heart.statement == stored["privacy"]["statement"]
    assert len(heart.rounds) == heart.config.rounds == 2
    assert heart.report() == heart.folder / "report.html"
    assert "switzerland" in " ".join(heart.notes)


def test_simulate__gives_the_model_that_the_metrics_are_of(heart: fl.Result) -> None:
    from clients.records import read_simulated

    _, sites = read_simulated(heart.config)
    with torch.no_grad():
        for name, site in sites.items():
            said = heart.model(torch.from_numpy(site.test.features)).argmax(1).numpy()
            accuracy = float((said == site.test.labels).mean())
            assert accuracy == pytest.approx(heart.per_site[name]["accuracy"])


def test_result__has_its_model_where_gradients_are_off(heart: fl.Result) -> None:
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            model = fl.load_run(heart.folder).model
        assert all(not p.is_inference() for p in model.parameters())


def test_load_run__gives_the_same(heart: fl.Result) -> None:
    again = fl.load_run(str(heart.folder))
    assert (again.metrics, again.epsilon, again.config) == (
        heart.metrics, heart.epsilon, heart.config
    )  # fmt: skip
    assert repr(again) == repr(heart)
    with pytest.raises(fl.DataError, match="give the folder of a run"):
        fl.load_run(heart.folder / "nothing")
    with pytest.raises(fl.DataError, match=r"holds 1 runs, and is none; .*load_run\('.*heart'\)"):
        fl.load_run(heart.folder.parent)


def test_result__shows_itself_with_its_sites_and_what_it_promises(heart: fl.Result) -> None:
    shown = heart._repr_html_()
    assert all(site in shown for site in heart.per_site)
    assert "epsilon 2" in shown
    assert not {"<script", "http:", "https:"} & set(shown.split('"'))
    assert "color:" not in shown.replace("background-color:", "color:") or "rgba" in shown


def test_simulate__refuses_a_folder_that_holds_a_run(heart: fl.Result) -> None:
    with pytest.raises(fl.ConfigError, match="choose another folder"):
        fl.simulate(*HEART, epsilon=2, out=heart.folder)


def test_simulate__names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(fl.ConfigError, match=r"out=.*file/run: cannot be written \(Not a dir"):
        fl.simulate(*HEART, out=tmp_path / "file" / "run")


@pytest.mark.slow
def test_simulate__makes_a_new_folder_and_leaves_none_of_a_refused_run(
    heart_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (fl.simulate(*HEART, "rounds=1", privacy="none") for _ in range(2))
    assert (first.folder.name, second.folder.name) == ("medical_heart", "medical_heart-2")
    with pytest.raises(fl.DataError, match=r"nothing\.csv: cannot be read"):
        fl.simulate("scenario=csv", privacy="none", path="nothing.csv", label="x", site="y")
    assert {path.name for path in Path("runs").iterdir()} == {"medical_heart", "medical_heart-2"}


@pytest.mark.slow
def test_simulate__leaves_torch_its_threads_and_reads_a_changed_file_again(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    settings: dict[str, Any] = {"path": path, "label": "ill", "site": "at", "secagg": "off"}

    def write(shift: int) -> None:
        rows = [f"{i % 50},{'ab'[i % 2]},{int((i + shift) % 50 > 25)}" for i in range(200)]
        path.write_text("\n".join(["age,at,ill", *rows]))

    before = torch.get_num_threads()
    write(0)
    first = fl.simulate("scenario=csv", privacy="none", rounds=1, out=tmp_path / "one", **settings)
    write(7)
    second = fl.simulate("scenario=csv", privacy="none", rounds=1, out=tmp_path / "two", **settings)
    assert torch.get_num_threads() == before
    hashes = [
        json.loads((run.folder / "result.json").read_text())["data"] for run in (first, second)
    ]
    assert hashes[0]["sha256"] != hashes[1]["sha256"]


@pytest.mark.slow
def test_simulate__runs_in_a_thread_beside_a_loop(heart_archive: Path, tmp_path: Path) -> None:
    found: list[fl.Result] = []
    run = lambda: found.append(fl.simulate(*HEART, privacy="none", out=tmp_path / "it"))  # noqa: E731
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    assert found
    assert found[0].status == "finished"


@pytest.mark.slow
def test_simulate__from_a_script_forks_after_torch_was_used_with_threads(
    heart_archive: Path, tmp_path: Path
) -> None:
    done = script(tmp_path, """
        import torch
        torch.set_num_threads(2)
        a = torch.randn(300, 300, requires_grad=True)
        (a @ a).sum().backward()
        import fedlearn as fl
        for settings in ({"workers": 2}, {"workers": 2, "threads": 2}):
            print(fl.simulate("experiment=medical_heart", "rounds=1", **settings).status)
        print(fl.compare("experiment=medical_heart", "rounds=1", threads=2, seed=[0, 1]))
        print(torch.get_num_threads())
    """, OMP_WAIT_POLICY="PASSIVE")  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:2] == ["finished", "finished"], done.stderr
    assert lines[2].startswith("Sweep(2 of 2 runs finished")
    assert lines[3] == "2"


@pytest.mark.slow
def test_simulate__stopped_leaves_a_folder_that_goes_on(
    heart_archive: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent("""
        import fedlearn as fl
        try:
            fl.simulate("experiment=medical_heart", "rounds=100000", "privacy=none", out="run")
        except KeyboardInterrupt as stopped:
            print(stopped)
    """)
    )
    process = subprocess.Popen(
        [sys.executable, str(path)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not lines.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "stopped after round" in said
    stopped = fl.load_run(tmp_path / "run")
    assert stopped.status == "interrupted"
    assert len(stopped.rounds) >= 1


def test_simulate__goes_on_with_a_run(heart_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(fl.ConfigError, match="no run to continue"):
        fl.simulate(*HEART, out=tmp_path / "none", resume=True)


# --- comparisons, audits, epsilon -----------------------------------------------------------


@pytest.mark.slow
def test_compare__runs_every_combination(heart_archive: Path, tmp_path: Path) -> None:
    done = script(tmp_path, """
        import fedlearn as fl
        table = fl.compare("experiment=medical_heart", "rounds=1", epsilon=[0.5, 2], seed=range(2))
        frame = table.to_frame()
        print(len(frame), sorted(set(frame["privacy.epsilon"])), set(frame["status"]))
        print(table.run(table.points[0].name).status, table.report().name)
        print("privacy.epsilon" in table._repr_html_())
        try:
            fl.compare("experiment=medical_heart", epsilon=[1, -1])
        except fl.ConfigError as error:
            print(error)
    """)  # fmt: skip
    assert done.stdout.splitlines() == [
        "4 [0.5, 2.0] {'finished'}", "finished report.html", "True",
        "privacy.epsilon=-1: must be > 0",
    ], done.stderr  # fmt: skip
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["medical_heart-compare"]


def test_compare__takes_an_object_and_sweeps_one_of_its_values() -> None:
    given = words_of(
        [], {"privacy": fl.Record(epsilon=4, clip_norm=0.5), "epsilon": [1, 2]}, sweeps=True
    )
    assert "privacy.clip_norm=0.5" in given
    assert [word for word in given if word.startswith("privacy.epsilon=")] == [
        "privacy.epsilon=1,2"
    ]


@pytest.mark.slow
def test_audit__measures_a_run_and_keeps_it(heart: fl.Result) -> None:
    measured = fl.audit(heart, references=2)
    assert measured.audit is not None
    assert measured.audit.attacks
    assert fl.load_run(heart.folder).audit == measured.audit
    with pytest.raises(fl.ConfigError, match="even number"):
        fl.audit(heart, references=3)
    with pytest.raises(fl.ConfigError, match="nothing besides"):
        fl.audit(heart, rounds=3)


def test_epsilon__is_that_of_a_run_of_these_steps(heart: fl.Result) -> None:
    privacy, training = heart.privacy, heart.config.training
    assert privacy.noise_multiplier is not None
    assert privacy.delta is not None
    steps = training.local_steps * heart.config.rounds
    found = fl.epsilon(
        noise_multiplier=privacy.noise_multiplier, sample_rate=training.sample_rate, steps=steps,
        delta=privacy.delta,
    )  # fmt: skip
    assert found == pytest.approx(heart.epsilon)
    with pytest.raises(fl.ConfigError) as error:
        fl.epsilon(noise_multiplier=float("nan"), sample_rate=0, steps=-1, delta=1e-20)
    assert len(error.value.problems) == 3
