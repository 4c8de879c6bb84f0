"""The coordinator's file: strict, all problems at once, checked against what it points to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.certificate_files import issue_server_credential
from server import serverfile
from server.admission import Admission
from server.cohorts import cohort_problems
from server.deployment import check, deployed
from tests.deployment.world import World, make_world

from .parties import hello

NOW = datetime.now(UTC) + timedelta(hours=1)  # certificates are issued after this module loads


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), ("a", "b", "c"))


def problems(world: World, *, now: datetime = NOW) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        serverfile.federation(serverfile.load(world.server_file), now)
    return list(caught.value.problems)


def test_serverfile__loads_with_paths_relative_to_it(world: World) -> None:
    file = serverfile.load(world.server_file)
    assert (file.host, file.port) == ("127.0.0.1", world.port)
    assert file.state == world.coordinator / "state"
    assert file.client_certificates
    parties = serverfile.federation(file, NOW)
    assert list(parties.certificates) == ["a", "b", "c"]
    assert parties.roster.authority == world.authority.public
    assert parties.roster.coordinator == parties.identity.public
    assert parties.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("wait_seconds: 120.0", "wait_seconds: -1.0", "wait_seconds"),
        ("wait_seconds: 120.0", "wait_second: 1.0", "wait_second"),
        ("127.0.0.1:", "127.0.0.1:9", "listen="),
        ("tls: keys/server.tls\n", "", "tls"),
    ],
)
def test_serverfile__refuses_wrong_and_missing_keys_by_name(
    world: World, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(world.server_file.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said):
        serverfile.load(path)


def test_serverfile__that_is_not_there_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    with pytest.raises(ConfigError) as caught:
        serverfile.load(path)
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory)"


def test_federation__lists_all_that_does_not_belong_together(tmp_path: Path) -> None:
    world = make_world(tmp_path, ("a", "b", "c"))
    keys = world.coordinator / "keys"
    (keys / "a.pub").write_bytes((keys / "b.pub").read_bytes())
    (keys / "c.pub").unlink()
    (keys / "server.tls").chmod(0o644)
    found = problems(world)
    assert len(found) == 3
    assert any("a.pub: is not the key that the roster gives a" in line for line in found)
    assert any("c.pub: cannot be read" in line for line in found)
    assert any("server.tls: mode 0644 lets others in" in line for line in found)


def test_federation__refuses_a_roster_that_another_identity_signed(tmp_path: Path) -> None:
    mine, other = make_world(tmp_path / "1", ("a",)), make_world(tmp_path / "2", ("a",))
    roster = (other.coordinator / "roster.json").read_bytes()
    (mine.coordinator / "roster.json").write_bytes(roster)
    assert any("signed by" in line for line in problems(mine))


def test_federation__warns_of_sites_whose_certificate_has_expired(tmp_path: Path) -> None:
    world, later = make_world(tmp_path, ("a", "b")), NOW + timedelta(days=826)
    assert any("server.tls: its certificate expired" in line for line in problems(world, now=later))
    issue_server_credential(world.coordinator / "keys", ["127.0.0.1"], later)
    found = serverfile.federation(serverfile.load(world.server_file), later)
    assert [warning.partition(": ")[2][:27] for warning in found.warnings] == [
        "its certificate expired at "
    ] * 2
    assert list(found.certificates) == ["a", "b"], "TLS refuses them, the run goes on"


def test_check__refuses_too_few_sites_and_a_folder_that_is_taken(
    world: World, tmp_path: Path
) -> None:
    file = serverfile.load(world.server_file)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    config = deployed(compose(["strategy.min_sites=4", "out=taken"]), tmp_path)
    with pytest.raises(ConfigError) as caught:
        check(file, config, NOW)
    assert len(caught.value.problems) == 2
    assert not config.resume


def test_check__refuses_masks_for_fewer_sites_than_a_sum_must_have(
    world: World, tmp_path: Path
) -> None:
    file = serverfile.load(world.server_file)
    words = ["secagg=masked", "strategy.min_sites=2", f"out={tmp_path}/new"]
    four = compose([*words, "secagg.min_cohort=4"])
    with pytest.raises(ConfigError, match=r"min_cohort=4: a round has 3 of 3 sites; invite more$"):
        check(file, deployed(four, tmp_path), NOW)
    check(file, deployed(compose(words), tmp_path), NOW)


def test_cohort__that_a_fraction_makes_too_small_is_to_be_raised() -> None:
    config = compose(["secagg=masked", "strategy.min_sites=2", "strategy.fraction=0.5"])
    (problem,) = cohort_problems(config, 3, 4)
    assert problem.endswith("a round has 2 of 4 sites; raise strategy.fraction")
    assert not [*cohort_problems(config, 3, 5)]


def test_admission__compares_key_and_connection(world: World) -> None:
    admission = Admission(nodes={1: "alpha", 2: "beta"})
    assert admission.refusal(1, hello("alpha")) is None
    refusal = admission.refusal(2, hello("alpha"))
    assert refusal == "alpha: its connection is registered for beta"
    assert "registered for None" in str(admission.refusal(3, hello("alpha")))
    parties = serverfile.federation(serverfile.load(world.server_file), NOW)
    by_roster = Admission(roster=parties.roster)
    keys = {name: key.hex() for name, key in parties.roster.sites().items()}
    assert by_roster.refusal(1, replace(hello("a"), public_key=keys["a"])) is None
    assert "the roster" in str(by_roster.refusal(1, replace(hello("a"), public_key=keys["b"])))
    assert "no such site" in str(by_roster.refusal(1, replace(hello("z"), public_key=keys["a"])))
