"""Arrays out of a pickle, without running it.

A pickle is a program for a small machine that may call any function there is.
This machine knows the instructions that numpy arrays of numbers in lists and
dicts are made of, and calls nothing: names in the file only mark what the bytes
behind them are. Whatever else a file asks for is refused.

Sources: Python's `Lib/pickletools.py`; `numpy.ndarray.__reduce__`.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_PLAIN = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BININT", "BININT1", "BININT2",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NUMBERS = "fiu"


@dataclass
class _Array:
    """An array that is being put together."""

    value: NDArray[Any] | None = None


@dataclass
class _Kind:
    """The type of an array's numbers, and their byte order."""

    code: str
    order: str = "|"


@dataclass(frozen=True)
class _Name:
    """A name that an ordinary reader would import."""

    text: str


_MARK = object()


def read_arrays(content: bytes) -> Any:
    """Dicts, lists and tuples of texts, whole numbers and arrays, as `content` describes them.

    **Guarantees:** nothing is imported or called, whatever the file holds.

    Raises:
        DataError: the file is damaged, or is made of anything else.
    """
    machine = _Machine()
    try:
        for operation, argument, _ in pickletools.genops(content):
            machine.step(operation.name, argument)
        (result,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the pickle cannot be read as arrays: {error}") from error
    return _finished(result)


class _Machine:
    """A stack, and a memory of what was on top of it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        else:
            self._rarer(name, argument)

    def _rarer(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "BINPUT" | "LONG_BINPUT":
                self.memory[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memory[argument])
            case "GLOBAL":
                self.stack.append(_Name(argument))
            case "TUPLE":
                self.stack.append(tuple(self._marked()))
            case "APPENDS":
                items = self._marked()
                self.stack[-1].extend(items)
            case "SETITEMS":
                items = self._marked()
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "REDUCE":
                arguments, called = self.stack.pop(), self.stack.pop()
                self.stack.append(_called(called, arguments))
            case "BUILD":
                state = self.stack.pop()
                _built(self.stack[-1], state)
            case _:
                raise ValueError(f"the instruction {name} is not needed for arrays")

    def _tuple(self, size: int) -> None:
        items = self.stack[len(self.stack) - size :]
        del self.stack[len(self.stack) - size :]
        self.stack.append(tuple(items))

    def _marked(self) -> list[Any]:
        """Takes what lies above the last mark, and the mark."""
        place = max(i for i, item in enumerate(self.stack) if item is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items


def _called(called: Any, arguments: tuple[Any, ...]) -> _Array | _Kind:
    match called:
        case _Name(text) if text in _RECONSTRUCT:
            return _Array()
        case _Name("numpy dtype"):
            return _Kind(str(arguments[0]))
        case _Name(text):
            raise ValueError(f"it asks for {text}")
        case _:
            raise ValueError("it calls what is no name")


def _built(target: Any, state: tuple[Any, ...]) -> None:
    match target:
        case _Kind():
            target.order = str(state[1])
        case _Array():
            _, shape, kind, by_column, content = state
            number = np.dtype(kind.code).newbyteorder(kind.order)
            if number.kind not in _NUMBERS:
                raise ValueError(f"an array of {number}")
            flat = np.frombuffer(content, number)
            target.value = flat.reshape(shape, order="F" if by_column else "C")
        case _:
            raise ValueError("it changes what is no array")


def _finished(tree: Any) -> Any:
    match tree:
        case _Array(value) if value is not None:
            return value
        case dict():
            return {key: _finished(value) for key, value in tree.items()}
        case list() | tuple():
            return type(tree)(_finished(item) for item in tree)
        case str() | bytes() | int() | None:
            return tree
        case _:
            raise DataError("the pickle cannot be read as arrays: it is not finished")
