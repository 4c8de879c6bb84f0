"""Lines of the documentation that are short enough to read and to compare, whoever wrote them.

    python -m tests.prose [FILE ...]    # wraps what is longer (default: all of docs)

A paragraph, an item of a list or a quotation that has a line of more than `WIDEST` characters is
filled anew; what has none stays as it is. Tables, code, headings and HTML are left alone. What must
not be parted is not: code between backticks, links and images. So a line that is longer than that
holds one such piece and nothing else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
WIDEST: Final = 120
_FILL: Final = 116

_PIECE: Final = re.compile(r"(?:`[^`]+`|!?\[(?:[^\]`]|`[^`]*`)*\](?:\([^)]*\))?|\S)+")
_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})")
_ITEM: Final = re.compile(r"(\s*)([-*+]|\d+[.)])(\s+)")
_QUOTE: Final = re.compile(r"\s*> ?")
_KEPT: Final = re.compile(r"\s*(\||#|<|\[[^\]]+\]:|:[\w-]+:|---\s*$)")
_MARKUP: Final = re.compile(r"([-*+#>|]+|\d+[.)])$")
"""What would begin a list, a heading, a quotation or a table at the beginning of a line."""


def pages() -> list[Path]:
    """All pages of the documentation."""
    return sorted((ROOT / "docs").rglob("*.md"))


def too_long(text: str) -> list[str]:
    """The lines of prose that could be shorter."""
    return [
        line
        for block in _blocks(text)
        if _is_prose(block)
        for line in block
        if len(line) > WIDEST and len(_PIECE.findall(_bare(line))) > 1
    ]


def wrapped(text: str) -> str:
    """`text` with its long paragraphs filled; the same words in the same order."""
    lines = (line for block in _blocks(text) for line in _mended(block))
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


def _mended(block: list[str]) -> list[str]:
    if not _is_prose(block) or all(len(line) <= WIDEST for line in block):
        return block
    return list(_filled(block))


def _blocks(text: str) -> Iterator[list[str]]:
    """Fenced code, single lines that stay, and paragraphs: an item of a list is one of its own."""
    block: list[str] = []
    fence = ""
    for line in text.splitlines():
        opened = _FENCE.match(line)
        if fence:
            block.append(line)
            if opened and opened[1].startswith(fence) and not line.strip().strip(fence[0]):
                yield block
                block, fence = [], ""
            continue
        if block and (opened or not line.strip() or _KEPT.match(line) or _begins(line, block[0])):
            yield block
            block = []
        if opened:
            fence = opened[1]
        block.append(line)
        if not fence and (not line.strip() or _KEPT.match(line)):
            yield block
            block = []
    if block:
        yield block


def _begins(line: str, first: str) -> bool:
    """Whether a line begins another paragraph than the one that begins with `first`."""
    quoted = bool(_QUOTE.match(line)) != bool(_QUOTE.match(first))
    return bool(_ITEM.match(line)) or quoted or (bool(_QUOTE.match(line)) and line.strip() == ">")


def _is_prose(block: list[str]) -> bool:
    first = block[0]
    return bool(first.strip()) and not _FENCE.match(first) and not _KEPT.match(first)


def _bare(line: str) -> str:
    if item := _ITEM.match(line):
        return line[item.end() :]
    quote = _QUOTE.match(line)
    return line[quote.end() :] if quote else line


def _filled(block: list[str]) -> Iterator[str]:
    first = block[0]
    item, quote = _ITEM.match(first), _QUOTE.match(first)
    if item:
        head, rest = item[0], " " * len(item[0])
    elif quote:
        head = rest = quote[0]
    else:
        head = rest = first[: len(first) - len(first.lstrip())]
    line = head
    for piece in _glued(" ".join(_bare(one) if one is first or quote else one for one in block)):
        if line.strip() not in ("", head.strip()) and len(line) + len(piece) >= _FILL:
            yield line.rstrip()
            line = rest
        line += f"{piece} "
    yield line.rstrip()


def _glued(text: str) -> Iterator[str]:
    """The pieces, with one that would be markup at the beginning of a line tied to another."""
    before = ""
    for piece in _PIECE.findall(text):
        if before and _MARKUP.match(piece):
            before = f"{before} {piece}"
            continue
        if before:
            yield before
        before = piece
    if before:
        yield before


def main(names: list[str]) -> None:
    """Wrap the named pages, or all."""
    for path in [Path(name) for name in names] or pages():
        text = path.read_text("utf-8")
        if (mended := wrapped(text)) != text:
            path.write_text(mended, "utf-8")
            print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
