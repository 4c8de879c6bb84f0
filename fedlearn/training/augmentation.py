"""Several random views of every image, whose gradients are averaged before they are clipped.

Under DP-SGD augmentation as usual, one view a step, helps little. With K views a
record's gradient is the mean over all of them, so that it varies less, while one
record still counts once: clip norm, noise and epsilon are the same for every K
(De et al. 2022, "Unlocking High-Accuracy Differentially Private Image
Classification through Scale", section 4: "augmentation multiplicity").

What a view is does not depend on records. Under DP-SGD the draws must be secret
all the same: `fedlearn.training.private` says why, and takes them from its noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedlearn.tasks import ImageInput, Task
from fedlearn.training.device import send
from fedlearn.training.settings import Training


def augmentation_problems(config: Training, task: Task, *, frozen: bool) -> Iterator[str]:
    """Views are of images, and of no use to what is computed once from the image itself."""
    path = f"training.augmentations={config.augmentations}"
    if not config.augmentations:
        return
    if not isinstance(task.input, ImageInput):
        yield f"{path}: are views of images, and the scenario's records are none; set it to 0"
    elif frozen:
        yield (
            f"{path}: the frozen part of the model is computed once for every image; set it to "
            "0, or train a whole model (training.finetune=full)"
        )
    elif config.shifts >= min(task.input.height, task.input.width):
        yield (
            f"training.shifts={config.shifts}: must be less than the side of an image of "
            f"{task.input.height} x {task.input.width}"
        )


def views(images: Tensor, config: Training, rng: np.random.Generator) -> list[Tensor]:
    """`config.augmentations` random views of `images: [n, channels, height, width]`; same shape.

    A view is shifted by up to `config.shifts` pixels in each direction, what comes
    in is the mirror image of what is beside it, and mirrored at its middle in half
    of all cases where `config.flips` allows it. Without augmentations, or for
    records that are no images, the records as they are.
    """
    if not config.augmentations or images.dim() != 4:
        return [images]
    return [_view(images, config, rng) for _ in range(config.augmentations)]


def _view(images: Tensor, config: Training, rng: np.random.Generator) -> Tensor:
    count, most = len(images), config.shifts
    shifted = _shifted(images, rng.integers(0, 2 * most + 1, (2, count)), most) if most else images
    if not config.flips:
        return shifted
    turned = send(torch.from_numpy(rng.random(count) < 0.5), images.device)
    return torch.where(turned[:, None, None, None], shifted.flip(-1), shifted)


def _shifted(images: Tensor, offsets: np.ndarray, most: int) -> Tensor:
    """Each image cut out of itself with a rim of `most` pixels, from its own corner."""
    height, width = images.shape[-2:]
    wide = functional.pad(images, (most, most, most, most), mode="reflect")
    device = images.device
    down, right = send(torch.from_numpy(offsets), device)
    rows = (down[:, None] + torch.arange(height, device=device))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width, device=device))[:, None, None, :]
    own = torch.arange(len(images), device=device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=device)[None, :, None, None]
    return wide[own, channels, rows, columns]
