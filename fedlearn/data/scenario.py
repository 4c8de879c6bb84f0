"""What a scenario is to the rest of the house: settings that can be read as records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from fedlearn.core.errors import ConfigError
from fedlearn.core.rng import Streams
from fedlearn.core.settings import Portion, config
from fedlearn.data.datasets.archives import Archive
from fedlearn.data.pool import Pool
from fedlearn.data.tables.scaling import Scaling
from fedlearn.tasks import CLASSIFICATION, TaskConfig

if TYPE_CHECKING:
    from fedlearn.data.tables.csv import Csv
    from fedlearn.data.texts.files import OwnText
    from fedlearn.data.texts.passages import OwnPassages


Tells = Literal["nothing", "columns", "names"]
"""Nothing that is not public; the form of every column; or that of a record, and classes."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a scenario is read with: `cache` is the folder that archives are kept in.

    `group_by` names the attribute that test records will be grouped by, if any; a
    scenario that has few of them offers all. `task` is what is learned: where labels can be
    read in several ways, it reads them; a scenario whose labels are of one kind has its own.

    `by_record` says that a record decides nothing but itself: one that cannot be read as the
    settings say is left out, or has a gap there, where otherwise all are refused and the user told
    why. It is so where whoever asks must not learn of a single record that it is there.

    `complete` says that the settings have to say all that a record becomes: nothing is found in
    all records together, where one of them may change what the others become.

    `by_name` says that columns of a table come in an order of their names, and not as they stand:
    it is so where tables of several owners meet, each of whom has an order of his own.
    """

    streams: Streams
    cache: Path
    group_by: str = ""
    task: TaskConfig = CLASSIFICATION
    by_record: bool = False
    complete: bool = False
    by_name: bool = False

    def require(self, left_open: Iterable[str]) -> None:
        """Refuse settings (`scenario.gaps`) that do not say what a record becomes.

        A scenario asks before it looks at a record: which answer comes first would else be an
        answer about records.

        Raises:
            OpenFormError: there are some, and the settings have to be complete.
        """
        if self.complete and (missing := [*left_open]):
            raise OpenFormError([_must_be_given(setting) for setting in missing])


class OpenFormError(ConfigError):
    """The run leaves to the records what their form is, so that there is none to be held."""


def _must_be_given(setting: str) -> str:
    return (
        f"{setting}: must be given where a run promises privacy within sites: what is found in all "
        "records lets one change what the others become. `fedlearn data check` shows what there is"
    )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One line of `fedlearn data list`: public data that a scenario can fetch by itself."""

    records: int
    sites: tuple[str, ...]
    classes: tuple[str, ...]
    source: str
    archive: Archive


@config
class Scenario(ABC):
    """A kind of records: a frozen dataclass of settings that derives from this, in one file.

    Its class stands in `fedlearn.data.SCENARIOS`, or is an entry point `fedlearn.scenarios`
    of a package. A field `path` is where its records are, a field `scaling` how numbers of a
    table are scaled.
    """

    validation_fraction: Annotated[Portion, Field(exclude_if=lambda share: share == 0)] = 0.0
    """About this share of the records that are not tested on is kept from training, and says which
    round's model is kept and when enough was learned; 0: none."""
    if TYPE_CHECKING:
        kind: str
        """The name that a config chooses it by."""
    dataset: ClassVar[Dataset | None] = None
    """What `fedlearn data list` says of it, where it is public and can be fetched."""
    tells: ClassVar[Tells] = "names"
    """What sites tell of their records before the first round, to agree on what is learned."""

    @property
    def canary(self) -> str:
        """What stands before a secret number, in a record that an audit makes up in the words of
        these records; `{name}` is the name of nobody."""
        return "The number of {name} is "

    @abstractmethod
    def load(self, reading: Reading) -> Pool:
        """All records.

        Raises:
            DataError: the data cannot be read, fetched or learned from.
            ConfigError: the settings do not fit the data.
        """

    @property
    def validates(self) -> bool:
        """Whether some records are for validation."""
        return self.validation_fraction > 0

    @property
    def parts_by_all(self) -> str:
        """The setting that leaves it to all records together which part one is in; else empty."""
        return ""

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings by themselves, as `dotted.path: reason` lines."""
        return iter(())

    @property
    def in_memory(self) -> bool:
        """Whether its records are a program's own, and nothing of them may reach the disk."""
        return False

    def absent(self) -> Iterator[str]:
        """What they name that is not on this machine, as `path=...: reason` lines."""
        return iter(())

    def left_open(self, task: TaskConfig) -> Iterator[str]:
        """Settings that a site has to give where the run does not, as far as the run alone says:
        what records become is else found in records, which privacy within sites does not allow."""
        yield from ()

    def scales(self) -> Scaling | None:
        """How the numbers of a table are scaled; None where there is nothing to scale."""
        found: Scaling | None = getattr(self, "scaling", None)
        return found

    def under(self, folder: Path) -> Self:
        """The same with absolute paths: relative ones are in `folder`."""
        path = getattr(self, "path", "")
        changed: dict[str, Any] = {"path": str(folder / path)} if path else {}
        return replace(self, **changed)

    def agreed(self, of_run: Scenario) -> Scenario:
        """Where a site's records are, by its own file; what they become, as the run says.

        Sites that scaled the same column differently would train a model that fits none
        of them. Where the run's data is of another kind, the site's file decides alone.

        Raises:
            ConfigError: a record is not the same here as in the run, which promises privacy
                to it.
        """
        if type(self) is not type(of_run):
            return self
        # Never where others say.
        mine: dict[str, Any] = {"path": self.path} if hasattr(self, "path") else {}
        return replace(of_run, **mine)

    def stays_with_site(self) -> frozenset[str]:
        """The settings that `agreed` leaves as they are, whatever a run over such records says."""
        return frozenset({"path"})

    def of_nobody(self, path: str) -> Self:
        """Records of the same form in another place, which are no site's.

        Raises:
            DataError: what is there cannot be read.
        """
        sites = {"site": ""} if hasattr(self, "site") else {}
        changed: dict[str, Any] = {"path": path, **sites}
        return replace(self, **changed)

    def never_groups(self) -> tuple[str, ...]:
        """Columns that test records are never told apart by at a site: dropped, or identifying."""
        return ()

    def one_record(self) -> str:
        """What one record is, where it is more than a row, an image or a text; else empty."""
        return ""

    def as_rows(self) -> Csv | None:
        """How a file of rows is read from which its records can be made; None if by no file."""
        return None

    def as_texts(self) -> OwnText | None:
        """How a file of texts is read from which its records can be made; None if by no file."""
        return None

    # --- of texts that a language model goes on with ---

    def as_passages(self) -> OwnPassages | None:
        """How a file of prompts, texts and conversations is read; None if by no file."""
        return None

    def as_prompt(self, text: str) -> str:
        """What somebody asks, written as the prompts of records are."""
        return text

    def as_answer(self, text: str) -> str:
        """What follows a prompt, written as the answers of records are."""
        return text

    def public_prompts(self) -> tuple[str, ...]:
        """A few that a model card shows the answers to; none is out of a record."""
        return ()

    def options(self, cache: Path) -> tuple[str, ...]:
        """All answers that there are, where these are few; else none.

        Raises:
            DataError: what lists them is neither cached nor to be had.
        """
        return ()

    def based_on(self, folder: str, before: str) -> Self:
        """The same with the tokenizer of a folder that lies elsewhere than `before`."""
        tokenizer: Any = getattr(self, "tokenizer", None)
        there = {n: v for n, v in vars(tokenizer).items() if v == before} if tokenizer else {}
        if not there:
            return self
        moved: dict[str, Any] = {"tokenizer": replace(tokenizer, **dict.fromkeys(there, folder))}
        return replace(self, **moved)
