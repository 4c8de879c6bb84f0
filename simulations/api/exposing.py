"""`fl.audit(..., demo="exposure")`: what a language model repeats, from Python."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedlearn.core.errors import ConfigError, StoppedError
from fedlearn.core.interrupt import Interrupt
from fedlearn.report.exposure import Exposure
from server.stop import Stop
from simulations.api.asking import words_of
from simulations.api.progress import Line
from simulations.attacks.exposure.command import audited
from simulations.attacks.exposure.words import ExposureSettings
from simulations.attacks.studies import OWN
from simulations.sweeps.workers import Ended, Event

_OWN = {field.name for field in fields(ExposureSettings)}


def exposed(
    words: Sequence[str],
    settings: Mapping[str, Any],
    out: Path | str | None,
    line: Line,
    stop: Stop,
) -> Exposure:
    """Make the audit that words and values by name describe.

    Raises:
        FedlearnError: as `fedlearn audit demo=exposure` does, but for a broken promise, of which a
            RuntimeWarning tells.
        KeyboardInterrupt: stopped by the user; the same call does the rest.
    """
    own = {name: value for name, value in settings.items() if name in _OWN}
    rest = {name: value for name, value in settings.items() if name not in _OWN}
    place = {} if out is None else {"out": str(out)}
    given = [*words_of(words, rest | place), *(_word(name, value) for name, value in own.items())]
    ended = 0

    def heard(event: Event | None) -> None:
        nonlocal ended
        if isinstance(event, Ended):
            ended += 1
            line.say(f"{ended} runs done")

    line.say("runs with canaries")
    try:
        folder, found = audited(given, stop, heard)
    except StoppedError as error:
        raise Interrupt(str(error)) from None
    if found.broken:
        text = f"PROMISE BROKEN: a run in {folder} repeats more than its epsilon allows"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    return found


def _word(name: str, value: Any) -> str:
    if isinstance(value, str | Path):
        return f"{OWN}{name}={value}"
    try:
        return f"{OWN}{name}={json.dumps([*value] if isinstance(value, range) else value)}"
    except TypeError:
        raise ConfigError(f"{name}: {type(value).__name__} is no value of a setting") from None
