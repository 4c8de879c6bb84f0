"""Families of options told apart by `kind`: those of the house, and those of installed packages.

A family is a tuple of config classes, written down where the family lives. A package adds
to it by an entry point, whose name is the `kind` and whose value is the class::

    [project.entry-points."fedlearn.models"]
    toy = "my_package.toy:Toy"

Finding entry points reads what is installed; a package is imported only when a config
chooses its `kind`, so that neither its import time nor its faults are everybody's.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fedlearn.core.errors import ConfigError

T = TypeVar("T")


POINTS: Final[Mapping[str, str]] = {
    "model": "fedlearn.models",
    "scenario": "fedlearn.scenarios",
    "partition": "fedlearn.partitions",
    "strategy": "fedlearn.algorithms",
    "privacy": "fedlearn.mechanisms",
    "task": "fedlearn.tasks",
    "stage": "fedlearn.stages",
    "robust": "fedlearn.robust",
    "attack": "fedlearn.attacks",
}
"""The group of entry points of every family, for whoever lists them without importing any."""


def plugin_kinds(group: str) -> list[str]:
    """What installed packages add to the options of a group, and `Family.add` in this process.

    No family is imported for it: one that nobody has imported has nothing added.
    """
    points = POINTS.get(group)
    found = importlib.metadata.entry_points(group=points) if points else ()
    here = (kind for family in Family.all if family.group == group for kind in family.added)
    return sorted({*(one.name for one in found), *here})


class Family(Generic[T]):
    """One group of a run's config: `Annotated[Base, FAMILY]` is checked as one of its classes.

    Args:
        group: the key in a run's config, such as `model`.
        points: the group of entry points, such as `fedlearn.models`.
        own: the classes of the house, in the order in which messages list them. A class is a
            frozen dataclass whose field `kind` has its name as default.
        base: what a class of a package must derive from, if anything.
    """

    all: ClassVar[list[Family[Any]]] = []

    def __init__(
        self, group: str, points: str, own: tuple[type[T], ...], base: type[Any] = object
    ) -> None:
        self.group, self.points, self.own, self.base = group, points, own, base
        self._loaded: dict[str, type[T]] = {}
        Family.all.append(self)

    @cached_property
    def _installed(self) -> Mapping[str, importlib.metadata.EntryPoint]:
        return {point.name: point for point in self._points}

    @cached_property
    def _points(self) -> tuple[importlib.metadata.EntryPoint, ...]:
        own = {kind_of(option) for option in self.own}
        found = importlib.metadata.entry_points(group=self.points)
        return tuple(point for point in found if point.name not in own)

    @property
    def known(self) -> Mapping[str, type[T]]:
        """The classes of the house, and those of packages that were chosen before, by `kind`."""
        return {kind_of(option): option for option in self.own} | self._loaded

    @property
    def added(self) -> tuple[str, ...]:
        """What this process has beside the house's: by `add`, or of a package and in use."""
        return tuple(self._loaded)

    @property
    def kinds(self) -> tuple[str, ...]:
        """All that can be chosen: the house's in their order, then those of packages."""
        return (*map(kind_of, self.own), *sorted({*self._installed, *self._loaded}))

    def find(self, kind: str) -> type[T] | None:
        """The class of this `kind`; None where there is none.

        Raises:
            ConfigError: an installed package names one, and it cannot be had from it.
        """
        if kind not in self.known and (point := self._installed.get(kind)) is not None:
            self._loaded[kind] = self._load(point)
        return self.known.get(kind)

    def _load(self, point: importlib.metadata.EntryPoint) -> type[T]:
        where = f"{self.group}={point.name}: the entry point {self.points} names {point.value}"
        if point.dist is not None:
            where += f" (of {point.dist.name})"
        claims = {one.value for one in self._points if one.name == point.name}
        if len(claims) > 1:
            raise ConfigError(
                f"{self.group}={point.name}: {' and '.join(sorted(claims))} both have this name; "
                "uninstall one of their packages"
            )
        try:
            option: type[T] = point.load()
        except Exception as error:
            raise ConfigError(
                f"{where}, which does not import ({type(error).__name__}: {error}); mend or "
                "uninstall the package"
            ) from error
        if not (isinstance(option, type) and is_dataclass(option)):
            raise ConfigError(f"{where}, which is no dataclass; a {self.group} is one")
        if not issubclass(option, self.base):
            named = f"{self.base.__module__}.{self.base.__qualname__}"
            raise ConfigError(f"{where}, which does not derive from {named}")
        if inspect.isabstract(option):
            lacking = ", ".join(sorted(option.__abstractmethods__))
            raise ConfigError(f"{where}, which does not have {lacking}")
        if kind_of(option) != point.name:
            raise ConfigError(
                f"{where}, whose kind is {kind_of(option)!r}; both names must be the same"
            )
        return option

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {kind: handler.generate_schema(option) for kind, option in self.known.items()}
        return core_schema.tagged_union_schema(choices, discriminator="kind")

    def add(self, option: type[T]) -> None:
        """Make a class an option in this process, as an entry point does in all.

        Raises:
            ConfigError: its kind is one of the house's.
        """
        if (kind := kind_of(option)) in map(kind_of, self.own) and option not in self.own:
            raise ConfigError(f"{self.group}={kind}: is taken; give the class another kind")
        if option not in self.own:
            self._loaded[kind] = option

    @property
    def loaded(self) -> frozenset[type[T]]:
        """What `known` has besides `own`: what was derived from it holds until these change."""
        return frozenset(self._loaded.values())


def kind_of(option: type) -> str:
    """The default of the field `kind`; empty where there is none."""
    kind = getattr(option, "kind", "")
    return kind if isinstance(kind, str) else ""


def defaults_of(option: type) -> dict[str, Any]:
    """The fields of a config class with their defaults; `???` is what is left to the user."""
    return {field.name: _default(field) for field in fields(option)}


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return "???" if field.default is MISSING else field.default


def yaml_beside(option: type) -> Path | None:
    """The file `KIND.yaml` in the folder of the module that defines the class, if there is one."""
    path = Path(inspect.getfile(option)).with_name(f"{kind_of(option)}.yaml")
    return path if path.is_file() else None
