from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedlearn.core.errors import DataError
from fedlearn.data.datasets.archives import read_file_in

CONTENT = b"a,b\n1,2\n"


def tar_of(name: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))
        tar.addfile(tarfile.TarInfo("folder/link"))
    return buffer.getvalue()


def ar_of(**members: bytes) -> bytes:
    out = b"!<arch>\n"
    for name, content in members.items():
        spelled = name.replace("_", ".")
        out += f"{spelled:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def make(folder: Path, kind: str) -> Path:
    path = folder / f"archive.{kind}"
    match kind:
        case "whl":
            with zipfile.ZipFile(path, "w") as wheel:
                wheel.writestr("folder/table.csv", CONTENT)
        case "tar.gz":
            path.write_bytes(tar_of("folder/table.csv", "w:gz"))
        case "tgz":
            path.write_bytes(tar_of("./folder/table.csv", "w:gz"))
        case "deb":
            data = tar_of("./folder/table.csv", "w:xz")
            path.write_bytes(ar_of(debian_binary=b"2.0", control_tar=b"odd", data_tar_xz=data))
    return path


KINDS = ["whl", "tar.gz", "tgz", "deb"]


@pytest.mark.parametrize("kind", KINDS)
def test_member__is_read_from_every_kind_of_archive(tmp_path: Path, kind: str) -> None:
    assert read_file_in(make(tmp_path, kind), "folder/table.csv") == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_member__that_is_missing_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"no file 'folder/other.csv'"):
        read_file_in(make(tmp_path, kind), "folder/other.csv")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 5, 40, 90])
def test_member__of_a_cut_archive_is_a_data_error(tmp_path: Path, kind: str, keep: int) -> None:
    path = make(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="cannot be read"):
        read_file_in(path, "folder/table.csv")


def test_member__is_read_from_what_dpkg_deb_builds(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed here")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\n"
        "Description: tiny\n"
    )
    (tree / "table.csv").write_bytes(CONTENT)
    deb = tmp_path / "tiny.deb"
    command = ["dpkg-deb", "-Zxz", "--root-owner-group", "--build", str(tree), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    assert read_file_in(deb, "table.csv") == CONTENT
