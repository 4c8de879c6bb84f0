"""Whose data a Flower app works on: identity, demands and budget, as the protocol asks for them.

In a simulation nobody's: an identity made for the run, no demands, no budget. A site that
has a file of its own (`clients.app_owner`) brings a long-lived identity, a pinned roster,
a policy and a ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

from flwr.app import Context

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.roster import Roster
from fedlearn.flower.apps.local import room_above
from fedlearn.flower.site import fresh_identity
from fedlearn.privacy import Event
from fedlearn.secagg.settings import SecAggMasked

SITE_FILE: Final = "site-file"
"""The key of a node's own config under which it names the file of its owner."""

_IDENTITY: Final = "fedlearn.identity"


@dataclass(frozen=True, kw_only=True)
class MaskedSum:
    """What a reply enters: the sum of a cohort, and the masks that this site holds it to."""

    cohort: int
    masks: SecAggMasked


@dataclass(frozen=True, kw_only=True)
class Expense:
    """What a round is charged to: the run, the number of its sum, and what it is for."""

    run_id: str
    number: int
    purpose: str
    sum: MaskedSum | None = None
    """None where a reply is no part of a sum."""


class AppOwner(Protocol):
    """The owner of one site's data."""

    @property
    def name(self) -> str:
        """What the site is called in the run."""
        ...

    @property
    def identity(self) -> Identity:
        """The key that signs for the site."""
        ...

    @property
    def min_cohort(self) -> int:
        """The fewest sites that the owner wants to be hidden among."""
        ...

    @property
    def demands_privacy(self) -> bool:
        """Whether nothing may leave a training that has not been paid for."""
        ...

    def check_roster(self, roster: Roster) -> None:
        """Refuse the roster of a run that the pinned one does not bear out."""
        ...

    def admit(self, expense: Expense, *, masked: bool) -> None:
        """Refuse what the owner's policy does not allow, before the app sees the message."""
        ...

    def require(self, event: Event, expense: Expense) -> None:
        """Refuse what the budget has no room for; spends nothing."""
        ...

    def reserve(self, event: Event, expense: Expense) -> None:
        """Spend, or refuse."""
        ...

    def settle(self, run_id: str) -> None:
        """Note that what this run has reserved has left."""
        ...


@dataclass(frozen=True)
class NobodysData:
    """A site of a simulation without a file: every demand is met, and nothing is kept."""

    name: str
    identity: Identity
    min_cohort: int = 1
    demands_privacy: bool = False

    def check_roster(self, roster: Roster) -> None:
        """Trust on first use."""

    def admit(self, expense: Expense, *, masked: bool) -> None:
        """Everything."""

    def require(self, event: Event, expense: Expense) -> None:
        """There is no budget."""

    def reserve(self, event: Event, expense: Expense) -> None:
        """There is no ledger."""

    def settle(self, run_id: str) -> None:
        """Nothing is kept."""


def owner_of(context: Context, site: str | None) -> AppOwner:
    """The owner by the node's own config, else by the file `site`, else nobody.

    `site` may hold keys of the node's config in braces: `sites/{partition-id}.yaml`.

    Raises:
        ConfigError: the file is wrong, with every reason.
    """
    path = context.node_config.get(SITE_FILE) or _filled(site, context)
    if path is None:
        return NobodysData(f"node-{context.node_id}", fresh_identity(context, _IDENTITY))
    return owner_at(Path(str(path)), context)


def owner_at(path: Path, context: Context) -> AppOwner:
    """The owner that a site's file describes; ledgers and policies are the clients' room."""
    module = room_above("clients.app_owner")
    return cast(AppOwner, module.owner_at(path, lambda: fresh_identity(context, _IDENTITY)))


def _filled(site: str | None, context: Context) -> str | None:
    if site is None:
        return None
    try:
        return site.format_map(context.node_config)
    except (KeyError, ValueError, IndexError):
        known = ", ".join(context.node_config) or "nothing"
        raise ConfigError(f"site={site}: this node's config has {known}") from None


# --- What the app says that it spends ---------------------------------------------

spending: ContextVar[Callable[[Event], None] | None] = ContextVar("spending", default=None)
"""Set while a protected app handles a message."""


def spend(event: Event) -> None:
    """Charge the site's ledger with a mechanism, before the records are read that it protects.

    For a ClientApp behind `protect` that decides within its function what it does. What it
    always spends in the same way is better said once: `protect(spends=...)`.

    Args:
        event: what will be done, such as `fedlearn.privacy.events.GaussianEvent`.

    Raises:
        PrivacyError: the owner's budget or policy does not allow it. Nothing of the reply
            leaves the site, whether or not the app goes on.
        ConfigError: called outside of a protected app: nobody would keep count.

    Example:
        >>> from fedlearn.privacy.events import GaussianEvent
        >>> spend(GaussianEvent(noise_multiplier=1.1, sample_rate=0.01, steps=100))
        Traceback (most recent call last):
        ...
        fedlearn.core.errors.ConfigError: spend() was called outside of a protected ClientApp: ...
    """
    charge = spending.get()
    if charge is None:
        raise ConfigError(
            "spend() was called outside of a protected ClientApp: nothing would be charged. "
            "Make the app with ClientApp(mods=[fedlearn.flower.protect()])"
        )
    charge(event)
