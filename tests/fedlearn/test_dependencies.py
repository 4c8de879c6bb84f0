"""What is imported is declared, what is declared is imported, and extras stay extras."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.sources import ROOT, trees

OURS = ("fedlearn", "clients", "server", "simulations", "configs")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

MODULES = {
    "dp-accounting": "dp_accounting",
    "scikit-learn": "sklearn",
    "interpret-core": "interpret",
    "hydra-core": "hydra",
    "pillow": "PIL",
    "python-stdnum": "stdnum",
    "protobuf": "google",
    "pyyaml": "yaml",
    "mlflow-skinny": "mlflow",
    "flwr[simulation]": "ray",
}
"""What a distribution is imported as, where its name does not say it."""

FOR_OTHERS = {
    "hydra-optuna-sweeper": "named in a config: hydra/sweeper=optuna",
    "tensorboard": "torch.utils.tensorboard writes with it",
    "sqlalchemy": "MLflow's store in a database",
    "alembic": "MLflow's store in a database",
}
"""Declared for another package that imports it, and where."""


TOOLS = ("test", "docs", "mutate")
"""Extras for work on the project, which it never imports."""


def modules_of(requirements: list[str]) -> set[str]:
    names = [re.split(r"[<>=!~ ]", one)[0] for one in requirements]
    return {MODULES.get(name, name.replace("-", "_")) for name in names if name not in FOR_OTHERS}


@cache
def sources() -> Mapping[str, ast.Module]:
    """The same by the names of modules."""
    return {
        ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__"): tree
        for path, tree in trees().items()
    }


def imports(tree: ast.AST, *, at_once: bool = False) -> Iterator[str]:
    """Names of imported modules; `at_once`: those that importing the module imports."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if at_once:
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING" | "_TYPE_CHECKING")) if at_once:
                pass
            case ast.expr():
                pass  # no import is in one
            case _:
                yield from imports(node, at_once=at_once)


def top(name: str) -> str:
    return name.partition(".")[0]


CORE = modules_of(PROJECT["dependencies"])
EXTRAS = {
    module
    for extra, requirements in PROJECT["optional-dependencies"].items()
    if extra not in TOOLS
    for module in modules_of(requirements)
} - CORE


def test_dependencies__what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    found = {top(name) for tree in sources().values() for name in imports(tree)}
    foreign = found - set(sys.stdlib_module_names) - set(OURS)
    assert foreign == CORE | EXTRAS


def test_dependencies__what_an_extra_brings_is_imported_only_when_it_is_asked_for() -> None:
    importers = defaultdict(set)
    for module, tree in sources().items():
        for name in imports(tree, at_once=True):
            importers[name].add(module)
    early = {module for name, found in importers.items() if top(name) in EXTRAS for module in found}
    assert early  # some modules are an extra's own
    assert {module: importers[module] for module in early if importers[module]} == {}


def loaded(module: str) -> set[str]:
    """Every module that importing one loads, as far as ours name it."""
    found, new = set[str](), {module}
    while new:
        found |= new
        named = {
            name
            for one in new
            if one in sources()
            for name in imports(sources()[one], at_once=True)
        }
        packages = {name.rpartition(".")[0] for name in named | new} - {""}
        new = (named | packages) - found
    return found


@pytest.mark.parametrize(
    "module", ["server.superlink.gateway", "server.superlink.relay", "clients.supernode.fleet"]
)
def test_processes__that_pass_messages_on_load_nothing_to_train_with(module: str) -> None:
    """Where strangers connect: a quarter of the memory, and of the time to start."""
    assert {top(name) for name in loaded(module)} & {"torch", "scipy", "pyarrow", "opacus"} == set()
    assert "torch" in loaded("clients.supernode.node")
