"""Tables are compared before training: what is found at home, and what of it is seen outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fedlearn.config import compose
from fedlearn.core.errors import ConfigError, PrivacyError, StoppedError
from server.run import Silent
from server.stop import Stop
from simulations.run import findings, simulate
from tests.effort import slow_but
from tests.simulations.hearts import dealt, hearts, mistaken, words

SURE = "privacy.epsilon=30"
"""So little noise that nothing is left to chance; what less does is in docs/privacy.md."""


@pytest.fixture(scope="module")
def _archive(heart_archive: Path) -> None:
    """The heart data is there."""


def run(out: Path, *overrides: str) -> dict[str, Any]:
    simulate(compose([*overrides, f"out={out}"]), Silent(), Stop())
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def found_at(out: Path, site: str) -> set[tuple[str, str]]:
    """What the site has found, and that matters."""
    path = out / "sites" / site / "screening.json"
    assert path.stat().st_mode & 0o777 == 0o600
    each = json.loads(path.read_text())["findings"]
    return {(one["kind"], one["column"]) for one in each if one["kind"] != "share"}


def told(asked: list[str], sites: Iterable[str]) -> set[tuple[str, ...]]:
    """Of which site and column a simulation has something to say at its end."""
    return {tuple(one.split(": ", 2)[:2]) for one in findings(compose(asked), sites)}


LABELS, UNIT = ("labels", ""), ("unit", "cholesterol")


@pytest.mark.usefixtures("_archive")
@pytest.mark.parametrize(
    "secagg", slow_but("masked".__eq__, ["masked", "off", "ring", "two_server"])
)
@pytest.mark.parametrize(
    ("mistake", "wanted"),
    slow_but(
        lambda one: one[0] == "unit",
        [("", set()), ("labels", {LABELS}), ("unit", {UNIT})],
        several=True,
    ),
)
def test_mistake_of_a_hospital__is_found_there_and_nowhere_else(
    tmp_path: Path, secagg: str, mistake: str, wanted: set[tuple[str, str]]
) -> None:
    layout, data = hearts()
    data = dealt(data, 5)
    if mistake:
        data = mistaken(layout, data, "site3", mistake)
    kinds = [f"secagg={secagg}", SURE]
    result = run(tmp_path / "run", *words(tmp_path, layout, data), *kinds)
    found = {site: found_at(tmp_path / "run", site) for site in data}
    assert found == {site: wanted if site == "site3" else set() for site in data}
    asked = [*words(tmp_path, layout, data), *kinds, f"out={tmp_path / 'run'}"]
    assert {("site site3", column or "label") for _, column in wanted} <= told(asked, data)
    assert not told([*asked, "privacy.epsilon=31"], data), "found in another study"
    assert result["privacy"]["epsilon"] == pytest.approx(30, rel=0.01)
    assert result["screening"]["sites"] == 5
    assert 0 < result["screening"]["epsilon"] < 30
    public = json.dumps({key: one for key, one in result.items() if key != "config"})
    assert "swapped" not in public
    assert "cholesterol" not in public.replace(json.dumps(result["model"])[1:-1], "")


@pytest.mark.usefixtures("_archive")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "cleveland", "hungary"), [("", [], []), ("labels", [LABELS], [LABELS])]
)
def test_real_hospitals__differ_without_a_finding_but_for_what_was_not_measured(
    tmp_path: Path, mistake: str, cleveland: list[object], hungary: list[object]
) -> None:
    """At every Swiss patient cholesterol is 0, for nobody had measured it.

    Of whom Cleveland is compared with, three in five are Hungary's: it cannot know who is wrong.
    """
    layout, data = hearts()
    if mistake:
        data = mistaken(layout, data, "hungary", mistake)
    run(tmp_path / "run", *words(tmp_path, layout, data), SURE)
    assert {site: found_at(tmp_path / "run", site) for site in data} == {
        "cleveland": set(cleveland),
        "hungary": set(hungary),
        "switzerland": {UNIT},
        "va_long_beach": set(),
    }


@pytest.mark.usefixtures("_archive")
@pytest.mark.slow
def test_run_without_privacy__compares_exact_sums_and_says_so(tmp_path: Path) -> None:
    layout, data = hearts()
    asked = words(tmp_path, layout, mistaken(layout, data, "va_long_beach", "unit"))
    result = run(tmp_path / "run", *asked, "privacy=none")
    assert ("unit", "cholesterol") in found_at(tmp_path / "run", "va_long_beach")
    assert result["screening"] == {"sites": 4, "epsilon": None}
    assert "exact" in result["privacy"]["statement"].split("compared")[1]


SITE = """\
name: {name}
data: {{kind: csv, path: none.csv, label: disease}}
keys: keys/{name}
roster: roster.json
ledger: {name}/ledger.jsonl
policy: {{epsilon_total: 50.0, min_cohort: 2, on_findings: refuse{known}}}
"""


@pytest.mark.usefixtures("_archive")
@pytest.mark.parametrize("ends", slow_but("stop".__eq__, ["stop", "drop_site", "known"]))
def test_owner_who_wants_that__lets_no_such_table_train(tmp_path: Path, ends: str) -> None:
    layout, data = hearts()
    asked = words(tmp_path, layout, mistaken(layout, data, "hungary", "labels"))
    known = ", known_findings: [label]" if ends == "known" else ""
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "hungary.yaml").write_text(SITE.format(name="hungary", known=known))
    asked += [SURE, f"sites={tmp_path / 'sites'}", "strategy.min_sites=2"]
    if ends == "stop":
        with pytest.raises(PrivacyError, match="its owner lets no table train"):
            run(tmp_path / "run", *asked)
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["rounds"] == []
        with pytest.raises(PrivacyError, match="its owner lets no table train"):
            run(tmp_path / "run", *asked, "resume=true")
        return
    asked = [word for word in asked if word != "evaluation=none"]
    result = run(tmp_path / "run", *asked, "privacy.on_exhausted=drop_site", "evaluation=private")
    dropped = set(result["rounds"][0]["clients"]["dropped"])
    assert dropped == ({"hungary"} if ends == "drop_site" else set())
    said = told([*asked, "privacy.on_exhausted=drop_site", "evaluation=private"], data)
    assert (("site hungary", "label") in said) == (ends == "drop_site")
    ledger = (tmp_path / "sites" / "hungary" / "ledger.jsonl").read_text()
    assert ('"purpose":"evaluation' in ledger) == (ends == "known"), "no such table tests either"


@pytest.mark.usefixtures("_archive")
@pytest.mark.slow
def test_resumed_run__has_paid_once_and_does_not_ask_again(tmp_path: Path) -> None:
    asked = [*words(tmp_path, *hearts()), SURE, "rounds=3"]
    stop = Stop()

    class Stopping(Silent):
        def round_finished(self, entry: object) -> None:
            stop.after_round.set()

    config = compose([*asked, f"out={tmp_path / 'run'}"])
    with pytest.raises(StoppedError):
        simulate(config, Stopping(), stop)
    result = run(tmp_path / "run", *asked, "resume=true")
    assert result["status"] == "finished"
    assert result["screening"]["sites"] == 4
    assert result["privacy"]["epsilon"] == pytest.approx(30, rel=0.01)
    for ledger in (tmp_path / "run" / "sites").glob("*/ledger.jsonl"):
        assert len(re.findall('"purpose":"screening', ledger.read_text())) == 1


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (["scenario=fashion", "model=cnn"], "screening=sums: it is for tables"),
        (["scenario.scaling={kind: none}"], "screening=sums: .*scaling.kind=none"),
        (["privacy=client"], "screening=sums: .*whole clients"),
    ],
)
def test_screening__that_cannot_be_is_refused_with_a_way_out(
    asked: list[str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        compose([*asked, "screening=sums"])
    assert "screening=none" in str(refused.value)
