"""From the change of a model back to the records that it was trained on, and how alike they are.

Both attacks read the first layer of a network whose first layer is linear with
a bias, followed by ReLU. For one record x, the gradient of row i of the weights
is d_i x and that of the bias is d_i: their ratio is the record, exactly
(Phong et al. 2017, "Privacy-preserving deep learning", section 3; Geiping et
al. 2020, "Inverting gradients", proposition 3.1). A step of plain SGD is that
gradient times a number, which the ratio does not see.

- `invert` is for a coordinator that keeps to the protocol. On a sum over
  several records it finds mixtures; under noise it falls back on the direction
  that all rows have in common.
- `planted` and `harvest` are for one that chooses the weights (Fowl et al. 2022,
  "Robbing the Fed"): all rows ask one question about a record, with rising
  thresholds, and everything behind them is equal. Then the difference of two
  neighbouring rows holds the one record whose answer lies between their
  thresholds, however many are summed.

Not here: attacks that search for an input by optimisation (convolutions,
Transformers); they take minutes, and their failure would prove nothing.

How alike two images are is measured three ways, all for values in [0, 1]. `psnr` and `ssim`
are what papers report (Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from
error visibility to structural similarity", equation 13, with the uniform window and the
unbiased covariances that are usual in software). Neither says whether a person was
recognised: images of one kind are alike (the mean of all scans looks like every scan). So
`place` asks what an attacker would ask: who of a line-up is it?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fedlearn.core.vector import Layout, Vector

Candidates = NDArray[np.float64]
"""Records that an attacker believes in, `[k, d]`, values cut to [0, 1]; k may be 0."""

Floats = NDArray[np.floating]
"""One image, `[height, width, channels]`."""

MOST_DECIBELS: Final = 100.0
"""What `psnr` says of images that are equal to five digits."""

WINDOW: Final = 7
_C1, _C2 = 0.01**2, 0.03**2

FIRST: Final = "body.0"
HEAD: Final = "head"
"""The names of the layers of a `tabular` model of the architecture `mlp` with `norm=none`."""

_ROWS: Final = 8
"""Rows that `invert` tries by themselves."""

_HEAD_SCALE: Final = 1.0
"""Large, so that what flows back is large beside the steps that secure aggregation rounds to."""


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """What a change says about the first layer: `weight: [h, d]` and `bias: [h]`."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def of(cls, layout: Layout, change: Vector) -> FirstLayer:
        """The part of a change of the whole model."""
        parts = layout.split(change)
        return cls(
            parts[f"{FIRST}.weight"].astype(np.float64), parts[f"{FIRST}.bias"].astype(np.float64)
        )


def invert(change: FirstLayer) -> Candidates:
    """What a coordinator that has sent honest weights makes of a change.

    Row by row where the bias has moved most, the least-squares solution over all
    rows, and the first right singular vector (for one record under noise the best
    guess there is), in either sign and stretched to [0, 1].
    """
    weight, bias = change.weight, change.bias
    rows = [i for i in np.argsort(-np.abs(bias))[:_ROWS] if bias[i]]
    found = [weight[i] / bias[i] for i in rows]
    if rows:
        found.append(weight.T @ bias / (bias @ bias))
    common = _common_direction(weight)
    found += [_stretched(common), _stretched(-common)]
    return np.asarray(np.clip(found, 0.0, 1.0))


def planted(layout: Layout, model: Vector, question: Vector, public: NDArray[np.float32]) -> Vector:
    """`model` with weights that sort records by their answer to `question: [d]`.

    `public: [n, d]` are records like those of the sites; the thresholds are the
    quantiles of their answers, so that every row catches about as many.
    """
    vector = model.copy()
    parts = layout.split(vector)  # views: what is written here is written into `vector`
    rows = parts[f"{FIRST}.weight"]
    width, classes = len(rows), len(parts[f"{HEAD}.bias"])
    answers = public.astype(np.float64) @ question
    thresholds = np.quantile(answers, (np.arange(width) + 0.5) / width)
    # So small that the predictions stay undecided: a sure one would send nothing back.
    scale = 1 / (width * float(np.std(answers)) * _HEAD_SCALE)
    rows[:] = scale * question
    parts[f"{FIRST}.bias"][:] = -scale * thresholds
    parts[f"{HEAD}.weight"][:] = _HEAD_SCALE * np.linspace(-1, 1, classes)[:, None]
    parts[f"{HEAD}.bias"][:] = 0.0
    return vector


def harvest(change: FirstLayer) -> Candidates:
    """The records that the planted weights have sorted out: one for every pair of rows."""
    width = change.weight.shape[1]
    weight = np.vstack([change.weight, np.zeros((1, width))])  # nobody is above the last one
    bias = np.append(change.bias, 0.0)
    steps, records = bias[:-1] - bias[1:], weight[:-1] - weight[1:]
    caught = steps != 0
    return np.asarray(np.clip(records[caught] / steps[caught, None], 0.0, 1.0))


def _common_direction(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first right singular vector: `[d]`, by way of the smaller of the two Gram matrices."""
    if weight.shape[0] >= weight.shape[1]:
        return np.asarray(np.linalg.eigh(weight.T @ weight)[1][:, -1])
    return np.asarray(weight.T @ np.linalg.eigh(weight @ weight.T)[1][:, -1])


def _stretched(record: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = record.min(), record.max()
    return (record - low) / (high - low) if high > low else np.zeros_like(record)


# --- how alike two images are ---------------------------------------------------------------


def psnr(original: Floats, image: Floats) -> float:
    """Peak signal-to-noise ratio in decibels: `-10 log10` of the mean squared error.

    At most `MOST_DECIBELS`, so that it stays a number when nothing differs.
    """
    error = float(np.mean((original.astype(np.float64) - image) ** 2))
    return float(-10 * np.log10(max(error, 10 ** (-MOST_DECIBELS / 10))))


def ssim(original: Floats, image: Floats) -> float:
    """Structural similarity: 1 for equal images, near 0 for unrelated ones.

    The mean over all windows of 7 x 7 pixels that lie inside, and over the channels.

    Raises:
        ValueError: a side is shorter than the window.
    """
    a, b = _windows(original), _windows(image)
    mean_a, mean_b = a.mean(-1), b.mean(-1)
    var_a, var_b = a.var(-1, ddof=1), b.var(-1, ddof=1)
    centred = (a - mean_a[..., None]) * (b - mean_b[..., None])
    covariance = centred.sum(-1) / (a.shape[-1] - 1)
    light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    return float((light * structure).mean())


def place(original: Floats, image: Floats, line_up: Floats) -> int:
    """Of `line_up: [n, height, width, channels]`, how many are nearer to `image`, plus one.

    One means that the attacker would point at the right one. The original is in
    the line-up; equal copies of it do not count against it.
    """
    distances = _squared_distances(line_up, image)
    own = _squared_distances(original[None], image)[0]
    return 1 + int(np.count_nonzero(distances < own * (1 - 1e-9)))


def _squared_distances(images: Floats, image: Floats) -> Floats:
    differences = (images.astype(np.float64) - image).reshape(len(images), -1)
    return np.asarray((differences**2).sum(1))


def _windows(image: Floats) -> Floats:
    """`[rows, columns, channels, WINDOW^2]`."""
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"an image of {image.shape[:2]}: shorter than {WINDOW} pixels")
    seen = sliding_window_view(image.astype(np.float64), (WINDOW, WINDOW), axis=(0, 1))
    return seen.reshape(*seen.shape[:3], WINDOW * WINDOW)
