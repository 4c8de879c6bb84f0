"""The folder that a run leaves behind, and what resume needs from it.

Every file is written whole under another name and then renamed, so a reader,
a crash or a full disk never meets half a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from fedlearn.config import RunConfig, decode, encode, to_tree
from fedlearn.core import yaml_file
from fedlearn.core.errors import ConfigError
from fedlearn.core.files import possible, try_out, write_atomically
from fedlearn.core.vector import Layout, Vector, vector_digest
from fedlearn.privacy import Event
from fedlearn.results.result import BestRound, ResultFile, RoundResult
from fedlearn.robust.evidence import Finding


@dataclass(frozen=True)
class SumOf:
    """Of which round and of which sites a sum was."""

    number: int
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The part of a checkpoint that is not arrays."""

    run_id: str
    started_at: str
    seconds: float
    rounds: list[RoundResult]
    spent: dict[str, tuple[Event, ...]]
    clip_norm: float | None = None
    """The norm of the next round, where clipping is adaptive."""
    counted: dict[str, int] = field(default_factory=dict)
    """The last round that a site was counted in, where sites keep a state of their own."""
    sums: list[SumOf] = field(default_factory=list)
    """Those that were used, where sums are of groups."""
    findings: list[Finding | None] = field(default_factory=list)
    """What they have shown, round by round since a site was left out last."""
    screened: int | None = None
    """How many sites have compared their tables."""
    tested: bool = False
    """Whether the test was read, where that is done once."""
    best: BestRound | None = None
    """What validation has found best so far."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(_Head):
    """The state after a round: all that the next round needs."""

    model: Vector
    strategy: dict[str, np.ndarray[Any, Any]]
    opened: NDArray[np.float64] | None = None
    """The sum of all updates so far, where a rule holds it to a bound."""
    mean: NDArray[np.float64] | None = None
    """What the running mean of the models has added up, where there is one."""
    kept: Vector | None = None
    """The model of the best round, where that is the one to be kept."""
    changes: NDArray[np.float32] | None = None
    """What each of `sums` came to, `float32[r, d]`."""

    @classmethod
    def fresh(cls, run_id: str, started_at: str, model: Vector) -> Checkpoint:
        """The state before the first round."""
        return cls(
            run_id=run_id, started_at=started_at, seconds=0.0, rounds=[], spent={},
            model=model, strategy={},
        )  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """`path` and the files in it, by the names of the contract."""

    path: Path

    def check(self, config: RunConfig) -> None:
        """Refuse a folder that this run may not write into.

        Raises:
            ConfigError: the folder holds something and `resume` is off, or
                `resume` is on and it holds a run with another config, or none; or nothing
                can be written there.
        """
        if config.resume and self.holds_run():
            self._check_same(config)
        elif config.resume:
            raise ConfigError(f"resume=true: there is no run to continue in out={config.out}")
        elif self.path.is_file():
            raise ConfigError(f"out={config.out}: is a file; choose another folder")
        elif self.path.exists() and any(self.path.iterdir()):
            hint = ", or continue that run with resume=true" if self.holds_run() else ""
            raise ConfigError(
                f"out={config.out}: exists and is not empty; choose another folder{hint}"
            )
        with self._written():
            try_out(self.path)

    def create(self, config: RunConfig) -> None:
        """Make the folder and write down the config.

        Raises:
            ConfigError: nothing can be written there.
        """
        written = yaml_file.dump(to_tree(config)).encode()
        with self._written():
            (self.path / "checkpoint").mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.yaml", written)
            write_atomically(self.path / "checkpoint" / "config.json", encode(config).encode())

    def _written(self) -> AbstractContextManager[None]:
        return possible("written", f"out={self.path}", ConfigError, "; choose another folder")

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "checkpoint" / "config.json").is_file()

    def _check_same(self, config: RunConfig) -> None:
        text = (self.path / "checkpoint" / "config.json").read_text()
        before, now = self.essence(to_tree(decode(RunConfig, text))), self.essence(to_tree(config))
        if changed := list(_changed(before, now)):
            raise ConfigError(
                [f"{key}: differs from the run in {self.path}, which resume=true continues; "
                 "say the same, or choose another out= for another run"
                 for key in changed]
            )  # fmt: skip

    @staticmethod
    def essence(tree: dict[str, Any]) -> dict[str, Any]:
        """The part of a config that decides what a run finds, not where and on what."""
        beside = ("resume", "out", "engine", "reply_timeout", "tracking", "report")
        return {key: value for key, value in tree.items() if key not in beside}

    def write_result(self, result: ResultFile) -> None:
        """Write `result.json`."""
        write_json(self.path / "result.json", result)

    def append_metrics(self, entry: RoundResult) -> None:
        """Add one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(finite(to_tree(entry)), allow_nan=False) + "\n")

    def write_deviation(self, vector: Vector, layout: Layout) -> None:
        """Write `noise.safetensors`: the deviation of the noise in every value of the model."""
        self._write_tensors("noise.safetensors", vector, layout)

    def write_model(self, vector: Vector, layout: Layout) -> None:
        """Write `model.safetensors`: every shared tensor under its name.

        safetensors sorts tensors its own way; `order` keeps that of the vector,
        so that the hash can be checked from the file alone.
        """
        self._write_tensors("model.safetensors", vector, layout)

    def _write_tensors(self, name: str, vector: Vector, layout: Layout) -> None:
        tensors = {name: np.ascontiguousarray(t) for name, t in layout.split(vector).items()}
        metadata = {
            "format": "fedlearn/model/v1",
            "order": json.dumps(list(tensors)),
            "sha256": vector_digest(vector),
        }
        write_atomically(self.path / name, save(tensors, metadata))

    def write_checkpoint(self, state: Checkpoint) -> None:
        """Write the state after a round; one file, so that it is one moment."""
        head = _Head(**{one.name: getattr(state, one.name) for one in fields(_Head)})
        tensors: dict[str, np.ndarray[Any, Any]] = {"model": state.model}
        tensors |= {} if state.mean is None else {"mean": state.mean}
        tensors |= {} if state.opened is None else {"opened": state.opened}
        tensors |= {} if state.kept is None else {"kept": state.kept}
        tensors |= {} if state.changes is None else {"changes": state.changes}
        tensors |= {f"strategy.{name}": array for name, array in state.strategy.items()}
        content = save(tensors, {"head": json.dumps(finite(to_tree(head)), allow_nan=False)})
        write_atomically(self.path / "checkpoint" / "state.safetensors", content)

    def read_checkpoint(self) -> Checkpoint | None:
        """The state after the last finished round, if there is one."""
        path = self.path / "checkpoint" / "state.safetensors"
        if not path.is_file():
            return None
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            head = decode(_Head, file.metadata()["head"])
        tensors = load_file(path)
        return Checkpoint(
            **vars(head),
            model=tensors.pop("model"),
            mean=tensors.pop("mean", None),
            opened=tensors.pop("opened", None),
            changes=tensors.pop("changes", None),
            kept=tensors.pop("kept", None),
            # Also of runs that named the arrays of a moment: `strategy.m_t.model`.
            strategy={key.split(".")[1]: array for key, array in tensors.items()},
        )

    def trim_metrics(self, rounds: int) -> None:
        """Keep the first `rounds` lines of `metrics.jsonl`: a crash may have left one too many."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)[:rounds]
            write_atomically(path, "".join(lines).encode())


def _changed(before: dict[str, Any], now: dict[str, Any], path: str = "") -> Iterator[str]:
    """The dotted paths of values that are others, or of options of another kind."""
    for key in dict.fromkeys([*before, *now]):  # what is idle now may not be written at all
        value, was = now.get(key), before.get(key)
        if isinstance(value, dict) and isinstance(was, dict) and was.keys() == value.keys():
            yield from _changed(was, value, f"{path}{key}.")
        elif was != value:
            yield f"{path}{key}"


def finite(tree: Any) -> Any:
    """`tree` with null for every NaN and infinity: JSON has no such numbers."""
    match tree:
        case dict():
            return {key: finite(value) for key, value in tree.items()}
        case list():
            return [finite(value) for value in tree]
        case float() if not math.isfinite(tree):
            return None
        case str() | int() | float() | None:
            return tree
        case _:
            raise TypeError(f"{type(tree).__name__}: not a value of JSON")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by a frozen dataclass as JSON; null stands for what is not finite."""
    text = json.dumps(finite(to_tree(value)), indent=2, allow_nan=False)
    write_atomically(path, text.encode())
