"""`report.html` of a run, or of several: one file that holds all it shows and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from fedlearn import __version__
from fedlearn.core.errors import DataError
from fedlearn.core.files import possible, write_atomically
from fedlearn.core.language import Locale, language_of
from fedlearn.figures import FILE as FIGURES
from fedlearn.report.comparison import FILE
from fedlearn.report.explanations import FILE as EXPLANATIONS
from fedlearn.report.explanations import read_explanations
from fedlearn.report.export import read_shapes
from fedlearn.report.exposure import FILE as EXPOSURE
from fedlearn.report.exposure_page import ExposurePage
from fedlearn.report.facts import Facts
from fedlearn.report.figures_page import FiguresPage
from fedlearn.report.inversion import read_inversion
from fedlearn.report.poison import COLUMNS, cells, meaning, read_poison
from fedlearn.report.poison import FILE as POISON
from fedlearn.report.run_page import run_page
from fedlearn.report.runs import Run, read_runs
from fedlearn.report.sweep_page import sweep_page
from fedlearn.report.texts import TEMPLATES, render
from fedlearn.results.reading import read_bytes, read_result
from fedlearn.results.result import ResultFile
from fedlearn.results.statistics import USABLE, read_statistics
from fedlearn.tasks import metric_called

NAME: Final = "report.html"


def write_report(folder: Path, code: str | None = None) -> Path:
    """Write the report of the run, the comparison or the runs in `folder`; its path.

    Args:
        folder: of a run, or of several.
        code: the language (`fedlearn.core.language.codes`); None for that of the
            runs' configs, English where they do not agree.

    Raises:
        ConfigError: there is no such language.
        DataError: there is nothing to report on, or it cannot be read or written.
    """
    if (folder / FIGURES).is_file():
        text = _table_one(folder, code)
    elif (folder / "result.json").is_file():
        hashes = _hashes(folder, "result.json", "config.yaml", EXPLANATIONS)
        result = read_result(folder)
        language = language_of(code or _language(result))
        facts = Facts(result=result, hashes=hashes, language=language)
        page = run_page(facts, read_explanations(folder), read_shapes(folder, result))
        text = _render("run.html.j2", folder, page=page, **facts.texts)
    elif (folder / POISON).is_file() and not (folder / FILE).is_file():
        language = language_of(code or "en")
        text = _render("poison.html.j2", folder, language=language, hashes=_hashes(folder, POISON))
    elif (folder / EXPOSURE).is_file() and not (folder / FILE).is_file():
        language = language_of(code or "en")
        hashes = _hashes(folder, EXPOSURE)
        text = _render("exposed.html.j2", folder, language=language, hashes=hashes)
    else:
        runs, missing = read_runs(folder)
        language = language_of(code or _shared(runs))
        title = folder.resolve().name
        several = sweep_page(title, runs, missing, _hashes(folder, FILE), language)
        text = _render("sweep.html.j2", folder, language=language, page=several)
    path = folder / NAME
    with possible("written", path, DataError):
        write_atomically(path, text.encode())
    return path


def _table_one(folder: Path, code: str | None) -> str:
    """The page of a run that made figures of tables."""
    found, result = read_statistics(folder), read_result(folder)
    language = language_of(code or found.language)
    facts = Facts(result=result, hashes={}, language=language)
    hashes = _hashes(folder, FIGURES, USABLE, "result.json", "config.yaml")
    page = FiguresPage(found, language)
    return _render(
        "figures.html.j2", folder, language=language, figures=page, statement=facts.promise,
        hashes=hashes,
    )  # fmt: skip


def _language(result: ResultFile) -> str:
    chosen: str = result.config.get("report", {}).get("language", "en")
    return chosen


def _shared(runs: Sequence[Run]) -> str:
    """The language of several runs: English where they do not agree."""
    asked = {_language(run.result) for run in runs}
    return asked.pop() if len(asked) == 1 else "en"


def _hashes(folder: Path, *names: str) -> Mapping[str, str]:
    return {
        name: hashlib.sha256(read_bytes(folder / name)).hexdigest()
        for name in names
        if (folder / name).is_file()
    }


def _render(template: str, folder: Path, *, language: Locale, **values: Any) -> str:
    script = (TEMPLATES / "sort.js.j2").read_text()
    return render(
        template,
        language=language,
        # Trusted: both are files of this package.
        style=Markup((TEMPLATES / "style.css.j2").read_text()),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        metric_name=lambda name: language.say(metric_called(name).title),
        inversion=read_inversion(folder),
        poison=read_poison(folder),
        exposure=ExposurePage.of(folder, language),
        poison_columns=COLUMNS,
        poison_cells=cells,
        poison_meaning=meaning,
        **values,
    )
