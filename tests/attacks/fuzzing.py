"""A fuzz by mutation: bytes that were right, damaged; and limits on what reading them may take."""

from __future__ import annotations

import copy
import gc
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

MOST_SECONDS: Final = 3.0
"""Of the processor, for one input."""
MOST_BYTES: Final = 256 << 20
"""What one input may add to the largest memory of the process."""
MOST_GROWTH: Final = 48 << 20
"""What all inputs of a parser may leave behind."""

TOKENS = [
    b"[", b"{", b'"', b"}", b"]", b"1e999", b"NaN", b"-1", b"null", b"9" * 30, b"\xc3\x28",
    b"\\ud800", b"true", b"[" * 5000, b"\n", b": ", b"- ", b"&a *a", b"!!python/object/apply:os",
    b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"-----BEGIN", b"\x1b[2J", b"\x80" * 8, b",",
    b"../../../x", b"1e308", b"\xe2\x80\xae", b"0" * 5000, b"\0" * 5000,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, 5e-324, -0.0, "",
    "x", "../../x", "\ud800", "\0", "\x1b[2J", "0" * 64, "f" * 63, [], {}, [[]], ["x"], {"kind": 1},
    "x" * 5000, list(range(300)), "2026-01-01", "${oc.env:HOME}",
]  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """A reader of bytes, bytes that it likes, and the errors that it declares."""

    name: str
    good: Callable[[Path], bytes]
    read: Callable[[bytes, Path], object]
    declared: tuple[type[Exception], ...]


def fuzz(parser: Parser, folder: Path, *, seconds: float, least: int, seed: int = 0) -> int:
    """Read damaged inputs for `seconds`, `least` of them anyway; how many they were.

    Raises:
        AssertionError: one took too long or too much memory, or raised what is not declared; its
            bytes are in the file `failed` of the folder. Or all together have left memory behind.
    """
    good, coins = parser.good(folder), np.random.default_rng(seed)
    parser.read(good, folder)  # what is right must be taken, or nothing behind it is reached
    before, warm, count, end = _memory(), 200, 0, time.monotonic() + seconds
    while count < least or time.monotonic() < end:
        data = damaged(good, coins)
        try:
            with _limited():
                parser.read(data, folder)
        except parser.declared:
            pass
        except BaseException as error:
            (folder / "failed").write_bytes(data)
            raise AssertionError(
                f"{parser.name}: {error!r} at input {count}: {data[:400]!r}"
            ) from error
        count += 1
        if count == warm:  # what is kept for good is there now
            gc.collect()
            before = _memory()
    if _memory() - before >= MOST_GROWTH:  # a look for garbage costs more than reading all inputs
        gc.collect()
        assert _memory() - before < MOST_GROWTH, f"{parser.name}: memory has grown"
    return count


def damaged(good: bytes, coins: np.random.Generator) -> bytes:
    """Bytes that were right, with up to four faults in them."""
    if good[:1] in (b"{", b"[") and coins.random() < 0.5:
        return _misread(good, coins)
    data = bytearray(good)
    for _ in range(int(coins.integers(1, 5))):
        at = int(coins.integers(0, len(data) + 1))
        match int(coins.integers(0, 6)):
            case 0:
                length = int(coins.choice([0, 1, 2, 8, 64]))
                data[at : at + length] = TOKENS[int(coins.integers(len(TOKENS)))]
            case 1 if at < len(data):
                data[at] ^= 1 << int(coins.integers(8))
            case 2:
                data[at : at + 1] = coins.bytes(int(coins.integers(0, 9)))
            case 3:  # a length that lies
                width = int(coins.choice([1, 2, 4, 8]))
                extreme = [0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), len(data)]
                value = extreme[int(coins.integers(5))] % 2 ** (8 * width)
                data[at : at + width] = value.to_bytes(
                    width, ["big", "little"][int(coins.integers(2))]
                )  # type: ignore[arg-type]
            case 4:  # a piece twice
                data[at:at] = data[at : at + int(coins.integers(1, 64))]
            case _:  # a piece elsewhere
                start = int(coins.integers(0, len(data) + 1))
                data[at : at + 16] = data[start : start + 16]
    return bytes(data[: int(coins.integers(0, len(data) + 1))] if coins.random() < 0.1 else data)


def _misread(good: bytes, coins: np.random.Generator) -> bytes:
    """JSON with another value, one more, or one less, somewhere in it."""
    try:
        tree = json.loads(good)
    except ValueError:  # several values, one a line
        return good[: int(coins.integers(len(good)))] + good[int(coins.integers(len(good))) :]
    for _ in range(int(coins.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = places[int(coins.integers(len(places)))]
        value = copy.deepcopy(VALUES[int(coins.integers(len(VALUES)))])
        match int(coins.integers(0, 5)):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(value)[:50]] = copy.deepcopy(holder[key])
            case 2 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[key] = value
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys: Sequence[Any] = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


@contextmanager
def _limited() -> Iterator[None]:
    def strike(*_: object) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s of the processor")

    peak, before = _peak(), signal.signal(signal.SIGVTALRM, strike)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    if _peak() - peak > MOST_BYTES:
        raise MemoryError(f"{(_peak() - peak) >> 20} MiB for one input")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _memory() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
