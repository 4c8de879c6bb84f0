"""Which encoding a text without a mark is probably in, by which signs it would hold.

Of East Asian encodings nearly any bytes can be read as several, and most readings are of signs
that nobody uses: each of these standards has its common signs in front. So that counts under
which the text has the most of these.

Source: GB 2312 (rows 8 and 16 to 55) and KS X 1001 (16 to 40), Big5 (level 1), JIS X 0208
(level 1).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = 1 << 16
"""Bytes that are looked at, of as many as there are."""
_SURE: Final = 0.8


@dataclass(frozen=True)
class _EastAsian:
    """The names of an encoding, the narrower first, and the first bytes of its common signs."""

    names: tuple[str, ...]
    common: tuple[range, ...]

    def score(self, content: bytes) -> tuple[float, str]:
        """The share of common signs among those that are not ASCII, and under which name."""
        for name in self.names:
            try:
                content.decode(name)
            except UnicodeDecodeError:
                continue
            counts = Counter(content[:_SAMPLE].decode(name, "ignore"))
            strange = {one: n for one, n in counts.items() if not one.isascii()}
            right = sum(n for one, n in strange.items() if self._is_common(one))
            return right / max(1, sum(strange.values())), name
        return 0.0, self.names[0]

    def _is_common(self, sign: str) -> bool:
        code = sign.encode(self.names[0], "ignore")
        return len(code) == 2 and any(code[0] in places for places in self.common)


_EAST_ASIAN: Final = (
    # Korean first: what is common there is common in Chinese as well, and not the other way.
    _EastAsian(("euc_kr", "cp949"), (range(0xA1, 0xA4), range(0xB0, 0xC9))),
    _EastAsian(("shift_jis", "cp932"), (range(0x81, 0x84), range(0x88, 0x98))),
    _EastAsian(("big5", "cp950"), (range(0xA1, 0xA4), range(0xA4, 0xC7))),
    # Letters of Pinyin as well (row 8), which foreign words in a Chinese table have.
    _EastAsian(("gb2312", "gb18030"), (range(0xA1, 0xA4), range(0xA8, 0xA9), range(0xB0, 0xD8))),
)


def encoding_in(content: bytes) -> str:
    """`utf-8`, or the encoding that bytes which are none are probably in."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in content or _reads(content, "utf-8"):
        return "utf-8"  # with a zero byte no text; reading it says what it is
    score, name = max((one.score(content) for one in _EAST_ASIAN), key=lambda found: found[0])
    if score >= _SURE:
        return "gb18030" if name == "gb2312" else name
    return "cp1252" if _reads(content, "cp1252") else "latin-1"


def _reads(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
