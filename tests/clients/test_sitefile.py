"""The site file: strict, all problems at once, and checked against what it points to."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients import sitefile
from clients.ledger.ledger import Budget, Ledger
from clients.policy import STRICT, Policy
from clients.sitefile import SiteFile
from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.crypto.identity import Identity
from fedlearn.data import Csv, Heart
from tests.far import far_device

TEXT = """
name: cleveland
data: {kind: csv, path: heart.csv, label: disease}
keys: keys/cleveland            # identity; private files are 0600
roster: roster.json             # pinned, signed
ledger: state/ledger.jsonl      # append-only, hash-chained; belongs to the data, not to a run
policy:
  epsilon_total: 8.0            # over all runs on this data
  delta: 1e-5
  unit: record
  min_cohort: 3
  require_transport: sealed
  require_secagg: masked
  allow_models: [tabular, cnn]
"""


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        sitefile.load(write(folder, text))
    start = f"{folder / 'site.yaml'}: "
    assert all(problem.startswith(start) for problem in caught.value.problems)
    return sorted(problem.removeprefix(start) for problem in caught.value.problems)


def test_sitefile__of_the_contract_loads_with_paths_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    expected = SiteFile(
        name="cleveland",
        data=Csv(path=str(tmp_path / "heart.csv"), label="disease"),
        keys=tmp_path / "keys" / "cleveland",
        roster=tmp_path / "roster.json",
        ledger=tmp_path / "state" / "ledger.jsonl",
        dataset="cleveland",
        policy=Policy(
            epsilon_total=8.0,
            delta=1e-5,
            unit="record",
            min_cohort=3,
            require_transport="sealed",
            require_secagg="masked",
            allow_models=("tabular", "cnn"),
        ),
    )
    assert sitefile.load(tmp_path / "site.yaml") == expected
    monkeypatch.chdir(tmp_path)
    assert sitefile.load(Path("site.yaml")) == expected


def without(text: str, *keys: str) -> str:
    return "".join(one for one in text.splitlines(True) if not one.startswith(keys))


def test_simulated_site__is_read_by_what_a_simulation_has_a_use_for(tmp_path: Path) -> None:
    whole, known = sitefile.load(write(tmp_path)), sitefile.load_simulated(write(tmp_path))
    for one in fields(known):
        assert getattr(known, one.name) == getattr(whole, one.name)
    less = without(TEXT, "data", "keys", "roster")
    assert sitefile.load_simulated(write(tmp_path, less)) == replace(known, data=None, roster=None)
    missing = mistakes(tmp_path, less)
    assert [line.split(":")[0] for line in missing] == ["data", "keys", "roster"]


@pytest.mark.parametrize("key", ["name", "ledger"])
def test_simulated_site__is_refused_without_what_it_does_read(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: "):
        sitefile.load_simulated(write(tmp_path, without(TEXT, key)))


@pytest.mark.parametrize(
    "wrong", ["keys: 3", "roster: []", "data: {kind: csv}", "extra: 1", "policy: {delta: 2}"]
)
def test_simulated_site__is_refused_for_what_no_site_file_may_say(
    tmp_path: Path, wrong: str
) -> None:
    text = without(TEXT, wrong.partition(":")[0])
    if wrong.startswith("policy"):
        text = text[: text.index("  epsilon_total")]
    with pytest.raises(ConfigError, match=wrong.partition(":")[0]):
        sitefile.load_simulated(write(tmp_path, f"{text}{wrong}\n"))


def test_sitefile__keeps_absolute_paths_and_other_kinds_of_data(tmp_path: Path) -> None:
    text = TEXT.replace("{kind: csv, path: heart.csv, label: disease}", "{kind: heart}")
    site = sitefile.load(write(tmp_path, text.replace("keys/clev", "/srv/keys/clev")))
    assert site.data == Heart()
    assert site.keys == Path("/srv/keys/cleveland")


def test_sitefile__names_every_problem_by_its_path(tmp_path: Path) -> None:
    text = (
        "name: ''\ndata: {kind: csv, pth: a, label: y, scaling: {kind: ranges, unlisted: x}}\n"
        "keys: 3\nledger: l\nextra: 1\n"
        "policy: {epsilon_total: -1, delta: 2, unit: patient, min_cohort: 0, allow_models: cnn}\n"
    )
    starts = [
        "data.path: must be given",
        "data.pth=a: unknown key",
        "data.scaling.unlisted=x: must be",
        "extra=1: unknown key",
        "keys=3: must be a valid string; write it in quotes, as in '3'",
        "name=: must be",
        "policy.allow_models=cnn: must be",
        "policy.delta=2: must be < 1",
        "policy.epsilon_total=-1: must be > 0",
        "policy.min_cohort=0: must be > 0",
        "policy.unit=patient: must be",
        "roster: must be given",
    ]
    found = mistakes(tmp_path, text)
    assert len(found) == len(starts)
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("min_cohort: 3", "min_cohort: three", "policy.min_cohort=three: must be a valid integer"),
        ("min_cohort: 3", "min_cohort: '3'", "policy.min_cohort=3: must be a valid integer"),
        ("epsilon_total: 8.0", "epsilon_total: .inf", "policy.epsilon_total=Infinity: must be"),
        ("epsilon_total: 8.0", "epsilon_totl: 8.0", "policy.epsilon_totl=8.0: unknown key"),
        ("delta: 1e-5", "delta: 1e-30", "policy.delta=1e-30: must be at least"),
        ("kind: csv", "kind: cvs", "data.kind=cvs: must be one of 'heart', "),
        ("kind: csv, ", "", "data.kind: missing"),
    ],
)
def test_sitefile__refuses_what_would_weaken_a_policy_silently(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert message in mistakes(tmp_path, TEXT.replace(old, new))[0]


def test_sitefile__needs_data(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "name: a\nkeys: k\nroster: r\nledger: l\n")
    assert found == ["data: must be given, as data=..."]


def test_sitefile__without_a_policy_has_the_strict_one(tmp_path: Path) -> None:
    head, _, _ = TEXT.partition("policy:")
    policy = sitefile.load(write(tmp_path, head)).policy
    assert policy == STRICT
    assert (policy.epsilon_total, policy.unit, policy.min_cohort) == (1.0, "record", 3)
    assert (policy.require_transport, policy.require_secagg) == ("sealed", "masked")
    assert (policy.allow_custom, policy.min_corrupt_fraction) == ({}, 0.2)


@pytest.mark.parametrize(
    ("policy", "way_out"),
    [
        ("{}", "must be given where policy.unit=record"),
        ("{unit: client}", "must be given where policy.unit=client"),
        ("{epsilon_total: null}", "such as to 8.0"),
        ("{unit: none, epsilon_total: 3.0}", "limits nothing where policy.unit=none"),
    ],
)
def test_sitefile__refuses_a_limit_that_limits_nothing(
    tmp_path: Path, policy: str, way_out: str
) -> None:
    head, _, _ = TEXT.partition("policy:")
    (found,) = mistakes(tmp_path, f"{head}policy: {policy}\n")
    assert way_out in found


def test_sitefile__names_its_data_set_for_the_ledger(tmp_path: Path) -> None:
    assert (
        sitefile.load(write(tmp_path, f"dataset: registry 2024{TEXT}")).dataset == "registry 2024"
    )


def test_sitefile__with_a_limit_given_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, TEXT + "  epsilon_total: 80.0\n")
    with pytest.raises(ConfigError, match="line 15: the key 'epsilon_total' is given twice"):
        sitefile.load(tmp_path / "site.yaml")


# --- What it points to ------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> SiteFile:
    """A site that is ready to take part, made with the commands that its owner would use."""
    keys = tmp_path / "keys"
    for name in ("cleveland", "hungary", "coordinator"):
        role = "server" if name == "coordinator" else "site"
        assert main(["keys", "new", name, "--folder", str(keys), "--role", role]) == 0
    public = [str(path) for path in keys.glob("*.pub")]
    roster, authority = str(tmp_path / "roster.json"), keys / "coordinator"
    assert main(["keys", "roster", "sign", *public, "--by", str(authority), "--federation",
                 "heart", "--to", roster]) == 0  # fmt: skip
    pinned = Identity.load(authority).fingerprint
    assert main(["keys", "roster", "pin", roster, pinned]) == 0
    (tmp_path / "heart.csv").write_text("age,disease\n")
    return sitefile.load(write(tmp_path))


def test_site__that_is_in_order_has_no_problems_and_gets_no_ledger_yet(site: SiteFile) -> None:
    assert sitefile.problems(site) == []
    assert not site.ledger.exists()
    open_ledger(site, "cleveland")
    assert sitefile.problems(site) == []


def test_site__hears_of_all_problems_at_once(site: SiteFile) -> None:
    site.keys.chmod(0o644)
    site.roster.write_text(site.roster.read_text().replace("hungary", "hungarz"))
    Path(site.data.path).unlink()  # type: ignore[union-attr]
    open_ledger(site, "hungary")
    found = sitefile.problems(site)
    assert [problem.split(":")[0].split("=")[0] for problem in found] == [
        "keys",
        "roster",
        "ledger",
        "data.path",
    ]


def test_site__without_the_gpu_that_its_file_asks_for_is_told(site: SiteFile) -> None:
    own = replace(site, machine=replace(site.machine, device="cuda"))
    with far_device(count=0):
        (found,) = sitefile.problems(own)
    assert found.startswith("machine.device=cuda: torch ")
    with far_device():
        assert sitefile.problems(own) == []


def test_site__with_another_key_than_the_roster_says_is_told(site: SiteFile) -> None:
    site.keys.unlink()
    Identity.load(site.keys.with_name("hungary")).save(site.keys)
    assert "the roster gives cleveland another key" in sitefile.problems(site)[0]


def test_site__that_the_roster_does_not_name_is_told(site: SiteFile, tmp_path: Path) -> None:
    other = sitefile.load(write(tmp_path, TEXT.replace("name: cleveland", "name: switzerland")))
    assert sitefile.problems(other) == ["name=switzerland: the roster of heart names no such site"]


def test_site__whose_roster_nobody_has_compared_is_told_how(site: SiteFile) -> None:
    site.roster.with_name("roster.json.pin").unlink()
    assert "fedlearn keys roster pin" in sitefile.problems(site)[0]


def test_site__with_an_edited_ledger_is_told_the_line(site: SiteFile) -> None:
    open_ledger(site, "cleveland")
    site.ledger.write_bytes(site.ledger.read_bytes().replace(b"2026", b"2025"))
    assert "line 1" in sitefile.problems(site)[0]


def open_ledger(site: SiteFile, name: str) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    budget = Budget(epsilon=8.0, delta=1e-5)
    Ledger(site.ledger, site=name, data="ab" * 32, budget=budget, now=now).close()
