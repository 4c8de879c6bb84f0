"""What a model is for, and where it ends: as far as the config and result of its run tell.

What people have to decide (the purpose, the approval of a use) is asked for, never made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fedlearn.metrics.sums import names_one_class_only
from fedlearn.results.result import Result

_FEW_RECORDS: Final = 100
"""Below this many test records one record moves an accuracy by more than a point."""
_MOST_CLASSES: Final = 12
"""Of more classes only the number is said."""


def use(result: Result) -> tuple[str, ...]:
    """What the model is meant for, what it answers, and what it wants to be asked with."""
    return tuple(_use(result))


def _use(result: Result) -> Iterator[str]:
    config, classes = result.config, result.data.classes
    purpose = str(config.get("purpose") or "")
    yield (
        f"Stated purpose: {purpose}"
        if purpose
        else "No purpose was stated for it (purpose in the settings); whoever puts it to use has "
        "to say what for."
    )
    if classes:
        listed = ", ".join(classes) if len(classes) <= _MOST_CLASSES else str(len(classes))
        yield f"It says to which class a record belongs. The classes: {listed}."
    yield (
        "A record has to be prepared as those of the run were: by the scenario in the settings."
        + _ranges(config["scenario"])
    )


def _ranges(scenario: dict[str, Any]) -> str:
    scaling = scenario.get("scaling") or {}
    if scaling.get("kind") != "ranges" or not scaling.get("columns"):
        return ""
    return (
        " A number beyond the range that is given there for its column counts as the end of the "
        "range."
    )


def limits(result: Result) -> tuple[str, ...]:
    """What the model was not shown to do, and what it was shown to do badly."""
    return tuple(_limits(result))


def _limits(result: Result) -> Iterator[str]:
    yield (
        "It was tested only at the sites that it was trained at. At another site, with other "
        "people, devices or habits, it may do worse; test it there first."
    )
    if one_class := names_one_class(result):
        yield one_class
    yield from _dealt(result.config["partition"]["kind"])
    yield _groups(result)
    yield "It has not been approved for any use. Decisions about people stay with people."
    yield (
        "The numbers of records and the test results in this card are exact and were published "
        "without noise."
    )
    if result.privacy.epsilon is None:
        yield (
            "It was trained without differential privacy and may give away records that it was "
            "trained on: whoever may not see those should not get the model."
        )
    for site, size in result.data.sites.items():
        if size.test == 0:
            yield f"{site} has no test records: how the model does there is not known."
        elif size.test < _FEW_RECORDS:
            yield (
                f"{site} has only {size.test} test records: one of them changes its accuracy by "
                f"{1 / size.test:.3f}."
            )


def names_one_class(result: Result) -> str:
    """A sentence about a model that has one answer to every test record; else empty."""
    found = result.final.evaluate
    if not names_one_class_only(found, len(result.data.classes)):
        return ""
    ranking = f", and the AUC of {found['auc']:.3f} how well it ranks" if "auc" in found else ""
    return (
        "The model puts every test record into the same class: the accuracy is how common that "
        f"class is{ranking}. More rounds, or weights for rare classes (training.class_weights), "
        "may change that."
    )


def _dealt(partition: str) -> Iterator[str]:
    if partition not in ("natural", "files"):
        yield (
            f"Its sites are parts of one set of records, dealt out by the computer ({partition}): "
            "what sets institutions apart from each other was not there to be learned or tested."
        )


def _groups(result: Result) -> str:
    groups = result.fairness.groups if result.fairness else None
    if groups is None:
        return (
            "It was not examined how it does for groups of people within a site, for example by "
            "age or sex."
        )
    listed = ", ".join(
        f"{name} {one.evaluate['accuracy'].value:.3f} ({one.count} test records)"
        for name, one in groups.all_sites.items()
    )
    return (
        f"Accuracy by {groups.column}: {listed or 'no group has enough test records'}. It was "
        "examined by nothing else."
    )
