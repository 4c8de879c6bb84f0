import copy
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedlearn.core.errors import ConfigError
from fedlearn.crypto.identity import Identity, fingerprint, verify, write_private
from fedlearn.crypto.roster import Participant, Role, Roster


def test_identity__survives_its_file(tmp_path: Path) -> None:
    identity, path = Identity.new(), tmp_path / "site.pem"
    identity.save(path)
    loaded = Identity.load(path)
    assert loaded.public == identity.public
    assert verify(identity.public, loaded.sign("test", b"data"), "test", b"data")


def test_identity__file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Identity.new().save(tmp_path / "site.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "site.pem").stat().st_mode) == 0o600


def test_identity__is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "site.pem"
    Identity.new().save(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never replaced"):
        Identity.new().save(path)
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(ConfigError):
        Identity.new().save(link)
    assert path.read_bytes() == before
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_identity__that_others_can_read_is_not_loaded(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.pem"
    Identity.new().save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        Identity.load(path)


def test_identity__refuses_what_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        Identity.load(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="regular file"):
        Identity.load(tmp_path)
    junk = tmp_path / "junk.pem"
    junk.write_text("hello")
    junk.chmod(0o600)
    with pytest.raises(ConfigError, match="not a private key"):
        Identity.load(junk)
    other = tmp_path / "other.pem"
    pem = X25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    write_private(other, pem)
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        Identity.load(other)


def test_identity__follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    Identity.new().save(tmp_path / "site.pem")
    (tmp_path / "link.pem").symlink_to(tmp_path / "site.pem")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Identity.load(tmp_path / "link.pem")
    os.mkfifo(tmp_path / "pipe.pem", 0o600)
    with pytest.raises(ConfigError, match="regular file"):
        Identity.load(tmp_path / "pipe.pem")


def test_identity__shows_no_secret_and_is_not_pickled() -> None:
    identity = Identity.new()
    private = identity._private.private_bytes_raw()
    assert private.hex() not in repr(identity)
    assert identity.fingerprint in repr(identity)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(identity)


def test_signature__holds_for_one_purpose_and_one_split_of_fields() -> None:
    identity = Identity.new()
    signature = identity.sign("purpose", b"ab", b"c")
    assert verify(identity.public, signature, "purpose", b"ab", b"c")
    assert not verify(identity.public, signature, "other", b"ab", b"c")
    assert not verify(identity.public, signature, "purpose", b"a", b"bc")
    assert not verify(identity.public, signature, "purpose", b"abc")
    assert not verify(Identity.new().public, signature, "purpose", b"ab", b"c")
    assert not verify(b"short", signature, "purpose", b"ab", b"c")


# --- Roster ---------------------------------------------------------------------


def make_roster(authority: Identity) -> Roster:
    people = (
        Participant(name="zürich", role="site", public=Identity.new().public),
        Participant(name="cleveland", role="site", public=Identity.new().public),
        Participant(name="coordinator", role="server", public=Identity.new().public),
    )
    return Roster.sign("heart", people, authority)


def test_roster__survives_its_file_and_orders_names_by_bytes(tmp_path: Path) -> None:
    authority = Identity.new()
    roster = make_roster(authority)
    roster.save(tmp_path / "roster.json")
    loaded = Roster.load(tmp_path / "roster.json", authority.fingerprint)
    assert loaded == roster
    assert list(loaded.sites()) == ["cleveland", "zürich"]
    assert loaded.public_of("coordinator", "server") == roster.participants[1].public
    with pytest.raises(ConfigError, match="no site is called 'coordinator'"):
        loaded.public_of("coordinator")


def test_roster__of_another_authority_is_refused(tmp_path: Path) -> None:
    make_roster(Identity.new()).save(tmp_path / "roster.json")
    with pytest.raises(ConfigError, match="pinned is"):
        Roster.load(tmp_path / "roster.json", Identity.new().fingerprint)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"cleveland"', '"clevelanD"'), ('"server"', '"site"'), ('"heart"', '"heard"')],
)
def test_roster__that_was_edited_is_refused(tmp_path: Path, old: str, new: str) -> None:
    authority, path = Identity.new(), tmp_path / "roster.json"
    make_roster(authority).save(path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match="not a valid roster"):
        Roster.load(path, authority.fingerprint)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "fedlearn/roster/v2"}', "null"])
def test_roster__that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "roster.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="not a valid roster"):
        Roster.load(path, Identity.new().fingerprint)


def test_roster__holds_a_name_and_a_key_once() -> None:
    authority, key = Identity.new(), Identity.new().public
    twice = [Participant(name="a", role="site", public=key)] * 2
    with pytest.raises(ValueError, match="distinct"):
        Roster.sign("f", tuple(twice), authority)
    same_key = (twice[0], Participant(name="b", role="site", public=key))
    with pytest.raises(ValueError, match="distinct"):
        Roster.sign("f", same_key, authority)


def of(name: str, role: Role = "site") -> Participant:
    return Participant(name=name, role=role, public=Identity.new().public)


def test_roster__refuses_names_and_roles_that_could_be_taken_for_others() -> None:
    authority = Identity.new()
    for name in ("../up", "server", "", "two\nlines"):
        with pytest.raises(ValueError, match="name"):
            of(name)
    for people, reason in (
        ((of("a"), of("a")), "names must be distinct"),
        ((of("a"), Participant(name="b", role="site", public=bytes(31))), "of 32 bytes each"),
        ((of("a"), of("b", "authority")), "roles must be of"),
        ((of("a", "server"), of("b", "server")), "one coordinator"),
    ):
        with pytest.raises(ValueError, match=reason):
            Roster.sign("heart", people, authority)
    with pytest.raises(ValueError, match="federation"):
        Roster.sign("../up", (of("a"),), authority)
    Roster.sign("heart", (of("a"), of("b", "helper"), of("c", "server")), authority)


def test_roster__says_who_carries_out_runs_and_is_pinned_as_a_whole() -> None:
    authority, site, server = Identity.new(), of("a"), of("c", "server")
    alone, both = (Roster.sign("heart", some, authority) for some in ((site,), (site, server)))
    assert alone.coordinator == authority.public
    assert both.coordinator == server.public
    others = [
        Roster.sign("heard", (site,), authority),
        Roster.sign("heart", (site,), Identity.new()),
        Roster.sign("heart", (of("a"),), authority),
    ]
    assert len({one.digest() for one in (alone, both, *others)}) == 5


@pytest.mark.parametrize("key", ["public", "authority", "signature"])
def test_roster__refuses_keys_of_another_length(key: str) -> None:
    roster = make_roster(Identity.new())
    text = {
        "public": roster.participants[0].public, "authority": roster.authority,
        "signature": roster.signature,
    }[key].hex()  # fmt: skip
    with pytest.raises(ConfigError, match="bytes instead of"):
        Roster.from_json(roster.to_json().replace(text, text[2:]))


def test_fingerprint__is_eight_groups_of_four() -> None:
    text = fingerprint(bytes(32))
    assert [len(group) for group in text.split("-")] == [4] * 8
