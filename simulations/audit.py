"""`fedlearn audit`: what the words of the command ask for, and measuring a run in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fedlearn.errors import ConfigError
from simulations.audited_folder import open_run


def _inversion(words: Sequence[str]) -> None:
    from simulations.inversion_command import command

    command(words)


DEMOS: Final[Mapping[str, Callable[[Sequence[str]], None]]] = {"inversion": _inversion}
"""What `demo=NAME` calls, with the other words of the command (`key=value`)."""


def audit(words: Sequence[str]) -> None:
    """Do what `fedlearn audit WORDS` asks for.

    Raises:
        FedlearnError: the words make no sense, or what they name cannot be measured.
    """
    demos = [word.removeprefix("demo=") for word in words if word.startswith("demo=")]
    if demos:
        _demonstrate(demos[-1], [word for word in words if not word.startswith("demo=")])
        return
    folders = [word for word in words if "=" not in word]
    if not folders:
        raise ConfigError(["audit: give the folder of a run, or demo=NAME"])
    if len(words) > 1:
        raise ConfigError([f"audit {folders[0]}: takes no other words; a run's config is its own"])
    open_run(Path(folders[0]))
    print(f"{folders[0]}: model, config and data are those of its result.json")


def _demonstrate(name: str, words: Sequence[str]) -> None:
    if name not in DEMOS:
        known = ", ".join(DEMOS) or "nothing yet"
        raise ConfigError([f"demo={name}: must be one of {known}"])
    DEMOS[name](words)
