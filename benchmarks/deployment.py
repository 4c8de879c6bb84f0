"""What a deployment adds to a round: four sites over TLS, node keys, gateway and SuperLink.

Server and sites run as processes of their own on this machine; the same config then runs
as a simulation in one process, and must end with the same model. Seconds are medians over
the rounds after the first, in which every site loads its data and libraries. CPU seconds
are of whole processes, from /proc, over the same rounds: on a busy machine they say more
than the clock.

    python benchmarks/deployment.py [--rounds 6] [--secagg masked] [--width 990] [--json PATH]
    python benchmarks/deployment.py --stock --rounds 2      # with Flower's own SuperNodes
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from table import Table, environment, parser, python, result_of, spread, write

SITES = ("cleveland", "hungary", "switzerland", "va_long_beach")
FEDLEARN = (sys.executable, "-m", "fedlearn")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SITE = """\
name: {name}
data: {{kind: heart}}
keys: keys/{name}
roster: roster.json
ledger: state/ledger.jsonl
policy: {{unit: none}}
server: {{address: "127.0.0.1:{port}", authority: ../coordinator/keys/ca.crt}}
"""
SERVER = """\
listen: "127.0.0.1:{port}"
keys: keys/coordinator
roster: roster.json
introductions: keys
tls: keys/server.tls
wait_seconds: 300.0
"""


def fedlearn(folder: Path, *words: str) -> str:
    """Run a command to its end, on one thread; what it printed."""
    return python("-m", "fedlearn", *words, folder=folder, **ONE_THREAD)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def enrol(root: Path, stock: bool) -> int:
    """Keys, certificates, roster and files, by the commands of docs/deployment.md; the port."""
    port = free_port()
    coordinator = root / "coordinator"
    keys = coordinator / "keys"
    keys.mkdir(parents=True)
    fedlearn(coordinator, "keys", "new", "coordinator", "--role", "server")
    fedlearn(coordinator, "keys", "certificate", "127.0.0.1")
    for name in SITES:
        (root / name).mkdir()
        fedlearn(root / name, "keys", "new", name)
        (keys / f"{name}.pub").write_bytes((root / name / "keys" / f"{name}.pub").read_bytes())
        (root / name / "site.yaml").write_text(SITE.format(name=name, port=port))
    public = [f"keys/{name}.pub" for name in SITES]
    signing = ("--by", "keys/coordinator", "--federation", "bench")
    said = fedlearn(coordinator, "keys", "roster", "sign", *public, *signing)
    certificates = f"client_certificates: {str(not stock).lower()}\n"
    (coordinator / "server.yaml").write_text(SERVER.format(port=port) + certificates)
    pin = re.findall(r"(?:[0-9a-f]{4}-){7}[0-9a-f]{4}", said)[-1]
    for name in SITES:
        (root / name / "roster.json").write_bytes((coordinator / "roster.json").read_bytes())
        fedlearn(root / name, "keys", "roster", "pin", "roster.json", pin)
    return port


def start_stock(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Flower's own SuperNode for a site, with the site's key as OpenSSH writes it."""
    key = folder / "node.key"
    pem = (folder / "keys" / f"{folder.name}.tls").read_bytes()
    key.write_bytes(
        load_pem_private_key(pem, None).private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )
    )
    key.chmod(0o600)
    program = str(Path(sys.executable).parent / "flower-supernode")
    command = [
        program, "--superlink", f"127.0.0.1:{port}",
        "--root-certificates", str(folder.parent / "coordinator" / "keys" / "ca.crt"),
        "--auth-supernode-private-key", str(key), "--port", str(free_port()),
        "--node-config", f'site-file="{folder / "site.yaml"}"',
    ]  # fmt: skip
    # It starts its other programs by name.
    paths = os.pathsep.join([str(Path(program).parent), os.environ["PATH"]])
    return start(folder, *command, FLWR_HOME=str(folder / "flower"), PATH=paths)


def start(folder: Path, *command: str, **own: str) -> subprocess.Popen[bytes]:
    """Start a process that writes its output to a file."""
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment() | ONE_THREAD | own,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def cpu(pid: int) -> float:
    """CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """The most memory that a process has held, in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def programs(server: int) -> dict[str, int]:
    """The server's own process and its children, by what they are."""
    found = {"coordinator": server}
    for task in Path(f"/proc/{server}/task").glob("*/children"):
        for child in task.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"server.superlink.supervised" in words:
                found[words[words.index(b"server.superlink.supervised") + 1].decode()] = int(child)
    return found


def rounds_in(folder: Path) -> list[dict[str, Any]]:
    """The rounds that a run has finished so far."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1:]]


def deploy(
    root: Path, overrides: Sequence[str], rounds: int, stock_port: int | None
) -> dict[str, Any]:
    """One run over real processes, and what it cost."""
    out = root / "coordinator" / "run"
    if stock_port is None:
        sites = {name: start(root / name, *FEDLEARN, "client", "site.yaml") for name in SITES}
    else:
        sites = {name: start_stock(root / name, stock_port) for name in SITES}
    command = (*FEDLEARN, "server", "server.yaml", *overrides, "out=run")
    server = start(root / "coordinator", *command)
    try:
        before = _after(out, 1, server)
        who = programs(server.pid) | {"site": sites[SITES[0]].pid}
        first = {name: cpu(pid) for name, pid in who.items()}
        finished = _after(out, rounds, server)[:rounds]
        used = {name: cpu(pid) - first[name] for name, pid in who.items()}
        peak = {name: memory(pid) for name, pid in who.items()}
        if server.wait(120):
            raise SystemExit((root / "coordinator" / "output.log").read_text())
    finally:
        for process in (*sites.values(), server):
            process.terminate()
            process.wait()
    later = finished[len(before) :]
    count = len(later)
    return {
        "seconds": spread([one["seconds"] for one in later]),
        "bytes": later[-1]["bytes"],
        "cpu_per_round": {name: seconds / count for name, seconds in used.items()},
        "memory_mb": peak,
        "site_seconds": {} if stock_port else site_seconds(root / SITES[0] / "output.log"),
    }


def _after(out: Path, number: int, server: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    while len(found := rounds_in(out)) < number:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}; see {out.parent}")
        time.sleep(0.02)
    return found


def site_seconds(log: Path) -> dict[str, float]:
    """How long a site's app took per kind of message: training, masks, sealing, disk."""
    by_kind: dict[str, list[float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["event"] == "answered":
            by_kind.setdefault(entry["message"], []).append(entry["seconds"])
    return {kind: statistics.median(all_[1:] or all_) for kind, all_ in by_kind.items()}


def simulate(root: Path, overrides: Sequence[str]) -> list[float]:
    """Seconds of every round but the first of the same run in one process, on the same model."""
    fedlearn(root, "simulate", *overrides, "out=simulated")
    runs = root / "coordinator" / "run", root / "simulated"
    models = {result_of(run)["model"]["sha256"] for run in runs}
    assert len(models) == 1, "both must compute the same"
    return [one["seconds"] for one in rounds_in(root / "simulated")[1:]]


def show(found: dict[str, Any]) -> None:
    """A row for everything that a round costs."""
    table = Table(what="per round", found="found")

    def row(what: str, shown: str) -> None:
        table.row({"what": what, "found": shown})

    row("wall clock", found["seconds"].shown(".2f", " s"))
    if simulated := found.get("simulated_seconds"):
        row("the same in one process", simulated.shown(".2f", " s"))
        row("more by deployment", f"{found['seconds'].median - simulated.median:.2f} s")
    for name, seconds in found["cpu_per_round"].items():
        row(f"CPU, {name}", f"{seconds:.2f} s")
    for way, count in found["bytes"].items():
        row(f"contents in a round that also evaluates, {way}", f"{count / 1e6:.2f} MB")
    for name, peak in found["memory_mb"].items():
        row(f"memory, {name}", f"{peak:.0f} MB")
    for kind, seconds in found["site_seconds"].items():
        row(f"a site's answer to {kind}", f"{1e3 * seconds:.0f} ms")


def main() -> None:
    """Measure and print."""
    # A width of 990 gives a million parameters; `alone` leaves the simulation out.
    options_of = parser(__doc__, rounds=6, width=990, alone=False, stock=False)
    options_of.add_argument("--secagg", default="masked", choices=("masked", "off"))
    options = options_of.parse_args()
    overrides = [
        "experiment=medical_heart", "privacy=none", f"rounds={options.rounds}",
        "model.architecture=mlp", f"model.width={options.width}", "model.depth=2",
        f"secagg={options.secagg}", f"evaluate_every={options.rounds}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fedlearn-bench-") as folder:
        port = enrol(Path(folder), options.stock)
        stock_port = port if options.stock else None
        found = deploy(Path(folder), overrides, options.rounds, stock_port)
        if not options.alone:
            found["simulated_seconds"] = spread(simulate(Path(folder), overrides))
    show(found)
    write(options.json, found | {"overrides": overrides})


if __name__ == "__main__":
    main()
