"""A site's part in common randomness, and the group that it may be summed in.

The coordinator proposes who is in a sum; a site takes part in none but that of its own group,
which it draws itself from what all sites have opened. Who is left out of the run is the
coordinator's word: the list only grows, holds no more sites than a run may leave out, and brings
nobody into another group.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import ConfigRecord, Context, Message

from clients import openings
from clients.joining import identity_of, joined_run
from clients.owner import Owner
from fedlearn.agreement import draw_of
from fedlearn.config import RunConfig, sizes_of
from fedlearn.core.errors import ProtocolError
from fedlearn.crypto import common
from fedlearn.crypto.roster import SERVER
from fedlearn.flower import messages as flower
from fedlearn.flower.records import config_record
from fedlearn.flower.site import roster_of
from fedlearn.rounds import Invitation

_STATE = "groups"


def commitment(context: Context, config: RunConfig, name: str) -> str:
    """What the site is committed to, always the same; empty where a run has no groups.

    Where a start goes on without some sites, before anything was asked that costs, a share that
    was opened is known to others: the site commits itself to a new one.
    """
    if config.robust.group_size is None:
        return ""
    stored = config_record(context.state, _STATE)
    joined = config_record(context.state, "joined")
    if stored is None or ("commitments" in stored and joined and not joined["begun"]):
        stored = ConfigRecord({"share": common.new_share(), "without": list[str]()})
        context.state[_STATE] = stored
    return common.commitment(name, _bytes(stored, "share"))


def opening(
    invitation: Invitation, context: Context, config: RunConfig, owner: Owner
) -> common.OpenedShare | None:
    """The site's share, once it has seen what all on the roster are committed to.

    One share is opened under one list: the same shares under ever shorter lists would let a
    coordinator that knows them try which list brings a site among whom it likes.

    Raises:
        ProtocolError: its own commitment, or that of somebody on the roster, is not there; or the
            share was opened under another list.
        PrivacyError: it was opened too often for nothing.
    """
    if config.robust.group_size is None:
        return None
    stored, listed = _stored(context, "join"), dict(invitation.commitments)
    if listed.keys() != roster_of(invitation.roster).sites().keys():
        raise ProtocolError(SERVER, "join", "the commitments are not those of the roster")
    share, run_id = _bytes(stored, "share"), bytes.fromhex(invitation.run_id)
    try:
        found = common.opened(identity_of(context), owner.name, share, run_id, listed)
    except ValueError as error:
        raise ProtocolError(SERVER, "join", str(error)) from None
    shown, before = json.dumps(listed), stored.get("commitments")
    if before is None:
        openings.count(owner)
    elif before != shown:  # to the same question the same answer, and to another none
        raise ProtocolError(SERVER, "join", "the share was opened under another list")
    stored["commitments"] = shown
    return found


def take_seed(message: Message, context: Context, config: RunConfig) -> None:
    """Keep what the shares of all sites together give; it stays the same for the whole run.

    Raises:
        ProtocolError: they are not what all sites were committed to.
    """
    if config.robust.group_size is None:
        return
    stored, shown = _stored(context, "describe"), flower.read_openings(message)
    joined = joined_run(context, "describe")
    sites, run_id = roster_of(str(joined["roster"])).sites(), _bytes(joined, "run-id")
    try:
        listed = json.loads(str(stored["commitments"]))
        stored["seed"] = common.seed_of(shown.shares, run_id, listed, sites)
    except (ValueError, KeyError) as error:
        raise ProtocolError(SERVER, "describe", str(error)) from None


@contextmanager
def unless_refused(context: Context) -> Iterator[None]:
    """Who is left out counts only where what follows is accepted: a refusal changes nothing."""
    stored = config_record(context.state, _STATE)
    before = list(_left_out(stored)) if stored else []
    try:
        yield
    except Exception:
        if stored is not None:
            stored["without"] = before
        raise


def leave_out(
    context: Context, config: RunConfig, without: Sequence[str], sites: Collection[str]
) -> None:
    """Take the coordinator's word for who is left out of a run of these `sites`.

    Raises:
        ProtocolError: somebody has come back, is none of the sites, or they are more than may be
            left out.
    """
    if config.robust.group_size is None:
        if without:
            raise ProtocolError(SERVER, "train", "no site is left out of this run")
        return
    stored, found = _stored(context, "train"), sorted(set(without))
    if not set(_left_out(stored)) <= set(found):
        raise ProtocolError(SERVER, "train", "a site that was left out is back")
    if not set(found) <= set(sites):
        raise ProtocolError(SERVER, "train", "who is left out is not on the roster")
    if len(found) > sizes_of(config, len(sites)).most_left_out:
        raise ProtocolError(SERVER, "train", f"{len(found)} of {len(sites)} sites are left out")
    stored["without"] = found


def check_left_out(context: Context, without: Sequence[str]) -> None:
    """Refuse another list than the sum of this round was begun with.

    Raises:
        ProtocolError: it is another.
    """
    stored = config_record(context.state, _STATE)
    if sorted(set(without)) != list(_left_out(stored) if stored else ()):
        raise ProtocolError(SERVER, "train", "other sites are left out than a moment ago")


def group(
    context: Context, config: RunConfig, name: str, sites: Mapping[str, bytes], number: int
) -> Mapping[str, bytes]:
    """Whom the site may be summed with in a round, with their keys: all, or those of its group.

    Raises:
        ProtocolError: it does not know the groups of this run.
    """
    if config.robust.group_size is None:
        return sites
    stored = _stored(context, "train")
    draw = draw_of(config, sites, _bytes(stored, "seed"))
    assert draw is not None  # noqa: S101  (the run has groups)
    return {one: sites[one] for one in draw.group_of(name, number)}


def _left_out(stored: ConfigRecord) -> tuple[str, ...]:
    names = stored["without"]
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _stored(context: Context, step: str) -> ConfigRecord:
    stored = config_record(context.state, _STATE)
    if stored is None:
        raise ProtocolError(SERVER, step, "came before the site was asked for a commitment")
    return stored


def _bytes(stored: ConfigRecord, key: str) -> bytes:
    value = stored.get(key)
    if not isinstance(value, bytes):
        raise ProtocolError(SERVER, "groups", "came before all shares were opened")
    return value
