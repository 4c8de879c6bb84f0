# ruff: noqa: E501 - one case per line reads as the table it is
"""Models whose clipped sum could be wrong without a sign: each exact, or refused by the trial."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.errors import ConfigError
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.dp.plan import _batch_first
from fedlearn.training.dp.tape import left_alone
from tests.fedlearn.training.dp import oracle
from tests.fedlearn.training.dp.cases import losses_of

BATCH = 6


class Between(nn.Module):
    """Two linear layers with any code between them."""

    def __init__(self, code: Callable[[Between, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.code = nn.Linear(4, 4), nn.Linear(4, 3), code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


class Scaled(nn.Module):
    """A layer without a rule, with arguments that are easily confused."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.w = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    def forward(self, one: Tensor, other: Tensor, scale: float = 1.0) -> Tensor:
        return scale * one * self.v + torch.sin(other) * self.w


class Scales(nn.Module):
    """Calls it in one way or another."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.scaled, self.call = Scaled(), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.scaled, x)


class Remembers(nn.Module):
    """Keeps a mean over all samples that it saw: in place, or by another tensor."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(4, 3), in_place
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        now = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        if self.in_place:
            self.mean.copy_(now)
        else:
            self.mean = now
        return y - now


class Positions(nn.Module):
    """Looks up as many positions as there happen to be samples."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(BATCH, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.unsqueeze(1) + self.table(torch.arange(BATCH))).flatten(1)


def _perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def _hooked(change: Callable[[nn.Sequential], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = _perceptron()
        change(model)
        return model

    return build


def _patched(model: nn.Sequential, *, holds_on: bool) -> None:
    layer = model[0]
    weight, bias = layer.weight, layer.bias

    def forward(x: Tensor) -> Tensor:
        if holds_on:
            return functional.linear(x, 2 * weight, bias)
        return functional.linear(x, 2 * layer.weight, layer.bias)

    layer.forward = forward


EXACT: dict[str, Callable[[], nn.Module]] = {
    "a hook changes the output": _hooked(lambda m: m[0].register_forward_hook(lambda *seen: 2 * seen[2])),
    "a hook changes the input": _hooked(lambda m: m[0].register_forward_pre_hook(lambda _, x: (torch.sin(x[0]),))),
    "a hook changes the gradient at the output": _hooked(lambda m: m[2].register_full_backward_pre_hook(lambda _, g: (3 * g[0],))),
    "a hook changes the gradient at the input": _hooked(lambda m: m[2].register_full_backward_hook(lambda _m, g, _g: (3 * g[0],))),
    "a replaced forward pass": _hooked(lambda m: _patched(m, holds_on=False)),
    "named arguments in another order": lambda: Scales(lambda layer, x: layer(other=torch.cos(x), one=x)),
    "a named number": lambda: Scales(lambda layer, x: layer(x, torch.cos(x), scale=3.0)),
    "a number": lambda: Scales(lambda layer, x: layer(x, torch.cos(x), 3.0)),
    "without a gradient at first": lambda: Between(lambda m, x: m.b(torch.no_grad()(m.a)(x) + x)),
    "the size of a weight": lambda: Between(lambda m, x: m.b(m.a(x)) * m.a.weight.detach().norm()),
    "a view of the output, changed in place": lambda: Between(lambda m, x: _doubled_in_part(m.a(x))),
    "one input for all, expanded": lambda: Between(lambda m, x: m.b(m.a(torch.ones(1, 4, dtype=x.dtype).expand(len(x), 4)) * x)),
    "a mean over tokens without padding": lambda: Between(lambda m, x: _mean_of_positive(m.b(m.a(x.unsqueeze(1) * torch.linspace(-1, 1, 5, dtype=x.dtype).view(5, 1))), x)),
}  # fmt: skip


def _doubled_in_part(y: Tensor) -> Tensor:
    y[:, :2].mul_(2)
    return y


def _mean_of_positive(y: Tensor, x: Tensor) -> Tensor:
    counts = (1 + (x > 0).sum(1)).view(-1, 1, 1)
    kept = torch.arange(y.shape[1]).view(1, -1, 1) < counts
    return (y * kept).sum(1) / counts.squeeze(1)


MIXED = "mixes the batch"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "reversed": (lambda: Between(lambda m, x: m.b(torch.tanh(m.a(x.flip(0))).flip(0))), MIXED),
    "added to the next": (lambda: Between(lambda m, x: m.b(m.a(x) + m.a(x).roll(1, 0))), MIXED),
    "less the mean": (lambda: Between(lambda m, x: m.b(m.a(x) - m.a(x).mean(0))), MIXED),
    "less a mean without gradient": (lambda: Between(lambda m, x: m.b(m.a(x) - m.a(x).detach().mean(0))), MIXED),
    "normalised over the batch": (lambda: Between(lambda m, x: m.b(functional.normalize(m.a(x), dim=0))), MIXED),
    "BatchNorm as a function": (lambda: Between(lambda m, x: m.b(functional.batch_norm(m.a(x), None, None, training=True))), MIXED),
    "as many positions as samples": (Positions, MIXED),
    "a mean kept in place": (lambda: Remembers(in_place=True), "mean: this buffer was changed"),
    "a mean kept anew": (lambda: Remembers(in_place=False), "mean: this buffer was changed"),
    "a hook on a gradient": (_hooked(lambda m: m[0].weight.register_hook(lambda g: 3 * g)), "^0.weight: .* do not add up"),
    "a forward pass that holds on": (_hooked(lambda m: _patched(m, holds_on=True)), "^0.weight: .* do not add up"),
    "a norm over the samples too": (lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm((BATCH, 3))), "the samples' among them"),
    "rows one by one": (lambda: Between(lambda m, x: torch.cat([m.b(m.a(row)) for row in x.split(1)])), "saw 1 rows for 6"),
    "half of the batch": (lambda: Between(lambda m, x: torch.cat([m.b(m.a(x[:3])), m.b(x[3:])])), "saw 3 rows for 6"),
    "one input for all": (lambda: Between(lambda m, x: m.b(m.a(torch.ones(1, 4)) * x)), "saw 1 rows for 6"),
    "a function transform": (lambda: Between(lambda m, x: torch.func.vmap(lambda row: m.b(m.a(row)))(x)), "function transform"),
    "other parameters for a call": (lambda: Between(lambda m, x: torch.func.functional_call(m.a, {"weight": 2 * m.a.weight}, x)), "in the place of its parameters"),
    "a penalty on a weight": (lambda: Between(lambda m, x: m.b(m.a(x)) + m.a.weight.sum()), "a.weight: used outside"),
    "random numbers in a layer without a rule": (lambda: Noisy(), r"Noisy \(Noisy\): its forward pass cannot"),
}  # fmt: skip


class Noisy(nn.Module):
    """A layer without a rule that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x * self.v, 0.5)


def _drawn(build: Callable[[], nn.Module], dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(9)
    model = build().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model, torch.randn(BATCH, 4, generator=generator).to(dtype)


@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
def test_trial__passes_what_is_exact(build: Callable[[], nn.Module]) -> None:
    model, x = _drawn(build, torch.float64)
    found = ClippedGradients(model, clip_norm=0.5).step(lambda: losses_of(model(x)))
    truth = oracle.clipped_sum(oracle.gradients(model, losses_of, x), 0.5)
    assert oracle.difference(found.sums, truth) < 1e-12


@pytest.mark.parametrize(("build", "says"), REFUSED.values(), ids=REFUSED)
def test_trial__refuses_what_would_be_wrong(build: Callable[[], nn.Module], says: str) -> None:
    model, x = _drawn(build, torch.float32)
    with pytest.raises(ValueError, match=says):
        ClippedGradients(model, clip_norm=0.5).step(lambda: losses_of(model(x)))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mix", ["added to the next", "less the mean"])
def test_trial__finds_losses_that_share_samples(mix: str) -> None:
    model, x = _drawn(_perceptron, torch.float32)

    def losses() -> Tensor:
        own = losses_of(model(x))
        return own + own.roll(1) if mix == "added to the next" else own - own.mean()

    with pytest.raises(ValueError, match=MIXED):
        ClippedGradients(model, clip_norm=0.5).step(losses)


def _counting(model: nn.Module, x: Tensor) -> tuple[Callable[[], Tensor], list[int]]:
    runs: list[int] = []

    def losses() -> Tensor:
        runs.append(len(x))
        return losses_of(model(x))

    return losses, runs


def test_trial__is_made_once_for_a_model_and_again_for_other_layers() -> None:
    model, x = _drawn(
        lambda: Between(lambda m, x: m.b(m.a(x)) if len(x) > 2 else m.b(x)), torch.float32
    )
    for rows, expected in ((x, 3), (x[:4], 1), (x[:2], 3), (x[:2], 1), (x[:1], 3), (x[:1], 1)):
        losses, runs = _counting(model, rows)
        # Another engine for the same model, as in every round.
        ClippedGradients(model, clip_norm=0.5).step(losses)
        assert len(runs) == expected


def test_trial__waits_for_a_batch_that_is_finite() -> None:
    model, x = _drawn(_perceptron, torch.float32)
    engine = ClippedGradients(model, clip_norm=0.5)
    broken = x.clone()
    broken[0] = torch.nan  # the sample that the trial always counts
    for rows, expected in ((broken, 3), (broken, 3), (x, 3), (x, 1), (broken, 1)):
        losses, runs = _counting(model, rows)
        engine.step(losses)
        assert len(runs) == expected


def test_trial__can_be_left_out() -> None:
    model, x = _drawn(lambda: Between(lambda m, x: m.b(m.a(x) - m.a(x).mean(0))), torch.float32)
    losses, runs = _counting(model, x)
    ClippedGradients(model, clip_norm=0.5, trial=False).step(losses)
    assert len(runs) == 1


def test_trial__that_is_left_out_takes_no_layers_that_none_has_seen() -> None:
    model, x = _drawn(
        lambda: Between(lambda m, x: m.b(m.a(x)) if len(x) > 2 else m.b(x)), torch.float32
    )
    untried = ClippedGradients(model, clip_norm=0.5, trial=False)
    untried.step(lambda: losses_of(model(x[:2])))  # there was no trial at all
    ClippedGradients(model, clip_norm=0.5).step(lambda: losses_of(model(x)))
    for rows in (x, x[:4]):
        untried.step(lambda rows=rows: losses_of(model(rows)))  # type: ignore[misc]
    with pytest.raises(ValueError, match="other layers than those that were tried"):
        untried.step(lambda: losses_of(model(x[:2])))


def test_trial__in_single_precision_finds_four_thousandths_of_another_sample() -> None:
    model, x = _drawn(_perceptron, torch.float32)

    def losses() -> Tensor:
        own = losses_of(model(x))
        return own + 0.004 * own.roll(1)

    with pytest.raises(ValueError, match=MIXED):
        ClippedGradients(model, clip_norm=0.5).step(losses)


def test_trial__allows_for_the_rounding_of_a_coarse_forward_pass() -> None:
    model, x = _drawn(_perceptron, torch.float32)

    def losses() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return losses_of(model(x).float())

    found = ClippedGradients(model, clip_norm=0.5).step(losses)
    truth = oracle.clipped_sum(oracle.gradients(model, losses_of, x), 0.5)
    assert 1e-4 < oracle.difference(found.sums, truth) < 0.1


@pytest.mark.parametrize("layer", [nn.Linear, nn.MultiheadAttention])
def test_trial__passes_a_layer_that_is_a_constant_which_adds_zeros(layer: type[nn.Module]) -> None:
    def build() -> nn.Module:
        made = Between(lambda m, x: m.b(x + constant(m.a, x)))
        made.a = layer(4, 4) if layer is nn.Linear else layer(4, 1, batch_first=True)  # type: ignore[assignment]
        return made

    @torch.no_grad()
    def constant(given: nn.Module, x: Tensor) -> Tensor:
        return given(*[x[:, None]] * 3)[0][:, 0] if layer is nn.MultiheadAttention else given(x)

    model, x = _drawn(build, torch.float32)
    found = ClippedGradients(model, clip_norm=0.5).step(lambda: losses_of(model(x)))
    assert {sums.dtype for sums in found.sums.values()} == {torch.float64}
    assert {name[0] for name, sums in found.sums.items() if not sums.any()} == {"a"}
    assert {name for name, sums in found.sums.items() if sums.any()} == {"b.weight", "b.bias"}


def test_trial__changes_neither_sums_nor_generators() -> None:
    sums, states = [], []
    for trial in (True, False):
        model, x = _drawn(
            lambda: nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.5), nn.Linear(9, 3)), torch.float32
        )
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(1)
            engine = ClippedGradients(model, clip_norm=0.5, trial=trial)
            sums.append(engine.step(lambda model=model, x=x: losses_of(model(x))).sums)  # type: ignore[misc]
            states.append(torch.random.default_generator.get_state())
    assert all(torch.equal(sums[0][name], sums[1][name]) for name in sums[0])
    assert torch.equal(*states)


@pytest.mark.parametrize("change", ["a layer", "a parameter", "a tie"])
def test_engine__refuses_a_model_that_was_changed_meanwhile(change: str) -> None:
    model, x = _drawn(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.float32)
    engine = ClippedGradients(model, clip_norm=0.5)
    engine.step(lambda: losses_of(model(x)))
    match change:
        case "a layer":
            other = nn.Linear(4, 4)
            other.weight, other.bias = model[1].weight, model[1].bias
            model[1] = other
        case "a parameter":
            model[1].weight = nn.Parameter(torch.zeros(4, 4))
        case "a tie":
            model[1].weight = model[0].weight
    with pytest.raises(Exception, match="make a new ClippedGradients"):
        engine.step(lambda: losses_of(model(x)))


class Halved(nn.Linear):
    """Like its parent, and not quite."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Scaling(nn.Linear):
    """Holds a parameter that its parent knows nothing of."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize("kind", [Halved, Scaling])
def test_engine__takes_no_layer_for_its_parent_where_it_does_or_holds_something_else(
    kind: type[nn.Linear],
) -> None:
    def build() -> nn.Module:
        made = Between(lambda m, x: m.b(m.a(x)) if kind is Halved else m.b(m.a(x) * m.a.scale))
        made.a = kind(4, 4)
        return made

    model, x = _drawn(build, torch.float64)
    engine = ClippedGradients(model, clip_norm=0.5, trial=False)
    assert engine.fallbacks == ("a",)
    if kind is Halved:
        found = engine.step(lambda: losses_of(model(x)))
        truth = oracle.clipped_sum(oracle.gradients(model, losses_of, x), 0.5)
        assert oracle.difference(found.sums, truth) < 1e-12
    else:
        with pytest.raises(ValueError, match="used outside the layer that owns it"):
            engine.step(lambda: losses_of(model(x)))


@pytest.mark.parametrize("flag", [True, False])
def test_axes__of_a_transformer_are_those_of_its_parts(flag: bool) -> None:
    layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=flag)
    whole = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    assert [_batch_first(one) for one in (layer, whole, nn.Linear(1, 1))] == [flag, flag, None]


def test_engine__refuses_a_model_without_anything_to_train() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        ClippedGradients(nn.Linear(2, 2).requires_grad_(False), clip_norm=1.0)


@pytest.mark.parametrize("rows", [3, 4, 8, 17, 64])
def test_left_alone__are_others_in_a_batch_that_is_reversed_or_rolled(rows: int) -> None:
    alone = left_alone(rows, torch.device("cpu"))
    assert alone[:3].tolist() == [True, False, False]
    for moved in (alone.flip(0), *(alone.roll(by) for by in range(1, rows))):
        assert not torch.equal(moved, alone)
    assert 0.25 <= alone.float().mean() <= 0.6
