"""Families of options: those of the house, and those that installed packages bring."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.core.registry import POINTS, Family, defaults_of
from tests.plugins import install

TOY = """
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Toy:
    kind: str = "toy"
    width: int
    depth: int = 2
"""

HALF = """
from abc import ABC, abstractmethod

class Shape(ABC):
    @abstractmethod
    def area(self): ...

@dataclass(frozen=True, kw_only=True)
class Half(Shape):
    kind: str = "half"
"""


@dataclass(frozen=True, kw_only=True)
class Plain:
    kind: Literal["plain"] = "plain"


def family() -> Family[object]:
    return Family("shape", "fedlearn.test_shapes", (Plain,))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "fedlearn.test_shapes:toy": "toy_shapes:Toy",
        "fedlearn.test_shapes:plain": "toy_shapes:Toy",
        "fedlearn.test_shapes:absent": "no_such_module:Toy",
        "fedlearn.test_shapes:number": "toy_shapes:NUMBER",
        "fedlearn.test_shapes:renamed": "toy_shapes:Toy",
        "fedlearn.test_shapes:half": "toy_shapes:Half",
    }
    monkeypatch.syspath_prepend(
        install(tmp_path, {"toy_shapes.py": TOY + HALF + "NUMBER = 3\n"}, points)
    )
    monkeypatch.delitem(sys.modules, "toy_shapes", raising=False)


def test_family__knows_its_own_and_what_packages_bring(package: None) -> None:
    assert family().kinds == ("plain", "absent", "half", "number", "renamed", "toy")
    assert family().find("nothing") is None


def test_family__imports_a_package_only_when_it_is_chosen(package: None) -> None:
    shapes = family()
    assert shapes.find("plain") is Plain  # a package cannot take the name of ours
    assert "toy_shapes" not in sys.modules
    assert shapes.loaded == frozenset()
    toy = shapes.find("toy")
    assert toy is not None
    assert toy.__name__ == "Toy"
    assert shapes.loaded == {toy}
    assert defaults_of(toy) == {"kind": "toy", "width": "???", "depth": 2}


def test_points__are_those_of_the_families() -> None:
    import fedlearn.config  # noqa: F401  (where they are all known)

    found = {one.group: one.points for one in Family.all if one.group != "shape"}
    assert found.items() <= POINTS.items()


def test_help__lists_the_options_of_packages(
    package: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POINTS, "engine", "fedlearn.test_shapes")  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    shown = "".join(capsys.readouterr().out.split())
    assert "engine:local,ray,absent,half,number,plain,renamed,toy;" in shown
    assert "model:cnn,custom," in shown


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("absent", "does not import .ModuleNotFoundError: No module named 'no_such_module'"),
        ("number", "is no dataclass"),
        ("half", "does not have area"),
        ("renamed", "whose kind is 'toy'; both names must be the same"),
    ],
)
def test_family__names_an_entry_point_that_cannot_be_used(
    package: None, kind: str, why: str
) -> None:
    with pytest.raises(
        ConfigError, match=f"shape={kind}: the entry point .* .of toy-package.*{why}"
    ):
        family().find(kind)


def test_family__refuses_a_kind_that_two_packages_claim(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    points = {"fedlearn.test_shapes:toy": "other_shapes:Toy"}
    monkeypatch.syspath_prepend(install(other, {"other_shapes.py": TOY}, points))
    (other / "toy_package-1.0.dist-info").rename(other / "other_package-1.0.dist-info")
    (other / "other_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n"
    )
    with pytest.raises(ConfigError, match="other_shapes:Toy and toy_shapes:Toy both have this"):
        family().find("toy")
