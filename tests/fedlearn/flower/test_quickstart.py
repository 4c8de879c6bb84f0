"""The example app, before and after: five lines apart, and the same results."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.flwr_run import end_processes_of, flwr_run, wait_for

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "flower-quickstart"
SITES = 5

HERE = """
from digits.client_app import app as client
from digits.server_app import app as server
from fedlearn.flower import run_apps
import sys, torch
torch.set_num_threads(1)
settings = {"num-server-rounds": 3, "local-epochs": 2, "learning-rate": 0.1}
run_apps(server, client, nodes=5, run_config={**settings, "result": sys.argv[1]})
"""


def changed_lines() -> list[str]:
    """Lines of the protected app that the plain one does not have."""
    found = list[str]()
    for path in sorted((EXAMPLE / "protected").rglob("*")):
        if path.suffix not in (".py", ".toml"):
            continue
        before = EXAMPLE / "plain" / path.relative_to(EXAMPLE / "protected")
        lines = difflib.ndiff(before.read_text().splitlines(), path.read_text().splitlines())
        found += [line[2:].strip() for line in lines if line.startswith("+ ")]
    return found


def in_process(kind: str, folder: Path) -> dict[str, Any]:
    """The evaluation metrics of a run in one process, on our engine."""
    path = folder / f"{kind}.json"
    environment = os.environ | {"PYTHONPATH": f"{EXAMPLE / kind}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", HERE, str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_protected_app__is_the_plain_one_but_for_five_lines() -> None:
    assert changed_lines() == [
        "from fedlearn.flower import protect",
        "app = ClientApp(mods=[protect()])",
        "from fedlearn.flower import secure",
        "grid=secure(grid, strategy),",
        '"fedlearn",',
    ]
    plain = {path.relative_to(EXAMPLE / "plain") for path in (EXAMPLE / "plain").rglob("*.py")}
    same = EXAMPLE / "protected"
    assert plain == {path.relative_to(same) for path in same.rglob("*.py")}


@pytest.mark.slow
def test_protected_app__learns_as_the_plain_one_does(tmp_path: Path) -> None:
    plain, protected = (in_process(kind, tmp_path) for kind in ("plain", "protected"))
    assert plain["3"]["eval_acc"] > 0.85
    # The first round starts from the same model: only the steps of the sum are between them.
    assert protected["1"]["eval_loss"] == pytest.approx(plain["1"]["eval_loss"], abs=1e-3)
    assert protected["3"]["eval_acc"] == pytest.approx(plain["3"]["eval_acc"], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "port"), [("plain", 39194), ("protected", 39195)])
def test_flwr_run__runs_the_app_before_and_after(kind: str, port: int, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path, home = tmp_path / "result.json", tmp_path / "flwr"
    app = shutil.copytree(EXAMPLE / kind, tmp_path / "my app")
    try:
        flwr_run(app, home, port, SITES, f'result="{path}"')
        wait_for(path.exists, 300.0)
    finally:
        end_processes_of(home)
    result = json.loads(path.read_text())
    assert set(result) == {"1", "2", "3"}
    assert result["3"]["eval_acc"] > 0.85
