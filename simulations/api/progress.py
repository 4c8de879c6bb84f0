"""One line that says how far a run is, where somebody looks on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Line:
    """A line on `file` that is written over; None: nothing is shown."""

    def __init__(self, file: TextIO | None) -> None:
        self._file, self._width = file, 0

    @classmethod
    @contextmanager
    def shown(cls, wanted: bool | None) -> Iterator[Line]:
        """A line on standard error, if it is `wanted`: None asks whether anybody looks on."""
        line = cls(sys.stderr if (watched() if wanted is None else wanted) else None)
        try:
            yield line
        finally:
            line.say("")

    def say(self, text: str) -> None:
        """Write `text` in place of what is there."""
        if self._file is not None and (text or self._width):
            self._file.write(f"\r{text.ljust(self._width)}" + ("" if text else "\r"))
            self._file.flush()
            self._width = len(text)

    def tell(self, sentence: str) -> None:
        """Write a sentence that stays."""
        self.say("")
        print(sentence, file=sys.stderr)


def watched() -> bool:
    """Whether standard error is a terminal, or a notebook shows it."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
