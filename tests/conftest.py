"""What all tests share: real data, how much is tried, and torch on one thread."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedlearn  # noqa: F401  (its switches, before torch is there)
from tests import effort, warm

_cpu: dict[str, float] = {}
"""Seconds of CPU time that each test took in this process, and in programs that it started."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let it be seen what a test costs, which a clock does not tell on a busy machine."""
    what = "list the N tests that took most CPU time, their programs' too (with -n 0)"
    parser.addoption("--cpu", type=int, default=0, metavar="N", help=what)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _spent()
    try:
        return (yield)
    finally:
        _cpu[item.nodeid] = _spent() - before


def _spent() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum((one.ru_utime + one.ru_stime for one in used), warm.spent[0])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List the dearest tests, where that is asked for."""
    for test in sorted(_cpu, key=_cpu.__getitem__, reverse=True)[: config.getoption("cpu")]:
        terminalreporter.write_line(f"{_cpu[test]:6.2f} CPU-s {test}")


def pytest_configure(config: pytest.Config) -> None:
    """Try a part in `make check`."""
    effort.configure(config.getoption("markexpr"))
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # others run the tests; what takes a while to import is theirs
    import torch

    torch.set_num_threads(1)
    gc.disable()  # a fifth of the time of imports


def pytest_collection_finish() -> None:
    """Keep libraries and tests out of every later look for garbage, and seldom look."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def heart_archive() -> Path:
    """The archive of the heart set: from the cache, or fetched; else the test is skipped."""
    return fetched("heart")


@pytest.fixture(scope="session")
def credit_cache() -> Path:
    """The user's own cache, in which the archive of the lending sets lies; else a skip."""
    return fetched("credit").parent.parent


@pytest.fixture(scope="session")
def text_cache() -> Path:
    """The user's own cache, in which the archives of the text experiments lie; else a skip."""
    paths = [fetched(name) for name in ("codes", "contracts", "news", "minilm")]
    return paths[0].parent.parent


@pytest.fixture(scope="session")
def review_cache() -> Path:
    """The user's own cache, in which the archive of Chinese reviews lies; else a skip."""
    return fetched("reviews").parent.parent


def fetched(name: str) -> Path:
    """An archive from the cache or from its source; skips the test where it is not to be had."""
    from fedlearn.core.errors import DataError
    from fedlearn.data.datasets import archives

    try:
        return archives.fetch(archives.ARCHIVES[name], archives.default_cache(os.environ))
    except DataError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(f"the {name} archive is neither cached nor to be had: {error}")


@pytest.fixture(scope="session")
def fashion_folder() -> Path:
    """The folder of Fashion-MNIST, where it is installed or in the cache; else a skip."""
    from fedlearn.data.datasets import archives, fashion

    folder = fashion.usual_folder(archives.default_cache(os.environ))
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"Fashion-MNIST is not in {folder}: install dataset-fashion-mnist")
    return folder


@pytest.fixture(scope="session")
def blood_cells() -> Path:
    """The file of blood cells, which lies beside the project where it is developed; else a skip."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd28.npz"
    if not path.is_file():
        pytest.skip(f"the blood cells are not in {path}")
    return path


@pytest.fixture(scope="session")
def brca() -> Path:
    """The patients of Fed-TCGA-BRCA, which lie beside the project where it is developed."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = shared / "fed_tcga_brca" / "brca_survival.csv"
    if not path.is_file():
        pytest.skip(f"the patients of Fed-TCGA-BRCA are not in {path}")
    return path
