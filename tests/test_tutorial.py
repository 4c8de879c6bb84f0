"""The tutorial is followed, block by block; what waits for others or takes minutes is checked."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import warm

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
FINGERPRINT = re.compile(r"roster pin roster.json ([0-9a-f-]+)")

RUN = ("mkdir ~/clinics", "fedlearn new ", "fedlearn simulate ", "cat > deal.py",
       "mkdir coordinator", "cd authority", "for clinic in", "cp authority/")  # fmt: skip
CHECKED = ("fedlearn client ", "cd ~/clinics/coordinator")
LEFT = ("git clone", "fedlearn compare", "fingerprint=", "cd ~/clinics/north",
        "green:", "fedlearn: site", "it would bring")  # fmt: skip
"""What installs, what takes minutes, what comes after a run, and what is printed."""

SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(os.environ["TUTORIAL"])
    asked.sendall(json.dumps([os.getcwd(), sys.argv[1:]]).encode())
    asked.shutdown(socket.SHUT_WR)
    code, out, err = json.loads(b"".join(iter(lambda: asked.recv(65536), b"")))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""
"""The command, of which the process that is asked forks a warm one."""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """That of a shell with the command in it, at home in an empty folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "fedlearn").write_text(SHIM.format(python=sys.executable))
    (folder / "fedlearn").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    environment = os.environ | {
        "HOME": str(tmp_path), "TUTORIAL": str(tmp_path / "asked"), "COLUMNS": "200",
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FEDLEARN_CACHE": os.environ.get("FEDLEARN_CACHE", str(Path.home() / ".cache/fedlearn")),
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(environment["TUTORIAL"])
        listening.listen()
        serving = threading.Thread(target=answer, args=(listening, environment), daemon=True)
        serving.start()
        yield environment
        listening.shutdown(socket.SHUT_RDWR)
        serving.join(10)


def answer(listening: socket.socket, environment: dict[str, str]) -> None:
    while True:
        try:
            asked, _ = listening.accept()
        except OSError:
            return
        with asked:
            folder, words = json.loads(b"".join(iter(partial(asked.recv, 65536), b"")))
            command = [sys.executable, "-m", "fedlearn", *words]
            done = warm.run(command, cwd=folder, env=environment, text=True, timeout=120)
            asked.sendall(json.dumps([done.returncode, done.stdout, done.stderr]).encode())


def blocks() -> list[str]:
    return BLOCK.findall(PAGE.read_text("utf-8"))


def test_tutorial__has_no_block_that_nobody_looks_at() -> None:
    known = (*RUN, *CHECKED, *LEFT)
    assert [block for block in blocks() if not block.startswith(known)] == []
    assert [one for one in known if not any(block.startswith(one) for block in blocks())] == []


@pytest.mark.slow
def test_tutorial__can_be_followed_from_top_to_bottom(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder, fingerprint = tmp_path, ""
    for block in blocks():
        if block.startswith(RUN):
            script = f"fingerprint={fingerprint}\n{block}"
        elif block.startswith("cd ~/clinics/coordinator"):
            script = f"{block.rstrip()} --check"
        elif block.startswith("fedlearn client "):
            script = f"cd south\n{block.rstrip()} --check"
        else:
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        folder = tmp_path / "clinics"
        if found := FINGERPRINT.search(done.stdout):
            fingerprint = found[1]
    assert (folder / "runs" / "my-study" / "report.html").is_file()
    assert fingerprint
    for clinic in ("north", "south", "west"):
        assert (folder / clinic / "roster.json.pin").is_file()
        assert len((folder / clinic / "patients.csv").read_text().splitlines()) == 401
