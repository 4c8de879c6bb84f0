"""What a deployed site says when it says no holds nothing of its records, files or limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flwr.app import RecordDict
from hypothesis import given
from hypothesis import strategies as st

from clients.outside import WithheldError, outside
from fedlearn.core.errors import (
    ConfigError,
    DataError,
    FedlearnError,
    PrivacyError,
    ProtocolError,
)
from fedlearn.flower import messages as flower
from tests.attacks.lab import SITES, STRICT, Lab, write_table

VICTIM = SITES[0]
WORD = re.compile(r"[a-z' ,;.()_]+")


def heard(lab: Lab) -> list[str]:
    """What the coordinator hears of sites that do not take part, opened where it was sealed."""
    with pytest.raises(FedlearnError) as refused:
        lab.federate()
    return str(refused.value).splitlines()


def no_secret_in(reason: str, *secrets: str) -> None:
    assert not any(secret in reason for secret in (*secrets, "/", "table.csv", "line", "Person"))
    assert not re.search(r"[0-9]", reason), reason


@pytest.mark.parametrize(
    "words",
    [
        ["scenario.numeric=[sex]"],
        ["scenario.numeric=[nothing]"],
        ["scenario.label=pressure", "scenario.scaling.columns={age:[0,100],ill:[0,1]}"],
    ],
)
def test_refusal__for_records_is_the_same_whatever_is_in_them(
    tmp_path: Path, words: list[str]
) -> None:
    said = {rows: heard(Lab.make(tmp_path / str(rows), *words, rows=rows)) for rows in (40, 41)}
    assert said[40] == said[41]
    for reason in said[40]:
        no_secret_in(reason, "pressure", "sex", "age")


def test_refusal__names_the_demand_of_a_policy_and_not_its_value(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, policy=STRICT + "  allow_models: [cnn]\n")
    assert sorted(heard(lab)) == [
        f"site {name}: its owner does not allow it (policy.allow_models); "
        "its owner finds the reason in the site's log"
        for name in SITES
    ]


def test_refusal__for_an_empty_budget_tells_no_number(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path, policy=STRICT.replace("8.0", "0.5"))
    federation = lab.federate()
    with pytest.raises(PrivacyError) as refused:
        federation.run_round(1)
    no_secret_in(str(refused.value))


def test_site__whose_table_is_gone_names_no_path(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    (tmp_path / VICTIM / "table.csv").unlink()
    for reason in heard(lab):
        no_secret_in(reason, str(tmp_path))


def test_message__that_is_none_is_answered_with_one_text(tmp_path: Path) -> None:
    lab = Lab.make(tmp_path)
    said = set()
    for kind in ("train", "evaluate", "query.afford", "query.secagg_share", "query.join"):
        refusal = flower.read_refusal(lab.ask(kind, VICTIM, RecordDict()))
        assert refusal is not None
        no_secret_in(refusal.reason)
        said.add(refusal.reason)
    assert len(said) <= 3


@pytest.mark.slow
@given(
    kind=st.sampled_from([ConfigError, DataError, PrivacyError, FedlearnError, WithheldError]),
    text=st.text(st.characters(codec="utf-8"), max_size=80),
    value=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
)
def test_outside__keeps_no_text_of_an_error(
    kind: type[FedlearnError], text: str, value: str
) -> None:
    error = kind(f"{text}: policy.min_cohort={value}: {text}")
    assert WORD.fullmatch(outside(error))
    protocol = ProtocolError(text, value, text)
    assert WORD.fullmatch(outside(protocol))


def test_neighbours__differ_in_nothing_that_is_said_before_a_round(tmp_path: Path) -> None:
    """One person more, or other cells: what a site says to join and to describe is the same."""
    carried = []
    for rows, seed in ((60, 0), (61, 0), (60, 9)):
        lab = Lab.make(tmp_path / f"{rows}-{seed}", rows=60)
        write_table(lab.world.root / VICTIM / "table.csv", rows, seed)
        lab.federate()
        carried.append([len(data) for data in lab.carried])
    assert carried[0] == carried[1] == carried[2]
