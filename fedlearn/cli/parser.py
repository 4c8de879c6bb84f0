"""What the command line understands: all commands in the order of the help. It imports little.

Every leaf sets `command` to its own words, such as "keys new", and `call` to what it calls.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from functools import cache
from typing import Final, NoReturn

from fedlearn import __version__
from fedlearn.cli import (
    completion,
    data,
    distilling,
    generation,
    keys,
    kits,
    operations,
    results,
    runs,
    searching,
    statistics,
    studies,
)
from fedlearn.cli.form import Help, add
from fedlearn.core.code import code_digest

COMMANDS: Final = (
    *(runs.new, runs.simulate, runs.compare, runs.server, runs.client, runs.helper),
    operations.status,
    *(operations.queue_add, operations.queue_show, operations.queue_stop),
    operations.queue_resume,
    *(studies.studies_list, studies.studies_show, studies.studies_approve),
    *(studies.studies_refuse, studies.studies_pause, studies.studies_withdraw),
    studies.desk,
    *(results.report, results.audit),
    *(data.data_list, data.data_fetch, data.data_check, statistics.statistics),
    *(keys.keys_new, keys.keys_show, keys.keys_certificate),
    *(kits.keys_kit, kits.keys_join),
    *(keys.roster_sign, keys.roster_pin, keys.roster_show),
    *(results.ledger_show, results.ledger_verify),
    *(results.export, distilling.distill, results.predict, generation.generate),
    *(searching.index, searching.find),
    completion.completion,
)
GROUPS: Final = {
    "data": ("What data there is.", "data check my.csv"),
    "queue": ("The studies that a coordinator serves one after another.", "queue show server.yaml"),
    "studies": ("What a site's owner decides of studies.", "studies list site.yaml"),
    "keys": ("Identities, and who takes part.", "keys new cleveland"),
    "keys roster": ("The signed list of who takes part.", "keys roster show roster.json"),
    "ledger": ("What a site has spent.", "ledger show state/ledger.jsonl"),
}
"""Words that commands have in common: a sentence and an example of each."""

_NO_CHOICE: Final = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)", re.DOTALL)
_CHOICES: Final = re.compile(r"[\w-]+")
_NO_OPTION: Final = re.compile(r"unrecognized arguments: --([\w.-]+)(?:=(\S+))?")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in `arguments`; ends the program with 2 where they are none.

    `key=value` may stand before and after options: argparse takes them all at the
    first place where one could be, and hands back what comes later.
    """
    root = parser()
    options, later = root.parse_known_args(arguments)
    if later and hasattr(options, "overrides") and not any(word.startswith("-") for word in later):
        options.overrides = [*options.overrides, *later]
    elif later:
        root.error(f"unrecognized arguments: {_with_values(later, options)}")
    return options


def _with_values(later: Sequence[str], options: argparse.Namespace) -> str:
    """The words that no command has; the value of an only one, taken for an override, beside it."""
    taken = [word for word in getattr(options, "overrides", ()) if "=" not in word]
    if len(later) == 1 and len(taken) == 1:
        return f"{later[0]}={taken[0]}"
    return " ".join(later)


@cache
def parser() -> argparse.ArgumentParser:
    """The parser of `fedlearn` with all of its commands."""
    root: argparse.ArgumentParser = _Parser(
        prog="fedlearn",
        description="Federated learning whose privacy is true.",
        epilog="example: fedlearn simulate experiment=medical_heart out=runs/heart",
        formatter_class=Help,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="show version and hash of code")
    below = {"": root.add_subparsers(required=True, metavar="COMMAND")}
    for command in COMMANDS:
        group = command.words.rpartition(" ")[0]
        if group not in below:
            made = add(below[group.rpartition(" ")[0]], group, *GROUPS[group])
            below[group] = made.add_subparsers(required=True, metavar="TASK")
        command.add(below[group])
    return root


class _Parser(argparse.ArgumentParser):
    """Says what may have been meant; those of its commands are of this class, too."""

    def error(self, message: str) -> NoReturn:
        """End the program with 2."""
        super().error(message + _meant(message))


def _meant(message: str) -> str:
    if (unknown := _NO_CHOICE.search(message)) is not None:
        near = difflib.get_close_matches(unknown[1], _CHOICES.findall(unknown[2]), n=1)
        return f"; did you mean {near[0]}?" if near else ""
    if (option := _NO_OPTION.search(message)) is not None:
        from fedlearn.config.composition import key_for  # Hydra, which takes a while

        name = option[1].replace("-", "_")
        word = f"{key_for(name) or name}={option[2] or 'VALUE'}"
        return f"; what belongs to a study is written key=value, as {word}"
    return ""


class _Version(argparse.Action):
    """Prints the version and the hash of the code; a class because argparse asks for one."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        print(f"fedlearn {__version__} (code {code_digest()})")
        parser.exit()
