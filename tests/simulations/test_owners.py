"""What a data owner lays down holds for every run, whatever the run asks: through `fedlearn`."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clients.ledger.ledger import Budget, Ledger
from clients.ledger.report import LedgerReport, verify
from clients.ledger.state import Cost
from clients.supernode.run_lock import claimed
from fedlearn.cli import main
from fedlearn.core.code import code_digest
from fedlearn.models.custom import source_digest
from fedlearn.privacy.accounting import epsilon
from fedlearn.privacy.events import GaussianEvent

# Whole runs: too long for the fast gate.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("heart_archive")]

SITES = ("cleveland", "hungary", "switzerland", "va_long_beach")
QUICK = ("experiment=medical_heart", "rounds=2", "secagg=off", "transport=plain")


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """A folder with a site file for every hospital, without any demand but a budget."""
    folder = tmp_path / "sites"
    folder.mkdir()
    for name in SITES:
        write(folder, name)
    return folder


def write(folder: Path, name: str, **policy: Any) -> None:
    limit = None if policy.get("unit") == "none" else 100.0
    loose = {"min_cohort": 1, "require_transport": None, "require_secagg": None}
    demands = {"epsilon_total": limit, **loose, **policy}
    text = (
        f"name: {name}\ndata: {{kind: csv, path: {name}.csv, label: disease}}\n"
        f"keys: keys/{name}\nroster: roster.json\nledger: state/{name}.jsonl\n"
        f"policy: {json.dumps(demands)}\n"
    )
    (folder / f"{name}.yaml").write_text(text)


def ledger_of(sites: Path, name: str = "cleveland") -> Path:
    return sites / "state" / f"{name}.jsonl"


def report_of(sites: Path, name: str = "cleveland") -> LedgerReport:
    return verify(ledger_of(sites, name))


def simulate(sites: Path, out: str, *overrides: str) -> int:
    folder = sites.parent / out
    return main(["simulate", *QUICK, f"sites={sites}", f"out={folder}", *overrides])


def read(sites: Path, out: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((sites.parent / out / "result.json").read_text())
    return result


# --- Budgets that last ------------------------------------------------------------


def test_budget__is_that_of_the_data_over_all_runs(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sites, "cleveland", epsilon_total=5.0)
    assert simulate(sites, "one") == 0
    assert 3.9 < epsilon(report_of(sites).spent, 1e-5) <= 4.0
    shutil.rmtree(sites.parent / "one")  # the ledger is not the run's
    assert simulate(sites, "two") == 3
    complaint = capsys.readouterr().err
    assert "site cleveland: refused" in complaint
    assert "the budget of this data is 5 at delta 1e-05" in complaint
    result = read(sites, "two")
    # 4 of 5 are spent: the first round can be paid for if it costs no more than is left.
    assert result["status"] == "stopped_budget"
    assert epsilon(report_of(sites).spent, 1e-5) <= 5.0
    assert len(result["rounds"]) < 2


def test_budget__a_round_that_one_site_cannot_pay_for_is_not_started(sites: Path) -> None:
    write(sites, "hungary", epsilon_total=3.0)
    assert simulate(sites, "run") == 3
    result = read(sites, "run")
    assert (result["status"], len(result["rounds"])) == ("stopped_budget", 1)
    # Nobody has paid for a round that gave nothing, and the last model is there.
    for name in SITES:
        assert sum(event.steps for event in report_of(sites, name).spent) == 1
    assert result["privacy"]["per_site"]["cleveland"]["steps"] == 1
    (refusal,) = report_of(sites, "hungary").refusals
    assert refusal.round_number == 2
    assert (sites.parent / "run" / "model.safetensors").is_file()


def test_budget__drop_site_goes_on_without_the_site(sites: Path) -> None:
    write(sites, "hungary", epsilon_total=3.0)
    assert simulate(sites, "run", "privacy.on_exhausted=drop_site") == 0
    result = read(sites, "run")
    assert result["status"] == "finished"
    second = result["rounds"][1]["clients"]
    assert (second["invited"], second["replied"]) == (4, 3)
    assert "the budget of this data is 3" in second["dropped"]["hungary"]
    steps = {site: spent["steps"] for site, spent in result["privacy"]["per_site"].items()}
    assert steps == {"cleveland": 2, "hungary": 1, "switzerland": 2, "va_long_beach": 2}


def test_budget__already_spent_starts_no_round(sites: Path) -> None:
    write(sites, "cleveland", epsilon_total=0.5)
    assert simulate(sites, "run") == 3
    result = read(sites, "run")
    assert (result["status"], result["rounds"]) == ("stopped_budget", [])
    assert report_of(sites).spent == ()
    assert report_of(sites, "hungary").spent == ()
    assert not (sites.parent / "run" / "model.safetensors").exists()


def test_budget__a_site_whose_share_of_the_noise_is_needed_cannot_be_dropped(sites: Path) -> None:
    write(sites, "hungary", epsilon_total=3.0)
    shared = ("privacy=distributed", "secagg=masked", "privacy.on_exhausted=drop_site")
    assert simulate(sites, "strict", *shared) == 3
    assert len(read(sites, "strict")["rounds"]) == 1
    write_all(sites, epsilon_total=20.0)
    write(sites, "hungary", epsilon_total=3.0)
    assert simulate(sites, "tolerant", *shared, "privacy.max_dropouts=1") == 0
    replied = [entry["clients"]["replied"] for entry in read(sites, "tolerant")["rounds"]]
    assert replied == [3, 3]


# --- Policies ---------------------------------------------------------------------

STRICTER = [
    ({"unit": "client"}, "policy.unit=client", "privacy=client"),
    ({"min_cohort": 5}, "policy.min_cohort=5", "Invite more sites"),
    ({"require_transport": "sealed"}, "policy.require_transport=sealed", "transport=sealed"),
    ({"require_secagg": "masked"}, "policy.require_secagg=masked", "secagg=masked"),
    ({"allow_models": ["cnn"]}, "policy.allow_models=['cnn']", "Choose one of those models"),
    ({"delta": 1e-6}, "policy.delta=1e-06", "Set privacy.delta"),
    ({"approved_code": ["0" * 64]}, "policy.approved_code", "Install an approved version"),
]


@pytest.mark.parametrize(("policy", "rule", "way_out"), STRICTER)
def test_policy__stricter_than_the_config_is_refused_and_written_down(
    sites: Path, capsys: pytest.CaptureFixture[str], policy: Any, rule: str, way_out: str
) -> None:
    write(sites, "cleveland", **policy)
    assert simulate(sites, "run") == 3
    complaint = capsys.readouterr().err
    assert f"site cleveland: {rule}" in complaint
    assert way_out in complaint
    report = report_of(sites)
    assert report.spent == ()
    assert rule in report.declined[-1].reason
    assert report.declined[-1].purpose == "training medical_heart"


def test_policy__takes_part_with_the_code_that_its_owner_approved(sites: Path) -> None:
    write(sites, "cleveland", approved_code=[code_digest()])
    assert simulate(sites, "run") == 0


def test_policy__lets_nobody_run_code_that_its_owner_has_not_named_with_its_hash(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("model=custom", "model.build=tests.own_models:mlp")
    write_all(sites, epsilon_total=20.0)
    assert simulate(sites, "run", *own) == 3
    complaint = capsys.readouterr().err
    digest = source_digest("tests.own_models:mlp")
    assert "site cleveland: policy.allow_custom: the run uses tests.own_models:mlp" in complaint
    assert f"write under policy: 'allow_custom: {{'tests.own_models:mlp': {digest}}}'" in complaint
    write_all(sites, epsilon_total=20.0, allow_custom={"tests.own_models:mlp": digest})
    assert simulate(sites, "allowed", *own) == 0


def test_policy__a_refusal_leaves_the_run_without_the_site_where_the_config_allows(
    sites: Path,
) -> None:
    write(sites, "cleveland", allow_models=["cnn"])
    assert simulate(sites, "run", "privacy.on_exhausted=drop_site") == 0
    result = read(sites, "run")
    assert sorted(result["data"]["sites"]) == ["hungary", "switzerland", "va_long_beach"]
    assert "policy.allow_models=['cnn']" in result["declined"][0]
    assert report_of(sites).spent == ()


def test_policy__changed_during_a_run_holds_from_the_next_message(
    sites: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clients import payment

    honest = payment.pay

    def pay(*arguments: Any) -> Any:
        write(sites, "cleveland", require_transport="sealed")
        return honest(*arguments)

    monkeypatch.setattr(payment, "pay", pay)
    assert simulate(sites, "run") == 3
    # The round was paid for and is done; the next one is refused before it starts.
    assert len(read(sites, "run")["rounds"]) == 1
    assert sum(event.steps for event in report_of(sites).spent) == 1


def test_policy__without_privacy_is_refused_where_a_unit_is_asked_for(sites: Path) -> None:
    assert simulate(sites, "run", "privacy=none") == 3
    write_all(sites, unit="none")
    assert simulate(sites, "free", "privacy=none") == 0


def test_policy__holds_where_a_reference_puts_all_records_in_one_place(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_place = ("partition=iid", "partition.num_sites=1", "privacy=none", "strategy.min_sites=1")
    write_all(sites, unit="none")
    write(sites, "hungary")  # the one owner who asks for privacy
    assert simulate(sites, "run", *one_place) == 3
    assert "site hungary: policy.unit=record" in capsys.readouterr().err
    assert "policy.unit=record" in report_of(sites, "hungary").declined[-1].reason
    assert not (sites.parent / "run" / "model.safetensors").exists()
    out = sites.parent / "study"
    study = ["compare", *QUICK, f"sites={sites}", f"out={out}", "compare.baselines=true"]
    assert main(study) == 2
    refused = capsys.readouterr().err
    # By the federation, the site by itself and all in one place; the other sites say nothing.
    assert refused.count("site hungary: policy.unit=record") == 1
    assert "references train without privacy" in refused
    assert "cleveland" not in refused
    assert not out.exists()
    write_all(sites, unit="none")
    assert simulate(sites, "allowed", *one_place) == 0
    assert list(read(sites, "allowed")["data"]["sites"]) == ["site-000"]


def write_all(sites: Path, **policy: Any) -> None:
    for name in SITES:
        write(sites, name, **policy)


def test_policy__smallest_cohort_is_enforced_by_the_masks(sites: Path) -> None:
    write_all(sites, min_cohort=4, require_secagg="masked", require_transport="sealed")
    assert simulate(sites, "run", "secagg=masked", "transport=sealed", "rounds=1") == 0
    assert read(sites, "run")["status"] == "finished"


# --- Ledgers that are not in order ------------------------------------------------


def test_ledger__of_another_data_set_is_refused(sites: Path) -> None:
    assert simulate(sites, "one") == 0
    for part in ("", ".head"):
        source = ledger_of(sites, "hungary")
        shutil.copy(f"{source}{part}", f"{ledger_of(sites)}{part}")
    assert simulate(sites, "two") == 5
    assert not (sites.parent / "two").exists()


@pytest.mark.parametrize("damage", ["edited", "truncated"])
def test_ledger__altered_is_refused_and_nothing_is_spent(sites: Path, damage: str) -> None:
    assert simulate(sites, "one") == 0
    path = ledger_of(sites)
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "edited":
        path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":7', 1))
    else:
        path.write_bytes(b"".join(lines[:-1]))
    others = ledger_of(sites, "hungary").read_bytes()
    assert simulate(sites, "two") == 5
    assert ledger_of(sites, "hungary").read_bytes() == others
    assert not (sites.parent / "two").exists()


def test_ledger__from_the_future_means_a_clock_set_back(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from clients.records import records_digest, simulated_sites
    from fedlearn.config import compose

    data = records_digest(simulated_sites(compose(QUICK))["cleveland"].train)
    later = datetime(2999, 1, 1, tzinfo=UTC)
    budget = Budget(epsilon=100.0, delta=1e-5)
    with Ledger(ledger_of(sites), site="cleveland", data=data, budget=budget, now=later) as ledger:
        event = GaussianEvent(noise_multiplier=9.0, sample_rate=1.0, steps=1)
        cost = Cost(event=event, run_id="r", round_number=1, purpose="training")
        ledger.reserve(cost, now=later)
    assert simulate(sites, "run") == 3
    assert "Set the clock right" in capsys.readouterr().err
    assert not (sites.parent / "run").exists()


def test_ledger__claimed_by_another_run_is_refused_before_anything_happens(sites: Path) -> None:
    with claimed([ledger_of(sites, "hungary")]):
        assert simulate(sites, "run") == 3
    assert not (sites.parent / "run").exists()
    assert not ledger_of(sites).exists()
    assert simulate(sites, "run") == 0


# --- The folder -------------------------------------------------------------------


def test_sites__names_everything_that_is_wrong_with_the_folder(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sites / "cleveland.yaml").rename(sites / "clevland.yaml")
    (sites / "hungary.yaml").write_text("name: hungary\npolicy: {epsilon_total: -1.0}\n")
    assert simulate(sites, "run") == 2
    complaint = capsys.readouterr().err
    assert "clevland.yaml is for no site: cleveland, hungary" in complaint
    assert "policy.epsilon_total" in complaint
    assert "ledger: must be given" in complaint


def test_sites__two_of_them_cannot_share_a_ledger(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (sites / "hungary.yaml").read_text().replace("hungary.jsonl", "cleveland.jsonl")
    (sites / "hungary.yaml").write_text(text)
    assert simulate(sites, "run") == 2
    assert "is the ledger of two sites" in capsys.readouterr().err
