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
    show.add_argument("path", metavar="LEDGER", help="ledger.jsonl of a site, or its folder")
    show.add_argument(
        "--delta", type=float, default=1e-5, help="at which epsilon is stated (default: 1e-5)"
    )
    verify = add(
        tasks,
        "ledger verify",
        "whether a ledger is intact, and what its site has signed for others",
        "ledger verify state/ledger.jsonl --receipts runs/heart/receipts",
        _ledger_verify,
    )
    verify.add_argument("path", metavar="LEDGER", help="ledger.jsonl of a site, or its folder")
    verify.add_argument(
        "--head", metavar="HASH", help="a hash noted earlier: the ledger must have grown from it"
    )
    verify.add_argument(
        "--receipts",
        metavar="PATH",
        nargs="+",
        default=[],
        help="files, or folders of runs: the ledger must have grown from each (else exit code 7)",
    )
    verify.add_argument("--roster", metavar="PATH", help="the pinned roster with the site's key")


def _ledger_show(options: argparse.Namespace) -> int:
    from clients.ledger import report

    report.show(_ledger_at(options.path), options.delta)
    return 0


def _ledger_verify(options: argparse.Namespace) -> int:
    from clients.ledger import report

    path = _ledger_at(options.path)
    report.show_head(path, options.head)
    if options.receipts:
        roster = Path(options.roster) if options.roster else None
        report.check_receipts(path, [Path(place) for place in options.receipts], roster)
    return 0


def _ledger_at(given: str) -> Path:
    path = Path(given)
    return path / "ledger.jsonl" if path.is_dir() else path
