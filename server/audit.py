"""What the coordinator sees of audit slots: kept by round, for the audit of the run.

It is what stands in the one sum that secure aggregation opens; where updates
arrive in clear it is their mean, which is what would have stood there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedlearn.core.errors import DataError
from fedlearn.core.vector import Layout, Vector, short_floats
from fedlearn.models.slots import slot_values

FILE: Final = "audit.jsonl"


@dataclass(frozen=True, kw_only=True, eq=False)
class SlotsSeen:
    """The slots in one round: `change: float32[m]` of the mean model, before the strategy.

    `model: float32[m]` are those of the global model after the strategy.
    """

    round: int
    sites: int
    change: NDArray[np.float32]
    model: NDArray[np.float32]


def seen_in_slots(
    layout: Layout, number: int, sites: int, before: Vector, mean: Vector, after: Vector
) -> SlotsSeen | None:
    """What a round shows in the slots of `layout`; None where it has none."""
    start = slot_values(layout, before)
    if not len(start):
        return None
    change = slot_values(layout, mean) - start
    return SlotsSeen(round=number, sites=sites, change=change, model=slot_values(layout, after))


def append_seen(folder: Path, seen: SlotsSeen) -> None:
    """Add one line to the file of the run."""
    change, model = short_floats(seen.change), short_floats(seen.model)
    line = {"round": seen.round, "sites": seen.sites, "change": change, "model": model}
    with (folder / FILE).open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def read_seen(folder: Path) -> list[SlotsSeen]:
    """All rounds in order; of a round that was repeated, the last.

    Raises:
        DataError: the file cannot be read.
    """
    path, found = folder / FILE, {}
    try:
        for line in map(json.loads, path.read_text().splitlines()):
            change, model = (np.array(line[key], np.float32) for key in ("change", "model"))
            found[int(line["round"])] = SlotsSeen(
                round=int(line["round"]), sites=int(line["sites"]), change=change, model=model
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not what a run has seen in its slots: {error}") from None
    return [found[number] for number in sorted(found)]
