"""The study that an attack is made on: what the words of `fedlearn audit demo=NAME` say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fedlearn.auditing import NoAudit
from fedlearn.config import RunConfig, compose, load
from fedlearn.config.engine import LocalEngine
from fedlearn.config.tracking import NoTracking
from fedlearn.core.errors import ConfigError
from fedlearn.results.reading import read_result
from simulations.run import with_absolute_paths

OWN: Final = "audit."
"""How the keys of the audit itself begin; all others are those of the study."""


@dataclass(frozen=True, kw_only=True)
class AuditWords:
    """The words of the command: `own` are of the audit, `study` are overrides of the run, and
    `folders` are of runs."""

    own: tuple[str, ...]
    study: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> AuditWords:
        """The words, by what they are for."""
        own = tuple(word for word in words if word.startswith(OWN))
        return cls(
            own=own,
            study=tuple(word for word in words if "=" in word and word not in own),
            folders=tuple(word for word in words if "=" not in word),
        )

    @property
    def run(self) -> Path | None:
        """The folder of the run whose study is meant; None where words describe one."""
        return Path(self.folders[0]) if self.folders else None

    def problems(self) -> Iterator[str]:
        """Two folders, or a folder and words that describe another study."""
        yield from (f"{word}: one folder of a run is enough" for word in self.folders[1:])
        if self.folders and self.study:
            yield (
                f"audit {self.folders[0]}: the study of a run is its own; leave out "
                f"{', '.join(self.study)}"
            )


def study_of(run: Path | None, words: Sequence[str]) -> RunConfig:
    """The study, on one process that answers for all sites, and without what costs others.

    Raises:
        ConfigError: the words do not describe a study, or its sites would pay for the audit.
        DataError: the run cannot be read.
    """
    config = load(read_result(run).config) if run else compose(list(words))
    if config.sites is not None:
        raise ConfigError(
            f"sites={config.sites}: every run of this audit would be paid for from the ledgers of "
            "these sites. Leave it out; a study of the same records without it will do"
        )
    engine = LocalEngine(workers=1, threads=1)
    return with_absolute_paths(
        replace(config, engine=engine, resume=False, audit=NoAudit(), tracking=NoTracking()),
        Path.cwd(),
    )
