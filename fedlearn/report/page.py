"""`report.html` of a run, or of several: one file that holds all it shows and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from fedlearn import __version__
from fedlearn.core.errors import DataError
from fedlearn.core.files import possible, write_atomically
from fedlearn.report.comparison import FILE
from fedlearn.report.explanations import FILE as EXPLANATIONS
from fedlearn.report.explanations import read_explanations
from fedlearn.report.facts import Facts
from fedlearn.report.inversion import read_inversion
from fedlearn.report.poison import COLUMNS, cells, meaning, read_poison
from fedlearn.report.poison import FILE as POISON
from fedlearn.report.run_page import run_page
from fedlearn.report.runs import read_runs
from fedlearn.report.sweep_page import sweep_page
from fedlearn.report.texts import TEMPLATES, render
from fedlearn.results.reading import read_bytes, read_result
from fedlearn.tasks import metric_called

NAME: Final = "report.html"


def write_report(folder: Path) -> Path:
    """Write the report of the run, the comparison or the runs in `folder`; its path.

    Raises:
        DataError: there is nothing to report on, or it cannot be read or written.
    """
    if (folder / "result.json").is_file():
        hashes = _hashes(folder, "result.json", "config.yaml", EXPLANATIONS)
        facts = Facts(result=read_result(folder), hashes=hashes)
        page = run_page(facts, read_explanations(folder))
        text = _render("run.html.j2", folder, page=page, **facts.texts)
    elif (folder / POISON).is_file() and not (folder / FILE).is_file():
        text = _render("poison.html.j2", folder, hashes=_hashes(folder, POISON))
    else:
        runs, missing = read_runs(folder)
        several = sweep_page(folder.resolve().name, runs, missing, _hashes(folder, FILE))
        text = _render("sweep.html.j2", folder, page=several)
    path = folder / NAME
    with possible("written", path, DataError):
        write_atomically(path, text.encode())
    return path


def _hashes(folder: Path, *names: str) -> Mapping[str, str]:
    return {
        name: hashlib.sha256(read_bytes(folder / name)).hexdigest()
        for name in names
        if (folder / name).is_file()
    }


def _render(template: str, folder: Path, **values: Any) -> str:
    script = (TEMPLATES / "sort.js.j2").read_text()
    return render(
        template,
        # Trusted: both are files of this package.
        style=Markup((TEMPLATES / "style.css.j2").read_text()),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        metric_name=lambda name: metric_called(name).title,
        inversion=read_inversion(folder),
        poison=read_poison(folder),
        poison_columns=COLUMNS,
        poison_cells=cells,
        poison_meaning=meaning,
        **values,
    )
