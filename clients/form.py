"""The form in which a deployed site's records become numbers: the first that is told is the last.

Which columns are read, in which ranges, categories and classes: the run has a word in it, and
what a site answers about another form is an answer about its records. So the form is written
down beside the ledger before anything of it is told, and a run that would have another one is
refused until the owner takes the file away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final

from clients.owner import Owner
from fedlearn.config import RunConfig, encode, to_tree
from fedlearn.core.errors import DataError, FedlearnError, PrivacyError
from fedlearn.core.files import PRIVATE, write_atomically
from fedlearn.data import SCENARIOS, Scenario
from fedlearn.data.scenario import OpenFormError
from fedlearn.tasks import TASKS, TaskConfig

FORM: Final = ".form.json"


@dataclass(frozen=True, kw_only=True)
class _Form:
    scenario: Annotated[Scenario, SCENARIOS]
    task: Annotated[TaskConfig, TASKS]


@contextmanager
def held_form(owner: Owner, config: RunConfig) -> Iterator[None]:
    """Write down the form of a site's records at its first run; refuse any other one later.

    Where the owner asks for no privacy, or in a simulation, there is nothing to hold. A form
    that turns out to be left open inside is not held: that depends on no record.

    Raises:
        PrivacyError: the run would read the records in another form.
        ConfigError: a record is not the same in the run and at the site.
        DataError: what was written down cannot be read.
    """
    site = owner.deployed
    if site is None or site.policy.unit == "none":
        yield
        return
    scenario = site.data.agreed(config.scenario)
    placed: dict[str, Any] = {"path": "records"} if hasattr(scenario, "path") else {}
    form = _Form(scenario=replace(scenario, **placed), task=config.task)
    path = site.ledger.with_suffix(FORM)
    first = not path.exists()
    if first:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, encode(form).encode(), PRIVATE)  # names and codes of a table
    else:
        _compare(owner.name, path, form)
    try:
        yield
    except FedlearnError as error:
        # Outside it is told as any other error of records, and comes with it as its cause.
        if first and isinstance(error.__cause__ or error, OpenFormError):
            path.unlink()
        raise


def _compare(name: str, path: Path, form: _Form) -> None:
    written = to_tree(form)
    # What a form leaves out, of an older release or because it says nothing, is as by default.
    idle = {part: _defaults(getattr(form, part)) for part in written}
    now = {part: idle[part] | settings for part, settings in written.items()}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        before = {part: idle[part] | before[part] for part in now}
        changed = [
            f"{part}.{key}"
            for part in now
            for key in sorted({*before[part], *now[part]})
            if before[part].get(key) != now[part].get(key)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise DataError(
            f"site {name}: {path} is damaged: put it back from a backup. Without it nobody knows "
            "in which form the records were first described"
        ) from None
    if changed:
        raise PrivacyError(
            f"site {name}: the run would read the records in another form than before: "
            f"{', '.join(changed)} differ from {path}. If that is what you want, remove the file"
        )


def _defaults(settings: Any) -> dict[str, Any]:
    """What settings were before there was a choice: a form of an older release lacks newer ones."""
    found = {}
    for one in fields(settings):
        if one.default is not MISSING:
            found[one.name] = to_tree(one.default)
        elif one.default_factory is not MISSING:
            found[one.name] = to_tree(one.default_factory())
    return found
