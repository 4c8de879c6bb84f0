"""The config of a run: typed, frozen, checked; composed by Hydra, and an exact JSON round trip.

Nothing is imported before it is asked for: which words of a command line there are can be said
without what a run computes with (`fedlearn.config.words`).
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from fedlearn.config.decoding import decode, encode, to_tree
    from fedlearn.config.run import (
        KIND,
        RunConfig,
        begun,
        compose,
        first_layout,
        load,
        plan_of,
        screened_layout,
        sizes_of,
        statistics_layout,
        without_unset,
    )

__all__ = [
    "KIND",
    "RunConfig",
    "begun",
    "compose",
    "decode",
    "encode",
    "first_layout",
    "load",
    "plan_of",
    "screened_layout",
    "sizes_of",
    "statistics_layout",
    "to_tree",
    "without_unset",
]

_DECODING = ("decode", "encode", "to_tree")


def __getattr__(name: str) -> _Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{'decoding' if name in _DECODING else 'run'}"
    found = globals()[name] = getattr(_importlib.import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
