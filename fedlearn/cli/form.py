"""How a command is described: its words, an example, and its arguments, beside what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedlearn.core.errors import ListedError

# What `add_subparsers` returns has no public name.
Commands = argparse._SubParsersAction

Call = Callable[[argparse.Namespace], int | None]
"""What a command does; it returns the exit code, or nothing for 0."""

Completer = Callable[..., list[str]]
"""What may stand in the place of a word that begins so; called as argcomplete calls it."""


class Help(argparse.HelpFormatter):
    """Leaves an example on one line, however narrow the terminal: it is there to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example: "):
            return text
        return super()._fill_text(text, width, indent)


@dataclass(frozen=True)
class Argument:
    """What a command takes, as `ArgumentParser.add_argument` has it."""

    name: str
    help: str
    options: dict[str, Any]
    there: type[ListedError] | None = None
    """For a path that must exist: the error that says it does not."""
    completed: Completer | None = None
    """What a shell offers for it, where that is no name of a file."""


def takes(
    name: str,
    help: str,  # noqa: A002
    metavar: str | None = None,
    *,
    there: type[ListedError] | None = None,
    completed: Completer | None = None,
    **options: Any,
) -> Argument:
    """An argument: its name, or `--name`, and what it is."""
    shown = {"metavar": metavar, **options} if metavar else options
    return Argument(name, help, shown, there, completed)


PAGE_PLACE: Final = (
    takes("--port", "on which the page is (default: a free one)", "PORT", type=int, default=0),
    takes(
        "--address",
        "of this machine's loopback (default: 127.0.0.1)",
        choices=("127.0.0.1", "::1"),
        default="127.0.0.1",
    ),
)
"""Where a page is, of commands that serve one."""


@dataclass(frozen=True)
class Command:
    """A command by its words, such as "keys new"; its sentence is the docstring of `call`."""

    words: str
    example: str
    arguments: tuple[Argument, ...]
    call: Call

    def add(self, commands: Commands[argparse.ArgumentParser]) -> None:
        """Have it understood among `commands`."""
        parser = add(
            commands, self.words, " ".join((self.call.__doc__ or "").split()), self.example
        )
        paths = {}
        for one in self.arguments:
            added = parser.add_argument(one.name, help=one.help, **one.options)
            if one.there:
                paths[added.dest] = one.there
            if one.completed:
                vars(added)["completer"] = one.completed  # where argcomplete looks for it
        parser.set_defaults(command=self.words, call=self.call, paths=paths)


def refuse_absent(options: argparse.Namespace) -> None:
    """Refuse paths that are not there, before anything is imported that would read them.

    Raises:
        ListedError: of the class that the first of these arguments names, with all of them.
    """
    absent = list(_absent(options))
    if absent:
        raise absent[0][0]([problem for _, problem in absent])


def _absent(options: argparse.Namespace) -> Iterator[tuple[type[ListedError], str]]:
    for name, kind in options.paths.items():
        path = getattr(options, name)
        if path is not None and not _exists(path):
            yield kind, f"{path}: cannot be read (No such file or directory)"


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # whoever reads it says what else is wrong with it
        return True


def command(words: str, example: str, *arguments: Argument) -> Callable[[Call], Command]:
    """Make a command of the function below, whose docstring says what it does."""
    return lambda call: Command(words, example, arguments, call)


def say_lines(lines: Sequence[str]) -> None:
    """Print lines at once, also where nobody reads them yet."""
    for line in lines:
        print(line, flush=True)


def add(
    commands: Commands[argparse.ArgumentParser], words: str, sentence: str, example: str
) -> argparse.ArgumentParser:
    """The parser for what follows some words."""
    return commands.add_parser(
        words.split()[-1],
        help=f"{sentence[:1].lower()}{sentence[1:]}".removesuffix("."),
        description=sentence,
        epilog=f"example: fedlearn {example}",
        formatter_class=Help,
    )
