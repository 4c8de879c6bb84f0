"""What one sample adds to the sum never exceeds the sensitivity, whatever it holds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlearn.training.dp import ClippedGradients
from fedlearn.training.dp.contribution import ghost_squared_norms, outer_squared_norms
from tests.effort import examples, slow_but, thinned
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import CASES, Case, build, draw, losses_of, small_cnn

BY_NAME = {case.name: case for case in CASES}
GHOSTS = (
    "linear",
    "linear on short sequences",
    "conv, ghost way",
    "conv1d, ghost way",
    "embedding",
    "small CNN",
    "transformer",
)


def _one(case: Case, seed: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return build(case, generator, dtype), draw(case, 1, generator)


@pytest.mark.parametrize("name", GHOSTS)
@settings(max_examples=examples(25), deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    input_power=st.floats(-30, 30),
    loss_power=st.floats(-30, 30),
    bound=st.sampled_from([1e-6, 0.1, 1.0, 1e4]),
)
def test_bound__holds_at_any_scale(
    name: str, seed: int, input_power: float, loss_power: float, bound: float
) -> None:
    case = BY_NAME[name]
    model, x = _one(case, seed, torch.float32)
    x = x if case.ids else x * 10.0**input_power
    engine = ClippedGradients(model, clip_norm=bound)
    clipped = engine.step(lambda: losses_of(model(x)) * 10.0**loss_power)
    assert oracle.norm(clipped.sums) <= engine.sensitivity


@pytest.mark.parametrize("cancelled", [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("length", [2, 16, 100])
def test_bound__holds_where_the_terms_of_a_ghost_norm_cancel(cancelled: float, length: int) -> None:
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(300, 200, bias=False)
    x = torch.randn(1, 1, 300, generator=generator).expand(20, length, 300).clone()
    x += cancelled * torch.randn(x.shape, generator=generator)
    pull = torch.randn(20, length, 200, generator=generator)
    pull -= pull.mean(1, keepdim=True)
    engine = ClippedGradients(model, clip_norm=1e-3)
    for one, back in zip(x.split(1), pull.split(1), strict=True):
        clipped = engine.step(lambda one=one, back=back: (model(one) * back).sum((1, 2)))  # type: ignore[misc]
        assert oracle.norm(clipped.sums) <= engine.sensitivity


def _added_one_by_one(rows: Tensor) -> Tensor:
    """The Gram matrices of `rows: float32[batch, length, width]`, as a GPU's threads add them up:
    one product after another, each sum rounded."""
    gram = torch.zeros(*rows.shape[:2], rows.shape[1])
    for column in rows.double().unbind(2):  # where a product of two is exact
        gram = (gram.double() + column.unsqueeze(2) * column.unsqueeze(1)).float()
    return gram


@pytest.mark.parametrize("cancelled", [1e-3, 3e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("widths", [(64, 64), (384, 384), (1536, 384)])
def test_ghost_norm__covers_products_that_are_added_up_one_by_one(
    widths: tuple[int, int], cancelled: float
) -> None:
    generator = torch.Generator().manual_seed(6)
    x = 1 + torch.randn(40, 1, widths[0], generator=generator).expand(40, 2, widths[0])
    x = x + cancelled * torch.randn(x.shape, generator=generator)
    g = torch.randn(40, 2, widths[1], generator=generator)
    g = g - g.mean(1, keepdim=True)
    true = torch.bmm(g.double().transpose(1, 2), x.double()).flatten(1).norm(dim=1)
    found = ghost_squared_norms(_added_one_by_one(x), _added_one_by_one(g), widths).double().sqrt()
    assert (true / found).max() <= 1 + 1e-6  # clipping keeps 3.8e-6 from its bound


@pytest.mark.parametrize("both", [1.0, 2.0])
@pytest.mark.parametrize(
    ("widths", "chain"), [((1, 1), 1), ((4, 8), 1), ((128, 4), 4), ((4, 128), 4), ((8, 2048), 16)]
)
def test_ghost_norm__has_its_margin_where_all_terms_cancel(
    widths: tuple[int, int], chain: float, both: float
) -> None:
    """Four units over the length of two, times the root of the wider side over 8: no less."""
    x = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    g = torch.tensor([[[1.0, both], [both, 1.0]]])  # the sum of products is 0, or -2 by rounding
    found = ghost_squared_norms(x, g, widths)
    assert float(found) == pytest.approx(4 * 4 / 2 * chain * 2.0**-23, rel=1e-6)


@pytest.mark.parametrize("small", [0, 1])
def test_squared_norms__cover_squares_that_are_lost_to_underflow(small: int) -> None:
    """Squares of 1e-24 are nothing in float32; times those of 1e16 they are a gradient."""
    sides = [torch.full((1, 10), 1e-24), torch.full((1, 7), 1e16)]
    x, g = sides[small], sides[1 - small]
    true = 10 * 1e-48 * 7 * 1e32
    widths = x.shape[1], g.shape[1]
    for found in (outer_squared_norms(x, g), ghost_squared_norms(_gram(x), _gram(g), widths)):
        assert true <= float(found) < 1e4


def _gram(rows: Tensor) -> Tensor:
    """Of one row: `float[1, width]` to `float[1, 1, 1]`."""
    return (rows @ rows.T)[None]


@pytest.mark.slow
def test_bound__holds_for_gradients_of_millions_of_numbers() -> None:
    """torch's own norm of such a gradient is 1.5e-5 too small."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Linear(1500, 1500, bias=False)
    x = torch.randn(1, 800, 1500, generator=generator)
    pull = torch.randn(1, 800, 1500, generator=generator)
    engine = ClippedGradients(model, clip_norm=1.0)
    clipped = engine.step(lambda: (model(x) * pull).sum((1, 2)))
    found = float(clipped.sums["weight"].double().norm())
    assert 1 - 1e-5 < found <= engine.sensitivity


@pytest.mark.parametrize("name", GHOSTS)
def test_bound__holds_for_the_rounded_gradients_of_bfloat16(name: str) -> None:
    case = BY_NAME[name]
    for seed in range(10):
        model, x = _one(case, seed, torch.float32)
        engine = ClippedGradients(model, clip_norm=0.01)

        def losses(model: nn.Module = model, x: Tensor = x) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return losses_of(model(x)).float()

        clipped = engine.step(losses)
        assert all(value.dtype == torch.float64 for value in clipped.sums.values())
        assert oracle.norm(clipped.sums) <= engine.sensitivity
        # Not by clipping to nothing: the bound is met to rounding.
        assert oracle.norm(clipped.sums) >= 0.9999 * min(0.01, float(clipped.norms[0]))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("case", thinned(CASES), ids=lambda case: case.name)
def test_bound__holds_for_a_model_in_bfloat16(case: Case) -> None:
    for seed in range(2):
        model, x = _one(case, seed, torch.float32)
        model, x = model.bfloat16(), x if case.ids else x.bfloat16()
        engine = ClippedGradients(model, clip_norm=0.01)
        clipped = engine.step(lambda model=model, x=x: losses_of(model(x), case.axis).float())  # type: ignore[misc]
        assert {value.dtype for value in clipped.sums.values()} == {torch.float64}
        assert oracle.norm(clipped.sums) <= engine.sensitivity
        assert oracle.norm(clipped.sums) >= 0.9999 * min(0.01, float(clipped.norms[0]))


def test_bound__bfloat16_sums_stay_near_single_precision() -> None:
    case = BY_NAME["transformer"]
    generator = torch.Generator().manual_seed(5)
    model, x = build(case, generator, torch.float32), draw(case, 16, generator)
    engine = ClippedGradients(model, clip_norm=1.0)
    exact = engine.step(lambda: losses_of(model(x)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = engine.step(lambda: losses_of(model(x)).float())
    assert oracle.difference(rounded.sums, exact.sums) < 0.05


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(
    "poison", slow_but((math.nan, 1e38).__contains__, [math.inf, -math.inf, math.nan, 1e38])
)
@pytest.mark.parametrize(
    "name", thinned(c.name for c in CASES if not c.ids and c.axis == 0 and c.name != "attention")
)
def test_bound__a_sample_that_is_not_finite_adds_nothing(name: str, poison: float) -> None:
    case = BY_NAME[name]
    generator = torch.Generator().manual_seed(11)
    model, x = build(case, generator, torch.float32), draw(case, 4, generator)
    engine = ClippedGradients(model, clip_norm=0.5)
    others = engine.step(lambda: losses_of(model(x[[0, 1, 3]])))
    x[2] = poison
    clipped = engine.step(lambda: losses_of(model(x)))
    if bool(clipped.dropped[2]):
        assert clipped.dropped.tolist() == [False, False, True, False]
        assert oracle.difference(clipped.sums, others.sums) < 1e-5
    else:  # a layer may squash what is huge; then the sample is clipped like any other
        added = {k: clipped.sums[k].double() - others.sums[k].double() for k in others.sums}
        assert math.isfinite(poison)
        assert oracle.norm(added) <= engine.sensitivity * (1 + 1e-5)


def test_bound__adding_a_sample_moves_the_sum_by_at_most_the_sensitivity() -> None:
    generator = torch.Generator().manual_seed(2)
    model = small_cnn()
    x = torch.randn(33, 1, 10, 10, generator=generator)
    engine = ClippedGradients(model, clip_norm=0.1)
    whole = engine.step(lambda: losses_of(model(x))).sums
    for left_out in range(0, 33, 8):
        rest = torch.arange(33) != left_out
        without = engine.step(lambda rest=rest: losses_of(model(x[rest]))).sums  # type: ignore[misc]
        moved = {k: whole[k].double() - without[k].double() for k in whole}
        assert oracle.norm(moved) <= engine.sensitivity * (1 + 1e-6)


ADDED = {
    "linear": (nn.Linear(2, 2), torch.ones(512, 2)),
    "linear, over positions": (nn.Linear(40, 40), torch.ones(512, 1, 40)),
    "convolution, written out": (nn.Conv2d(1, 1, 1), torch.ones(512, 1, 2, 2)),
    "convolution, by factors": (nn.Conv2d(8, 8, 1), torch.ones(512, 8, 1, 1)),
    "embedding": (nn.Embedding(1, 2), torch.zeros(512, 1, dtype=torch.int64)),
    "norm": (nn.LayerNorm(2), torch.tensor([[-1.0, 1.0]]).repeat(512, 1)),
}


@pytest.mark.parametrize("name", ADDED)
def test_bound__nobody_changes_how_others_are_rounded(name: str) -> None:
    """In float32 the small ones are lost after the large ones and count before them."""
    model, x = ADDED[name]
    pull = torch.cat([torch.ones(256), torch.full((256,), 2.0**-16)])
    engine = ClippedGradients(model, clip_norm=1e3, trial=False)

    def total(pull: Tensor) -> dict[str, Tensor]:
        found = engine.step(lambda: model(x).flatten(1).sum(1) * pull)
        return {name: value.double() for name, value in found.sums.items()}

    one, other = total(pull), total(pull.roll(-1))
    assert max(float(value.abs().max()) for value in one.values()) > 250
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-9)
