"""`fedlearn ledger`: what a site has spent."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedlearn.cli.form import Commands, add


def add_ledger(tasks: Commands[argparse.ArgumentParser]) -> None:
    """All under `ledger`."""
    show = add(
        tasks,
        "ledger show",
        "what each run has spent, and what that amounts to",
        "ledger show state/ledger.jsonl --delta 1e-5",
        _ledger_show,
    )
    show.add_argument("path", metavar="LEDGER", help="ledger.jsonl of a site")
    show.add_argument(
        "--delta", type=float, default=1e-5, help="at which epsilon is stated (default: 1e-5)"
    )
    verify = add(
        tasks,
        "ledger verify",
        "whether a ledger is intact; prints the hash to note elsewhere",
        "ledger verify state/ledger.jsonl",
        _ledger_verify,
    )
    verify.add_argument("path", metavar="LEDGER", help="ledger.jsonl of a site")
    verify.add_argument(
        "--head", metavar="HASH", help="a hash noted earlier: the ledger must have grown from it"
    )


def _ledger_show(options: argparse.Namespace) -> int:
    from clients.ledger import report

    report.show(Path(options.path), options.delta)
    return 0


def _ledger_verify(options: argparse.Namespace) -> int:
    from clients.ledger import report

    report.show_head(Path(options.path), options.head)
    return 0
