"""A sliding window that accepts every sequence number once (the scheme of RFC 6479).

Numbers may arrive out of order within the window; what is older than the window
is refused, because whether it was seen is no longer known.
"""

from __future__ import annotations

from fedlearn.crypto.codec import Reader, Writer

WINDOW = 1024


class ReplayWindow:
    """Remembers which sequence numbers of one key were accepted.

    `is_new` asks, `accept` remembers: ask before the work of authentication,
    remember only after it succeeded, or a forger could burn numbers.
    """

    def __init__(self, next_number: int = 0, seen: int = 0) -> None:
        self._next = next_number  # one above the highest accepted
        self._seen = seen  # bit i: number next-1-i was accepted

    def is_new(self, number: int) -> bool:
        """Whether the number was not accepted before and is not older than the window."""
        age = self._next - 1 - number
        return age < 0 or (age < WINDOW and not self._seen >> age & 1)

    def accept(self, number: int) -> None:
        """Remembers a number.

        Raises:
            RuntimeError: the number is not new; the caller did not ask.
        """
        if not self.is_new(number):
            raise RuntimeError(f"sequence number {number} was accepted before")
        if number >= self._next:
            # A jump beyond the window forgets everything; do not build a huge integer on the way.
            self._seen = (self._seen << min(number + 1 - self._next, WINDOW)) & (1 << WINDOW) - 1
            self._next = number + 1
        self._seen |= 1 << (self._next - 1 - number)

    def to_bytes(self) -> bytes:
        """The window as 136 bytes."""
        return Writer().uint(self._next, 8).uint(self._seen, WINDOW // 8).done()

    @classmethod
    def read(cls, reader: Reader) -> ReplayWindow:
        """A window that `to_bytes` wrote."""
        return cls(reader.uint(8), reader.uint(WINDOW // 8))
