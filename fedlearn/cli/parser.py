"""What the command line understands: all commands in the order of the help. It imports little.

Every leaf sets `command` to its own words, such as "keys new", and `call` to what it calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fedlearn import __version__
from fedlearn.cli import data, keys, ledger, results, runs
from fedlearn.cli.form import Help, group
from fedlearn.core.code import code_digest


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
        root.error(f"unrecognized arguments: {' '.join(later)}")
    return options


def parser() -> argparse.ArgumentParser:
    """The parser of `fedlearn` with all of its commands."""
    root = argparse.ArgumentParser(
        prog="fedlearn",
        description="Federated learning whose privacy is true.",
        epilog="example: fedlearn simulate experiment=medical_heart out=runs/heart",
        formatter_class=Help,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="show version and hash of code")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    runs.add_simulate(commands)
    runs.add_compare(commands)
    runs.add_deployment(commands)
    results.add_report(commands)
    results.add_audit(commands)
    data.add_data(group(commands, "data", "what data there is", "data check my.csv"))
    keys.add_keys(group(commands, "keys", "identities, and who takes part", "keys new cleveland"))
    ledger.add_ledger(
        group(commands, "ledger", "what a site has spent", "ledger show state/ledger.jsonl")
    )
    results.add_export(commands)
    results.add_predict(commands)
    return root


class _Version(argparse.Action):
    """Prints the version and the hash of the code; a class because argparse asks for one."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        print(f"fedlearn {__version__} (code {code_digest()})")
        parser.exit()
