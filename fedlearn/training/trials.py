"""What a site tries before it pays for private training, on records that nobody has.

That a model and its loss keep records apart shows in no list of layers, and that the rows of
a part are alike, bit for bit, is a matter of the machine. Both are tried once for a model, in
the very shapes that records will have, with weights and records drawn from a fixed stream: so
whatever is refused here is refused for what is public, and nothing is left to refuse once
records are looked at.

Tried is what an engine makes of a record (its loss, its gradient and its norm), by any of them:

- with other records in the place of the rest, so that every record is once without every other:
  ordinary ones, all the same, very large, very small, zero, not a number; and those of such kinds
  beside ordinary ones, for what is missing or extreme may be filled in from the others;
- after other records have gone through, and on a copy that saw others first; graded as well, for
  what training keeps may be used there alone;
- in other places, and among fewer or more.

What moves by the others, or by what went before, is refused; what moves in the last bits or by
its place is taken one by one.

What trying cannot see: code that looks for a certain record, or waits for its hundredth batch;
what is kept outside of the model (a global variable) and set once. A person has to read that: a
site's policy allows somebody's own code by its hash alone (`policy.allow_custom`).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.models.finetune import checkpointed
from fedlearn.models.slots import NAME as SLOTS
from fedlearn.models.slots import canary_losses
from fedlearn.tasks import Loss, Outputs
from fedlearn.tasks.tokens import cut_loose
from fedlearn.training.augmentation import views
from fedlearn.training.device import home
from fedlearn.training.dp import ClippedGradients, refusals
from fedlearn.training.engines import rows_by
from fedlearn.training.local import forward
from fedlearn.training.made_up import (
    SAME,
    SPREADS,
    Kind,
    as_before,
    companies,
    doubled,
    draw,
    say_slow,
)
from fedlearn.training.parts import (
    ALONE,
    BatchPart,
    Records,
    losses_of,
    note_alike,
    same_bits,
    sizes_of,
)
from fedlearn.training.persons import alike, in_persons, losses_of_persons, made_up_counts
from fedlearn.training.settings import Engine, Precision, Training

log = logging.getLogger(__name__)

_done: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
"""What was tried: all sites of a process share one model, and it is the same in every round."""


_MOVED: Final = 0.05
"""What moves by more, over the largest number of its kind, is no rounding, in bf16 neither."""

_MIXES: Final = (
    "model: what it makes of a record depends on the others of its batch, so that no record's "
    "gradient is its own; take out what mixes the batch (a mean, a largest number or an order over "
    "it), before the first layer as well"
)
_REMEMBERS: Final = (
    "model: the same records gave something else after others had gone through; keep nothing from "
    "one batch for the next (an attribute, a buffer, a counter), and draw random numbers from "
    "torch's generators only"
)

_Rows = tuple[Tensor, ...]
_Engine = Callable[[Callable[[], Tensor]], _Rows]
"""What it makes of losses by record, before it adds up (`fedlearn.training.engines.rows_by`)."""


def try_out(
    model: nn.Module,
    records: Records,
    config: Training,
    *,
    loss: Loss,
    depths: Sequence[int] = (ALONE,),
) -> None:
    """Refuse a model or a loss under which what is clipped would not be one record's.

    Or one person's: `depths` are how many records persons have in parts. Leaves weights, buffers,
    modes and torch's generators as they were. Where rows turn out not to be alike on this machine
    in parts of several sizes, one size will be used; where they are not in that one, records will
    be taken one by one.

    Raises:
        ConfigError: with what was found, and the way out.
    """
    for depth in depths:
        _try_depth(model, records, config, loss, depth)


def _try_depth(
    model: nn.Module, records: Records, config: Training, loss: Loss, depth: int
) -> None:
    device = home(model)
    sizes = sizes_of(config, device, depth)
    how = (config.precision, config.checkpointing, config.augmentations, depth)
    key = (_known_by(loss), sizes, device, *how, config.dp_engine)
    if key in (done := _done.setdefault(model, set())):
        return
    few = max(2, sizes[0])
    count = max(sizes[-1], 2 * few)
    made_up, seen, labels = _made_up(model, records, config, loss, count, depth)
    with as_before(model), checkpointed(model, config.checkpointing):
        fresh = _copy_of(model)
        for spread in SPREADS:
            draw(model, spread)
            some = slice(0, few)
            check_loss(loss, forward(model, seen[some], config.precision), labels[some])
            # Opacus may know a layer that ours refuses; what a site runs has been checked by then.
            if refusals(model) or made_up.apart(few):
                break
        made_up.check_first(fresh, few)
        with rows_by(config.dp_engine, model) as rows:
            apart = made_up.apart_in_company(rows, few)
            if sizes[-1] > few:
                made_up.check_largest(rows, sizes[-1])
            _stand_still(model, config.dp_engine)
            found = made_up.alike(rows, sizes) if apart else ()
        note_alike(model, sizes, found, depth)
        if not found:
            say_slow("records are trained on")
    done.add(key)


def _made_up(
    model: nn.Module, records: Records, config: Training, loss: Loss, count: int, depth: int
) -> tuple[_MadeUp, Tensor, Tensor]:
    """So many samples of a depth, and one view and the targets of all of their records."""
    features, labels = (v.to(home(model)) for v in records(count * max(1, depth)))
    seen = views(features, config, np.random.default_rng(0))
    inputs = (labels, *seen)
    if depth != ALONE:
        counts = made_up_counts(count, depth).to(home(model))
        inputs = (counts, *(in_persons(values, depth) for values in inputs))
    run = partial(_losses_of, config.precision, loss, depth)
    return _MadeUp(model, run, inputs, depth), seen[0], labels


def _known_by(loss: Loss) -> object:
    """What stands for a loss among those tried: of equal tasks the method is one."""
    task = getattr(loss, "__self__", None)
    try:
        hash(task)
    except TypeError:
        return loss
    return loss if task is None else (type(task), loss.__name__, task)


def _losses_of(
    precision: Precision, loss: Loss, depth: int, model: nn.Module, *inputs: Tensor
) -> Tensor:
    """Those of a model, with the same random numbers every time: dropout draws by place."""
    torch.default_generator.manual_seed(0)
    if inputs[0].is_cuda:
        torch.cuda.manual_seed(0)
    run = partial(losses_of, model, precision, loss)
    return run(*inputs) if depth == ALONE else losses_of_persons(run, *inputs)


@dataclass(frozen=True, eq=False)
class _MadeUp:
    """Records that nobody has, `inputs: [n, ...]` each, and the losses that `run` makes of them."""

    model: nn.Module
    run: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    depth: int = ALONE
    """How many records a sample has."""

    def losses(self, rows: slice | Tensor) -> Callable[[], Tensor]:
        """Those of some of them."""
        return partial(self.run, self.model, *(values[rows] for values in self.inputs))

    def apart(self, few: int) -> bool:
        """Try with the weights of now whether records are kept apart; whether all was finite.

        Raises:
            ConfigError: they are not.
        """
        engine = ClippedGradients(self.model, clip_norm=1.0)
        try:
            found = engine.step(self.losses(slice(0, few)))
            if hasattr(self.model, SLOTS):
                device = self.inputs[0].device
                slots = torch.zeros(len(found.losses), dtype=torch.int64, device=device)
                probed = partial(canary_losses, self.model, slope=1.0)
                part = BatchPart(inputs=(slots,), run=probed, rows=len(slots))
                engine.step(alike(part, self.depth).losses)
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error
        return bool(found.norms.isfinite().all())

    @torch.no_grad()
    def check_first(self, fresh: nn.Module, few: int) -> None:
        """Refuse a model that goes on as its first records made it; `fresh` has seen none.

        Whether it is trained or graded; buffers are put back after training.

        Raises:
            ConfigError: it does.
        """
        other, still = replace(self, model=fresh), _float_buffers(fresh)
        other.losses(slice(few, 2 * few))()
        own = slice(0, few)
        for model in (self.model, fresh):
            _put_back(model, still)
        # Trained last, for then both have seen the same.
        for training in (False, True):
            for model in (self.model, fresh):
                model.train(training)
            if _moved((self.losses(own)(),), (other.losses(own)(),), own, own):
                raise ConfigError([_REMEMBERS])

    def apart_in_company(self, rows: _Engine, few: int) -> bool:
        """Whether what is made of a record is the same, bit for bit, whoever is beside it.

        Raises:
            ConfigError: it is something else, or was after others had gone through.
        """
        own, others = slice(0, few), slice(few, 2 * few)
        before, found = rows(self.losses(own)), 0.0

        def beside(kept: Tensor, mine: Kind, kind: Kind, company: slice) -> _Rows:
            return rows(
                partial(
                    self.run,
                    self.model,
                    *(
                        torch.where(_like(kept, v[own]), mine(v[own]), kind(v[company]))
                        for v in self.inputs
                    ),
                )
            )

        for kept, kind, strange in companies(few, self.inputs[0].device):
            try:
                found = max(found, _moved(before, beside(kept, SAME, kind, others), kept, kept))
                if strange:
                    one, other = (beside(kept, kind, SAME, by) for by in (own, others))
                    found = max(found, _moved(one, other, kept, kept, before))
            except Exception as error:  # noqa: BLE001  (numbers that somebody's code need not take)
                log.info("made-up records of a kind could not be tried: %s", error)
            if found > _MOVED:
                raise ConfigError([_MIXES])
        rows(self.losses(others))
        if _moved(before, rows(self.losses(own)), own, own):
            raise ConfigError([_REMEMBERS])
        return not found

    def check_largest(self, rows: _Engine, largest: int, whole: _Rows | None = None) -> None:
        """Refuse a model that mixes where there are so many; `whole` is what it makes of them.

        Raises:
            ConfigError: it does.
        """
        whole = rows(self.losses(slice(0, largest))) if whole is None else whole
        for half in range(min(2, largest)):
            own = slice(half, None, 2)
            if _moved(whole, self._half(rows, torch.arange(largest), half), own, own) > _MOVED:
                raise ConfigError([_MIXES])

    def alike(self, rows: _Engine, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes among which every row is alike: all, the largest, or none.

        Raises:
            ConfigError: what is made of a record in the largest depends on the others.
        """
        largest = sizes[-1]
        whole = rows(self.losses(slice(0, largest)))
        order = torch.randperm(largest, generator=torch.Generator().manual_seed(1))
        for half in range(min(2, largest)):
            if _moved(whole, self._half(rows, order, half), order[half::2], slice(half, None, 2)):
                # By their places, which is a matter of the machine, or by the others?
                self.check_largest(rows, largest, whole)
                return ()
        # Every row in one place of each size is enough: in the largest all places are alike.
        for size in sizes[:-1]:
            first = slice(0, size)
            if _moved(whole, rows(self.losses(first)), first, first):
                return (largest,)
        return sizes

    def _half(self, rows: _Engine, order: Tensor, half: int) -> _Rows:
        """Every other record of `order`, beside copies of the same."""
        return rows(self.losses(doubled(order, half).to(self.inputs[0].device)))


def _float_buffers(model: nn.Module) -> list[dict[str, Tensor]]:
    """Copies of those that a step puts back, by module."""
    return [
        {n: b.clone() for n, b in m._buffers.items() if b is not None and b.is_floating_point()}
        for m in model.modules()
    ]


def _put_back(model: nn.Module, still: list[dict[str, Tensor]]) -> None:
    for module, buffers in zip(model.modules(), still, strict=True):
        module._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})


def _like(rows: Tensor, values: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (values.dim() - 1))


def _moved(
    one: _Rows,
    other: _Rows,
    here: slice | Tensor,
    there: slice | Tensor,
    usual: _Rows | None = None,
) -> float:
    """By how much rows differ, over the largest number of their kind: 0 where no bit does.

    Or over the largest one that is `usual`, where that is larger.
    """
    if len(one) != len(other):
        return math.inf
    found = 0.0
    for a, b, known in zip(one, other, one if usual is None else usual, strict=True):
        if a.shape[1:] != b.shape[1:]:
            return math.inf
        mine, its = a[here], b[there]
        if not same_bits(mine, its):
            same = (mine == its) | (mine.isnan() & its.isnan())
            apart = (mine - its).abs().masked_fill(same, 0).max()
            largest = torch.maximum(*(v.abs().nan_to_num(0, 0).max() for v in (mine, known)))
            moved = float((apart / largest).double())
            found = max(found, moved if math.isfinite(moved) else math.inf)
    return found


def _stand_still(model: nn.Module, engine: Engine) -> None:
    """Draw nothing: dropout draws by place."""
    model.eval()
    if engine != "fast":  # Opacus looks only at layers that are in training
        for module in model.modules():
            module.training = any(p.requires_grad for p in module.parameters(recurse=False))


def _copy_of(model: nn.Module) -> nn.Module:
    """Another one, with the same weights and a state of its own.

    Raises:
        ConfigError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    except Exception as error:
        raise ConfigError(
            f"model: cannot be copied ({type(error).__name__}: {error}), and so not tried; "
            "keep tensors as parameters or buffers, and nothing that copy.deepcopy refuses"
        ) from error


def check_loss(loss: Loss, outputs: Outputs, targets: Tensor) -> None:
    """Refuse a loss that is not one per record: what is clipped would not be one record's.

    Raises:
        ConfigError: it has another shape, or one record's loss depends on another's outputs.
    """
    if len(outputs) < 2:
        return
    seen, variable = cut_loose(outputs)
    with torch.enable_grad():
        losses, alone = loss(seen, targets), loss(seen[:1], targets[:1])
        if losses.shape == (len(seen),) and alone.shape == (1,):
            (slope,) = torch.autograd.grad(losses[0], variable)
            (own,) = torch.autograd.grad(alone[0], variable)
            # What depends on the others' targets, or on how many there are, has no slope there.
            if torch.allclose(slope, own, rtol=1e-3, atol=1e-6, equal_nan=True):
                return
    raise ConfigError(
        "task: its loss mixes the records of a batch, and privacy is promised to single ones; "
        "return one loss per record, from that record's outputs alone"
    )
