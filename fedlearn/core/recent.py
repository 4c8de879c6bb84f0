"""What a process remembers of late, and no more of it than was said."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(dict[K, V]):
    """A dictionary that forgets what was kept longest ago.

    Example:
        >>> squares = Recent[int, int](2)
        >>> for number in (1, 2, 1, 3):
        ...     squares.keep(number, number**2)
        >>> squares
        {1: 1, 3: 9}
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: K, value: V) -> None:
        """Remember it as the latest of `most`."""
        self.pop(key, None)
        while len(self) >= self._most:
            self.pop(next(iter(self)), None)  # another thread may have been here
        self[key] = value
