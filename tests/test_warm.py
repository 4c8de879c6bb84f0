"""A program that is forked is what Python would have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import warm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("how", ["0", "7", "raise", "kill"])
@pytest.mark.parametrize("session", [True, False])
def test_warm_program__has_and_leaves_what_a_cold_one_has(
    how: str, session: bool, tmp_path: Path
) -> None:
    environment = os.environ | {"GIVEN": "é a\nb", "PYTHONPATH": str(ROOT)}
    environment.pop("TAKEN", None)
    (tmp_path / "in").write_text("a question")
    command = [sys.executable, "-m", "tests.shown", how, "--a", "b c", ""]
    found = []
    for begin in (subprocess.Popen, warm.Popen):
        with (tmp_path / "in").open() as file:
            process = begin(
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                cwd=tmp_path, env=environment, start_new_session=session,
            )  # fmt: skip
            out, err = process.communicate(timeout=120)
        found.append((process.returncode, out, err.splitlines()[:1], err.splitlines()[-1:]))
    assert found[0] == found[1]
    assert found[0][0] == {"0": 0, "7": 7, "raise": 1, "kill": -signal.SIGTERM}[how]


def test_warm_program__is_waited_for_and_ended_as_any_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.shown", "0"]
    running = warm.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.2)
    for _ in range(120):  # on a busy machine the program may not be there yet to be interrupted
        running.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            running.wait(0.5)
            break
    out, _ = running.communicate(timeout=60)
    assert running.returncode in (-signal.SIGINT, 130)
    assert b"the end" in out
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)


def test_warm_program__is_one_of_modules_and_takes_what_others_wrote(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a warm program is python -m MODULE"):
        warm.Popen([sys.executable, "-c", "1"])
    one, other = (warm.run([sys.executable, "-m", "tests.shown", str(n)], stdin=subprocess.DEVNULL)
                  for n in (3, 4))  # fmt: skip
    assert (one.returncode, other.returncode) == (3, 4)
