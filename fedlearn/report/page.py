"""Writing `report.html`: HTML in which no value becomes markup and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedlearn import __version__
from fedlearn.core.errors import DataError
from fedlearn.report.comparison import FILE
from fedlearn.report.explanations import FILE as EXPLANATIONS
from fedlearn.report.explanations import read_explanations
from fedlearn.report.inversion import read_inversion
from fedlearn.report.model_card import Fact
from fedlearn.report.run_page import metric_name, run_page
from fedlearn.report.runs import read_runs
from fedlearn.report.strip import Strip, strip
from fedlearn.report.sweep_page import sweep_page
from fedlearn.results.folder import write_atomically
from fedlearn.results.reading import read_bytes, read_result

NAME: Final = "report.html"
TEMPLATES: Final = Path(__file__).parent / "templates"


def write_report(folder: Path) -> Path:
    """Write the report of the run, the comparison or the runs in `folder`; its path.

    Raises:
        DataError: there is nothing to report on, or it cannot be read or written.
    """
    if (folder / "result.json").is_file():
        result = read_result(folder)
        hashes = _hashes(folder, "result.json", "config.yaml", EXPLANATIONS)
        page = run_page(result, hashes, read_explanations(folder))
        text = _render("run.html.j2", page=page, strip=_strip(folder))
    else:
        runs, missing = read_runs(folder)
        several = sweep_page(folder.resolve().name, runs, missing, _hashes(folder, FILE))
        text = _render("sweep.html.j2", page=several, strip=_strip(folder))
    path = folder / NAME
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _strip(folder: Path) -> Strip | None:
    """What a demonstration has left in the folder."""
    inversion = read_inversion(folder)
    return None if inversion is None else strip(inversion)


def _hashes(folder: Path, *names: str) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            name=f"SHA-256 of {name}",
            value=hashlib.sha256(read_bytes(folder / name)).hexdigest(),
        )
        for name in names
        if (folder / name).is_file()
    )


def _render(template: str, **values: object) -> str:
    script = (TEMPLATES / "sort.js.j2").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Trusted: both are files of this package.
    style = Markup((TEMPLATES / "style.css.j2").read_text())
    return (
        _environment()
        .get_template(template)
        .render(
            style=style, script=Markup(script), script_digest=digest, version=__version__, **values
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = metric_name
    return environment
