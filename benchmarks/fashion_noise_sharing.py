"""What sharing the noise is worth: Fashion-MNIST, ten sites, record-level privacy.

Three runs of the same DP-SGD on a linear head differ only in who adds noise:
`curator` (all records in one place), `local` (each site adds all of it), and
`distributed` (each site adds a share of integer noise to its encoded sum, through
`fedlearn.mechanisms.encoding`, and only the modular sum is decoded). Masks are left
out: they change no sum.

Features: two orders of a scattering transform (Bruna and Mallat 2013; J = 2, 8
angles, 81 channels of 7 x 7), normalised per record in 27 groups, as in Tramer and
Boneh 2021, "Differentially Private Learning Needs Better Features".

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb data
    python benchmarks/fashion_noise_sharing.py --data data/usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedlearn.mechanisms import DistributedPlan, DistributedPrivacy, Population, derive
from fedlearn.mechanisms.encoding import decode, encode
from fedlearn.privacy import SystemNoise
from fedlearn.privacy.calibration import noise_multiplier

CLASSES, PADDING, SIDE, ANGLES = 10, 6, 40, 8


@dataclass(frozen=True, kw_only=True)
class Study:
    """The settings of all three runs."""

    epsilon: float = 3.0
    delta: float = 1e-5
    sites: int = 10
    sample_rate: float = 8192 / 60000
    steps: int = 292
    clip_norm: float = 0.1
    learning_rate: float = 16.0
    momentum: float = 0.9
    average: float = 0.95
    bits: int = 20
    max_colluders: int = 1


# --- features -------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """An array in LeCun's IDX format, gzipped."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def wavelet(scale: float, angle: float, frequency: float, slant: float) -> Tensor:
    """The Fourier transform of a periodic Gabor function: `complex64[SIDE, SIDE]`."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    form = turn @ np.diag([1, slant**2]) @ turn.T / (2 * scale**2)
    grid = np.arange(SIDE)
    total = np.zeros((SIDE, SIDE), complex)
    for dx in (-2, -1, 0, 1, 2):
        for dy in (-2, -1, 0, 1, 2):
            x, y = np.meshgrid(grid + dx * SIDE, grid + dy * SIDE, indexing="ij")
            bell = form[0, 0] * x * x + 2 * form[0, 1] * x * y + form[1, 1] * y * y
            wave = frequency * (math.cos(angle) * x + math.sin(angle) * y)
            total += np.exp(-bell + 1j * wave)
    total *= slant / (2 * math.pi * scale**2)
    return torch.from_numpy(np.fft.fft2(total)).to(torch.complex64)


def morlet(level: int, number: int) -> Tensor:
    """A Gabor function less as much of its bell as makes its mean zero."""
    scale, angle = 0.8 * 2**level, (ANGLES // 2 - 1 - number) * math.pi / ANGLES
    slant = 4 / ANGLES
    gabor = wavelet(scale, angle, 3 * math.pi / 4 / 2**level, slant)
    bell = wavelet(scale, angle, 0.0, slant)
    return gabor - bell * (gabor[0, 0] / bell[0, 0])


class Scattering:
    """81 channels of 7 x 7 for images of 28 x 28."""

    def __init__(self) -> None:
        self.low = wavelet(0.8 * 2, 0.0, 0.0, 1.0)
        self.fine = torch.stack([morlet(0, k) for k in range(ANGLES)])
        self.coarse = torch.stack([morlet(1, k) for k in range(ANGLES)])

    def __call__(self, images: Tensor) -> Tensor:
        """`float32[n, 28, 28]` in [0, 1] to `float32[n, 81, 7, 7]`."""
        padded = torch.nn.functional.pad(images[:, None], (PADDING,) * 4, mode="reflect")
        spectrum = torch.fft.fft2(padded)
        fine = torch.fft.fft2(torch.fft.ifft2(spectrum * self.fine).abs())
        coarse = torch.fft.fft2(torch.fft.ifft2(spectrum * self.coarse).abs())
        channels = [self._smooth(spectrum), self._smooth(fine), self._smooth(coarse)]
        for first in range(ANGLES):
            second = torch.fft.ifft2(fine[:, first : first + 1] * self.coarse).abs()
            channels.append(self._smooth(torch.fft.fft2(second)))
        return torch.cat(channels, 1)

    def _smooth(self, spectrum: Tensor) -> Tensor:
        """Low pass and every fourth pixel, by folding the spectrum."""
        n, channels = spectrum.shape[:2]
        folded = (spectrum * self.low).reshape(n, channels, 4, SIDE // 4, 4, SIDE // 4)
        small = torch.fft.ifft2(folded.mean((2, 4))).real
        # Sample 0 of the padded image is -PADDING: the samples at 2, 6, ... of the image.
        return small[:, :, 2:9, 2:9]


def features(path: Path, name: str) -> tuple[Tensor, Tensor]:
    """Features `float32[n, 3969]` and labels `int64[n]` of the set `name`."""
    images = torch.from_numpy(read_idx(path / f"{name}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(read_idx(path / f"{name}-labels-idx1-ubyte.gz").astype(np.int64))
    transform, parts = Scattering(), []
    for start in range(0, len(images), 500):
        scattered = transform(images[start : start + 500].float() / 255)
        parts.append(torch.nn.functional.group_norm(scattered, 27).flatten(1))
    return torch.cat(parts), labels


# --- training -------------------------------------------------------------------


def clipped_sum(weights: Tensor, inputs: Tensor, labels: Tensor, clip_norm: float) -> Tensor:
    """The sum of the gradients of the records, each clipped: `float32[10, 3970]`, bias last."""
    logits = inputs @ weights[:, :-1].T + weights[:, -1]
    error = torch.softmax(logits, 1) - torch.nn.functional.one_hot(labels, CLASSES)
    # A linear layer: the norm of a gradient is that of the error times that of (input, 1).
    norms = error.norm(dim=1) * (inputs.square().sum(1) + 1).sqrt()
    error *= (clip_norm * (1 - 1e-4) / norms.clamp(min=1e-12)).clamp(max=1)[:, None]
    return torch.cat([error.T @ inputs, error.sum(0)[:, None]], 1)


def noisy_sum(sums: list[Tensor], mode: str, study: Study, plan: object, step: int) -> Tensor:
    """What the coordinator gets of the sums of all sites."""
    noise = SystemNoise()
    if mode == "distributed":
        assert isinstance(plan, DistributedPlan)
        context = f"fashion/{step}".encode()
        total = sum(
            encode(plan, part.flatten().numpy(), context=context, stream=noise.stream())
            for part in sums
        )
        decoded = decode(plan, np.asarray(total), context=context)
        return torch.from_numpy(decoded).float().view_as(sums[0])
    assert isinstance(plan, float)
    shares = {"none": 0, "curator": 1, "local": study.sites}[mode]
    total_sum = torch.stack(sums).sum(0)
    stddev = math.sqrt(shares) * plan * study.clip_norm
    return total_sum + torch.from_numpy(noise.normal(total_sum.numel(), stddev)).view_as(total_sum)


def accuracy(weights: Tensor, inputs: Tensor, labels: Tensor) -> float:
    """Share of test records whose class is found."""
    found = (inputs @ weights[:, :-1].T + weights[:, -1]).argmax(1)
    return float((found == labels).float().mean())


def train(mode: str, study: Study, plan: object, data: tuple[Tensor, ...]) -> float:
    """Test accuracy of the averaged head after a run."""
    inputs, labels, test_inputs, test_labels = data
    sites = torch.arange(len(inputs)) % study.sites
    weights = torch.zeros(CLASSES, inputs.shape[1] + 1)
    momentum, averaged = torch.zeros_like(weights), weights.clone()
    divisor = study.sample_rate * len(inputs)
    for step in range(study.steps):
        taken = torch.from_numpy(SystemNoise().bernoulli(len(inputs), study.sample_rate))
        rows = [torch.nonzero(taken & (sites == site)).flatten() for site in range(study.sites)]
        sums = [clipped_sum(weights, inputs[r], labels[r], study.clip_norm) for r in rows]
        momentum.mul_(study.momentum).add_(noisy_sum(sums, mode, study, plan, step) / divisor)
        weights -= study.learning_rate * momentum
        keep = min(study.average, (step + 1) / (step + 10))
        averaged.mul_(keep).add_(weights, alpha=1 - keep)
    return accuracy(averaged, test_inputs, test_labels)


def main() -> None:
    """Run the study and write what it gave as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("fashion_noise_sharing.json"))
    parser.add_argument("--cache", type=Path, help="where to keep the features (.npz)")
    parser.add_argument("--modes", default="none,curator,local,distributed")
    options = parser.parse_args()
    study = Study()
    data = cached_features(options.data, options.cache)
    central = noise_multiplier(study.epsilon, study.delta, study.sample_rate, study.steps)
    plan = shared_plan(study, data[0])
    results = {}
    for mode in options.modes.split(","):
        started = time.monotonic()
        chosen = plan if mode == "distributed" else central
        results[mode] = {
            "accuracy": train(mode, study, chosen, data),
            "seconds": round(time.monotonic() - started, 1),
        }
        print(mode, results[mode], flush=True)
    report = {
        "study": asdict(study),
        "central_noise_multiplier": central,
        "distributed": asdict(plan)
        | {"epsilon": plan.epsilon, "noise_over_central": plan.noise_stddev / central / 0.1},
        "results": results,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def shared_plan(study: Study, inputs: Tensor) -> DistributedPlan:
    """The plan of the `distributed` run."""
    plan = derive(
        DistributedPrivacy(
            epsilon=study.epsilon,
            delta=study.delta,
            clip_norm=study.clip_norm,
            bits=study.bits,
            max_colluders=study.max_colluders,
        ),
        sample_rate=study.sample_rate,
        steps_per_round=1,
        rounds=study.steps,
        population=Population(
            num_clients=study.sites,
            dimension=CLASSES * (inputs.shape[1] + 1),
            records_per_step=study.sample_rate * len(inputs) / study.sites,
        ),
    )
    assert isinstance(plan, DistributedPlan)
    return plan


def cached_features(path: Path, cache: Path | None) -> tuple[Tensor, ...]:
    """Features and labels to train and to test with."""
    if cache and cache.exists():
        with np.load(cache) as stored:
            return tuple(torch.from_numpy(stored[name]) for name in ("x", "y", "xt", "yt"))
    data = (*features(path, "train"), *features(path, "t10k"))
    if cache:
        np.savez(cache, **dict(zip(("x", "y", "xt", "yt"), (t.numpy() for t in data), strict=True)))
    return data


if __name__ == "__main__":
    main()
