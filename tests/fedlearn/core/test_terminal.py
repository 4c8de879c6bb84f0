"""Nothing that is printed is lost: not in a narrow terminal, not in a pipe, not in ASCII."""

from __future__ import annotations

import io
import sys

import pytest

from fedlearn.cli import main
from fedlearn.core import terminal

ROWS = (
    ("local-only,seed=0,site=switzerland", "0.123456789", "1000"),
    ("Universit\u00e4tsklinikum Schleswig-Holstein", "-", "20"),
)


class Screen(io.StringIO):
    """A terminal, as far as rich asks."""

    def isatty(self) -> bool:
        return True


def printed(file: io.StringIO) -> str:
    table = terminal.numbers("run", "epsilon", "seconds")
    for row in ROWS:
        table.add_row(*row)
    terminal.show(terminal.console(file), table)
    return file.getvalue()


@pytest.mark.parametrize("columns", [10, 20, 29, 40, 60])
def test_table__is_folded_and_never_cut_where_it_is_narrow(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = printed(io.StringIO())
    # 5 columns for a name, and 6 around the three: below that the table is wider.
    assert max(map(len, shown.splitlines())) == max(columns, 5 + len("0.123456789seconds") + 6)
    for row in ROWS:
        assert all(cell in shown for cell in row[1:])
    everything = "runepsilonseconds" + "".join(map("".join, ROWS))
    found = "".join(shown.replace("\u2500", "").split())
    assert sorted(found) == sorted(everything.replace(" ", ""))


def test_pipe__gets_every_row_and_sentence_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = printed(io.StringIO()).splitlines()
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in lines)
    file = io.StringIO()
    terminal.console(file).print("word " * 500)
    assert len(file.getvalue().splitlines()) == 1


def test_no_color__is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    terminal.console(screen).print("[red]so[/]")
    assert "\x1b[31m" in screen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    terminal.console(screen).print("[red]so[/]")
    assert "\x1b[31m" not in screen.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names__that_an_encoding_lacks_are_written_as_escapes(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding, "strict") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    assert main(["data", "list"]) == 0
    assert main(["simulate", "rounds=\u4e8c"]) == 2
    out.flush()
    error.flush()
    complaint = error.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert ("rounds=\u4e8c" if encoding == "utf-8" else "rounds=\\u4e8c") in complaint
    assert "heart" in out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
