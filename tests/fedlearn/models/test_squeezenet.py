"""The pinned weights of SqueezeNet: what they are, and that nothing else is taken for them."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  (to make what is read here)
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedlearn import models
from fedlearn.core.errors import DataError
from fedlearn.core.rng import Streams
from fedlearn.core.vector import layout_of
from fedlearn.data.datasets import archives
from fedlearn.models.cnn import Cnn
from fedlearn.models.finetune import Finetune
from fedlearn.models.squeezenet import SqueezeNet, _converted, _picked, digest, squeezenet
from fedlearn.tasks import ClassificationTask, ImageInput

TASK = ClassificationTask(
    input=ImageInput(channels=3, height=28, width=28), classes=("a", "b", "c")
)
CONFIG = SqueezeNet(pretrained=True, resolution=64, modules=8)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the archive and nothing made from it."""
    archive = archives.ARCHIVES["squeezenet"]
    try:
        path = archives.fetch(archive, archives.default_cache(os.environ))
    except DataError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(f"the squeezenet archive is neither cached nor to be had: {error}")
    folder = tmp_path_factory.mktemp("cache")
    linked = archives.cached_path(archive, folder)
    linked.parent.mkdir(parents=True)
    linked.symlink_to(path)
    return folder


@pytest.mark.slow
def test_squeezenet__has_the_parameters_of_the_paper(cache: Path) -> None:
    found = squeezenet(cache)
    # 1,235,496 in torchvision's squeezenet1_1, of which 513,000 are the classifier.
    assert sum(w.numel() for w in found.values()) == 1_235_496 - 513_000


@pytest.mark.slow
def test_squeezenet__is_kept_as_safetensors_and_made_anew_when_altered(cache: Path) -> None:
    first = digest(squeezenet(cache))
    (path,) = (cache / "weights").iterdir()
    assert path.suffix == ".safetensors"
    content = path.read_bytes()
    for bad in (b"", content[:-1], content[:-4] + b"\0\0\0\1"):
        path.write_bytes(bad)
        assert digest(squeezenet(cache)) == first
        assert path.read_bytes() == content


@pytest.mark.slow
def test_squeezenet__sees_edges_as_a_trained_network_does(cache: Path) -> None:
    """Trained first layers answer to contrast and colour: to an even grey hardly at all."""
    weights = squeezenet(cache)
    stem = weights["stem.0.weight"]
    even = stem.sum((1, 2, 3)).abs()
    apart = stem.abs().sum((1, 2, 3))
    assert (even / apart).median() < 0.2


@pytest.mark.slow
def test_weights_of__a_shorter_network_are_the_beginning_of_the_whole(cache: Path) -> None:
    whole = CONFIG.weights(cache)
    part = SqueezeNet(pretrained=True, resolution=64, modules=3).weights(cache)
    assert {name.split(".")[0] for name in part} == {"stem", "fire2", "fire3", "fire4"}
    assert all(torch.equal(part[name], whole[name]) for name in part)


def test_weights_of__models_that_start_from_nothing_are_none(tmp_path: Path) -> None:
    for config in (
        Cnn(width=4, depth=1, groups=1, dropout=0.0),
        SqueezeNet(pretrained=False, resolution=64, modules=8),
    ):
        assert config.weights(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "last_k"), [("head", 1), ("last_k", 3), ("full", 1)])
def test_build__freezes_the_pretrained_part_and_trains_the_rest(
    cache: Path, mode: str, last_k: int
) -> None:
    weights = CONFIG.weights(cache)
    finetune = Finetune(mode=mode, last_k=last_k)  # type: ignore[arg-type]
    learner = models.build(CONFIG, TASK, Streams(0), finetune, weights)
    sent = {name.split(".")[0] for name, _ in layout_of(learner.model).entries}
    expected = {"head": {"head"}, "last_k": {"fire8", "fire9", "head"}}
    assert sent == expected.get(mode, {name.split(".")[0] for name in weights} | {"head"})
    state = {
        **(learner.frozen.state_dict() if learner.frozen else {}),
        **learner.model.state_dict(),
    }
    for name, values in weights.items():
        assert torch.equal(state[name], values), name
    assert not state["head.weight"].any()


@pytest.mark.slow
def test_build__takes_no_weights_but_those_of_the_model(cache: Path) -> None:
    weights = dict(CONFIG.weights(cache))
    with pytest.raises(ValueError, match="no layer of the model: strange"):
        models.build(CONFIG, TASK, Streams(0), weights=weights | {"strange": torch.zeros(1)})
    del weights["fire9.expand3.bias"]
    with pytest.raises(ValueError, match=r"no weights for fire9\.expand3\.bias"):
        models.build(CONFIG, TASK, Streams(0), weights=weights)
    with pytest.raises(ValueError, match=r"no weights for stem\.0\.weight"):
        models.build(CONFIG, TASK, Streams(0))


@pytest.mark.slow
def test_features__tell_textures_apart_that_brightness_does_not(cache: Path) -> None:
    """Pictures of one mean, in stripes that stand or lie: frozen features alone must do."""
    weights = CONFIG.weights(cache)
    frozen = models.build(CONFIG, TASK, Streams(0), Finetune(mode="head"), weights).frozen
    assert frozen is not None
    rng = np.random.default_rng(0)
    wave = 0.5 + 0.4 * np.sin(np.arange(28) * 1.3)
    standing = np.tile(wave, (20, 3, 28, 1)) + rng.normal(0, 0.02, (20, 3, 28, 28))
    lying = standing.transpose(0, 1, 3, 2)
    with torch.no_grad():
        one, other = (frozen(torch.from_numpy(x.copy()).float()) for x in (standing, lying))
    apart = (one.mean(0) - other.mean(0)).norm()
    spread = max((one - one.mean(0)).norm(dim=1).max(), (other - other.mean(0)).norm(dim=1).max())
    assert apart > 3 * spread


# --- out of a pickle ------------------------------------------------------------------


class Loud:
    """Would print when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_weights__are_picked_out_of_a_pickle_as_numpy_wrote_them() -> None:
    rng = np.random.default_rng(0)
    layers = {
        layer: [rng.normal(size=shape).astype("<f4"), rng.normal(size=shape[-1]).astype("<f4")]
        for layer, shape in (("conv1", (3, 3, 3, 8)), ("fire2/expand3x3", (3, 3, 8, 4)),
                             ("conv10", (1, 1, 4, 2)))
    }  # fmt: skip
    found = dict(_picked(pickle.dumps(layers, protocol=3)))
    assert list(found) == [
        *("stem.0.weight", "stem.0.bias"),
        *("fire2.expand3.weight", "fire2.expand3.bias"),
    ]
    for name, (weight, bias) in zip(("stem.0", "fire2.expand3"), layers.values(), strict=False):
        np.testing.assert_array_equal(found[f"{name}.weight"], weight.transpose(3, 2, 0, 1))
        np.testing.assert_array_equal(found[f"{name}.bias"], bias)


def test_weights__out_of_a_pickle_run_nothing_and_are_refused_by_their_hash(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(DataError, match=r"SHA-256 .* after conversion"):
        _converted(pickle.dumps({"conv1": Loud()}, protocol=3).replace(b"conv1", b"other"))
    assert capsys.readouterr().out == ""
