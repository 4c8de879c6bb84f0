"""`fedlearn keys join`: a site takes what its coordinator has sent, once all of it is checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedlearn import __version__
from fedlearn.core.code import code_digest
from fedlearn.core.errors import ConfigError, prefixed, refuse
from fedlearn.core.files import possible, write_atomically
from fedlearn.core.names import lookalikes
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import checked_fingerprint, pin_roster
from fedlearn.crypto.kit.archive import AUTHORITY, ROSTER, Kit, opened

_MOST_BYTES = 16_000_000
"""Of an archive."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What came of a kit: files that were written, and those of the owner's that stayed."""

    kit: Kit
    written: tuple[Path, ...]
    left: tuple[Path, ...]


def join(archive: Path, trusted: str, folder: Path, *, write: bool) -> Joined:
    """Check a kit and write its files into the folder of a site, with the list of sites pinned.

    Args:
        archive: the kit.
        trusted: the fingerprint of who signs the list, as its owner was told by another way.
        folder: that of the site, where its keys are below `keys`.
        write: whether anything is written.

    Raises:
        ConfigError: the kit is not to be believed, is for another site or key, or would replace
            a list or a certificate that is there.
    """
    checked_fingerprint(trusted)
    with possible("read", archive, ConfigError), archive.open("rb") as file:
        content = file.read(_MOST_BYTES)
    with prefixed(archive):
        kit = opened(content, trusted, f"{__version__} ({code_digest()[:16]})")
        refuse(lookalikes(one.name for one in kit.roster.participants), ConfigError)
    _check_key(kit, folder)
    there = {name: _content(folder / name) for name in kit.files}
    changed = [name for name, found in there.items() if found not in (None, kit.files[name])]
    if fixed := [name for name in changed if name in (ROSTER, AUTHORITY)]:
        raise ConfigError(
            [
                f"{folder / name}: is another one; move it away, if this kit is newer"
                for name in fixed
            ]
        )
    fresh = tuple(folder / name for name in kit.files if there[name] is None)
    if write:
        with possible("written", folder, ConfigError):
            for path in fresh:
                write_atomically(path, kit.files[path.name])
        pin_roster(folder / ROSTER, trusted)
    return Joined(kit=kit, written=fresh, left=tuple(folder / name for name in changed))


def _check_key(kit: Kit, folder: Path) -> None:
    """Refuse a kit for a key that is not here."""
    path = folder / "keys" / kit.site
    if not path.is_file():
        raise ConfigError(
            f"{path}: is not there; make your keys with `fedlearn keys new {kit.site}` in this "
            f"folder, and send {kit.site}.pub to the coordinator, who then makes another kit"
        )
    if Identity.load(path).public != kit.roster.sites()[kit.site]:
        raise ConfigError(
            f"{path}: is not the key that the list has for {kit.site}; send its public half to the "
            "coordinator and to whoever signs the list"
        )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
