"""What a coordinator and a site say to each other in a run, as data.

A run is: `hello` to every node (who are you, would you take part under these terms),
`join` where sites have keys (who takes part, under which keys), `describe` (what do
your records look like), then per round `afford` (could you pay for it?) and `train` to
the cohort, and `evaluate` to every site. How these travel is `fedlearn.flower`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from fedlearn.core.errors import PrivacyError
from fedlearn.core.vector import Vector
from fedlearn.crypto.common import OpenedShare
from fedlearn.data.tables.schema import Schema
from fedlearn.metrics.sums import Sums
from fedlearn.privacy import Event
from fedlearn.tasks import TaskForm

ByOwner = Literal["", "undecided", "paused", "refused", "withdrawn"]
"""What an owner has decided of a study that a site does not take part in; empty: nothing."""

_AWAITED: Final = frozenset({"undecided", "paused"})


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Who a site is that takes part under the terms that it was asked for; nothing of its data."""

    site: str
    public_key: str
    """The site's Ed25519 key (hex) where it joins runs under one, else empty."""
    version: str = ""
    code: str = ""
    """Version and SHA-256 (hex) of the fedlearn that runs there."""
    commitment: str = ""
    """To the site's share of common randomness (`fedlearn.crypto.common`), where a run needs it."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a site's records look like; asked for once it has joined."""

    task: TaskForm
    data_sha256: str
    """In a simulation of the records; a deployed site's commitment to them."""
    train_records: int | None
    test_records: int | None
    """None where a site on a machine of its own keeps them to itself, as it does under privacy."""
    real_noise: bool
    """False when the site draws its noise from a test's seeded stand-in."""
    schema: Schema = ()
    """The columns of a table, as `fedlearn.data.tables.schema` describes them; no value of any."""
    validation_records: int | None = 0
    device: str = "cpu"
    """The kind of device that the site computes on: `cpu` or `cuda`."""


@dataclass(frozen=True, kw_only=True)
class TermsOffer:
    """Under which terms a site is asked to take part: their hash, and who says so.

    `signature` (hex) is the coordinator's on the hash; empty where a simulation has none.
    """

    terms: str
    signature: str = ""


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a site with a key of its own needs before it tells of its records.

    `run_id` (hex, 16 bytes) names the run, `roster` is the signed list of who
    takes part, `offer` (hex) the server's half of the set-up of a sealed channel,
    `helper` (hex) the second server's key under `secagg=two_server`; empty where
    not needed. `signature` (hex) is the coordinator's on the run, its terms and that key,
    `vouched` (hex) that of a second server of another organisation on the same.
    `commitments` are those of all sites to their shares of common randomness, by name.
    """

    run_id: str
    roster: str
    offer: str
    helper: str
    signature: str = ""
    vouched: str = ""
    commitments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Openings:
    """The shares of common randomness of all sites, by name; they come with `draw`."""

    shares: Mapping[str, OpenedShare]


@dataclass(frozen=True, kw_only=True)
class RoundNote:
    """What every message of a round says about it.

    `terms` (hex) is the hash of those of the study, `cohort` the number of sites that
    take part, by the coordinator's word; `clip_norm` the norm of this round under
    client-level privacy, else zero. `without` are the sites that are left out of the run for
    what a rule against poisoning has found. `largest` is how many records the largest site
    trains on where all weights are scaled to that (`fedlearn.secagg.weights`), else zero.
    """

    terms: str
    run_id: str
    round: int
    cohort: int
    clip_norm: float = 0.0
    without: tuple[str, ...] = ()
    largest: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What a round asks for, and its global model: `model` is `float32[d]`.

    `besides` are the vectors that the algorithm sends along, `float32[d]` each, by name.
    """

    note: RoundNote
    model: Vector
    besides: Mapping[str, Vector] = field(default_factory=dict)
    counted: int = 0
    """The last round whose sum held what this site had sent, by the coordinator's word; 0: none."""

    @property
    def run_id(self) -> str:
        """Which run this is."""
        return self.note.run_id

    @property
    def round(self) -> int:
        """Which of its rounds."""
        return self.note.round

    @property
    def clip_norm(self) -> float:
        """As in `RoundNote`."""
        return self.note.clip_norm


@dataclass(frozen=True, kw_only=True)
class TrainReply:
    """A site's model after local training: `model` is `float32[d]`.

    `weight` is its share in the mean: the number of its records without
    privacy, and 1 under privacy, where that number must not decide the scale
    of anything that is released.
    """

    site: str
    model: Vector
    weight: float
    spent: tuple[Event, ...]
    """What the site has spent in this run so far, this round included, from its ledger."""


@dataclass(frozen=True, kw_only=True)
class EvaluateReply:
    """A site's test sums for the model of a round.

    `groups` are those of the groups of people that may be shown, `withheld` the
    names of the groups that are too small.
    """

    site: str
    sums: Sums
    groups: dict[str, Sums] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    own: Sums | None = None
    """Those of the site's own model, where it has one beside the shared one."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A site's no: `exit_code` is its kind (`fedlearn.core.errors`), `reason` is for people."""

    site: str
    exit_code: int
    reason: str
    by_owner: ByOwner = ""
    """Where it is the decision of the site's owner on the study, and of no budget or policy."""

    @property
    def awaits_owner(self) -> bool:
        """Whether its owner may still decide otherwise."""
        return self.by_owner in _AWAITED

    @property
    def of_budget(self) -> bool:
        """Whether a budget or a policy refused, before anything was paid for.

        An owner may withdraw while a round that was paid for is computed.
        """
        return self.exit_code == PrivacyError.exit_code and not self.by_owner
