"""The reply of a Flower app as its part of a sum, and a sum as the one reply of all.

What is summed is the change of every array against the model that was sent, times the
site's weight, beside the weight itself and the weighted metrics: all in one vector of
integers under one mask. The server reads of a single site what its metrics are called,
and nothing of what they are.

Floating arrays are rounded to the resolution of the `Protection`; arrays of whole numbers
(counters of a BatchNorm) and metrics are exact.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.crypto.codec import Writer
from fedlearn.flower.apps.protection import LIMBS, Protection
from fedlearn.secagg.layout import LayoutEntry, SumLayout
from fedlearn.stages import Total

log = logging.getLogger(__name__)

METRIC_BITS: Final = 36
"""Metrics travel as whole numbers of 2^-36."""

_LIMB_BITS: Final = 32

NOTHING: Final = SumLayout(entries=())

_ANOTHER_FORM: Final = "its reply has other records or metrics than those of most sites"


# --- The model of a request -------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GlobalModel:
    """The one ArrayRecord of a request: what changes are measured against."""

    record: ArrayRecord

    @classmethod
    def of(cls, content: RecordDict) -> GlobalModel:
        """The model in a request; an empty one where it holds no arrays.

        Raises:
            ConfigError: it holds more than one ArrayRecord.
        """
        found = [record for record in content.values() if isinstance(record, ArrayRecord)]
        if len(found) > 1:
            raise ConfigError(f"a message holds {len(found)} ArrayRecords; a sum is of one")
        return cls(found[0] if found else ArrayRecord())

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, in the order of the request."""
        return {name: array.numpy() for name, array in self.record.items()}

    @cached_property
    def layout(self) -> SumLayout:
        """Names, shapes and dtypes.

        Raises:
            ConfigError: an array is of a type that cannot be summed.
        """
        try:
            return SumLayout.of(self.arrays)
        except ValueError as error:
            raise ConfigError(f"the model cannot be summed: {error}") from None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all that the arrays are, in the order of their names."""
        writer = Writer().blob(b"fedlearn/flower/v1/model")
        for name in sorted(self.record, key=str.encode):
            array = self.record[name]
            head = f"{name}\n{array.dtype}\n{tuple(array.shape)}\n{array.stype}"
            writer.blob(head.encode()).blob(hashlib.sha256(array.data).digest())
        return hashlib.sha256(writer.done()).digest()


# --- A reply as a part of a sum ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReplyForm:
    """What the server is told of a single reply: names, and lengths of lists (-1: a number)."""

    arrays: str
    metrics: str
    lengths: dict[str, int]

    @property
    def numbers(self) -> int:
        """How many numbers the metrics hold."""
        return sum(abs(length) for length in self.lengths.values())


@dataclass(frozen=True, kw_only=True)
class Part:
    """One site's part of a sum: `values: float32[d]`, a weight, and exact counters."""

    form: ReplyForm
    values: NDArray[np.float32]
    weight: int
    counters: list[int]


def part_of_reply(
    content: RecordDict, model: GlobalModel, layout: SumLayout, protection: Protection, sites: int
) -> Part:
    """A reply as its part of a sum; `layout` is that of `model`, or of nothing.

    Raises:
        ConfigError: the reply cannot be summed; says what and why.
    """
    arrays_name, arrays = _only(content, ArrayRecord) if layout.entries else ("", ArrayRecord())
    metrics_name, metrics = _only(content, MetricRecord)
    if unknown := [name for name in content if name not in (arrays_name, metrics_name)]:
        raise ConfigError(
            f"the reply holds {', '.join(unknown)} beside what is summed, and it would reach "
            "the server as it is; leave it out"
        )
    weight = _weight(metrics, protection)
    changes = _changes(layout, model.arrays, arrays) if layout.entries else {}
    values = np.concatenate([np.zeros(0, np.float32), *_reals(layout, changes)])
    lengths, numbers = _numbers(metrics, protection)
    slots = _to_limbs(numbers, weight, protection, sites)
    cut = int(np.count_nonzero(np.abs(values) > protection.clip))
    whole = _whole(layout, changes, weight, protection, sites)
    return Part(
        form=ReplyForm(arrays=arrays_name, metrics=metrics_name, lengths=lengths),
        values=values,
        weight=weight,
        counters=[cut, *slots, *whole],
    )


def _only(content: RecordDict, kind: type[Any]) -> tuple[str, Any]:
    found = [(name, record) for name, record in content.items() if isinstance(record, kind)]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"the reply holds {len(found)} records of type {kind.__name__}; a sum needs exactly one"
    )


def _weight(metrics: MetricRecord, protection: Protection) -> int:
    key, most = protection.weighted_by, protection.max_weight
    value = metrics.get(key)
    if not isinstance(value, int | float) or not 0 <= value <= most or value != int(value):
        raise ConfigError(
            f"the reply's metric {key}={value!r} is its weight in the mean: it must be a "
            f"whole number from 0 to protection.max_weight={most}"
        )
    return int(value)


def _changes(
    layout: SumLayout, before: Mapping[str, NDArray[Any]], after: ArrayRecord
) -> dict[str, NDArray[Any]]:
    """New minus old, by name: exact for whole numbers, `float64` for the others."""
    if after.keys() != before.keys():
        names = ", ".join(sorted(set(after) ^ set(before)))
        raise ConfigError(f"the reply's arrays are not those of the model that was sent: {names}")
    changes = {}
    for entry in layout.entries:
        new, old = after[entry.name].numpy(), before[entry.name]
        if new.shape != entry.shape:
            raise ConfigError(
                f"the reply's array {entry.name} is {new.shape}, and {entry.shape} was sent"
            )
        kind = np.float64 if entry.is_real else np.int64
        if not entry.is_real and not np.array_equal(new.astype(np.int64), new):
            raise ConfigError(
                f"the reply's array {entry.name} holds fractions; it was sent as {entry.dtype}"
            )
        changes[entry.name] = new.astype(kind) - old.astype(kind)
    return changes


def _reals(layout: SumLayout, changes: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    found = [e for e in layout.entries if e.is_real]
    for entry in found:
        if not np.isfinite(changes[entry.name]).all():
            raise ConfigError(
                f"the reply's array {entry.name} holds NaN or infinite values: lower the rate"
            )
    return [changes[entry.name].astype(np.float32).reshape(-1) for entry in found]


def _whole(
    layout: SumLayout,
    changes: Mapping[str, NDArray[Any]],
    weight: int,
    protection: Protection,
    sites: int,
) -> list[int]:
    most = 2**62 // (sites * protection.max_weight)
    whole: list[int] = []
    for entry in layout.entries:
        if entry.is_real:
            continue
        values = changes[entry.name].reshape(-1).tolist()
        if any(abs(value) > most for value in values):
            raise ConfigError(f"the reply's array {entry.name} changed by more than {most}")
        whole += [value * weight for value in values]
    return whole


def _numbers(
    metrics: MetricRecord, protection: Protection
) -> tuple[dict[str, int], list[int | float]]:
    """Names with lengths, and all numbers behind each other, without the weight."""
    lengths, numbers = dict[str, int](), list[int | float]()
    for name in sorted(metrics):
        value = metrics[name]
        if name == protection.weighted_by:
            continue
        lengths[name] = len(value) if isinstance(value, list) else -1
        numbers += value if isinstance(value, list) else [value]
    if len(numbers) > protection.metrics:
        raise ConfigError(
            f"the reply's metrics hold {len(numbers)} numbers, and protection.metrics="
            f"{protection.metrics}: send fewer, or raise it on both sides"
        )
    return lengths, numbers


def _to_limbs(
    numbers: Sequence[int | float], weight: int, protection: Protection, sites: int
) -> list[int]:
    # Sums of high limbs stay within 64 bits, those of low limbs far below.
    most = 2 ** (62 + _LIMB_BITS - METRIC_BITS) // (sites * protection.max_weight)
    limbs: list[int] = []
    for value in numbers:
        if not math.isfinite(value) or abs(value) > most:
            raise ConfigError(
                f"a metric of the reply is {value!r}: it must be a number of at most {most}"
            )
        weighted = weight * round(value * 2**METRIC_BITS)
        limbs += [weighted >> _LIMB_BITS, weighted & (1 << _LIMB_BITS) - 1]
    return limbs + [0] * (LIMBS * protection.metrics - len(limbs))


# --- Which replies are one sum ------------------------------------------------------


@dataclass
class AlikeReplies:
    """The vectors of a round whose replies have one form: that of most of those asked.

    They wait until it is known, so that no site which answers first decides for all others; from
    then on each is added as it comes.
    """

    asked: int
    add: Callable[[str, bytes], None]
    failures: dict[str, str]
    """Why sites are left out; grows."""
    form: ReplyForm | None = None
    _waiting: dict[str, tuple[bytes, ReplyForm]] = field(default_factory=dict)

    def take(self, site: str, data: bytes, form: ReplyForm) -> None:
        """Add the vector of a reply, or keep it; ProtocolError where it is of another form."""
        if self.form is None:
            self._waiting[site] = data, form
            if 2 * sum(form == other for _, other in self._waiting.values()) > self.asked:
                self._settle(form)
        elif form != self.form:
            raise ProtocolError(site, "mask", _ANOTHER_FORM)
        else:
            self.add(site, data)

    def close(self) -> None:
        """Nobody else will answer: what there is most of counts."""
        if self._waiting:
            forms = [form for _, form in self._waiting.values()]
            self._settle(max(forms, key=forms.count))

    @property
    def agreed(self) -> ReplyForm:
        """The form of all that were added; RuntimeError where none was."""
        if self.form is None:
            raise RuntimeError("no reply was added")
        return self.form

    def _settle(self, form: ReplyForm) -> None:
        self.form = form
        while self._waiting:
            site = next(iter(self._waiting))
            data, own = self._waiting.pop(site)
            try:
                self.take(site, data, own)
            except ProtocolError as error:
                self.failures[site] = error.reason
            except Exception as error:
                log.debug("the reply of %s", site, exc_info=True)
                self.failures[site] = f"its reply cannot be read ({type(error).__name__})"


# --- A sum as the reply of all ----------------------------------------------------


def reply_of_total(
    total: Total, form: ReplyForm, model: GlobalModel, layout: SumLayout, protection: Protection
) -> RecordDict:
    """The weighted mean of all replies in a sum, in the form that each of them had.

    Arrays of whole numbers come as `float64`, as Flower's own averages do.

    Raises:
        ProtocolError: all weights are zero.
    """
    if total.weight <= 0:
        raise ProtocolError("", "sum", f"the {protection.weighted_by} of all sites are zero")
    counters = total.counters.tolist()
    slots = counters[1 : 1 + LIMBS * protection.metrics]
    content = RecordDict()
    if layout.entries:
        whole = total.counters[1 + LIMBS * protection.metrics :]
        arrays = _mean_arrays(layout, model, total.mean(), whole / total.weight)
        content[form.arrays] = ArrayRecord({n: Array(arrays[n]) for n in model.record})
    means = [
        ((high << _LIMB_BITS) + low) / total.weight / 2**METRIC_BITS
        for high, low in zip(slots[::2], slots[1::2], strict=True)
    ]
    metrics, at = MetricRecord({protection.weighted_by: total.weight}), 0
    for name, length in form.lengths.items():
        size = abs(length)
        metrics[name] = means[at] if length < 0 else means[at : at + size]
        at += size
    content[form.metrics] = metrics
    return content


def cut_values(total: Total) -> int:
    """How many values exceeded the clip, over all sites."""
    return int(total.counters[0])


def _mean_arrays(
    layout: SumLayout,
    model: GlobalModel,
    reals: NDArray[np.float64],
    whole: NDArray[np.float64],
) -> dict[str, NDArray[Any]]:
    arrays, at = {}, {True: 0, False: 0}
    for entry in layout.entries:
        source, start = (reals if entry.is_real else whole), at[entry.is_real]
        at[entry.is_real] = start + entry.size
        change = source[start : start + entry.size].reshape(entry.shape)
        mean = model.arrays[entry.name].astype(np.float64) + change
        arrays[entry.name] = mean.astype(entry.dtype) if entry.is_real else np.asarray(mean)
    return arrays


def as_first(record: ArrayRecord, first: Mapping[str, LayoutEntry]) -> ArrayRecord:
    """The arrays in the whole-number types that they had at first.

    Flower's averages turn counters into fractions of `float64`; a counter that changes its
    type between rounds would be no counter any more.
    """
    changed = {
        name: Array(np.asarray(np.rint(array.numpy()), first[name].dtype))
        for name, array in record.items()
        if name in first and not first[name].is_real and array.dtype != first[name].dtype
    }
    if not changed:
        return record
    return ArrayRecord({name: changed.get(name, array) for name, array in record.items()})
