"""How a command is described: its words, one sentence, an example, and what it calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable

# What `add_subparsers` returns has no public name.
Commands = argparse._SubParsersAction

Command = Callable[[argparse.Namespace], int]
"""What a command calls; it returns the exit code."""


class Help(argparse.HelpFormatter):
    """Leaves an example on one line, however narrow the terminal: it is there to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example: "):
            return text
        return super()._fill_text(text, width, indent)


def add(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    summary: str,
    example: str,
    call: Command,
) -> argparse.ArgumentParser:
    """A command by its words, such as "keys new"; arguments are for the caller to add."""
    command = _parser(commands, name, summary, example)
    command.set_defaults(command=name, call=call)
    return command


def group(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str
) -> Commands[argparse.ArgumentParser]:
    """A word that commands have in common."""
    return _parser(commands, name, summary, example).add_subparsers(required=True, metavar="TASK")


def _parser(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name.split()[-1],
        help=summary,
        description=_sentence(summary),
        epilog=f"example: fedlearn {example}",
        formatter_class=Help,
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
