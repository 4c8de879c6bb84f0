"""The model that a run begins from, `init=FOLDER`, and what its own training has spent.

The folder is the coordinator's and no site ever opens it: in the terms of the study stand the
hash of the file of weights, and the promise that its run has made, for the owners to see. To who
is in the data of both runs their epsilons add up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field
from safetensors import SafetensorError

from fedlearn.core.errors import ConfigError, refuse
from fedlearn.core.settings import config
from fedlearn.core.vector import vector_digest
from fedlearn.core.weights import values_of

WEIGHTS: Final = "model.safetensors"
RESULT: Final = "result.json"
EXPORT: Final = "model.json"
_PARTS: Final = {"full": "?", "head": "?", "last_k": "last_k", "lora": "lora_"}
"""The settings that belong to a choice of `training.finetune`, by how their names begin."""

_SPLITS: Final = ("record", "text", "prompt", "completion", "messages")
_TRANSLATES: Final = ("rename", "map", "units", "written", "decimal")
"""Settings of a scenario by which the hash of what a record holds is another one, and with it which
records are tested on."""

_UNSAID: Final = MappingProxyType(
    {"lora_layers": [], "lora_frozen_a": False, "lora_start": "drawn"}
)
"""Such of them as a file does not name where they are as always."""

Tree = dict[str, Any]


@config
class Parent:
    """A model as it stands in the terms of a run that begins from it."""

    sha256: str
    """Of the file of its weights."""
    run_id: str = ""
    """Of the run that trained it; empty where nobody says who did, and with what promise."""
    unit: str = "none"
    """What that run has protected."""
    epsilon: float | None = None
    """What it has spent at the most, with the runs that its own model began from."""
    delta: float | None = None
    generation: Annotated[int, Field(ge=1)] = 1
    """How many runs there are, one begun from the other, up to this one."""


def weights_of(init: str) -> Path:
    """The file of weights that `init` names: itself, or the one in a folder.

    Raises:
        ConfigError: there is none.
    """
    path = Path(init)
    found = path / WEIGHTS if path.is_dir() else path
    if not found.is_file():
        raise ConfigError(
            [
                f"init={init}: no {found} there; name the folder of a run, or of an export, or a "
                "file of weights in safetensors"
            ]
        )
    return found


def parent_of(init: str, mine: Tree) -> Parent:
    """What is known of the model that `init` names, for a run whose config is `mine`.

    Raises:
        ConfigError: there is none, what stands beside it cannot be read or is of other weights, or
            its part that `mine` holds frozen is another one.
    """
    weights = weights_of(init)
    try:
        with weights.open("rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        for name, what in ((RESULT, _run), (EXPORT, _export)) if Path(init).is_dir() else ():
            if (beside := weights.parent / name).is_file():
                about = json.loads(beside.read_bytes())
                parent, theirs = what(about, sha256)
                found = [*_other_parts(mine, theirs), *_other_test(mine, theirs)]
                found += _other_weights(weights, about) if parent.run_id else ()
                refuse((f"init={init}: {one}" for one in found), ConfigError)
                return parent
    except OSError as error:
        raise ConfigError([f"init={init}: cannot be read: {error}"]) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            [f"init={init}: what stands beside {WEIGHTS} was written by no run ({error!r})"]
        ) from None
    return Parent(sha256=sha256)


def _export(file: Tree, sha256: str) -> tuple[Parent, Tree]:
    if file.get("stored", "float32") != "float32":
        raise ConfigError(
            [f"init: an export in {file['stored']} is for use, and no model to go on from; name "
             "the run that it was made of, or an export of it as the run has it (--to FOLDER)"]
        )  # fmt: skip
    part = {"finetune": file["finetune"].pop("mode"), **file["finetune"]}
    return Parent(sha256=sha256), {**file, "training": part}


def _run(result: Tree, sha256: str) -> tuple[Parent, Tree]:
    return _trained(result, sha256), result["config"]


def _other_parts(mine: Tree, theirs: Tree) -> Iterator[str]:
    """Why what a run holds frozen is not what the parent was trained on top of."""
    own, other = ({**_UNSAID, **config["training"]} for config in (mine, theirs))
    if own["finetune"] == "full" == other["finetune"]:
        return
    keys = [key for key in own if key == "finetune" or key.startswith(_PARTS[own["finetune"]])]
    for key in keys:
        if own[key] != other.get(key, own[key]):
            yield f"was trained with training.{key}={other[key]}; set that"
    model = {**mine["model"], "folder": None, "kept": None}
    for key, value in model.items():
        if value != {**model, **theirs["model"], "folder": None, "kept": None}[key]:
            yield f"what stays frozen is of another model: model.{key}={theirs['model'][key]}"
    if own.get("lora_frozen_a") and theirs["seed"] != mine["seed"]:
        yield f"its frozen factors were drawn by seed={theirs['seed']}; set that"


def _other_test(mine: Tree, theirs: Tree) -> Iterator[str]:
    """Why the parent may have been trained on records that this run tests on."""
    own, other = mine["scenario"], theirs["scenario"]
    places = [Path(one["path"]).resolve() if one.get("path") else None for one in (own, other)]
    if places[0] != places[1] or any(own.get(key) != other.get(key) for key in ("kind", "name")):
        return
    for key, here, there in (
        ("seed", mine["seed"], theirs["seed"]),
        ("scenario.test_fraction", own.get("test_fraction"), other.get("test_fraction")),
        *((f"scenario.{k}", own.get(k) or "", other.get(k) or "") for k in _decides(own, other)),
        *((f"scenario.{k}", own.get(k) or "", other.get(k) or "") for k in _by_time(own, other)),
    ):
        if here != there:
            yield (
                f"{key}={there} has chosen what its run tested on, and with {key}={here} this one "
                f"would test on some that it has learned; set {key}={there}"
            )


def _by_time(own: Tree, other: Tree) -> tuple[str, ...]:
    """What says which records are the latest."""
    split = "time" in (own.get("split"), other.get("split"))
    return ("split", "time", "times", "test_from") if split else ()


def _decides(own: Tree, other: Tree) -> tuple[str, ...]:
    """The settings by which records are told apart that are tested on; of persons the key alone."""
    if own.get("person") and own.get("person") == other.get("person"):
        return ("person", *_TRANSLATES)
    of_rows = ("site", "part") if "decimal" in own else ()  # all cells of a row but its site
    return ("person", *_SPLITS, *of_rows, *_TRANSLATES)


def _other_weights(weights: Path, result: Tree) -> Iterator[str]:
    """Why the promise that a result speaks of is not that of the weights beside it."""
    try:
        found = vector_digest(values_of(weights.read_bytes()))
    except (SafetensorError, ValueError, KeyError, TypeError):  # written by no run
        found = ""
    if found != result["model"]["sha256"]:
        yield (
            f"{weights.name} is not the model that {RESULT} beside it speaks of, whose promise is "
            "none of its own; name the file itself, of which nothing is claimed"
        )


def _trained(result: Tree, sha256: str) -> Parent:
    before = result["config"].get("parent")
    privacy, earlier = result["privacy"], Parent(**before) if before else None
    spent = [(privacy["unit"], privacy["epsilon"], privacy["delta"])]
    if earlier is not None:
        spent.append((earlier.unit, earlier.epsilon, earlier.delta))
    return Parent(
        sha256=sha256,
        run_id=str(result["run_id"]),
        **_promise(spent),
        generation=1 + (earlier.generation if earlier else 0),
    )


def _promise(spent: list[tuple[str, float | None, float | None]]) -> dict[str, Any]:
    """The sum (Dwork and Roth 2014, theorem 3.16); none where one of them promises nothing, or they
    promise it to different units."""
    units = {unit for unit, _, _ in spent}
    known = [(float(e), float(d)) for _, e, d in spent if e is not None and d is not None]
    if len(units) > 1 or units == {"none"} or len(known) < len(spent):
        return {"unit": "none", "epsilon": None, "delta": None}
    epsilons, deltas = zip(*known, strict=True)
    return {"unit": units.pop(), "epsilon": sum(epsilons), "delta": sum(deltas)}
