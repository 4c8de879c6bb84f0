"""A start-up kit: made by the coordinator for every site, believed by none before it is checked."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from clients import sitefile
from clients.kit import join
from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.keyring import load_pinned
from fedlearn.crypto.kit import archive as kits
from fedlearn.crypto.kit.texts import COMPOSE, SITE_FILE, UNIT, texts_of
from tests.deployment.world import World, copied_world

SITES = ("alder", "birch", "cedar")
NAME = SITES[0]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Sites that have made their keys, and a coordinator with the roster pinned, and kits."""
    world = copied_world(tmp_path, SITES)
    assert main(["keys", "kit", str(world.server_file), "--to", str(tmp_path / "kits")]) == 0
    for site in SITES:
        for path in [*(tmp_path / site).glob("*.*")]:
            path.unlink()
    return world


def kit_of(world: World, site: str = NAME) -> Path:
    return world.root / "kits" / f"{site}.kit.zip"


def joined(world: World, archive: Path | None = None, site: str = NAME, *, write: bool = True):  # type: ignore[no-untyped-def]
    trusted = world.authority.fingerprint
    return join(archive or kit_of(world), trusted, world.root / site, write=write)


def inside(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {one: archive.read(one) for one in archive.namelist()}


def packed(files: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def nothing_written(world: World, site: str = NAME) -> bool:
    return [path.name for path in (world.root / site).iterdir()] == ["keys"]


def test_kit__leads_a_site_to_a_file_with_its_data_block_to_fill_in(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world.root / NAME
    shutil.copy(kit_of(world), folder)
    monkeypatch.chdir(folder)
    words = ["keys", "join", f"{NAME}.kit.zip", world.authority.fingerprint]
    assert main([*words, "--check"]) == 0
    assert not (folder / "roster.json").exists()
    assert main(words) == 0
    assert "are they whom you expect?" in capsys.readouterr().out
    assert [*load_pinned(folder / "roster.json").sites()] == sorted(SITES)
    assert main(["client", "site.yaml", "--check"]) == 2
    assert "FILL-IN.csv" in capsys.readouterr().err
    rows = "".join(f"{20 + 7 * i % 60},{i % 2}\n" for i in range(40))
    (folder / "table.csv").write_text(f"age,ill\n{rows}")
    filled = (folder / "site.yaml").read_text().replace("FILL-IN.csv", "table.csv")
    (folder / "site.yaml").write_text(filled.replace("FILL-IN", "ill"))
    assert main(["client", "site.yaml", "--check"]) == 0
    site = sitefile.load(folder / "site.yaml")
    assert (site.name, site.policy.approval, site.policy.epsilon_total) == (NAME, "ask", 1.0)
    assert site.server is not None
    assert site.server.address == f"localhost:{world.port}"
    assert main(words) == 0, "once more"
    assert "site.yaml: is yours, and was left as it is" in capsys.readouterr().out


def test_kits__hold_no_private_key(world: World) -> None:
    secrets = [
        line
        for path in world.root.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
        for line in path.read_text().splitlines()
        if not line.startswith("-----") and len(line) > 20
    ]
    assert len(secrets) > len(SITES)
    for site in SITES:
        for name, content in inside(kit_of(world, site)).items():
            text = content.decode()
            assert "PRIVATE" not in text, name
            shared = [line for line in secrets if line in text]
            assert not shared or "CERTIFICATE" in text, name
            assert name != "ca.crt" or text.count("-----BEGIN") == text.count("BEGIN CERTIFICATE")


def test_kit__is_not_made_of_a_file_with_a_private_key(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    key = str(world.coordinator / "keys" / "ca.key")
    assert main(["keys", "kit", str(world.server_file), "--authority", key]) == 2
    assert "holds a private key" in capsys.readouterr().err


def test_kit__is_for_an_address_that_the_certificate_has(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    file, to = str(world.server_file), ["--to", str(world.root / "kits")]
    assert main(["keys", "kit", file, *to, "--address", "evil.example:8443"]) == 2
    assert "fedlearn keys certificate evil.example" in capsys.readouterr().err
    assert main(["keys", "kit", file, *to, "--address", "localhost"]) == 2
    assert main(["keys", "kit", file, *to, "--address", "127.0.0.1:9"]) == 0
    assert joined(world).kit.address == "127.0.0.1:9"


def signed(world: World, files: Mapping[str, bytes], by: Identity) -> bytes:
    """A kit of any files, with hashes and a signature that are right for them."""
    manifest = json.loads(files[kits.MANIFEST])
    rest = {k: v for k, v in files.items() if k not in (kits.MANIFEST, kits.SIGNATURE)}
    manifest["files"] = {name: kits.hashlib.sha256(one).hexdigest() for name, one in rest.items()}
    text = json.dumps(manifest).encode()
    return packed(
        {**rest, kits.MANIFEST: text, kits.SIGNATURE: by.sign("kit", text).hex().encode()}
    )


def changed(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {**files, name: files[name].replace(old, new)}


EVIL = {
    "a command of the coordinator's": changed(SITE_FILE, b"policy:", b"alerts: [/bin/sh]\npolicy:"),
    "a looser policy": changed(SITE_FILE, b"epsilon_total: 1.0", b"epsilon_total: 99"),
    "another program": changed(UNIT, b"/opt/fedlearn/bin/fedlearn client", b"/bin/sh -c evil"),
    "another image": changed(COMPOSE, b"image: fedlearn", b"image: evil"),
    "one file more": lambda files: {**files, "keys/authority": b"x"},
    "a file outside": lambda files: {**files, "../x": b"x"},
    "one file less": lambda files: {k: v for k, v in files.items() if k != "ca.crt"},
}


@pytest.mark.parametrize("what", EVIL)
def test_coordinator__that_signs_it_can_bring_in_nothing_that_is_run(
    world: World, what: str
) -> None:
    coordinator = Identity.load(world.coordinator / "keys" / "coordinator")
    files = EVIL[what](inside(kit_of(world)))
    path = world.root / "evil.zip"
    path.write_bytes(signed(world, files, coordinator))
    with pytest.raises(ConfigError):
        joined(world, path)
    assert nothing_written(world)


def test_kit__that_somebody_else_has_signed_or_altered_is_refused(world: World) -> None:
    files, path = inside(kit_of(world)), world.root / "x.zip"
    path.write_bytes(signed(world, files, Identity.new()))
    with pytest.raises(ConfigError, match="was not made by the coordinator"):
        joined(world, path)
    for name in files:
        altered = {**files, name: files[name][:-1] + bytes([files[name][-1] ^ 1])}
        path.write_bytes(packed(altered))
        with pytest.raises(ConfigError):
            joined(world, path)
    with pytest.raises(ConfigError, match="use no kit that does not fit"):
        join(kit_of(world), Identity.new().fingerprint, world.root / NAME, write=True)
    with pytest.raises(ConfigError, match="must be a fingerprint"):
        join(kit_of(world), "x", world.root / NAME, write=True)
    assert nothing_written(world)


def test_kit__of_another_site_or_for_another_key_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="make your keys with `fedlearn keys new birch`"):
        joined(world, kit_of(world, "birch"))
    shutil.rmtree(world.root / NAME / "keys")
    assert main(["keys", "new", NAME, "--folder", str(world.root / NAME / "keys")]) == 0
    with pytest.raises(ConfigError, match="is not the key that the list has"):
        joined(world)
    assert nothing_written(world)


def test_kit__of_another_release_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.kit.code_digest", lambda: "0" * 64)
    with pytest.raises(ConfigError, match="both sides run the same release"):
        joined(world)


def test_kit__takes_the_place_of_no_list_and_no_certificate(world: World) -> None:
    joined(world)
    (world.root / NAME / "ca.crt").write_text("mine")
    with pytest.raises(ConfigError, match=r"ca\.crt: is another one; move it away"):
        joined(world)
    assert (world.root / NAME / "ca.crt").read_text() == "mine"


def test_archive__that_is_no_kit_is_refused_whatever_it_holds(world: World) -> None:
    path, files = world.root / "x.zip", inside(kit_of(world))
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("kit.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("kit.json", b"{}")
    large = packed({"kit.json": b"0" * (kits.MOST_BYTES + 1)})
    bomb = packed({"kit.json": b"0" * 50_000_000}, zipfile.ZIP_DEFLATED)
    many = packed({str(number): b"" for number in range(50)})
    for content in (b"", b"PK", twice.getvalue(), large, bomb, many, packed(files)[:-30]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="is no kit, or is damaged"):
            joined(world, path)


def test_archive__with_any_byte_damaged_is_refused_or_says_the_same(world: World) -> None:
    whole, path = kit_of(world).read_bytes(), world.root / "x.zip"
    right, coins = joined(world, write=False).kit, np.random.default_rng(0)
    for at in coins.integers(0, len(whole), 150):
        path.write_bytes(
            whole[:at] + bytes([whole[at] ^ (1 << int(coins.integers(8)))]) + whole[at + 1 :]
        )
        with suppress(ConfigError):
            assert joined(world, path, write=False).kit.files == right.files
    assert nothing_written(world)


@pytest.mark.parametrize(
    "name", ["St. Mary's, Ward 3 (East)", "Klinik Süd & Co", "a-b_c", "東京病院"]
)
def test_texts__of_any_name_are_what_a_site_file_says(name: str) -> None:
    texts = texts_of(name, 'x", {y: "z', "fed.example.org:8443")
    tree = yaml.safe_load(texts[SITE_FILE])
    assert tree["name"] == name
    assert tree["keys"] == f"keys/{name}"
    assert tree["server"] == {"address": "fed.example.org:8443", "authority": "ca.crt"}
    assert yaml.safe_load(texts[COMPOSE])["services"]["site"]["command"] == ["client", "site.yaml"]
    with pytest.raises(ValueError, match="must be host:port"):
        texts_of(name, "f", 'fed", authority: x}\nalerts: [sh]\n#:1')


def test_unit__of_a_kit_is_the_one_of_the_documentation() -> None:
    shown = (ROOT / "docs" / "deployment" / UNIT).read_text()
    assert texts_of("a", "f", "h:1")[UNIT] == shown
