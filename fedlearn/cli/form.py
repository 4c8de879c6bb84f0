"""How a command is described: its words, an example, and its arguments, beside what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What `add_subparsers` returns has no public name.
Commands = argparse._SubParsersAction

Call = Callable[[argparse.Namespace], int | None]
"""What a command does; it returns the exit code, or nothing for 0."""


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


def takes(name: str, help: str, metavar: str | None = None, **options: Any) -> Argument:  # noqa: A002
    """An argument: its name, or `--name`, and what it is."""
    return Argument(name, help, {"metavar": metavar, **options} if metavar else options)


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
        for one in self.arguments:
            parser.add_argument(one.name, help=one.help, **one.options)
        parser.set_defaults(command=self.words, call=self.call)


def command(words: str, example: str, *arguments: Argument) -> Callable[[Call], Command]:
    """Make a command of the function below, whose docstring says what it does."""
    return lambda call: Command(words, example, arguments, call)


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
