"""The words of `fedlearn audit demo=inversion`: what they ask for, and what is left on disk.

`fedlearn audit demo=inversion out=DIR` shows all ways to protect updates beside
each other; `fedlearn audit RUN demo=inversion` shows the one that the run in the
folder RUN has, and leaves the files there, for its report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fedlearn.config import decode
from fedlearn.core import terminal
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import write_atomically
from fedlearn.report.comparison import FILE as COMPARISON
from fedlearn.report.inversion import FILE, Inversion, write_inversion
from fedlearn.report.page import write_report
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from simulations.attacks.inversion import demonstrate
from simulations.attacks.inversion_image import FILE as IMAGE
from simulations.attacks.inversion_image import image, table
from simulations.attacks.inversion_ways import FEWEST_SITES, MOST_SITES, Settings


def command(words: Sequence[str]) -> None:
    """Run the demonstration that `words` describe, print it, and write it down.

    Raises:
        ConfigError: the words make no sense, or there is a demonstration already.
        FedlearnError: the images cannot be had, or a federation could not run.
    """
    settings, result = read_words(words)
    folder = Path(settings.out)
    _refuse_old(folder)
    inversion = demonstrate(settings, result)
    console = terminal.console()
    terminal.show(console, table(inversion))
    for path in write(folder, inversion):
        console.print(str(path), soft_wrap=True)


def read_words(words: Sequence[str]) -> tuple[Settings, ResultFile | None]:
    """The settings, and the run whose protection is asked for.

    Raises:
        ConfigError: with everything that is wrong with the words.
        DataError: there is no run where one is named.
    """
    folders = [word for word in words if "=" not in word]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    found = [f"{word}: one folder of a run is enough" for word in folders[1:]]
    known = [field.name for field in fields(Settings)]
    found += [
        f"{key}={value}: demo=inversion has no such key; it has {', '.join(known)}"
        for key, value in given.items()
        if key not in known
    ]
    if folders and "out" in given:
        found.append(f"out={given['out']}: the files go into the folder of the run, {folders[0]}")
    if folders and "sites" in given:
        found.append(f"sites={given['sites']}: follows from the run in {folders[0]}")
    values = {key: _value(key, text) for key, text in given.items() if key in known}
    try:
        settings = decode(Settings, json.dumps(values))
    except ConfigError as error:
        raise ConfigError([*found, *error.problems]) from None
    if found:
        raise ConfigError(found)
    return _of_run(settings, Path(folders[0])) if folders else (settings, None)


def _of_run(settings: Settings, run: Path) -> tuple[Settings, ResultFile]:
    result = read_result(run)
    sites = max(FEWEST_SITES, min(len(result.data.sites), MOST_SITES))
    return replace(settings, out=str(run), sites=sites), result


def _value(key: str, text: str) -> Any:
    """A number where it is one; paths stay as they are written."""
    if key in ("images", "out"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refuse_old(folder: Path) -> None:
    if old := [str(folder / name) for name in (FILE, IMAGE) if (folder / name).exists()]:
        raise ConfigError(
            [f"out={folder}: holds a demonstration already; remove {' and '.join(old)} first"]
        )


def write(folder: Path, inversion: Inversion) -> list[Path]:
    """Write the figures and the image, and a report anew where there is something to report on.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_inversion(folder, inversion)
        write_atomically(folder / IMAGE, image(inversion))
    except OSError as error:
        raise DataError(f"out={folder}: cannot be written to ({error.strerror})") from None
    written = [folder / FILE, folder / IMAGE]
    if any((folder / name).is_file() for name in ("result.json", COMPARISON)):
        written.append(write_report(folder))
    return written
