"""Who takes part: introductions, and the list that everybody pins."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.certificates import site_credential
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import _PURPOSE, _fields, introduce, read_certified
from fedlearn.crypto.keyring import load_pinned, pin_path, pin_roster, sign_roster

NOW = datetime(2026, 11, 30, tzinfo=UTC)
AUTHORITY, OTHER, SITE = (Identity.new() for _ in range(3))


def introduced(folder: Path, name: str, role: Any = "site", who: Identity | None = None) -> Path:
    path = folder / f"{name}-{role}.pub"
    path.write_text(introduce(who or Identity.new(), name, role, ""))
    return path


def signed(folder: Path, *names: str, authority: Identity = AUTHORITY) -> Path:
    """A roster at one place, whatever lay there."""
    path = folder / "roster.json"
    path.unlink(missing_ok=True)
    sign_roster(path, "heart", [introduced(folder, name) for name in names], authority)
    return path


def test_pin__holds_one_list_of_one_authority(tmp_path: Path) -> None:
    path = signed(tmp_path, "alder", "birch")
    with pytest.raises(ConfigError, match="nobody's signature is pinned"):
        load_pinned(path)
    pin_roster(path, AUTHORITY.fingerprint)
    first = load_pinned(path)
    assert set(first.sites()) == {"alder", "birch"}
    written = pin_path(path).read_text().split()
    assert written == [AUTHORITY.fingerprint, first.digest()]
    signed(tmp_path, "alder", "birch", "cedar")
    with pytest.raises(ConfigError, match="is not the list that was pinned"):
        load_pinned(path)
    pin_path(path).with_name(f".{pin_path(path).name}.new").write_text("left by a crash")
    pin_roster(path, AUTHORITY.fingerprint)
    assert set(load_pinned(path).sites()) == {"alder", "birch", "cedar"}
    before = pin_path(path).stat().st_ino
    pin_roster(path, AUTHORITY.fingerprint)
    assert pin_path(path).stat().st_ino == before, "the same list is not pinned anew"
    signed(tmp_path, "alder", "birch", authority=OTHER)
    with pytest.raises(ConfigError, match="another fingerprint is pinned"):
        pin_roster(path, OTHER.fingerprint)


def test_roster__lists_no_names_that_look_alike_and_its_authority_not_at_all(
    tmp_path: Path,
) -> None:
    alike = [introduced(tmp_path, name) for name in ("alder", "a1der", "Alder")]
    with pytest.raises(ConfigError):
        sign_roster(tmp_path / "r.json", "heart", alike, AUTHORITY)
    listed = [introduced(tmp_path, "alder"), introduced(tmp_path, "birch"),
              introduced(tmp_path, "board", "authority", AUTHORITY)]  # fmt: skip
    roster = sign_roster(tmp_path / "r.json", "heart", listed, AUTHORITY)
    assert [one.name for one in roster.participants] == ["alder", "birch"]


def test_pin__that_cannot_be_read_pins_nothing(tmp_path: Path) -> None:
    path = signed(tmp_path, "alder", "birch")
    for content in (b"", b"\xff", b"12-34\n"):
        pin_path(path).write_bytes(content)
        with pytest.raises(ConfigError, match="holds no fingerprint"):
            load_pinned(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"public": SITE.public.hex()[2:]}, "wrong length"),
        ({"signature": "00"}, "wrong length"),
        ({"name": "birch"}, "was altered"),
        ({"fingerprint": OTHER.fingerprint}, "is not that of its key"),
        ({"schema": "x"}, "expected"),
    ],
)
def test_introduction__that_is_not_whole_is_refused(
    tmp_path: Path, change: dict[str, str], says: str
) -> None:
    document = json.loads(introduce(SITE, "alder", "site", ""))
    path = tmp_path / "a.pub"
    path.write_text(json.dumps(document | change))
    with pytest.raises(ConfigError, match=says):
        read_certified(path)
    del document["role"]
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="no 'role' in it"):
        read_certified(path)


def test_introduction__with_a_certificate_that_is_none_is_refused_though_it_is_signed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.pub"
    for certificate in (site_credential("alder", NOW).certificate_pem().decode(), "none"):
        document = json.loads(introduce(SITE, "alder", "site", ""))
        document["certificate"] = certificate
        document["signature"] = SITE.sign(_PURPOSE, *_fields("alder", "site", certificate)).hex()
        path.write_text(json.dumps(document))
        if certificate != "none":
            assert read_certified(path).certificate == certificate
    with pytest.raises(ConfigError, match="its certificate"):
        read_certified(path)
