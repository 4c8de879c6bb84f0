"""Audits of the heart experiment: what is measured at each promise, that a broken one is found,
and what an audit costs.

Every run is the whole experiment: four hospitals, secure aggregation, sealed
transport, 1000 canaries. In the rows "noise halved" every site adds half of the
noise that its plan says, behind the accountant's back. The cost is CPU time of the
whole command with and without slots, in turn; load on the machine moves it by
some percent.

    python benchmarks/audit.py [--repeats 5] [--json PATH]
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from table import Spread, Table, cpu_of_all, in_turns, parser, python, ratios, spread, taken, write

from fedlearn.auditing.findings import Bound, Estimator, Findings, Seat
from fedlearn.config import compose, to_tree
from fedlearn.results.reading import read_result
from fedlearn.training.private import PrivateOptimizer
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

EXPERIMENT = "experiment=medical_heart"
BOUNDS: tuple[Estimator, ...] = ("one_run", "f_dp", "clopper_pearson", "gaussian")
SEATS: tuple[Seat, ...] = ("update", "sum")

RUNS = [
    ("1", False, ["privacy.epsilon=1"]),
    ("4", False, ["privacy.epsilon=4"]),
    ("8", False, ["privacy.epsilon=8"]),
    ("4, noise halved", True, ["privacy.epsilon=4"]),
    ("8, noise halved", True, ["privacy.epsilon=8"]),
    ("8, shared noise", False, ["privacy=distributed", "privacy.epsilon=8"]),
    ("none", False, ["privacy=none"]),
]


@contextmanager
def halved_noise(halved: bool) -> Iterator[None]:
    """While this lasts, every site adds half of its noise."""
    honest = PrivateOptimizer.add_noise

    def cheat(self: PrivateOptimizer) -> None:
        self.noise_multiplier /= 2
        honest(self)
        self.noise_multiplier *= 2

    if halved:
        PrivateOptimizer.add_noise = cheat  # type: ignore[method-assign]
    try:
        yield
    finally:
        PrivateOptimizer.add_noise = honest  # type: ignore[method-assign]


def audited(words: list[str], halved: bool, folder: Path) -> Findings:
    """What the audit of one run has found."""
    config = compose([EXPERIMENT, "audit=slots", *words, f"out={folder}"])
    with halved_noise(halved):
        simulate(config, Silent(), Stop())
    found = read_result(folder).audit
    assert found is not None
    return found


def bounds(found: Findings, seat: Seat) -> dict[str, str] | None:
    """The four bounds of a seat, if it has any."""
    view = next((view for view in found.views if view.seat == seat), None)
    return None if view is None else {name: cell(view.bound(name)) for name in BOUNDS}


def cell(bound: Bound | None) -> str:
    """A lower bound, marked where it is the ceiling."""
    if bound is None or bound.lower_bound is None:
        return "-"
    return f"{bound.lower_bound:.2f}{'*' if bound.lower_bound == bound.ceiling else ''}"


def measure(folder: Path, runs: int) -> dict[str, Findings]:
    """Run everything; print a row for each seat of each run."""
    table = Table(
        promised="promised", seat="seat", one_run="one run", f_dp="f-DP",
        clopper_pearson="Clopper-Pearson", gaussian="Gaussian", verdict="verdict",
    )  # fmt: skip
    found = {}
    for number, (name, halved, words) in enumerate(RUNS[:runs]):
        one = found[name] = audited(words, halved, folder / str(number))
        for seat in SEATS:
            if cells := bounds(one, seat):
                chance = "" if one.p_value is None else f", p = {one.p_value:.2g}"
                verdict = f"{one.verdict}{chance}" if one.seat == seat else ""
                table.row({"promised": name, "seat": seat, **cells, "verdict": verdict})
    print("\n* the ceiling of the audit\n")
    return found


def command(kind: str, out: Iterator[Path]) -> float:
    """CPU seconds of `fedlearn simulate` with that audit."""
    words = [EXPERIMENT, f"audit={kind}", f"out={next(out)}"]
    return taken(lambda: python("-m", "fedlearn", "simulate", *words), cpu_of_all)


def cost(repeats: int, folder: Path) -> dict[str, Spread]:
    """CPU time of the command with an audit and without, in turns."""
    out = (folder / f"cost-{number}" for number in itertools.count())
    sides = {kind: partial(command, kind, out) for kind in ("none", "slots")}
    times = in_turns(sides, repeats)
    found = {kind: spread(seconds) for kind, seconds in times.items()}
    found["ratio"] = ratios(times["slots"], times["none"])
    table = Table(
        none=("CPU of the command without", ".2f", " s"), slots=("with the audit", ".2f", " s"),
        ratio=("ratio", ".3f"),
    )  # fmt: skip
    table.row(found)
    return found


def main() -> None:
    """Print the table and the cost."""
    options = parser(__doc__, repeats=5, runs=len(RUNS)).parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), options.runs)
        costs = cost(options.repeats, Path(name))
    runs = {key: to_tree(value) for key, value in found.items()}
    write(options.json, {"cost": costs, "runs": runs})


if __name__ == "__main__":
    main()
