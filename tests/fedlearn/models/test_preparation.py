"""Images reach a folder's model as its preprocessor_config.json says, or it is refused by name."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedlearn.models.encoder_stages import Prepared
from fedlearn.models.preparation import preparation_of, unprepared
from fedlearn.tasks import ImageInput
from tests.encoders import prepared

ABOUT = {"image_size": 8, "patch_size": 4, "num_channels": 3}


@pytest.mark.parametrize("sides", [(8, 8), (23, 17), (5, 6)], ids=str)
@pytest.mark.parametrize(
    ("resample", "mode"), [(2, Image.Resampling.BILINEAR), (3, Image.Resampling.BICUBIC)]
)
def test_prepared__is_what_pillow_makes_of_it(
    sides: tuple[int, int], resample: int, mode: Any
) -> None:
    rng = np.random.default_rng(0)
    # Away from the ends: Pillow cuts what a cubic overshoots between its two passes.
    pixels = rng.integers(70, 186, (*sides, 3)).astype(np.uint8)
    stated = prepared(resample=resample)
    images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    found = Prepared(preparation_of(stated, ABOUT))(images)
    resized = np.asarray(Image.fromarray(pixels).resize((8, 8), mode), np.float64) / 255
    expected = (resized - stated["image_mean"]) / np.array(stated["image_std"])
    apart = np.abs(found[0].permute(1, 2, 0).numpy() - expected) * stated["image_std"]
    assert apart.max() <= 1.01 / 255  # Pillow rounds to whole numbers, twice


@pytest.mark.skipif(not find_spec("transformers"), reason="needs fedlearn[text]")
@pytest.mark.slow
@pytest.mark.parametrize(
    "stated",
    [{}, {"do_normalize": False}, {"do_rescale": False, "image_mean": [120] * 3},
     {"rescale_factor": 0.01}],
    ids=str,
)  # fmt: skip
def test_prepared__is_what_transformers_makes_of_it(stated: dict[str, Any]) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    asked = prepared(**stated)
    theirs = ViTImageProcessorPil(**asked)(Image.fromarray(pixels), return_tensors="np")
    images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    found = Prepared(preparation_of(asked, ABOUT))(images)
    np.testing.assert_allclose(found.numpy(), theirs["pixel_values"], rtol=1e-4, atol=1e-4)


def test_prepared__makes_colour_of_grey_and_nothing_of_no_images() -> None:
    made = Prepared(preparation_of(prepared(image_mean=0.0, image_std=1.0), ABOUT))
    grey = torch.rand(2, 1, 8, 8)
    assert torch.equal(made(grey), grey.expand(2, 3, 8, 8))
    assert made(torch.rand(0, 1, 5, 5)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("stated", "about", "image", "problem"),
    [
        ({}, {}, {}, None),
        ({"image_mean": 0.5, "size": 8}, {}, {"channels": 1}, None),
        ({"do_center_crop": True}, {}, {}, "asks for do_center_crop, which is not done here"),
        ({"do_pad": True}, {}, {}, "asks for do_pad"),
        ({"do_center_crop": False}, {}, {}, None),
        ({"resample": 0}, {}, {}, "resample=0; 2 (bilinear) and 3 (bicubic) are known"),
        ({"size": {"height": 9, "width": 9}}, {}, {}, "sees 8 x 8"),
        ({"size": {"height": 8, "width": 9}}, {}, {}, "sees 8 x 8"),
        ({"size": {"shortest_edge": 8}}, {}, {}, "resizes to {'shortest_edge': 8}"),
        ({"image_std": [0.5, 0.5]}, {}, {}, "not a number for each of 3 channels"),
        ({"image_mean": ["a", 1, 2]}, {}, {}, "not a number for each of 3 channels"),
        ({"image_std": [0.5, 0, 0.5]}, {}, {}, "image_std with a zero"),
        ({"rescale_factor": 0}, {}, {}, "rescale_factor=0"),
        ({"do_resize": False}, {}, {}, "set scenario.size=8"),
        ({"do_resize": False}, {}, {"height": 8, "width": 8}, None),
        ({}, {"image_size": [8, 8]}, {}, "models of square images in square patches are read"),
        ({}, {"patch_size": 16}, {}, "patch_size=16"),
        ({}, {}, {"channels": 4}, "the scenario's have 4"),
        (None, {}, {}, "has no preprocessor_config.json"),
    ],
)
def test_what_cannot_be_done__is_refused_by_name(
    stated: dict[str, Any] | None, about: dict[str, Any], image: dict[str, int], problem: str | None
) -> None:
    form = ImageInput(**({"channels": 3, "height": 10, "width": 10} | image))
    asked = {} if stated is None else prepared(**stated)
    found = list(unprepared("model.folder=x", asked, ABOUT | about, form))
    assert [problem in one for one in found if problem] == [True] * (problem is not None), found
    assert bool(found) == (problem is not None)
