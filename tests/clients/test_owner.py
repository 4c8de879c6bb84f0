"""Whose records a simulated site has, and where it keeps what they have spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.owner import owner_of
from fedlearn.config import compose


@pytest.mark.parametrize(
    "name", ["..", ".", "../../up", "/etc", "A/B", "..\\up", "50%", "Köln Süd"]
)
def test_owner_of__keeps_the_ledger_in_the_run_whatever_the_site_is_called(
    name: str, tmp_path: Path
) -> None:
    config = compose([f"out={tmp_path}"])
    ledger = owner_of(config, name).ledger
    assert ledger.resolve().parent.parent == (tmp_path / "sites").resolve()


def test_owner_of__takes_ledger_and_policy_of_a_file_without_keys(tmp_path: Path) -> None:
    text = "name: a\nledger: a.jsonl\npolicy: {unit: record, epsilon_total: 3}\n"
    (tmp_path / "a.yaml").write_text(text)
    owner = owner_of(compose([f"sites={tmp_path}"]), "a")
    assert owner.ledger == tmp_path / "a.jsonl"
    assert owner.budget is not None
    assert owner.budget.epsilon == 3
    assert owner.dataset == "a"


def test_owner_of__sites_have_a_folder_each() -> None:
    config = compose(["out=runs/x"])
    names = ["A", "A/B", "A%2FB", "Köln Süd", ".", "..", "./A", "%2E"]
    assert len({owner_of(config, name).ledger for name in names}) == len(names)
    assert owner_of(config, "Köln Süd").ledger == Path("runs/x/sites/Köln Süd/ledger.jsonl")
