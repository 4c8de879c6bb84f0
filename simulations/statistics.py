"""Figures of the tables of a simulation, from the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedlearn.config import RunConfig, compose
from fedlearn.config.composition import split
from fedlearn.core.errors import ConfigError
from fedlearn.figures import StatisticsFile
from fedlearn.results.statistics import read_statistics
from server.run import Silent
from server.stop import Stop
from simulations.run import check_folder, simulate


def composed(words: Sequence[str]) -> RunConfig:
    """The config of a run that makes figures of the tables that `words` describe.

    Its folder, where none is named, is not that of a run that trains on them.

    Raises:
        ConfigError: with every problem, one line each.
    """
    given = {split(word)[0].lstrip("+~") for word in words}
    if "statistics" in given:
        raise ConfigError(["statistics: is what the command does; leave it out"])
    config = compose(["statistics=table", *words])
    return config if "out" in given else replace(config, out=f"{config.out}-statistics")


def make(config: RunConfig, stop: Stop) -> StatisticsFile:
    """Make the figures; they are in the folder `config.out` as well, with a page.

    Raises:
        FedlearnError: see `simulations.run.simulate`.
    """
    from fedlearn.report.page import write_report

    check_folder(config)
    simulate(config, Silent(), stop)
    folder = Path(config.out)
    write_report(folder)
    return read_statistics(folder)
