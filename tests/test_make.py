"""What the Makefile makes in a folder whose name has a blank."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT


@pytest.mark.slow
def test_environment__in_a_folder_with_a_blank_is_one_that_flwr_run_can_take(
    tmp_path: Path,
) -> None:
    """Flower joins the paths of its tables by blanks; its programs find their own by the first line
    of their scripts."""
    project = tmp_path / "my project"
    project.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def make(*words: str) -> str:
        command = ["make", f"PYTHON={sys.executable}", *words]
        done = subprocess.run(
            command, cwd=project, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    assert "has a blank in its name" in make(".venv/bin/python")
    assert (project / ".venv").is_symlink()
    for script in ("pip", "activate"):
        text = (project / ".venv" / "bin" / script).read_text(encoding="utf-8")
        assert str(project) not in text
        assert str(tmp_path / "cache") in text
    make("clean")
    assert list((tmp_path / "cache" / "fedlearn").iterdir()) == []
