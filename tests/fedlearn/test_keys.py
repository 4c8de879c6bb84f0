"""`fedlearn keys`: identities and rosters from the command line, as two organisations use it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.identity import Identity, verify
from fedlearn.crypto.introduction import introduce, read_introduction
from fedlearn.crypto.keyring import load_pinned

Output = pytest.CaptureFixture[str]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the identities of two sites and of the coordinator."""
    folder = tmp_path / "keys"
    for name, role in (("cleveland", "site"), ("zürich", "site"), ("coordinator", "server")):
        assert main(["keys", "new", name, "--folder", str(folder), "--role", role]) == 0
    return folder


@pytest.fixture
def roster(keys: Path) -> Path:
    path = keys.parent / "roster.json"
    assert sign(keys, path, *sorted(keys.glob("*.pub"))) == 0
    return path


def sign(keys: Path, to: Path, *public: Path) -> int:
    return main(["keys", "roster", "sign", *map(str, public), "--by", str(keys / "coordinator"),
                 "--federation", "heart", "--to", str(to)])  # fmt: skip


def test_keys_new__makes_a_private_file_and_one_to_send(keys: Path) -> None:
    names = ("cleveland", "zürich", "coordinator")
    transport = {"cleveland.tls", "zürich.tls"}  # the coordinator's is for its host names
    made = {name + suffix for name in names for suffix in ("", ".pub")} | transport
    assert {path.name for path in keys.iterdir()} == made
    for name in (*names, *transport):
        assert stat.S_IMODE((keys / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    identity = Identity.load(keys / "cleveland")
    sent = read_introduction(keys / "cleveland.pub")
    assert (sent.name, sent.role, sent.public) == ("cleveland", "site", identity.public)
    assert identity._private.private_bytes_raw().hex() not in (keys / "cleveland.pub").read_text()


def test_keys_new__never_replaces_a_key(keys: Path, capsys: Output) -> None:
    before = (keys / "cleveland").read_bytes(), (keys / "cleveland.pub").read_bytes()
    assert main(["keys", "new", "cleveland", "--folder", str(keys)]) == 2
    assert "never replaced" in capsys.readouterr().err
    (keys / "cleveland.pub").unlink()  # the private half alone is protected too
    assert main(["keys", "new", "cleveland", "--folder", str(keys)]) == 2
    assert (keys / "cleveland").read_bytes() == before[0]
    (keys / "cleveland.pub").write_bytes(before[1])
    (keys / "cleveland").unlink()  # and a public half that others may have signed
    assert main(["keys", "new", "cleveland", "--folder", str(keys)]) == 2
    assert not (keys / "cleveland").exists()


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", ".", "..", ".hidden", "a.pub", "a\nb", "a\x1b[2J", " a", "ü" * 128]
)
def test_keys_new__refuses_a_name_that_is_no_file_name(
    name: str, tmp_path: Path, capsys: Output
) -> None:
    assert main(["keys", "new", "--folder", str(tmp_path / "keys"), "--", name]) == 2
    assert "cannot be the name of a participant" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_keys_new__says_so_when_the_folder_cannot_be_made(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "file").touch()
    assert main(["keys", "new", "a", "--folder", str(tmp_path / "file" / "keys")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_keys_show__gives_both_halves_the_same_fingerprint_and_no_secret(
    keys: Path, capsys: Output
) -> None:
    identity = Identity.load(keys / "zürich")
    for path in (keys / "zürich", keys / "zürich.pub"):
        capsys.readouterr()
        assert main(["keys", "show", str(path)]) == 0
        shown = capsys.readouterr().out
        assert f"fingerprint: {identity.fingerprint}" in shown
        assert identity.public.hex() in shown
        assert identity._private.private_bytes_raw().hex() not in shown


def test_keys_show__refuses_a_private_file_that_others_can_read(keys: Path, capsys: Output) -> None:
    (keys / "cleveland").chmod(0o644)
    assert main(["keys", "show", str(keys / "cleveland")]) == 2
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["name", "role", "public", "fingerprint", "signature", "schema"])
def test_introduction__that_was_altered_is_refused(keys: Path, key: str, capsys: Output) -> None:
    path, other = keys / "cleveland.pub", json.loads((keys / "coordinator.pub").read_text())
    document = json.loads(path.read_text())
    document[key] = "fedlearn/introduction/v2" if key == "schema" else other[key]
    path.write_text(json.dumps(document))
    assert main(["keys", "show", str(path)]) == 2
    assert "not a public identity" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "12", "\x00"])
def test_introduction__that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.pub").write_text(text)
    assert main(["keys", "show", str(tmp_path / "a.pub")]) == 2
    assert main(["keys", "show", str(tmp_path / "none.pub")]) == 2
    assert main(["keys", "show", str(tmp_path)]) == 2


def test_introduction__cannot_draw_on_the_terminal_of_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text(introduce(Identity.new(), "a\x1b[2J", "site"))
    with pytest.raises(ConfigError, match="is not allowed"):
        read_introduction(tmp_path / "a.pub")


def test_introduction__is_worth_nothing_as_another_signature(keys: Path) -> None:
    document = json.loads((keys / "cleveland.pub").read_text())
    public, signature = (bytes.fromhex(document[key]) for key in ("public", "signature"))
    fields = b"cleveland", b"site", document["certificate"].encode()
    assert verify(public, signature, "introduction", *fields)
    assert not verify(public, signature, "roster", *fields)
    assert not verify(public, signature, "introduction", *fields[:2])


# --- Rosters ----------------------------------------------------------------------


def test_roster_sign__holds_the_keys_that_were_sent(roster: Path, keys: Path) -> None:
    fingerprint = Identity.load(keys / "coordinator").fingerprint
    assert main(["keys", "roster", "pin", str(roster), fingerprint]) == 0
    loaded = load_pinned(roster)
    assert loaded.sites() == {
        name: Identity.load(keys / name).public for name in ("cleveland", "zürich")
    }
    assert loaded.public_of("coordinator", "server") == Identity.load(keys / "coordinator").public


def test_roster_sign__never_replaces_a_roster_and_names_every_bad_key(
    roster: Path, keys: Path, capsys: Output
) -> None:
    before = roster.read_bytes()
    (keys / "a.pub").write_text("{}")
    assert sign(keys, roster, keys / "a.pub", keys / "b.pub", keys / "cleveland.pub") == 2
    complaint = capsys.readouterr().err
    assert all(part in complaint for part in ("a.pub: not a", "b.pub: cannot be read", "exists"))
    assert f"--to {roster.stem}-new{roster.suffix}" in complaint
    assert roster.read_bytes() == before


def test_roster_sign__refuses_a_name_or_key_twice(keys: Path, capsys: Output) -> None:
    to = keys / "new.json"
    assert sign(keys, to, keys / "cleveland.pub", keys / "cleveland.pub") == 2
    (keys / "twin.pub").write_text(introduce(Identity.load(keys / "cleveland"), "twin", "site"))
    assert sign(keys, to, keys / "cleveland.pub", keys / "twin.pub") == 2
    assert "distinct" in capsys.readouterr().err
    assert not to.exists()


def test_roster_sign__takes_no_public_file_for_the_coordinators_identity(keys: Path) -> None:
    (keys / "coordinator.pub").chmod(0o600)
    arguments = ["keys", "roster", "sign", str(keys / "cleveland.pub"), "--federation", "heart"]
    to = ["--to", str(keys / "new.json")]
    assert main([*arguments, *to, "--by", str(keys / "coordinator.pub")]) == 2
    assert not (keys / "new.json").exists()


def test_roster_pin__holds_against_another_coordinator(
    roster: Path, keys: Path, capsys: Output
) -> None:
    fingerprint = Identity.load(keys / "coordinator").fingerprint
    assert main(["keys", "roster", "pin", str(roster), fingerprint]) == 0
    assert main(["keys", "roster", "pin", str(roster), fingerprint]) == 0
    roster.unlink()
    Identity.load(keys / "coordinator")
    (keys / "coordinator").unlink()
    (keys / "coordinator.pub").unlink()
    assert main(["keys", "new", "coordinator", "--folder", str(keys), "--role", "server"]) == 0
    assert sign(keys, roster, *keys.glob("*.pub")) == 0
    capsys.readouterr()
    assert main(["keys", "roster", "show", str(roster)]) == 2
    assert "pinned is" in capsys.readouterr().err
    other = Identity.load(keys / "coordinator").fingerprint
    assert main(["keys", "roster", "pin", str(roster), other]) == 2
    assert "said so in person" in capsys.readouterr().err


def test_roster_pin__refuses_what_does_not_match_and_notes_nothing(
    roster: Path, keys: Path, capsys: Output
) -> None:
    wrong = Identity.new().fingerprint
    assert main(["keys", "roster", "pin", str(roster), wrong]) == 2
    assert main(["keys", "roster", "pin", str(roster), wrong.upper()]) == 2
    assert main(["keys", "roster", "pin", str(roster), "0000"]) == 2
    assert "eight groups" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="nobody's signature is pinned"):
        load_pinned(roster)


def test_roster_show__says_whether_the_signature_is_pinned(
    roster: Path, keys: Path, capsys: Output
) -> None:
    fingerprint = Identity.load(keys / "coordinator").fingerprint
    capsys.readouterr()
    assert main(["keys", "roster", "show", str(roster)]) == 0
    shown = capsys.readouterr().out
    assert "NOT pinned" in shown
    assert Identity.load(keys / "zürich").fingerprint in shown
    assert main(["keys", "roster", "show", str(roster), "--pin", fingerprint]) == 0
    assert "as pinned" in capsys.readouterr().out
    assert main(["keys", "roster", "show", str(roster), "--pin", Identity.new().fingerprint]) == 2


@pytest.mark.parametrize(
    ("old", "new"), [("cleveland", "clevelanD"), ('"server"', '"site"'), ("heart", "heard")]
)
def test_roster_show__refuses_an_altered_roster(
    roster: Path, old: str, new: str, capsys: Output
) -> None:
    roster.write_text(roster.read_text().replace(old, new))
    assert main(["keys", "roster", "show", str(roster)]) == 2
    assert "not a valid roster" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"authority": 3}', '{"authority": "zz"}'])
def test_roster_show__refuses_what_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "roster.json").write_text(text)
    assert main(["keys", "roster", "show", str(tmp_path / "roster.json")]) == 2
    assert main(["keys", "roster", "show", str(tmp_path / "none.json")]) == 2
