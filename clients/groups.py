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
from fedlearn.core.errors import ProtocolError, counted
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
    was opened is known to others: the site commits itself to a new one. One that was not is kept.
    """
    if config.robust.group_size is None:
        return ""
    stored = config_record(context.state, _STATE)
    joined = config_record(context.state, "joined")
    if stored is None or ("opened" in stored and joined and not joined["begun"]):
        stored = ConfigRecord({"share": common.new_share(), "without": list[str]()})
        context.state[_STATE] = stored
    return common.commitment(name, _bytes(stored, "share"))


def take_commitments(
    invitation: Invitation, context: Context, config: RunConfig, owner: Owner
) -> None:
    """Take in what all on the roster are committed to; no share is opened yet.

    One share is opened under one list: the same shares under ever shorter lists would let a
    coordinator that knows them try which list brings a site among whom it likes. Until it is
    opened nobody knows it, and the list may become shorter.

    Raises:
        ProtocolError: its own commitment, or that of somebody on the roster, is not there; or the
            share was opened under another list.
    """
    if config.robust.group_size is None:
        return
    stored, listed = _stored(context, "join"), dict(invitation.commitments)
    if listed.keys() != roster_of(invitation.roster).sites().keys():
        raise ProtocolError(SERVER, "join", "the commitments are not those of the roster")
    if listed[owner.name] != common.commitment(owner.name, _bytes(stored, "share")):
        raise ProtocolError(SERVER, "join", f"{owner.name} is not committed to its own share")
    shown = json.dumps(listed)
    if "opened" in stored and stored["commitments"] != shown:
        raise ProtocolError(SERVER, "join", "the share was opened under another list")
    stored["commitments"] = shown


def opening(context: Context, config: RunConfig, owner: Owner) -> common.OpenedShare:
    """The site's share, under the list that it has joined: to the same question the same answer.

    It is the last thing that a start asks for. By then every site has joined, its records have the
    form of the others' and its ledger is in order: so one that fails in any of that, by mistake or
    on purpose, costs nobody an opening.

    Raises:
        ProtocolError: there are no shares in this run, or none was asked for yet.
        PrivacyError: it was opened too often for nothing.
    """
    if config.robust.group_size is None:
        raise ProtocolError(SERVER, "open", "this run has no groups")
    stored, joined = _stored(context, "open"), joined_run(context, "open")
    share, run_id = _bytes(stored, "share"), _bytes(joined, "run-id")
    try:
        listed = json.loads(str(stored["commitments"]))
        found = common.opened(identity_of(context), owner.name, share, run_id, listed)
    except (ValueError, KeyError) as error:
        raise ProtocolError(SERVER, "open", str(error)) from None
    if "opened" not in stored:
        openings.count(owner)
    stored["opened"] = True
    return found


def take_seed(message: Message, context: Context, config: RunConfig) -> None:
    """Keep what the shares of all sites together give; it stays the same for the whole run.

    Raises:
        ProtocolError: they are not what all sites were committed to, or the run has none.
    """
    if config.robust.group_size is None:
        raise ProtocolError(SERVER, "draw", "this run has no groups")
    stored, shown = _stored(context, "draw"), flower.read_openings(message)
    joined = joined_run(context, "draw")
    sites, run_id = roster_of(str(joined["roster"])).sites(), _bytes(joined, "run-id")
    try:
        listed = json.loads(str(stored["commitments"]))
        stored["seed"] = common.seed_of(shown.shares, run_id, listed, sites)
    except (ValueError, KeyError) as error:
        raise ProtocolError(SERVER, "draw", str(error)) from None


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
        raise ProtocolError(
            SERVER, "train", f"{len(found)} of {counted(len(sites), 'site')} are left out"
        )
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
