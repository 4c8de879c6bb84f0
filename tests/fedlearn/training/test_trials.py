"""What a site tries before it pays: models that mix records or keep them, by any engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlearn.core.errors import ConfigError
from fedlearn.core.vector import to_vector
from fedlearn.models.finetune import Finetune, cut, stages
from fedlearn.tasks.classification import cross_entropy
from fedlearn.training import parts
from fedlearn.training.even_rows import even_rows
from fedlearn.training.settings import Engine, Precision, Training
from fedlearn.training.trials import try_out
from tests.effort import slow_but
from tests.fedlearn.models.cases import CASES

CONFIG = Training(
    optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_steps=1,
    sample_rate=1.0, nominal_records=60, dp_engine="fast", max_batch=64,
)  # fmt: skip
ENGINES: tuple[Engine, ...] = ("fast", "opacus")
Before = Callable[["Own", Tensor], Tensor]


class Own(nn.Module):
    """Somebody's model: any code before its first layer, on records `float32[n, 5]`."""

    def __init__(self, before: Before) -> None:
        super().__init__()
        self.before, self.kept = before, dict[str, Any]()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.before(self, x))


def records(n: int) -> tuple[Tensor, Tensor]:
    coins = torch.Generator().manual_seed(0)
    return torch.randn(n, 5, generator=coins), torch.randint(3, (n,), generator=coins)


def _kept(model: Own, name: str, now: Any) -> Any:
    """What was kept last time, or `now`."""
    before = model.kept.get(name, now)
    model.kept[name] = now
    return before


def _decoys(x: Tensor) -> Tensor:
    """Only where somebody holds numbers as they are not usual."""
    return x / 2 if bool(x.abs().max() > 1e3) else x


def _ranks(x: Tensor) -> Tensor:
    return x.argsort(0).argsort(0) / len(x)


def _attended(x: Tensor) -> Tensor:
    return torch.softmax(x @ x.T, dim=1) @ x


def _counted(x: Tensor, most: int) -> Tensor:
    return x / x.abs().amax(0) if len(x) > most else x


_TRAINING_ALONE = "only in parts of many, where it trains"

MIXING: dict[str, Before] = {
    "the largest of the batch": lambda _, x: x / x.abs().amax(0),
    "less the mean": lambda _, x: x - x.mean(0),
    "less the median": lambda _, x: x - x.median(0).values,
    "standardised": lambda _, x: functional.batch_norm(x, None, None, training=True),
    "ranks": lambda _, x: _ranks(x),
    "less the first": lambda _, x: x - x[0],
    "plus the last": lambda _, x: x + x[-1],
    "plus the next but one": lambda _, x: x + x.roll(2, 0),
    "plus that on the other side": lambda _, x: x + x.flip(0),
    "attention over records": lambda _, x: _attended(x),
    "how many are like it": lambda _, x: x * (x[:, :1] > x[:, :1].T).float().mean(1, keepdim=True),
    "only beside large numbers": lambda _, x: _decoys(x),
    "only beside what is no number": lambda _, x: x * (2 if bool(x.isnan().any()) else 1),
    "only where others are alike": lambda _, x: x * (1 + (x == x.mode(0).values).float().mean()),
    "only in parts of many": lambda _, x: _counted(x, 40),
    "without a gradient": lambda _, x: x - x.detach().mean(0),
    "where a number is missing": lambda _, x: torch.where(x.isnan(), x.nanmean(0), x),
    "where a number is zero": lambda _, x: torch.where(x == 0, x.amax(0), x),
    "where a number is extreme": lambda _, x: torch.where(x.abs() > 9, x.median(0).values, x),
    _TRAINING_ALONE: lambda m, x: _counted(x, 40) if m.training else x,
}  # fmt: skip

KEEPING: dict[str, Before] = {
    "the batch before": lambda m, x: x - _kept(m, "mean", x.mean(0)),
    "a running sum": lambda m, x: x - _running(m, x),
    "the first batch": lambda m, x: x - m.kept.setdefault("first", x.mean(0)),
    "how many batches there were": lambda m, x: x / (1 + _count(m)),
    "an attribute": lambda m, x: x * _attribute(m, x),
    "what is used where it does not train": lambda m, x: _graded(m, x),
}  # fmt: skip


def _running(model: Own, x: Tensor) -> Tensor:
    model.kept["sum"] = model.kept.get("sum", 0) + x.mean(0)
    return model.kept["sum"]


def _count(model: Own) -> int:
    model.kept["count"] = model.kept.get("count", 0) + 1
    return model.kept["count"]


def _graded(model: Own, x: Tensor) -> Tensor:
    if model.training:
        model.kept["mean"] = x.detach().mean(0)
        return x
    return x - model.kept.get("mean", 0)


def _attribute(model: Own, x: Tensor) -> Tensor:
    before = getattr(model, "scale", x.new_ones(()))
    model.scale = x.detach().std()
    return before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("before", MIXING.values(), ids=MIXING)
def test_trial__refuses_what_mixes_records_before_the_first_layer(
    before: Before, engine: Engine
) -> None:
    with pytest.raises(ConfigError, match="model: what it makes of a record depends"):
        try_out(Own(before), records, replace(CONFIG, dp_engine=engine), loss=cross_entropy)


@pytest.mark.parametrize("engine", ENGINES)
def test_trial__refuses_what_mixes_records_where_it_does_not_train(engine: Engine) -> None:
    model = Own(lambda m, x: x if m.training else x - x.mean(0))
    with pytest.raises(ConfigError, match="model: what it makes of a record depends"):
        try_out(model, records, replace(CONFIG, dp_engine=engine), loss=cross_entropy)


def test_even_rows__are_one_where_an_answer_depends_on_the_others() -> None:
    assert even_rows(Own(lambda _, x: x), records, 32) == 32
    assert even_rows(Own(HONEST["refuses what is large"]), records, 32) == 32
    for before in MIXING.values():
        if before not in (MIXING["only in parts of many"], MIXING[_TRAINING_ALONE]):
            assert even_rows(Own(before), records, 32) == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("before", KEEPING.values(), ids=KEEPING)
def test_trial__refuses_what_keeps_a_batch_for_the_next(before: Before, engine: Engine) -> None:
    # The trial of single layers comes first, and sees some of them.
    with pytest.raises(
        ConfigError, match=r"model: the (same records gave|loss of a sample changed)"
    ):
        try_out(Own(before), records, replace(CONFIG, dp_engine=engine), loss=cross_entropy)


HONEST: dict[str, Before] = {
    "as it is": lambda _, x: x,
    "by its own size": lambda _, x: x / x.abs().amax(1, keepdim=True),
    "its own ranks": lambda _, x: x.argsort(1).argsort(1).float(),
    "without what is no number": lambda _, x: x.nan_to_num(),
    "less what was known at the start": lambda _, x: x - torch.linspace(0, 1, 5),
    "refuses what is large": lambda _, x: x * _asserted(bool(x.nan_to_num().abs().max() < 1e3)),
    "half left out": lambda _, x: functional.dropout(x, 0.5),
    "a table by the number of rows": lambda m, x: x + m.kept.setdefault(len(x), torch.ones(5)),
}  # fmt: skip


def _asserted(holds: bool) -> float:
    if not holds:
        raise ValueError("too large")
    return 1.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("before", HONEST.values(), ids=HONEST)
def test_trial__passes_what_looks_at_each_record_alone(before: Before, engine: Engine) -> None:
    model = Own(before)
    vector = to_vector(model)
    try_out(model, records, replace(CONFIG, dp_engine=engine), loss=cross_entropy)
    assert (to_vector(model) == vector).all()
    assert not any(hasattr(p, "grad_sample") or p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_trial__has_records_computed_one_by_one_that_move_in_the_last_bits(engine: Engine) -> None:
    """What is too little to be told from rounding is no reason to refuse, and cannot do harm."""
    config = replace(CONFIG, dp_engine=engine)
    model = Own(lambda _, x: x + 1e-6 * torch.tanh(x.mean(0).nan_to_num()))
    try_out(model, records, config, loss=cross_entropy)
    assert list(parts._alike[model].values()) == [()]


def test_trial__refuses_what_it_cannot_copy() -> None:
    model = Own(lambda m, x: x)
    model.kept["view"] = model.linear.weight * 2
    with pytest.raises(ConfigError, match="model: cannot be copied"):
        try_out(model, records, CONFIG, loss=cross_entropy)


def test_trial__is_made_for_each_engine() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x - x.mean(0) if hasattr(self.linear.bias, "grad_sample") else x)

    model = Hooked()
    try_out(model, records, CONFIG, loss=cross_entropy)
    with pytest.raises(ConfigError, match="depends on the others"):
        try_out(model, records, replace(CONFIG, dp_engine="opacus"), loss=cross_entropy)


QUICK = ("linear", "mlp", "cnn", "text", "sequence")
"""Kinds of models that take a fraction of a second."""
EVERY_KIND = {case.name.split("-")[0]: case for case in CASES if not case.mixes}


@pytest.mark.parametrize(
    "tried",
    slow_but(
        lambda one: one[0] in QUICK and (one[1] == "fp32" or one[0] == "linear"),
        [(kind, precision) for kind in EVERY_KIND for precision in ("fp32", "bf16")],
    ),
    ids="-".join,
)
def test_trial__passes_all_our_models(tried: tuple[str, Precision]) -> None:
    kind, precision = tried
    case = EVERY_KIND[kind]
    model = case.build()
    inputs = case.inputs(64)

    def made_up(n: int) -> tuple[Tensor, Tensor]:
        return inputs[:n], torch.arange(n) % case.classes

    config = replace(CONFIG, max_batch=32, precision=precision)
    try_out(model, made_up, config, loss=cross_entropy)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_trial__passes_adapters_and_what_opacus_knows(dropout: float) -> None:
    pytest.importorskip("peft", reason="adapters need fedlearn[text]")

    def base() -> nn.Sequential:
        return stages(
            embed=nn.Sequential(nn.Embedding(6, 4), nn.Dropout(dropout)),
            block=nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.LayerNorm(5)),
            pool=nn.Flatten(),
            head=nn.Linear(15, 2),
        )

    lora = cut(base(), Finetune(mode="lora", lora_rank=2), torch.Generator().manual_seed(0)).model
    ids = torch.randint(6, (64, 3), generator=torch.Generator().manual_seed(0))
    for model in (base(), lora):
        for engine in ENGINES:
            config = replace(CONFIG, dp_engine=engine, max_batch=32)
            try_out(model, lambda n: (ids[:n], torch.arange(n) % 2), config, loss=cross_entropy)
