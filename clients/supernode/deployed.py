"""What a site on a machine of its own takes from its file, and from nobody else.

Flower hands every message to the app with the node's own `node_config`; there the
key `site-file` says where the site file is, by whichever program the node was
started: `fedlearn client`, or `flower-supernode --node-config 'site-file="..."'`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message

from clients import sitefile
from clients.sitefile import SiteFile
from fedlearn.core.errors import ProtocolError
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.kdf import derive
from fedlearn.crypto.keyring import load_pinned
from fedlearn.crypto.roster import SERVER, Roster
from fedlearn.data.datasets.archives import nothing_brought
from fedlearn.flower import private

SITE_FILE = "site-file"


def is_deployed(context: Context) -> bool:
    """Whether the site is a machine of its own, whatever its file says."""
    return SITE_FILE in context.node_config


def brings_nothing(message: Message, context: Context, call_next: private.AppFunction) -> Message:
    """A Flower mod, around every message: no answer of a deployed site downloads anything."""
    if not is_deployed(context):
        return call_next(message, context)
    with nothing_brought():
        return call_next(message, context)


def deployed_site(context: Context) -> SiteFile | None:
    """The site's own file; None in a simulation.

    Raises:
        ConfigError: the file is wrong, with every reason.
    """
    path = context.node_config.get(SITE_FILE)
    if path is None:
        return None
    return _loaded(str(path), Path(str(path)).stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _loaded(path: str, version: int) -> SiteFile:
    # Asked at every message; read anew only when it was changed.
    return sitefile.load(Path(path))


def check_pinned(path: Path, invited: Roster) -> None:
    """Refuse the roster of a run that the site's own, pinned roster does not bear out.

    The run's roster must be signed by the coordinator that the pinned one names, as itself,
    and be a part of the pinned one: every site in it stands there under the same key. So the
    coordinator cannot surround a site with keys that nobody has compared.

    Raises:
        ConfigError: the pinned roster is not in order.
        ProtocolError: the run's roster is somebody else's, or has an unknown site.
    """
    pinned = load_pinned(path)
    servers = [one.public for one in invited.participants if one.role != "site"]
    if invited.authority != pinned.coordinator or servers != [invited.authority]:
        raise ProtocolError(
            SERVER, "join", "the run's roster is not signed by the coordinator of the pinned one"
        )
    known = pinned.sites()
    strangers = [name for name, key in invited.sites().items() if known.get(name) != key]
    if strangers:
        raise ProtocolError(
            SERVER,
            "join",
            f"the pinned roster does not have {', '.join(strangers)} with that key; ask who "
            "signs it for a newer one, look at who is on it, and pin it",
        )


def commitment(identity: Identity, data_sha256: str) -> str:
    """What a site says of its records instead of their hash.

    A bare hash would let the coordinator test a guess of the records, down to a single
    one; this says whether two runs used the same records, and can be opened by the
    site alone, by showing its salt.
    """
    salt = derive(identity.to_bytes(), "data-commitment")
    return hashlib.sha256(salt + bytes.fromhex(data_sha256)).hexdigest()
