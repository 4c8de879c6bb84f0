"""A page for every experiment, whose figures are made from run folders and not by hand.

    python -m benchmarks.pages FOLDER ... [--by auc]    # comparisons or folders, of one experiment
    python -m benchmarks.pages               # all pages again, from the figures that there are
    python -m benchmarks.pages --check       # every page shows what its figures say, and no more
    python -m benchmarks.pages --check FOLDER ...    # and the figures are those of these runs

The first writes `docs/experiments/figures/NAME.json` and its curves, and between two markers of
`docs/experiments/NAME.md` the tables; what stands around them is for people to write, and stays.
The table of all experiments in `docs/results.md` is made anew as well.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.page_blocks import block, overview
from benchmarks.page_data import SCHEMA, Figures
from benchmarks.page_figures import read_figures
from benchmarks.page_plots import alternatives, plots_of
from benchmarks.table import ROOT
from fedlearn.core.errors import DataError, FedlearnError
from fedlearn.core.files import write_atomically
from fedlearn.results.folder import write_json
from fedlearn.results.reading import read_beside

DOCS: Final = ROOT / "docs"
EXPERIMENTS: Final = "experiments"
BEGIN: Final = (
    "<!-- figures, written by `python -m benchmarks.pages`: a change by hand is found -->"
)
END: Final = "<!-- end of figures -->"
SECTIONS: Final = ("Question", "Data", "How settings were chosen", "Figures")
"""What every page has, in this order."""

_BLOCK: Final = re.compile(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", re.DOTALL)
_HEADING: Final = re.compile(r"^## (.+)$", re.MULTILINE)


def figures_of(docs: Path, name: str) -> Figures | None:
    """The figures of an experiment; None where no run folder has been read yet."""
    path = docs / EXPERIMENTS / "figures" / f"{name}.json"
    return read_beside(Figures, path, schema=SCHEMA, what="figures of an experiment")


def write_figures(docs: Path, figures: Figures) -> None:
    """Write the figures of an experiment and their curves; its page is begun if there is none."""
    folder, name = docs / EXPERIMENTS, figures.experiment
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_json(folder / "figures" / f"{name}.json", figures)
    for kind, plot in plots_of(figures).items():
        write_atomically(folder / "figures" / f"{name}-{kind}.svg", f"{plot}\n".encode())
    if not (page := folder / f"{name}.md").is_file():
        write_atomically(page, _begun(name).encode())


def write_blocks(docs: Path) -> None:
    """Write what the figures say into every page, and the table of all into `results.md`.

    Raises:
        DataError: a page has no markers; what was written before stays.
    """
    for page, made in _blocks(docs).items():
        write_atomically(page, with_block(page.read_text("utf-8"), made, page).encode())


def _blocks(docs: Path) -> dict[Path, str]:
    """What each page is to have between its markers."""
    found = {
        page: figures_of(docs, page.stem) for page in sorted((docs / EXPERIMENTS).glob("*.md"))
    }
    blocks = {page: block(page.stem, figures) for page, figures in found.items()}
    known = [figures for figures in found.values() if figures]
    return blocks | {docs / "results.md": overview(known)}


def with_block(text: str, made: str, page: Path) -> str:
    """`text` with `made` between its markers.

    Raises:
        DataError: it does not have them exactly once.
    """
    if len(_BLOCK.findall(text)) != 1:
        raise DataError(f"{page}: has not exactly one pair of the lines\n{BEGIN}\n{END}")
    return _BLOCK.sub(lambda _: f"{BEGIN}\n{made}{END}", text)


def problems(docs: Path) -> Iterator[str]:
    """What is wrong with the pages: form, figures that no file of figures has, curves of others."""
    for page, made in _blocks(docs).items():
        text = page.read_text("utf-8")
        yield from _differs(text, made, page)
        if page.parent.name == EXPERIMENTS:
            yield from _out_of_form(text, page)
            yield from _other_plots(page, figures_of(docs, page.stem))
    for path in sorted((docs / EXPERIMENTS / "figures").glob("*.json")):
        if not (docs / EXPERIMENTS / f"{path.stem}.md").is_file():
            yield f"{path.name}: figures without a page"


def _out_of_form(text: str, page: Path) -> Iterator[str]:
    found = [one for one in _HEADING.findall(text) if one in SECTIONS]
    if found != [*SECTIONS]:
        yield f"{page.name}: its sections are {found}, and should be {[*SECTIONS]}"


def _differs(text: str, made: str, page: Path) -> Iterator[str]:
    try:
        same = with_block(text, made, page) == text
    except DataError as error:
        yield str(error)
        return
    if not same:
        yield f"{page.name}: what stands between the markers is not what its figures say"


def _other_plots(page: Path, figures: Figures | None) -> Iterator[str]:
    """By the text beside a curve, which has its values: matplotlib's versions draw other bytes."""
    for kind, text in (alternatives(figures) if figures else {}).items():
        path = page.parent / "figures" / f"{page.stem}-{kind}.svg"
        if not path.is_file() or str(text) not in path.read_text("utf-8"):
            yield f"{path.name}: is not of the figures of {page.name}"


def _begun(name: str) -> str:
    sections = "\n\n".join(f"## {one}" for one in SECTIONS)
    return f"# `{name}`\n\n{sections}\n\n{BEGIN}\n{END}\n"


def main(words: Sequence[str] | None = None) -> int:
    """Write pages, or check them; 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--by", default="", metavar="METRIC", help="what it is measured by")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--docs", type=Path, default=DOCS, help="(default: %(default)s)")
    options = parser.parse_args(words)
    try:
        found = list(_done(options.docs, options.folders, options.by, write=not options.check))
    except FedlearnError as error:
        found = [str(error)]
    print("\n".join(found) or "every page shows what its figures say", file=sys.stderr)
    return bool(found)


def _done(docs: Path, folders: Sequence[Path], by: str, *, write: bool) -> Iterator[str]:
    figures = read_figures(folders, by) if folders else None
    if figures and write:
        write_figures(docs, figures)
    elif figures and figures_of(docs, figures.experiment) != figures:
        yield f"{figures.experiment}: its figures are not those of the runs"
    if write:
        write_blocks(docs)
    yield from problems(docs)


if __name__ == "__main__":
    sys.exit(main())
