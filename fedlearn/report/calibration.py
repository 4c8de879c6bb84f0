"""How far a model's probabilities can be trusted, in words."""

from __future__ import annotations

from fedlearn.metrics.calibration import FEWEST, Calibration
from fedlearn.results.result import Result


def in_words(result: Result) -> str:
    """What was found, or why nothing was; empty where nothing was tested."""
    found = result.calibration
    if found is not None:
        return f"{_error(found)} {_tendency(found, second_class(result))}"
    if not result.final.evaluate:
        return ""
    return f"How far its probabilities can be trusted was not measured: {_why_not(result)}."


def _why_not(result: Result) -> str:
    if "auc" not in result.final.evaluate:
        return "scores are added up for two classes alone, and only where both occur"
    if sum(size.test for size in result.data.sites.values()) < FEWEST:
        return f"it takes {FEWEST} test records"
    return "the run has not ended, or was made by a release that did not do so"


def second_class(result: Result) -> str:
    """The class whose probability the model says."""
    classes = result.data.classes
    return classes[1] if len(classes) == 2 else "the second class"


def _error(found: Calibration) -> str:
    more = "more" if found.error > found.by_chance else "no more"
    return (
        f"Its probabilities are off by {found.error:.3f} on average (expected calibration error "
        f"over {len(found.groups)} groups of test records with similar scores): {more} than the "
        f"{found.by_chance:.3f} that right probabilities stay below in 95 of 100 such test sets."
    )


def _tendency(found: Calibration, name: str) -> str:
    total = sum(group.count for group in found.groups)
    expected = sum(group.count * group.predicted for group in found.groups) / total
    observed = sum(group.count * group.observed for group in found.groups) / total
    return f"It expects {name} in {expected:.1%} of the records; it is so in {observed:.1%}."
