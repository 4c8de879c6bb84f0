"""The owner of the data that a Flower app works on, by a file of the owner's own.

```yaml
name: cleveland
data: heart registry 2024       # what the records are called; the ledger is theirs for life
ledger: state/ledger.jsonl
policy: {epsilon_total: 8.0, delta: 1.0e-5, unit: record, min_cohort: 3, require_secagg: masked}
keys: keys/cleveland            # in a deployment: the identity, made by `fedlearn keys new`,
roster: roster.json             # and the pinned list of who takes part
```

As a site file (`clients.sitefile`), but for the data: an app reads its records by itself, so
that the file only names them. Relative paths are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from clients.ledger import ledger
from clients.ledger.ledger import Ledger
from clients.ledger.state import Cost, Declined
from clients.policy import Policy, RunDescription, refusals
from clients.policy import Unit as Protected
from clients.supernode.deployed import check_pinned
from fedlearn.config import decode
from fedlearn.core import yaml_file
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, PrivacyError
from fedlearn.core.settings import Name
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.roster import Roster
from fedlearn.flower.apps.owner import Expense
from fedlearn.privacy import Event
from fedlearn.privacy.accounting import SMALLEST_DELTA
from fedlearn.privacy.events import DiscreteSumEvent, unit_of

APP_MODEL = "flower"
"""What a policy's `allow_models` calls the model of a Flower app."""


@dataclass(frozen=True, kw_only=True)
class AppSite:
    """What the file says; paths as they are written."""

    name: Name
    data: Name
    ledger: Name
    policy: Policy
    keys: Name | None = None
    roster: Name | None = None


def load(path: Path) -> AppSite:
    """The file of an owner.

    Raises:
        ConfigError: with every problem, one line each.
    """
    site = decode(AppSite, json.dumps(yaml_file.read(path)))
    found = []
    if site.policy.delta < SMALLEST_DELTA:
        found.append(f"policy.delta={site.policy.delta}: must be at least {SMALLEST_DELTA}")
    if site.policy.approval != "none":
        found.append(
            f"policy.approval={site.policy.approval}: an app of Flower's has no terms that its "
            "owner could approve of; take part in studies of fedlearn, or leave it out"
        )
    if (site.keys is None) != (site.roster is None):
        found.append("keys and roster: an identity is worth nothing without a roster, and back")
    if found:
        raise ConfigError([f"{path}: {problem}" for problem in found])
    return site


def owner_at(path: Path, fresh: Callable[[], Identity]) -> FileOwner:
    """The owner that a file describes; `fresh` makes an identity where the file has none.

    Raises:
        ConfigError: the file, the identity or the roster is not in order.
    """
    try:
        site = _loaded(str(path), path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from None
    folder = path.absolute().parent
    identity = fresh() if site.keys is None else Identity.load(folder / site.keys)
    return FileOwner(site, folder, identity)


@lru_cache(maxsize=64)
def _loaded(path: str, version: int) -> AppSite:
    # Asked at every message; read anew only when it was changed.
    return load(Path(path))


@dataclass(frozen=True)
class FileOwner:
    """An `AppOwner` of `fedlearn.flower` by its file."""

    site: AppSite
    folder: Path
    identity: Identity

    @property
    def name(self) -> str:
        """What the site is called."""
        return self.site.name

    @property
    def min_cohort(self) -> int:
        """The fewest sites that the owner wants to be hidden among."""
        return self.site.policy.min_cohort

    @property
    def demands_privacy(self) -> bool:
        """Whether a training must be paid for."""
        return self.site.policy.unit != "none"

    def check_roster(self, roster: Roster) -> None:
        """Refuse a roster that the pinned one does not bear out; without one, take the first."""
        if self.site.roster is not None:
            check_pinned(self.folder / self.site.roster, roster)

    def admit(self, expense: Expense, *, masked: bool) -> None:
        """Refuse what the policy does not allow; the refusal is written to the ledger."""
        # What is spent says its own unit, when it is spent.
        run = self._described(expense, self.site.policy.unit, masked=masked)
        self._decline(refusals(self.site.policy, run), expense)

    def require(self, event: Event, expense: Expense) -> None:
        """Refuse what the budget has no room for."""
        self._check(event, expense)
        with self._ledger() as ledger_:
            ledger_.require(_cost(event, expense), now=_now())

    def reserve(self, event: Event, expense: Expense) -> None:
        """Spend, before a record is read."""
        self._check(event, expense)
        with self._ledger() as ledger_:
            ledger_.reserve(_cost(event, expense), now=_now())

    def settle(self, run_id: str) -> None:
        """Note that the replies of this run have left, or the server would not come back."""
        if not self._path.exists():
            return
        with self._ledger() as ledger_:
            ledger_.commit_all(run_id, now=_now())

    @property
    def _path(self) -> Path:
        return self.folder / self.site.ledger

    def _ledger(self) -> Ledger:
        data = hashlib.sha256(f"fedlearn/app-data/v1\n{self.site.data}".encode()).hexdigest()
        budget = self.site.policy.budget
        return Ledger(self._path, site=self.name, data=data, budget=budget, now=_now())

    def _check(self, event: Event, expense: Expense) -> None:
        """Refuse a mechanism for another unit, and noise in shares that a sum may lack."""
        wanted, unit = self.site.policy.unit, unit_of(event)
        if wanted not in ("none", unit):
            demand = f"policy.unit={wanted}: the app spends for the unit {unit!r}"
            self._decline([demand], expense)
        if not isinstance(event, DiscreteSumEvent) or event.shares == 1:
            return
        entered, fewest = expense.sum, self.min_cohort
        if entered is not None:
            fewest = max(entered.masks.min_cohort, fewest)
        run = replace(
            self._described(expense, unit, masked=entered is not None),
            in_shares=True,
            colluders=max(0, fewest - event.shares),
            missing_shares=max(0, event.shares - fewest),
        )
        self._decline(refusals(self.site.policy, run), expense)

    def _described(self, expense: Expense, unit: Protected, *, masked: bool) -> RunDescription:
        entered = expense.sum
        return RunDescription(
            model=APP_MODEL,
            unit=unit,
            delta=None,
            cohort=entered.cohort if entered else None,
            transport="sealed",
            secagg="masked" if masked else "off",
            masks=entered.masks if entered else None,
            code=code_digest(),
        )

    def _decline(self, demands: list[str], expense: Expense) -> None:
        if not demands:
            return
        declined = Declined(
            run_id=expense.run_id, purpose=expense.purpose, reason="; ".join(demands)
        )
        ledger.decline(self._path, declined, now=_now())
        raise PrivacyError("\n".join(f"site {self.name}: {demand}" for demand in demands))


def _cost(event: Event, expense: Expense) -> Cost:
    return Cost(
        event=event,
        run_id=expense.run_id,
        round_number=expense.number,
        purpose=expense.purpose,
    )


def _now() -> datetime:
    return datetime.now(UTC)
