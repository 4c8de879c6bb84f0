"""Adding things, performed: what CONTRIBUTING says is written into a copy, and a federation runs.

A new thing of the house takes a module, an entry of its family's tuple and a YAML; from a
package it takes the module and an entry point. A new row of `ADDITIONS` is all that a
further family needs here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import warm
from tests.plugins import install

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = ROOT / "fedlearn" / "report" / "templates"
PACKAGES = ("fedlearn", "clients", "server", "simulations", "configs")


@dataclass(frozen=True, kw_only=True)
class Addition:
    """One kind of thing, as it is added: `{package}` stands for the package of the module."""

    group: str
    """The key in a run's config, but of what attacks a run; the kind is `toy`."""
    home: str
    """The package of the family, where its tuple is in `__init__.py` if `tuple_in` is empty."""
    name: str
    """The class."""
    source: str
    last: str
    """An entry of the tuple; the new one comes after it."""
    tuple_in: str = ""
    points: str
    """The group of entry points."""
    yaml: Mapping[str, Any] | None
    """None of what stands in no config."""
    words: tuple[str, ...] = ()
    """What else the run is told, where it needs that."""
    sentences: str = ""
    """The template in which a report finds what to say of it, `toy.md` beside the module."""
    epsilon: float | None = None
    """What it promises at most, of a mechanism."""

    def __str__(self) -> str:
        return self.group


MECHANISM = '''
from typing import ClassVar, Literal

from fedlearn.core.settings import Count, NonNegative, Positive, Probability, config
from fedlearn.mechanisms.base import Plan, Population, Private, StudyTerms, required
from fedlearn.mechanisms.norms import clipped
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.events import ClientGaussianEvent, Unit
from fedlearn.stages.stage import Mean, Round, Stage, Update


@config
class Local(Private):
    """All that a site holds, by noise on its whole update that it adds itself."""

    kind: Literal["toy"] = "toy"
    epsilon: Positive | None = None
    noise_multiplier: NonNegative | None = None
    delta: Probability = 1e-5
    clip_norm: Positive = 1.0

    unit: ClassVar[Unit] = "client"

    def plan(
        self,
        *,
        sample_rate: float,
        steps_per_round: int,
        rounds: int,
        population: Population | None,
    ) -> Plan:
        noise = self.noise_multiplier
        if noise is None:
            noise = noise_multiplier(required(self.epsilon), self.delta, 1.0, rounds)
        return LocalPlan(
            clip_norm=self.clip_norm, noise_multiplier=noise, delta=self.delta, rounds=rounds
        )


@config
class LocalPlan(Plan):
    """What a site does."""

    kind: ClassVar[str] = "toy"
    clip_norm: Positive
    noise_multiplier: NonNegative
    delta: Probability
    rounds: Count
    sample_rate: Positive = 1.0
    steps_per_round: Literal[1] = 1
    unit: Literal["client"] = "client"

    @property
    def noise_stddev(self) -> float:
        return self.noise_multiplier * self.clip_norm

    @property
    def round_event(self) -> ClientGaussianEvent:
        return self._event(1)

    @property
    def total_event(self) -> ClientGaussianEvent:
        return self._event(self.rounds)

    def _event(self, steps: int) -> ClientGaussianEvent:
        return ClientGaussianEvent(
            noise_multiplier=self.noise_multiplier, sample_rate=1.0, steps=steps
        )

    def stages(self, terms: StudyTerms) -> tuple[Stage, ...]:
        return NoisyClip(self), Mean()


class NoisyClip(Stage):
    """A clip, and noise for it."""

    def __init__(self, plan: LocalPlan) -> None:
        self.plan = plan

    def forward(self, update: Update, at: Round) -> Update:
        bounded = clipped(update.values, self.plan.clip_norm * (1 - 1e-9))
        noise = at.noise.normal(bounded.size, self.plan.noise_stddev)
        return Update(values=(bounded + noise).astype("float32"))
'''


ADDITIONS = [
    Addition(
        group="privacy",
        home="fedlearn/mechanisms",
        name="Local",
        source=MECHANISM,
        last="DistributedPrivacy",
        points="fedlearn.mechanisms",
        yaml={
            "kind": "toy",
            "epsilon": 8.0,
            "noise_multiplier": None,
            "delta": 1e-5,
            "clip_norm": 0.5,
        },
        epsilon=8.0,
        sentences=(SENTENCES / "mechanism" / "record.md").read_text(),
    ),
    Addition(
        group="stage",
        home="fedlearn/stages",
        name="Half",
        source='''
from dataclasses import replace
from typing import Literal

from fedlearn.core.settings import Rate, config
from fedlearn.stages.stage import Round, Stage, Update


@config
class Half(Stage):
    """A smaller step."""

    kind: Literal["toy"] = "toy"
    share: Rate = 0.5

    def forward(self, update: Update, at: Round) -> Update:
        return replace(update, values=update.values * self.share)
''',
        last="RandomMask",
        points="fedlearn.stages",
        yaml={"kind": "toy", "share": 0.25},
    ),
    Addition(
        group="robust",
        home="fedlearn/robust",
        name="Short",
        source='''
from typing import Literal

import numpy as np

from fedlearn.core.settings import Positive, config
from fedlearn.mechanisms.reach import SumBound
from fedlearn.robust.rule import Robust
from fedlearn.stages.stage import Total


@config
class Short(Robust):
    """Sums of short changes."""

    kind: Literal["toy"] = "toy"
    norm: Positive = 50.0

    @property
    def change_norm(self) -> float:
        return self.norm

    def refuses(self, bound: SumBound, total: Total, before: Total) -> str | None:
        return "too long" if np.linalg.norm(total.values) > bound.sum_norm(total.weight) else None
''',
        last="Bounded",
        points="fedlearn.robust",
        yaml={"kind": "toy", "norm": 20.0},
        words=("secagg=ring",),
    ),
    Addition(
        group="attack",
        home="simulations/attacks/poison",
        name="Swapped",
        source='''
from typing import Literal

from fedlearn.core.settings import Positive, config
from simulations.attacks.poison.attack import Change, LyingRound, Poisoning


@config
class Swapped(Poisoning):
    """Its own update, from the last value to the first."""

    kind: Literal["toy"] = "toy"
    times: Positive = 1000.0

    def change(self, at: LyingRound) -> Change:
        return self.times * at.honest[::-1]
''',
        last="LittleIsEnough",
        points="fedlearn.attacks",
        yaml=None,
    ),
    Addition(
        group="model",
        home="fedlearn/models",
        name="Toy",
        source='''
from typing import Literal

from torch import nn

from fedlearn.core.settings import Count, config
from fedlearn.models.finetune import stages
from fedlearn.models.model import Model
from fedlearn.tasks import TableInput, Task


@config
class Toy(Model):
    """A hidden layer of tanh."""

    kind: Literal["toy"] = "toy"
    input = (TableInput,)
    width: Count = 3

    def network(self, task: Task) -> nn.Sequential:
        (columns,) = task.input_shape
        head = nn.Linear(self.width, task.num_outputs)
        return stages(hidden=nn.Linear(columns, self.width), tanh=nn.Tanh(), head=head)
''',
        last="GivenModel",
        points="fedlearn.models",
        yaml={"kind": "toy", "width": 4},
    ),
    Addition(
        group="partition",
        home="fedlearn/data",
        name="EverySecond",
        source='''
from typing import Literal

import numpy as np

from fedlearn.core.settings import config
from fedlearn.data.partition import Assignment, Partition
from fedlearn.data.pool import Pool


@config
class EverySecond(Partition):
    """Odd and even rows."""

    kind: Literal["toy"] = "toy"
    names: tuple[str, ...] = ("even", "odd")

    def assign(self, pool: Pool, rng: np.random.Generator) -> Assignment:
        return {name: np.arange(i, len(pool), 2) for i, name in enumerate(self.names)}
''',
        last="Files",
        points="fedlearn.partitions",
        yaml={"kind": "toy", "names": ["left", "right"]},
    ),
    Addition(
        group="scenario",
        home="fedlearn/data",
        name="Coins",
        source='''
from typing import Literal

import numpy as np

from fedlearn.core.settings import Count, config
from fedlearn.data.pool import Pool
from fedlearn.data.scenario import Reading, Scenario
from fedlearn.tasks import ClassificationTask, TableInput


@config
class Coins(Scenario):
    """Tosses that a number foretells."""

    kind: Literal["toy"] = "toy"
    tosses: Count = 20

    def load(self, reading: Reading) -> Pool:
        rng = reading.streams.get("coins")
        numbers = rng.normal(size=(self.tosses, 1)).astype(np.float32)
        return Pool(
            name="coins",
            task=ClassificationTask(input=TableInput(numeric=1), classes=("heads", "tails")),
            features=numbers,
            labels=(numbers[:, 0] > 0).astype(np.int64),
            is_train=np.arange(self.tosses) % 4 > 0,
            natural_site=np.array(["here", "there", "afar"])[np.arange(self.tosses) % 3],
        )
''',
        last="Given",
        points="fedlearn.scenarios",
        yaml={"kind": "toy", "tosses": 60},
    ),
    # Two vectors travel, under masks; what a site keeps and what goes to it are checked as well.
    Addition(
        group="strategy",
        home="fedlearn/algorithms",
        name="Toy",
        source='''
from typing import ClassVar, Literal

import numpy as np

from fedlearn.algorithms.algorithm import Algorithm, LocalRound, RoundMean, State, Vectors
from fedlearn.core.settings import Positive, config
from fedlearn.core.vector import Vector


@config
class Toy(Algorithm):
    """The mean, slowed down where the sites have moved far."""

    kind: Literal["toy"] = "toy"
    strength: Positive = 1.0

    travels: ClassVar[tuple[str, ...]] = ("size",)
    sends: ClassVar[tuple[str, ...]] = ("sizes",)
    remembers: ClassVar[bool] = True

    def broadcast(self, state: State, size: int) -> Vectors:
        return {"sizes": state.get("sizes", np.zeros(size, np.float32))}

    def extra(self, here: LocalRound, end: Vector) -> Vectors:
        assert "sizes" in here.received
        assert "last" in here.own or not here.received["sizes"].any()
        return {"size": np.abs(end - here.start)}

    def kept(self, here: LocalRound, sent: Vectors) -> Vectors:
        return {"last": sent["size"]}

    def server(self, mean: RoundMean, state: State) -> tuple[Vector, State]:
        sizes = mean.extra["size"]
        assert (sizes >= np.abs(mean.model - mean.before) - 1e-3).all(), "a triangle"
        step = (mean.model - mean.before) / (1 + self.strength * sizes)
        return mean.before + step, {"sizes": sizes}
''',
        last="GivenStep",
        points="fedlearn.algorithms",
        yaml={"kind": "toy", "fraction": 1.0, "min_sites": 2, "strength": 2.0},
        words=("secagg=masked", "transport=sealed", "rounds=2"),
    ),
    Addition(
        group="task",
        home="fedlearn/tasks",
        name="LeastSquares",
        source='''
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlearn.core.settings import config
from fedlearn.metrics.sums import SumLayout, Sums, SumSpec
from fedlearn.tasks.inputs import Input
from fedlearn.tasks.task import LabelColumn, Metric, Targets, Task, TaskForm

UNIT = 2.0**-20


@dataclass(frozen=True, kw_only=True)
class LeastSquaresTask(Task):
    """A number in a public range: targets are `float32[n]`."""

    kind: ClassVar[str] = "toy"
    metrics_known: ClassVar = (
        Metric(name="rmse", title="RMSE", short="RMSE", meaning="the root of the mean square error",
               higher_is_better=False, in_summary=True, by_group=True),
        Metric(name="r2", title="R squared", short="R2", meaning="the share of variance explained"),
    )
    input: Input
    classes: tuple[str, ...] = ()
    low: float
    high: float
    num_outputs: ClassVar[int] = 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square() / 2

    def check(self, targets: Targets) -> None:
        if targets.dtype.kind != "f" or targets.ndim != 1 or not np.isfinite(targets).all():
            raise ValueError("targets must be finite numbers, one per record")

    def mislabelled(self, targets: Targets, words: NDArray[np.uint64]) -> Targets:
        return (self.low + (self.high - self.low) * (words / 2**64)).astype(targets.dtype)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.double().clamp(self.low, self.high)

    def likelihood(self, answers: NDArray[np.float64], targets: Targets) -> NDArray[np.float64]:
        return np.exp(-((answers[:, 0] - targets) ** 2) / 2)

    answer_columns: ClassVar = ("predicted",)

    def answer_cells(self, answer: NDArray[np.float64]) -> Sequence[str]:
        return [f"{answer[0]:.6f}"]

    @property
    def sum_layout(self) -> SumLayout:
        most = max(abs(self.low), abs(self.high))
        return (
            SumSpec(name="error", unit=UNIT, bound=(self.high - self.low) ** 2),
            SumSpec(name="moments", shape=(2,), unit=UNIT, bound=float(np.hypot(most, most**2))),
        )

    def sums(self, graded: NDArray[np.float64], targets: Targets) -> Sums:
        true = targets.astype(np.float64)
        error = ((graded[:, 0] - true) ** 2).sum()
        moments = np.array([true.sum(), (true**2).sum()])
        arrays = {"error": np.asarray(error), "moments": moments}
        return Sums(layout=self.sum_layout, count=len(targets), arrays=arrays)

    def metrics(self, sums: Sums) -> dict[str, float]:
        if not sums.count:
            return {}
        error, (first, second) = float(sums["error"]), sums["moments"]
        found = {"loss": error / sums.count / 2, "rmse": (error / sums.count) ** 0.5}
        spread = float(second - first**2 / sums.count)
        return found | ({"r2": 1 - error / spread} if spread > 0 else {})

    def says(self) -> str:
        return f"It says a number from {self.low:g} to {self.high:g}."


@config
class LeastSquares:
    """Regression on one column, cut off at a public range."""

    kind: Literal["toy"] = "toy"
    learns: ClassVar[type[Task]] = LeastSquaresTask
    low: float = -1.0
    high: float = 1.0

    def of(self, form: TaskForm) -> LeastSquaresTask:
        return LeastSquaresTask(input=form.input, low=self.low, high=self.high)

    def problems(self, column: LabelColumn) -> Iterator[str]:
        if (wrong := np.flatnonzero(np.isnan(column.numbers()))).size:
            yield f"{column.where}: {column.places(wrong)}: not a number"

    def unreadable(self, column: LabelColumn) -> NDArray[np.bool_]:
        return np.isnan(column.numbers())

    def is_open(self, column: LabelColumn) -> bool:
        return False

    def encode(self, column: LabelColumn) -> tuple[tuple[str, ...], Targets]:
        return (), np.clip(column.numbers(), self.low, self.high).astype(np.float32)
''',
        last="Classification",
        points="fedlearn.tasks",
        yaml={"kind": "toy", "low": -4.0, "high": 4.0},
        words=(
            "scenario.label=weight",
            "privacy=record",
            "privacy.epsilon=8",
            "secagg=masked",
            "secagg.min_cohort=3",
            "evaluation=pooled",
            "engine.workers=2",
        ),
    ),
]


@dataclass(frozen=True)
class Work:
    """A folder with a table of three sites in it, and what runs there."""

    folder: Path
    path: tuple[Path, ...] = field(default_factory=tuple)
    of_ours: bool = False
    """Whether it is modules of ours that stand there, others than those of the tests."""

    def run(self, *words: str) -> dict[str, Any]:
        """The result of `fedlearn simulate` there."""
        done = self.command("simulate", *words, "out=run")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads((self.folder / "run" / "result.json").read_text())
        return found

    def attack(self) -> Mapping[str, Any]:
        """What `fedlearn audit demo=poison` finds of the attack there."""
        own = ("audit.attacks=toy", "audit.rules=none", "audit.seeds=1")
        done = self.command("audit", "demo=poison", *TABLE, *own, "out=run")
        assert done.returncode == 0, done.stdout + done.stderr
        _, found = json.loads((self.folder / "run" / "poison.json").read_text())["rows"]
        row: Mapping[str, Any] = found
        return row

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        places = os.pathsep.join(map(str, (*self.path, ROOT)))
        command = [sys.executable, "-m", "fedlearn", *words]
        environment = {**os.environ, "PYTHONPATH": places}
        if not self.of_ours:
            return warm.run(command, cwd=self.folder, env=environment, text=True)
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )


TABLE = (
    "scenario=csv", "scenario.path=table.csv", "scenario.label=ill", "scenario.site=site",
    "rounds=1", "training.nominal_records=20", "privacy=none", "secagg=off", "transport=plain",
)  # fmt: skip


def a_table(folder: Path) -> Path:
    """Sixty records of three sites."""
    rng = np.random.default_rng(0)
    rows = [f"{'abc'[i % 3]},{rng.normal():.3f},{rng.normal():.3f},{i % 2}" for i in range(60)]
    path = folder / "table.csv"
    path.write_text("\n".join(["site,age,weight,ill", *rows]))
    return path


def words_of(addition: Addition) -> list[str]:
    own = [*addition.words, f"{addition.group}=toy"]
    keys = {word.split("=")[0] for word in own}
    given = [word for word in TABLE if not word.startswith(f"{addition.group}")]
    return [*(word for word in given if word.split("=")[0] not in keys), *own]


def check(addition: Addition, work: Work) -> None:
    """Run a federation with it."""
    if addition.yaml is None:
        assert work.attack()["attack"] == "toy"
        return
    result = work.run(*words_of(addition))
    assert result["status"] == "finished"
    assert result["config"][addition.group] == addition.yaml
    if addition.epsilon is not None:
        assert 0.5 * addition.epsilon < result["privacy"]["epsilon"] <= addition.epsilon


@pytest.mark.slow
@pytest.mark.parametrize("addition", ADDITIONS, ids=str)
def test_house__takes_a_module_an_entry_and_a_yaml(addition: Addition, tmp_path: Path) -> None:
    house = tmp_path / "house"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, house / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (house / addition.home / "toy.py").write_text(f'"""A toy."""\n{addition.source}')
    if addition.sentences:
        (house / addition.home / "toy.md").write_text(addition.sentences)
    place = house / (addition.tuple_in or f"{addition.home}/__init__.py")
    text = place.read_text()
    entry = re.compile(rf"\b{addition.last}\b").search(text, text.index("Family("))
    assert entry is not None, "the tuple is not where this test looks for it"
    module = f"{addition.home.replace('/', '.')}.toy"
    entered = f"{text[: entry.end()]}, {addition.name}{text[entry.end() :]}"
    first = entered.index("\nfrom fedlearn.")
    place.write_text(f"{entered[:first]}\nfrom {module} import {addition.name}{entered[first:]}")
    if addition.yaml is not None:
        options = house / "configs" / addition.group / "toy.yaml"
        options.write_text(json.dumps(addition.yaml))
    (tmp_path / "work").mkdir()
    a_table(tmp_path / "work")
    check(addition, Work(tmp_path / "work", (house,), of_ours=True))


@pytest.mark.slow
@pytest.mark.parametrize("addition", ADDITIONS, ids=str)
def test_package__takes_a_module_and_an_entry_point(addition: Addition, tmp_path: Path) -> None:
    points = {f"{addition.points}:toy": f"toy_package.toy:{addition.name}"}
    modules = {
        "toy_package/__init__.py": "",
        "toy_package/toy.py": addition.source,
        "toy_package/toy.yaml": json.dumps(addition.yaml or {}),
        "toy_package/toy.md": addition.sentences,
    }
    package = install(tmp_path / "site", modules, points)
    (tmp_path / "work").mkdir()
    a_table(tmp_path / "work")
    check(addition, Work(tmp_path / "work", (package,)))


@pytest.mark.slow
def test_task__of_a_package_has_its_own_sums_metrics_report_and_answers(tmp_path: Path) -> None:
    addition = next(one for one in ADDITIONS if one.group == "task")
    points = {f"{addition.points}:toy": f"toy_package.toy:{addition.name}"}
    modules = {"toy_package/__init__.py": "", "toy_package/toy.py": addition.source}
    work = Work(tmp_path, (install(tmp_path / "site", modules, points),))
    a_table(tmp_path)
    result = work.run(*words_of(addition), "task.low=-4", "task.high=4")
    assert set(result["final"]["evaluate"]) == {"loss", "rmse", "r2"}
    rmse = result["final"]["evaluate"]["rmse"]
    assert result["final"]["evaluate"]["loss"] == pytest.approx(rmse**2 / 2)
    assert 0 < rmse < 4
    assert 0 < result["privacy"]["epsilon"] <= 8
    assert result["final"]["per_site"] == {}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "It says a number from -4 to 4." in report
    assert "R squared" in report
    assert work.command("export", "run", "--to", "model").returncode == 0
    asked = work.command("predict", "model", "table.csv", "--like", "table.csv")
    assert asked.returncode == 0, asked.stderr
    head, *lines = asked.stdout.splitlines()
    assert head == "line,predicted"
    assert all(-4 <= float(line.split(",")[1]) <= 4 for line in lines)
    # A set whose labels are classes is none for numbers.
    refused = work.command("simulate", "experiment=medical_heart", "task=toy", "out=other")
    assert refused.returncode == 2
    assert "the labels of scenario=heart are for task=classification" in refused.stderr


MODEL = """
from torch import nn


def wide(task, width=4):
    return nn.Sequential(
        nn.Linear(*task.input_shape, width), nn.ReLU(), nn.Linear(width, task.num_outputs)
    )
"""


@pytest.mark.slow
def test_own_model__takes_nothing_of_ours(tmp_path: Path) -> None:
    a_table(tmp_path)
    (tmp_path / "my_models.py").write_text(MODEL)
    private = [w for w in TABLE if not w.startswith(("privacy", "secagg", "transport"))]
    own = ["model=custom", "model.build=my_models:wide", "model.settings.width=6"]
    words = [*private, *own, "engine.workers=2", "privacy.epsilon=8"]
    result = Work(tmp_path).run(*words)
    assert result["model"]["name"] == "custom"
    assert len(result["config"]["model"]["sha256"]) == 64
    exported = Work(tmp_path).command("export", "run", "--to", "model")
    assert exported.returncode == 0, exported.stderr
    asked = Work(tmp_path).command("predict", "model", "table.csv")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("line,predicted,chance of 0,chance of 1")
    # What was changed meanwhile is another model.
    (tmp_path / "my_models.py").write_text(MODEL + "\n# changed\n")
    resumed = Work(tmp_path).command("simulate", *words, "out=run", "resume=true")
    assert resumed.returncode == 2
    (problem,) = resumed.stderr.splitlines()
    assert problem.startswith("fedlearn: model.sha256: differs from the run in ")
    assert problem.endswith("choose another out= for another run")
    changed = Work(tmp_path).command("predict", "model", "table.csv")
    assert changed.returncode == 2
    assert "the source of my_models:wide has changed" in changed.stderr
