"""`fedlearn data`: what data there is, and what is wrong with one's own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fedlearn.cli.form import Commands, add
from fedlearn.core.errors import ConfigError


def add_data(tasks: Commands[argparse.ArgumentParser]) -> None:
    """All under `data`."""
    add(tasks, "data list", "known data sets", "data list", _data_list)
    fetch = add(
        tasks, "data fetch", "bring a known set into the cache", "data fetch heart", _data_fetch
    )
    fetch.add_argument("name", metavar="NAME", help="one that `fedlearn data list` shows")
    check = add(
        tasks,
        "data check",
        "look at one's own data: what is understood, and what is wrong, by line or file",
        "data check my.csv",
        _data_check,
    )
    check.add_argument(
        "path",
        metavar="PATH",
        help="a table (CSV, Parquet), texts (CSV, JSONL, a folder that Hugging Face `datasets` "
        "saved), images (a folder for every class, or .npz)",
    )


def _data_list(_: argparse.Namespace) -> int:
    from fedlearn.core import terminal
    from simulations.data_display import show_list

    show_list(terminal.console())
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from fedlearn.data.datasets import archives
    from fedlearn.data.images.medmnist_sets import SETS

    cache = archives.default_cache(os.environ)
    known = {**archives.ARCHIVES, **{name: one.file for name, one in SETS.items()}}
    if options.name not in known:
        raise ConfigError([f"{options.name}: must be one of {', '.join(known)}"])
    print(archives.fetch(known[options.name], cache))
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from fedlearn.core import terminal
    from fedlearn.data.check.files import check
    from simulations.data_display import show_check

    report = check(Path(options.path))
    show_check(report, terminal.console())
    return 5 if report.problems else 0
