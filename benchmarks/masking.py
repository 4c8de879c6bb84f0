"""Secure aggregation against flwr's own SecAgg+ functions, on the same job, in one run.

    python benchmarks/masking.py [--json PATH]

Both sides quantise and mask real updates with the same number of neighbours and
the same threshold, and remove the masks again; both sums are checked before a
time is reported. flwr's functions are called in the order of its own client
(`secaggplus_mod`) and workflow. Times are CPU seconds of the process, sides
taken in turn, medians; ratios are of neighbours, with quartiles. The keystream
limit is the time that AES-256-CTR alone takes for the same number of mask bytes.

What is not compared: flwr verifies nobody and signs nothing; our steps for that
are reported on their own line.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_mod
from numpy.typing import NDArray
from secagg_sides import CLIP, MOD_RANGE, MODEL, TARGET_RANGE, Flwr, Ours
from table import Table, in_turns, parser, ratios, spread, taken, write

from fedlearn.crypto.keystream import BLOCK_BYTES


def keystream_limit(num_bytes: int, keystreams: int) -> float:
    """CPU seconds of AES-256-CTR alone, in the same blocks, with nothing added anywhere."""
    zeros = memoryview(bytes(BLOCK_BYTES))
    out = memoryview(bytearray(BLOCK_BYTES + 16))

    def generate() -> None:
        for _ in range(keystreams):
            stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
            for start in range(0, num_bytes, BLOCK_BYTES):
                stream.update_into(zeros[: min(BLOCK_BYTES, num_bytes - start)], out)

    return median(taken(generate) for _ in range(3))


# --- The comparison -----------------------------------------------------------------


def compare(count: int, drop_fraction: float, parameters: int, repeats: int) -> dict[str, Any]:
    """One round on both sides with the same updates; milliseconds of CPU time."""
    ours = Ours(count, parameters).share_keys()
    place = {name: index for index, name in enumerate(ours.names)}
    graph = {
        place[name]: tuple(place[peer] for peer in peers)
        for name, peers in ours.server._graph.items()
    }
    flwr = Flwr(graph, ours.params.threshold)
    dropped = int(count * drop_fraction)
    alive = ours.names[dropped:]
    times: dict[str, list[float]] = {"ours": [], "mask": [], "flwr": []}
    rng = np.random.default_rng(0)
    mean, size = np.zeros(parameters), 0
    for name in alive:
        update = rng.normal(0, 0.1, parameters).astype(np.float32)
        mean += update
        start = time.process_time()
        reply, masking = ours.mask(name, update)
        middle = time.process_time()
        masked = flwr.mask(place[name], update)
        end = time.process_time()
        times["ours"].append(middle - start)
        times["mask"].append(masking)
        times["flwr"].append(end - middle)
        ours.server.receive(name, reply)
        flwr.add(masked)
        size = len(reply)
    extra = ours.settle(alive)
    numbers = {place[name] for name in alive}
    held = flwr.shares(numbers)
    servers = in_turns(
        {
            "ours": lambda: taken(ours.fresh_server().total),
            "flwr": partial(taken, partial(flwr.unmask, held, numbers)),
        },
        repeats,
    )
    _check(ours, flwr, held, numbers, mean)
    wall = {threads: _wall(ours, threads) for threads in (1, 2)}
    plus, minus = ours.server._correction()
    degree = len(next(iter(graph.values())))
    row_bytes = ours.payload.ring.dtype.itemsize * ours.params.length
    client_limit = keystream_limit(row_bytes, degree + 1)
    server_limit = keystream_limit(row_bytes, len(plus) + len(minus))
    return {
        "clients": count,
        "neighbours": degree,
        "threshold": ours.params.threshold,
        "dropped": dropped,
        "parameters": parameters,
        "client_ours": spread(times["ours"]).times(1e3),
        "client_flwr": spread(times["flwr"]).times(1e3),
        "client_ratio": ratios(times["flwr"], times["ours"]),
        "client_of_limit": client_limit / median(times["mask"]),
        "server_ours": spread(servers["ours"]).times(1e3),
        "server_flwr": spread(servers["flwr"]).times(1e3),
        "server_ratio": ratios(servers["flwr"], servers["ours"]),
        "server_of_limit": server_limit / median(servers["ours"]),
        "server_wall_1_thread": 1e3 * wall[1],
        "server_wall_2_threads": 1e3 * wall[2],
        "client_agree_and_unmask": 1e3 * extra,
        "bytes_per_client": size,
    }


def _check(
    ours: Ours,
    flwr: Flwr,
    held: dict[int, list[bytes]],
    numbers: set[int],
    sum_of_updates: NDArray[np.float64],
) -> None:
    """Both sums are exact in integers, and agree with the updates within the quantisation."""
    total = ours.fresh_server().total()
    assert np.array_equal(total, ours.payload.ring.reduce(ours.plain)), "our sum is wrong"
    decoded = ours.payload.decode(total)
    assert decoded.weight == len(numbers)
    assert np.abs(decoded.values - sum_of_updates).max() <= len(numbers) * ours.settings.resolution
    opened = flwr.unmask(held, numbers)
    plain = parameters_mod(flwr.plain, MOD_RANGE)
    assert all(np.array_equal(a, b) for a, b in zip(opened, plain, strict=True)), "flwr's sum"
    step = 2 * CLIP / TARGET_RANGE
    theirs = opened[1] * step - CLIP * len(numbers)
    assert np.abs(theirs - sum_of_updates).max() <= len(numbers) * step


def _wall(ours: Ours, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        servers = [ours.fresh_server() for _ in range(3)]
        calls = [partial(again.total, parts=threads, run=pool.map) for again in servers]
        return median(taken(call, time.perf_counter) for call in calls)


def wire_bytes(parameters: int) -> dict[str, float]:
    """Bytes of one masked message at 20 bits, and of everything else that a client exchanges."""
    ours = Ours(100, parameters)
    server, clients, vector = ours.server, ours.clients, ours.plain
    one, other, masked = ours.names[0], 0, 0
    while server.step != "done":
        for name, request in server.requests().items():
            if server.step == "mask":
                reply = clients[name].mask(request, vector, MODEL)
            else:
                reply = getattr(clients[name], server.step)(request)
            if name == one:
                is_vector = server.step == "mask"
                masked = len(reply) if is_vector else masked
                other += len(request) + (0 if is_vector else len(reply))
            server.receive(name, reply)
        server.close_step()
    return {
        "masked_bytes_per_parameter": masked / parameters,
        "all_other_bytes_of_one_client": other,
        "all_other_share_of_payload": other / masked,
    }


def main() -> None:
    """The command line."""
    options = parser(
        __doc__, clients=[10, 50, 100], dropped=[0.0, 0.2], parameters=1_000_000, repeats=3
    ).parse_args()
    table = Table(
        clients="clients", neighbours="neighbours", threshold="threshold", dropped="dropped",
        client_ours=("client", ".1f", " ms"), client_ratio=("against flwr", ".1f", "x"),
        client_of_limit=("of the limit", ".0%"), server_ours=("server", ".0f", " ms"),
        server_ratio=("against flwr", ".0f", "x"), server_of_limit=("of the limit", ".0%"),
        server_wall_1_thread=("server's wall, 1 thread", ".0f", " ms"),
        server_wall_2_threads=("2 threads", ".0f", " ms"),
        client_agree_and_unmask=("agree, unmask", ".1f", " ms"),
    )  # fmt: skip
    for count in options.clients:
        for fraction in options.dropped:
            table.row(compare(count, fraction, options.parameters, options.repeats))
    wire = wire_bytes(options.parameters)
    print("\n100 clients, 20 bits:", ", ".join(f"{key} {value:.4g}" for key, value in wire.items()))
    write(options.json, {"rows": table.rows, "wire_at_20_bits": wire})


if __name__ == "__main__":
    main()
