"""A coordinator that invents sites, or has others sign for it, against pinned rosters."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import fedlearn as fl
from clients import sitefile
from clients.supernode.deployed import check_pinned
from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.names import checked_site_name
from fedlearn.crypto.identity import Identity
from fedlearn.crypto.introduction import introduce
from fedlearn.crypto.keyring import load_pinned, pin_roster, sign_roster
from fedlearn.crypto.roster import Participant, Roster
from tests.deployment.world import World, make_world

SITES = ("cleveland", "hungary", "switzerland")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), SITES)


@pytest.fixture
def own(world: World, tmp_path: Path) -> Path:
    """A site's roster and pin, in a folder of the test's own."""
    for name in ("roster.json", "roster.json.pin"):
        shutil.copy(world.root / "cleveland" / name, tmp_path / name)
    return tmp_path / "roster.json"


@pytest.fixture
def coordinator(world: World) -> Identity:
    return Identity.load(world.coordinator / "keys" / "coordinator")


def of_run(own: Path, coordinator: Identity, *more: Participant, names: tuple[str, ...]) -> Roster:
    """What a coordinator may say of a run: sites of the pinned roster, and `more`."""
    keys = load_pinned(own).sites()
    sites = [Participant(name=name, role="site", public=keys[name]) for name in names]
    server = Participant(name="server", role="server", public=coordinator.public)
    return Roster.sign("run", (*sites, *more, server), coordinator)


def invented(name: str) -> Participant:
    return Participant(name=name, role="site", public=Identity.new().public)


def test_two_invented_sites__are_not_taken_around_a_victim(
    own: Path, coordinator: Identity
) -> None:
    around = invented("essen"), invented("graz")
    with pytest.raises(ProtocolError, match="does not have essen, graz"):
        check_pinned(own, of_run(own, coordinator, *around, names=("cleveland",)))
    check_pinned(own, of_run(own, coordinator, names=SITES[:2]))  # a part of the list is a run


def test_two_invented_sites__are_not_taken_under_names_of_the_roster(
    own: Path, coordinator: Identity
) -> None:
    around = invented("hungary"), invented("switzerland")
    with pytest.raises(ProtocolError, match="does not have hungary, switzerland"):
        check_pinned(own, of_run(own, coordinator, *around, names=("cleveland",)))


def test_roster__that_the_coordinator_signed_itself_is_not_taken(
    world: World, own: Path, coordinator: Identity
) -> None:
    """It sends every site a new list, with two sites of its making, under its own signature."""
    folder = own.parent
    public = [world.coordinator / "keys" / f"{name}.pub" for name in (*SITES, "coordinator")]
    for name in ("essen", "graz"):
        public.append(folder / f"{name}.pub")
        public[-1].write_text(introduce(Identity.new(), name, "site"))
    own.unlink()
    sign_roster(own, "heart", public, coordinator)
    with pytest.raises(ConfigError, match="compare the fingerprint"):
        load_pinned(own)
    with pytest.raises(ConfigError, match="another fingerprint is pinned"):
        pin_roster(own, coordinator.fingerprint)


def test_newer_roster__of_the_right_authority_is_not_taken_before_its_owner_has_seen_it(
    world: World, own: Path, tmp_path: Path
) -> None:
    public = [world.coordinator / "keys" / f"{name}.pub" for name in (*SITES, "coordinator")]
    public.append(tmp_path / "essen.pub")
    public[-1].write_text(introduce(Identity.new(), "essen", "site"))
    own.unlink()
    sign_roster(own, "heart", public, world.authority)
    with pytest.raises(ConfigError, match="not the list that was pinned"):
        load_pinned(own)
    pin_roster(own, world.authority.fingerprint)
    assert set(load_pinned(own).sites()) == {*SITES, "essen"}


def test_pin_of_an_older_release__which_names_no_list_is_not_enough(
    world: World, own: Path
) -> None:
    own.with_name("roster.json.pin").write_text(world.authority.fingerprint + "\n")
    with pytest.raises(ConfigError, match="not the list that was pinned"):
        load_pinned(own)


@pytest.mark.parametrize("role", ["site", "helper"])
def test_another_participant__does_not_become_the_coordinator(
    own: Path, world: World, role: str
) -> None:
    """A site that is on the roster signs a run; or somebody slips a second key beside it."""
    hungary = Identity.load(world.root / "hungary" / "keys" / "hungary")
    server = Participant(name="server", role="server", public=hungary.public)
    cleveland = load_pinned(own).sites()["cleveland"]
    mine = Participant(name="cleveland", role="site", public=cleveland)
    with pytest.raises(ProtocolError, match="not signed by the coordinator"):
        check_pinned(own, Roster.sign("run", (mine, server), hungary))
    coordinator = Identity.load(world.coordinator / "keys" / "coordinator")
    second = Participant(name="server", role="server", public=Identity.new().public)
    with pytest.raises(ProtocolError, match="not signed by the coordinator"):
        check_pinned(own, Roster.sign("run", (mine, second), coordinator))
    if role == "helper":
        third = Participant(name="aid", role="helper", public=Identity.new().public)
        real = Participant(name="server", role="server", public=coordinator.public)
        with pytest.raises(ProtocolError, match="not signed by the coordinator"):
            check_pinned(own, Roster.sign("run", (mine, real, third), coordinator))


def test_authority__signs_no_run(own: Path, world: World) -> None:
    """Whoever has the offline key can name sites; to coordinate a run is another's."""
    server = Participant(name="server", role="server", public=world.authority.public)
    keys = load_pinned(own).sites()
    sites = [Participant(name=name, role="site", public=key) for name, key in keys.items()]
    with pytest.raises(ProtocolError, match="not signed by the coordinator"):
        check_pinned(own, Roster.sign("run", (*sites, server), world.authority))


NAMES = [
    "../../../x", "a/b", "a\\b", "..", ".hidden", "cleveland ", " cleveland", "cle  veland",
    "\u0441leveland", "cl\u0435veland", "cleveland\u200b", "cleve\u00adland", "cafe\u0301",
    "ﬁrm", "ａ", "server", "Server", "coordinator", "con", "com1.x", "a.pub", "x\x1b[2J", "a\nb",
    "\u202esrever", "", "n" * 65, "\u0441\u043e\u0440", "a\u0301\u0302\u0303\u0304\u0305b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_name__that_is_no_name_is_on_no_roster(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name"):
        Participant(name=name, role="site", public=Identity.new().public)
    if name:
        (tmp_path / "a.pub").write_text(introduce(Identity.new(), name, "site"))
        with pytest.raises(ConfigError, match=r"a\.pub"):
            sign_roster(tmp_path / "r.json", "heart", [tmp_path / "a.pub"], Identity.new())


@pytest.mark.parametrize("other", ["Cleveland", "c1eveland", "cIeveland"])
def test_name__that_looks_like_another_is_not_beside_it(other: str, tmp_path: Path) -> None:
    paths = []
    for name in ("cleveland", other):
        paths.append(tmp_path / f"{name}.introduction")
        paths[-1].write_text(introduce(Identity.new(), name, "site"))
    with pytest.raises(ConfigError, match="look alike"):
        sign_roster(tmp_path / "r.json", "heart", paths, Identity.new())
    people = [
        Participant(name=name, role="site", public=Identity.new().public)
        for name in ("cleveland", other)
    ]
    authority = Identity.new()
    Roster.sign("heart", tuple(people), authority).save(tmp_path / "r.json")
    with pytest.raises(ConfigError, match="look alike"):
        Roster.load(tmp_path / "r.json", authority.fingerprint)


def test_site_file__of_a_name_that_is_none_is_not_loaded(world: World, tmp_path: Path) -> None:
    text = world.site_file("hungary").read_text()
    (tmp_path / "site.yaml").write_text(text.replace("name: hungary", 'name: "\\u0441leveland"'))
    with pytest.raises(ConfigError, match="mixes scripts"):
        sitefile.load(tmp_path / "site.yaml")


def test_hello__of_a_name_that_is_none_is_not_believed() -> None:
    for name in NAMES:
        with pytest.raises(ValueError, match="name"):
            checked_site_name(name)


def test_records__of_a_site_whose_name_is_none_are_not_dealt() -> None:
    x, y = np.zeros((20, 2), np.float32), np.arange(20) % 2
    data = {"a/b": (x, y), "c": (x, y)}
    with pytest.raises(fl.DataError, match="call the site otherwise"):
        fl.Study(data=data, model="tabular")
