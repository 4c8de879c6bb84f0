"""Every sentence that a report can say, as catalogues have to have it.

`python -m tests.fedlearn.report.sentences CODE` prints what the catalogue of a language lacks, in
its form; without a code, all of it, to begin another language with.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import fedlearn
from fedlearn.auditing.findings import CHECKS, NOT_JUDGED, SEATS, VerdictText
from fedlearn.core.language import language
from fedlearn.privacy.accounting import ACCOUNTANT
from fedlearn.report.exposure import SCORES, WATCHES
from fedlearn.report.exposure_page import COLUMNS as EXPOSURE_COLUMNS
from fedlearn.report.measured import ATTACKS, ESTIMATORS
from fedlearn.report.poison import COLUMNS
from fedlearn.report.runs import REFERENCES
from fedlearn.report.texts import TEMPLATES, _environment
from fedlearn.report.verdict import Light
from fedlearn.results.result import Status
from fedlearn.robust import ROBUST
from fedlearn.tasks import TASKS

SOURCES = Path(fedlearn.__file__).parent
ROOMS = ("report", "tasks", "robust")
"""Rooms of `fedlearn` with sentences in their code."""

Forms = tuple[str, ...]
"""A sentence, or what is said of one thing and of several."""


def of_templates() -> Iterator[Forms]:
    """What is marked in templates."""
    for path in sorted(TEMPLATES.rglob("*.*")):
        for _, _, found in _environment().extract_translations(path.read_text()):
            yield tuple(filter(None, found)) if isinstance(found, tuple) else (found,)


def of_code() -> Iterator[Forms]:
    """What code gives to `message`, or asks a language for."""
    for room in ROOMS:
        for path in sorted((SOURCES / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args and _says(node.func):
                    for text in literals(node.args[0]):
                        yield (text,)


def _says(called: ast.expr) -> bool:
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ("message", "one", "say")


def literals(node: ast.expr) -> Iterator[str]:
    """The texts that an argument may be."""
    match node:
        case ast.Constant(value=str() as text):
            yield text
        case ast.IfExp():
            yield from literals(node.body)
            yield from literals(node.orelse)


def of_objects() -> Iterator[Forms]:
    """What tasks, rules and audits say of themselves, and words that a result holds."""
    texts: list[Any] = [*SEATS.values(), *CHECKS.values(), *ESTIMATORS.values(), *ATTACKS.values()]
    texts += [*get_args(VerdictText), NOT_JUDGED, *get_args(Light), *get_args(Status), *COLUMNS]
    texts += [*WATCHES.values(), *SCORES.values(), *EXPOSURE_COLUMNS]
    texts += [*REFERENCES.values(), ACCOUNTANT, "full batch", "Poisson, secret", "one class"]
    texts += ["is in every account of the sums that were refused"]
    texts += ["not checked", "does not hold", "the run's result.json", "the run's config.yaml"]
    for settings in TASKS.known.values():
        task = settings.learns
        texts += [task.makes, task.uninformed_answer, task.uninformed_loss]
        texts += [text for metric in task.metrics_known for text in (metric.title, metric.meaning)]
        for name, text in task.decisions_known.items():
            texts += [name.replace("_", " ").capitalize(), text]
        texts += [f"{task.plain_model} on all records together"] if task.plain_model else []
    texts += [rule.open_to for rule in (kind() for kind in ROBUST.known.values())]
    yield from ((text,) for text in texts if text)


@cache
def sentences() -> tuple[Forms, ...]:
    """All of them, each once, in the order in which they are met."""
    found: dict[str, Forms] = {}
    for forms in (*of_templates(), *of_code(), *of_objects()):
        if len(forms) > len(found.get(forms[0], ())):
            found[forms[0]] = forms
    return tuple(forms for text, forms in found.items() if any(map(str.isalpha, text)) or text)


def entry(forms: Forms) -> str:
    """A sentence in the form of a catalogue, without a translation."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for text in forms]
    if len(quoted) == 1:
        return f'msgid "{quoted[0]}"\nmsgstr ""\n'
    return f'msgid "{quoted[0]}"\nmsgid_plural "{quoted[1]}"\nmsgstr[0] ""\nmsgstr[1] ""\n'


if __name__ == "__main__":
    known = language(sys.argv[1]).messages if sys.argv[1:] else {}
    print("\n".join(entry(forms) for forms in sentences() if forms[0] not in known))
