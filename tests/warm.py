"""Programs of ours that are forked from one that has imported what they do.

To start Python and to import torch, Flower and Opacus takes ten times the processor that a small
run takes. A warm program is a process of its own all the same: its arguments, folder, environment,
session, files, signals and exit code are those that it was given, and it ends as Python ends.
What it cannot show is that a program starts: tests of starting, of what is imported and of whole
deployments begin Python itself (`subprocess.Popen`).
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from fedlearn import SWITCHES

ROOT: Final = Path(__file__).resolve().parents[1]
IMPORTED: Final = (
    "clients.app", "clients.supernode.node", "dp_accounting.pld.pld_privacy_accountant",
    "dp_accounting.rdp", "fedlearn.cli.operations", "fedlearn.cli.runs", "fedlearn.config.words",
    "fedlearn.report.page", "fedlearn.report.sweep_page", "fedlearn.training.engines",
    "fedlearn.training.private", "matplotlib.backends.backend_svg", "opacus.accountants",
    "server.app", "server.deployment", "server.superlink.gateway", "simulations.derived",
    "simulations.display", "simulations.engines.local", "simulations.sweeps.compare",
)  # fmt: skip
_ALONE: Final = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""No threads before a fork; and where a run has several, none of them waits at full speed."""
_LONGEST: Final = 1 << 17
"""Bytes of a request."""
_END: Final = struct.Struct("<id")
"""How a program has ended, as `os.waitpid` says it, and the seconds of processor that it took."""

spent = [0.0]
"""Seconds of processor that warm programs have taken, which `getrusage` does not know of."""


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen([sys.executable, "-m", MODULE, ...])`, of which the beginning is left
    out: of that class whatever starts a process and waits for it is replaced."""

    def _execute_child(  # (hidden in typeshed, and the same since 3.11)
        self, args: list[str], executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any,
        cwd: Any, env: Mapping[str, str] | None, startupinfo: Any, creationflags: Any, shell: Any,
        p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
        restore_signals: Any, gid: Any, gids: Any, uid: Any, umask: Any, start_new_session: bool,
        process_group: Any,
    ) -> None:  # fmt: skip
        if args[:2] != [sys.executable, "-m"]:
            raise ValueError(f"{args[:2]}: a warm program is python -m MODULE")
        request = {
            "arguments": args[2:],
            "folder": os.fspath(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        given = (p2cread, c2pwrite, errwrite)
        files = [own if one == -1 else one for own, one in enumerate(given)]
        self._keeper, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_first(), [json.dumps(request).encode()], [*files, theirs.fileno()])
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]
        self.pid = int.from_bytes(self._keeper.recv(8))
        self._child_created = True

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """As `os.waitpid`, which knows of children alone."""
        self._keeper.setblocking(not flags & os.WNOHANG)
        try:
            status, seconds = _END.unpack(self._keeper.recv(_END.size))
        except BlockingIOError:
            return 0, 0
        self._keeper.close()
        spent[0] += seconds
        return self.pid, status

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        found: int | None = self.returncode
        return found


def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run` with output that is captured."""
    timeout = how.pop("timeout", None)
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# --- the process that forks ----------------------------------------------------------------


@cache
def _first() -> socket.socket:
    """The socket of a process that forks, one for this process and its end."""
    own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = os.environ | {"PYTHONPATH": str(ROOT), **_ALONE}
    os.set_inheritable(theirs.fileno(), True)
    begin = f"from tests.warm import _serve; _serve({theirs.fileno()})"
    with theirs:
        os.posix_spawn(sys.executable, [sys.executable, "-c", begin], environment)
    atexit.register(own.close)
    return own


def _serve(socket_file: int) -> None:
    """Fork for every request; what was forked goes on from here as the program."""
    os.setsid()  # Ctrl-C is for the tests, which end it as they end
    os.closerange(3, socket_file)  # what the tests have had from whoever began them
    os.closerange(socket_file + 1, os.sysconf("SC_OPEN_MAX"))
    for name in IMPORTED:
        import_module(name)
    assert threading.active_count() == 1, "what is forked would lack threads"
    gc.freeze()
    with socket.socket(fileno=socket_file) as requests:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers leave nothing behind
        while True:
            request, files, *_ = socket.recv_fds(requests, _LONGEST, 4)
            if not request:
                return
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                break
            for file in files:
                os.close(file)
    _keep(files.pop(), files)
    _become(files, json.loads(request))


def _keep(keeper: int, files: list[int]) -> None:
    """Fork once more; stay behind to say which process it is, and how it has ended."""
    if not (pid := os.fork()):
        os.close(keeper)
        return
    for file in files:
        os.close(file)
    os.write(keeper, pid.to_bytes(8))
    _, status, used = os.wait4(pid, 0)
    os.write(keeper, _END.pack(status, used.ru_utime + used.ru_stime))
    os._exit(0)


def _become(files: list[int], request: dict[str, Any]) -> None:
    if request["session"]:
        os.setsid()
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(SWITCHES | request["environment"])
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), _text(1), _text(2)  # noqa: SIM115
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [place for place in places if place and place not in sys.path]
    sys.argv = request["arguments"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _text(file: int) -> io.TextIOWrapper:
    """A stream as Python opens it where it starts."""
    raw = bool(os.environ.get("PYTHONUNBUFFERED"))
    stream = os.fdopen(file, "wb", 0 if raw else -1, closefd=False)
    lines = file == 2 or os.isatty(file)
    return io.TextIOWrapper(stream, "utf-8", line_buffering=lines, write_through=raw)
