"""The config of a run: typed, frozen, checked; composed by Hydra, and an exact JSON round trip."""

from fedlearn.config.decoding import decode, encode, to_tree
from fedlearn.config.run import (
    KIND,
    RunConfig,
    begun,
    compose,
    load,
    plan_of,
    screened_layout,
    sizes_of,
    without_unset,
)

__all__ = [
    "KIND",
    "RunConfig",
    "begun",
    "compose",
    "decode",
    "encode",
    "load",
    "plan_of",
    "screened_layout",
    "sizes_of",
    "to_tree",
    "without_unset",
]
