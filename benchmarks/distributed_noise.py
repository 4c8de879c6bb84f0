"""What integer noise in shares costs beside central Gaussian noise, at equal epsilon.

For every number of bits, shape of input and budget: the mean squared error of
the decoded sum over the variance of the central Gaussian (calibrated by the
same accountant), the worst coordinate in deviations, and the time of encoding.
Then the speed of the samplers. Prints one JSON object.

    python benchmarks/distributed_noise.py > distributed_noise.json
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import numpy as np

from fedlearn.core.errors import ConfigError
from fedlearn.mechanisms import DistributedPlan, DistributedPrivacy, Population, derive
from fedlearn.mechanisms.encoding import decode, encode
from fedlearn.privacy import SystemNoise
from fedlearn.privacy.calibration import noise_multiplier
from fedlearn.privacy.discrete import Law, integer_noise
from fedlearn.privacy.rotation import padded

SITES, DIMENSION, DELTA = 20, 100_000, 1e-5


@dataclass(frozen=True, kw_only=True)
class Point:
    """One budget at one number of bits."""

    law: Law
    bits: int
    epsilon: float
    rounds: int


def inputs(kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Updates of norm one: alike, of layers with very different scales, or with one coordinate."""
    if kind == "one-hot":
        return [np.eye(1, DIMENSION, 7)[0]] * SITES
    scale = np.ones(DIMENSION)
    if kind == "layers":
        scale = np.repeat(10.0 ** rng.uniform(-2, 1, 50), DIMENSION // 50)
    common = rng.normal(size=DIMENSION)
    drawn = [scale * (common + rng.normal(size=DIMENSION)) for _ in range(SITES)]
    return [vector / np.linalg.norm(vector) for vector in drawn]


def plan_of(point: Point) -> DistributedPlan:
    """The client-level plan of a point, without colluders, as the central Gaussian has none."""
    plan = derive(
        DistributedPrivacy(
            unit="client", mechanism=point.law, epsilon=point.epsilon, delta=DELTA,
            clip_norm=1.0, bits=point.bits, max_colluders=0,
        ),
        sample_rate=1.0, steps_per_round=1, rounds=point.rounds,
        population=Population(num_clients=SITES, dimension=DIMENSION, records_per_step=1.0),
    )  # fmt: skip
    assert isinstance(plan, DistributedPlan)
    return plan


def measure(point: Point, rng: np.random.Generator) -> dict[str, object]:
    """Errors and times of one point, over all shapes of input."""
    try:
        plan = plan_of(point)
    except ConfigError as error:
        return {"refused": str(error)}
    central = noise_multiplier(point.epsilon, DELTA, 1.0, point.rounds)
    found: dict[str, object] = {"epsilon": plan.epsilon, "share_stddev": plan.share_stddev}
    for kind in ("alike", "layers", "one-hot"):
        updates, started = inputs(kind, rng), time.process_time()
        total = np.zeros(padded(DIMENSION), np.uint64)
        for update in updates:
            total += encode(plan, update, context=b"bench", stream=SystemNoise().stream())
        seconds = (time.process_time() - started) / SITES
        error = decode(plan, total, context=b"bench") - np.sum(updates, axis=0)
        found[kind] = {
            "mse_over_central": round(float(np.mean(error**2)) / central**2, 4),
            "worst_coordinate_stddevs": round(float(np.abs(error).max()) / central, 2),
            "encode_cpu_seconds": round(seconds, 4),
        }
    return found


def speeds() -> dict[str, float]:
    """Million draws per CPU second; tables are made beforehand."""
    stream, found = SystemNoise().stream(), {}
    for law in ("discrete_gaussian", "skellam"):
        for stddev in (50, 5_000, 40_000):
            noise = integer_noise(law, stddev)
            started = time.process_time()
            noise.draw(4_000_000, stream)
            found[f"{law} table, stddev {stddev}"] = 4 / (time.process_time() - started)
    return {name: round(rate, 1) for name, rate in found.items()}


def main() -> None:
    """Measure everything and print it."""
    rng = np.random.default_rng(0)
    points = [
        Point(law=law, bits=bits, epsilon=epsilon, rounds=rounds)
        for epsilon, rounds in ((1.0, 1), (4.0, 1), (10.0, 100))
        for bits in (12, 16, 20)
        for law in ("discrete_gaussian", "skellam")
    ]
    report = [vars(point) | measure(point, rng) for point in points]
    json.dump({"points": report, "million_draws_per_cpu_second": speeds()}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
