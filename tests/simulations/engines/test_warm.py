"""Start-up: what a run does not need is not imported, and the collector comes back."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.engines.warm import nothing_collected
from tests.simulations.small import environment, table

NEVER = {"torch._dynamo", "torch._inductor", "sklearn", "pandas", "ray"}
ONLY_WITH_PRIVACY = {"opacus", "dp_accounting", "sympy", "scipy.stats", "scipy.optimize"}

RUN = """
import json, logging, sys
from fedlearn.cli import main
code = main(["simulate", *sys.argv[1:]])
handlers = len(logging.getLogger().handlers)
print(json.dumps([code, handlers, sorted(sys.modules)]))
"""


def modules_after(*overrides: str) -> set[str]:
    """What is imported in a process that has made a whole run, its report included; and nothing
    that is imported has taken the process's log for itself."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *overrides],
        capture_output=True, text=True, env=environment(), timeout=300, check=True,
    )  # fmt: skip
    code, handlers, modules = json.loads(done.stdout.splitlines()[-1])
    assert (code, handlers) == (0, 0), done.stderr
    return set(modules)


@pytest.mark.slow
def test_run__without_privacy_imports_no_accountant_and_no_compiler(tmp_path: Path) -> None:
    # What a verdict compares test figures with is fitted by scikit-learn, after the run.
    overrides = [*table(tmp_path), "privacy=none", "rounds=1", "evaluation=none"]
    modules = modules_after(*overrides, f"out={tmp_path / 'run'}")
    assert "torch" in modules
    assert not modules & (NEVER | ONLY_WITH_PRIVACY)


@pytest.mark.slow
def test_run__with_privacy_imports_no_compiler(tmp_path: Path) -> None:
    overrides = [*table(tmp_path), "privacy=record", "training.optimizer=adam", "rounds=1"]
    modules = modules_after(*overrides, f"out={tmp_path / 'run'}")
    assert "opacus" in modules
    assert not modules & NEVER


def fail_while_held_off() -> None:
    with nothing_collected():
        assert not gc.isenabled()
        raise KeyError


def test_collector__is_held_off_and_comes_back() -> None:
    try:
        with pytest.raises(KeyError):
            fail_while_held_off()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
