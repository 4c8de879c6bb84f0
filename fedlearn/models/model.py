"""What a model is to the rest of the house: settings that can say what they fit, and be built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeVar

import torch
from torch import Tensor, nn

from fedlearn.core.errors import ConfigError
from fedlearn.tasks import ImageInput, Input, SeriesInput, TableInput, Task, TextInput

if TYPE_CHECKING:
    from fedlearn.models.bins import Axis
    from fedlearn.models.forms import PublicBase

Weights = Mapping[str, Tensor]
"""Pretrained weights by the name of a layer's parameter."""

NOTHING: Final[Weights] = MappingProxyType({})

NAMES: Final[Mapping[type[Input], str]] = {
    TableInput: "a table",
    ImageInput: "images",
    TextInput: "texts",
    SeriesInput: "rows over time (scenario=csv with scenario.record and scenario.time)",
}
"""What a record is, in messages."""


class Model(ABC):
    """A kind of model: a frozen dataclass of settings that derives from this, in one file.

    The file has its layers as well; its class stands in `fedlearn.models.MODELS`, or is an
    entry point `fedlearn.models` of a package.
    """

    kind: str
    """The name that a config chooses it by."""
    input: ClassVar[tuple[type[Input], ...]]
    """The forms of records that it reads."""
    draws_own_weights: ClassVar[bool] = False
    """Whether `network` fills the weights, from torch's generator, which is seeded for it; else
    they are those of `fedlearn.models.initialise`."""
    has_all_weights: ClassVar[bool] = False
    """Whether `weights` has all there are, but for a head that learns, which are then taken as
    they are: nothing is drawn before, and nothing copied but what is trained."""
    searches: ClassVar[bool] = False
    """Whether it finds documents for queries."""
    strategy: ClassVar[str] = ""
    """The strategy that comes with it where `model=KIND` is chosen and no strategy is."""
    any_length: ClassVar[bool] = False
    """Whether it takes texts that are shorter than those of its task."""

    def problems(self, task: Task) -> Iterator[str]:
        """What of the settings does not fit itself or the task: `dotted.path=value: reason`."""
        return iter(())

    @property
    def learns_head(self) -> bool:
        """Whether the head is trained; else it is as pretrained as what comes before it."""
        return True

    @abstractmethod
    def network(self, task: Task) -> nn.Sequential:
        """Named stages, the last `head`: `[n, *task.input_shape]` -> `[n, task.num_outputs]`."""

    @property
    def starts_pretrained(self) -> bool:
        """Whether the weights below the head mean something before training."""
        return False

    def axes(self, task: Task) -> tuple[Axis, ...] | None:
        """The columns and their bins, where an answer is a sum of one function for each column."""
        return None

    def weights(self, cache: Path) -> Weights:
        """The weights that it starts from, where these are public ones; of no other layer.

        Args:
            cache: the folder that archives are kept in.

        Raises:
            DataError: they are neither cached nor to be had, or are not what was pinned.
            ConfigError: they are of a model of other sizes.
        """
        return NOTHING

    def built_from(self) -> str:
        """A hash of what else than weights and settings says what its layers compute, as a file
        beside the weights; empty where nothing does.

        Raises:
            ConfigError, DataError: it is not there.
        """
        return ""

    def context(self, task: Task) -> int:
        """Tokens of a text that it looks at, at the most: as many as a record has."""
        return input_as(TextInput, task).max_length

    def based_on(self, folder: str) -> Self:
        """The same of public weights that lie in another folder than the settings say.

        Raises:
            ConfigError: it has none in a folder.
        """
        raise ConfigError(
            f"--base={folder}: model.kind={self.kind} starts from no folder; leave it out"
        )

    def public_base(self, cache: Path) -> PublicBase | None:
        """The folder of Hugging Face's form that it is tuned from; None where there is none.

        Raises:
            ConfigError, DataError: it is not there.
        """
        return None

    @property
    def keeps(self) -> torch.dtype:
        """In what precision a site keeps what the frozen part makes of its records."""
        return torch.float32

    @property
    def learns_head_alone(self) -> bool:
        """Whether nothing before the head can be trained, so that it is computed once."""
        return False

    def square_norm(self, task: Task, finetune: str) -> float | None:
        """The mean square of the norm of what a record gives to its last layer, constant included,
        by the form of the record alone; None where more than that layer is trained, or where
        nothing is known of it."""
        return None

    def last_width(self, task: Task) -> int:
        """Features that the last layer reads, where `square_norm` knows it."""
        return 1

    def absolute_sum(self, task: Task) -> float:
        """The mean sum of the absolute features that the last layer reads, by the form of the
        record alone, where `square_norm` knows it: what a step of Adam at rate 1 may make of a
        logit."""
        return float(self.last_width(task))

    def code(self) -> tuple[str, str] | None:
        """The name and the hash of code outside of this project that it runs, if any."""
        return None

    def pinned(self) -> Self:
        """The settings with a hash of what they name outside of this project, if anything.

        Raises:
            ConfigError: it is not there.
        """
        return self


class SearchingModel(Model):
    """A model that finds documents for queries; documents are read by a public encoder."""

    searches: ClassVar[bool] = True
    folder: str
    """Where the encoder lies, with its tokenizer."""
    sha256: str
    """Of its weights."""

    @abstractmethod
    def query_weights(self, cache: Path) -> Weights:
        """Weights that read queries; what only training needs is zero.

        Raises:
            ConfigError, DataError: as `weights`.
        """

    @abstractmethod
    def width(self) -> int:
        """Numbers of a vector."""


Shape = TypeVar("Shape", bound=Input)


def input_as(wanted: type[Shape], task: Task) -> Shape:
    """The form of a record, where `fedlearn.models.problems` has found it to be `wanted`."""
    if not isinstance(task.input, wanted):
        found = type(task.input).__name__
        raise TypeError(f"the model needs {wanted.__name__}, not {found}: see `problems`")
    return task.input


def undivided(setting: str, value: int, width: int) -> Iterator[str]:
    """A sentence where a setting that has to divide `model.width` does not."""
    if width % value:
        yield (
            f"model.{setting}={value}: must divide model.width={width}; set model.width to a "
            "multiple of it"
        )
