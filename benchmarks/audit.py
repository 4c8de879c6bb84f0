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

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedlearn.audit.findings import Bound, Findings, Seat
from fedlearn.config import compose
from fedlearn.training.private import PrivateOptimizer
from server.result_file import read_result
from server.run import Silent
from server.stop import Stop
from simulations.run import simulate

EXPERIMENT = "experiment=medical_heart"

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


def shown(found: Findings, seat: Seat) -> list[str]:
    """A row of the table: the four bounds of a seat."""
    view = next((view for view in found.views if view.seat == seat), None)
    if view is None:
        return []
    return [cell(view.bound(name)) for name in ("one_run", "f_dp", "clopper_pearson", "gaussian")]  # type: ignore[arg-type]


def cell(bound: Bound | None) -> str:
    """A lower bound, marked where it is the ceiling."""
    if bound is None or bound.lower_bound is None:
        return "-"
    return f"{bound.lower_bound:.2f}{'*' if bound.lower_bound == bound.ceiling else ''}"


def table(folder: Path) -> dict[str, Findings]:
    """Run everything; print a line for each seat of each run."""
    print("| promised | seat | one run | f-DP | Clopper-Pearson | Gaussian | verdict |")
    print("|---|---|---|---|---|---|---|")
    found = {}
    for number, (name, halved, words) in enumerate(RUNS):
        found[name] = audited(words, halved, folder / str(number))
        for seat in ("update", "sum"):
            if cells := shown(found[name], seat):  # type: ignore[arg-type]
                p = found[name].p_value
                judged = found[name].seat == seat
                verdict = found[name].verdict if judged else ""
                verdict += f", p = {p:.2g}" if judged and p is not None else ""
                print(f"| {name} | {seat} | {' | '.join(cells)} | {verdict} |", flush=True)
    print("* the ceiling of the audit")
    return found


def cost(repeats: int, folder: Path) -> float:
    """CPU time of the command with an audit over that without: ratio of medians."""
    seconds: dict[str, list[float]] = {"none": [], "slots": []}
    for number in range(repeats):
        for kind, spent in seconds.items():
            before = children()
            words = [EXPERIMENT, f"audit={kind}", f"out={folder / f'{kind}-{number}'}"]
            command = [sys.executable, "-m", "fedlearn", "simulate", *words]
            subprocess.run(command, check=True, capture_output=True)
            spent.append(children() - before)
    without, audit = (statistics.median(spent) for spent in seconds.values())
    print(f"CPU seconds of `fedlearn simulate`: {without:.2f} without, {audit:.2f} with audit; "
          f"ratio {audit / without:.3f} (medians of {repeats})")  # fmt: skip
    return audit / without


def children() -> float:
    """CPU seconds of all processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table and the cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = table(Path(name))
        ratio = cost(options.repeats, Path(name))
    if options.json:
        from fedlearn.config import to_tree

        tree = {"ratio": ratio, "runs": {key: to_tree(value) for key, value in found.items()}}
        options.json.write_text(json.dumps(tree, indent=2))


if __name__ == "__main__":
    main()
