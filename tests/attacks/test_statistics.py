"""Figures of tables at deployed sites: what a coordinator that lies gets besides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedlearn.core.errors import ProtocolError
from fedlearn.flower import messages as flower
from server.deployment import composed
from server.statistics import figures, gather
from tests.attacks import lab as lab_module
from tests.attacks.lab import SITES, STRICT, STUDY, Lab
from tests.attacks.neighbours import VICTIM, Talk, check, watched
from tests.attacks.test_neighbours import HEADER, USUAL, prepared

MASKED = ("statistics=table",)
CLEAR = STRICT.replace("require_secagg: masked", "require_secagg: null")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.make(tmp_path, *MASKED)


@pytest.mark.slow
def test_deployed_sites__give_their_tables_under_masks_once_and_train_nothing(lab: Lab) -> None:
    federation = lab.federate()
    asked: dict[str, RecordDict] = {}

    def keep(kind: str, site: str, message: Message) -> Message:
        if kind == "screen" and site == VICTIM:
            asked["screen"] = message.content
        return message

    lab.on_request = keep
    opened = gather(federation)
    found = figures(federation, opened, "", real_noise=True)
    assert opened.alone == {}, "masks show the sum alone"
    records = found.pooled.records  # beyond three times its 95 percent is nobody by chance
    assert abs(records.value - 60 * len(SITES)) <= 1.5 * (records.high - records.low)
    assert {one.name for one in found.pooled.numbers} == {"age", "pressure"}
    assert {one.name for one in found.pooled.choices} == {"sex", "ill"}
    assert [lab.reserved(site, "statistics") for site in SITES] == [1] * len(SITES)
    before = len(lab.refused)
    for kind, content in (("screen", asked["screen"]), ("train", asked["screen"]),
                          ("evaluate", asked["screen"]), ("compare", asked["screen"])):  # fmt: skip
        message = kind if kind in ("train", "evaluate") else f"query.{kind}"
        answer = lab.ask(message, VICTIM, content)
        # Through the sealed channel, where it is not even opened; or refused by what it is.
        assert flower.read_refusal(answer) is not None or "sealed" in answer
    assert lab.reserved(VICTIM, "statistics") == 1
    assert lab.reserved(VICTIM, "training") == lab.reserved(VICTIM, "evaluation") == 0
    assert len(lab.refused) == before


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_coordinator__that_trains_under_the_plan_of_a_table_is_refused(
    tmp_path: Path, kind: Literal["train", "evaluate"]
) -> None:
    """The plan has noise for one release of sums, and none for a step."""
    federation = Lab.make(tmp_path, *MASKED, "secagg=off", policy=CLEAR).federate()
    assert not federation.goes_on
    note = federation.note(1, len(SITES))
    requests = federation.messages(kind, note, federation.progress.model, SITES)
    replies = federation.grid.exchange(requests, lambda content: content)
    assert len(replies.refusals) == len(SITES)
    assert not replies.answers


@pytest.mark.slow
@pytest.mark.parametrize("secagg", ["masked", "off"])
def test_records__move_the_sums_of_a_table_by_what_is_paid_for_and_nothing_else(
    tmp_path: Path, secagg: str
) -> None:
    rng = np.random.default_rng(1)
    words = [
        *USUAL,
        f"secagg={secagg}",
        "statistics=table",
        "statistics.correlations=[age,pressure]",
    ]
    asked = prepared(Lab.make(tmp_path), rng, words, series=False)
    rows = [(f"P{i}", "1", str(30 + i % 9), "90", "fm"[i % 2], "01"[i % 2]) for i in range(40)]
    odd = [("Q1", "1", "1e308", "nan", "x", "1"), ("Q2", "1", "", "-7", "f", "0")]

    def script(talk: Talk) -> None:
        talk.federate()
        talk.tables()
        talk.round(1)

    seen = [watched(asked, [HEADER, *table], script) for table in (rows, rows + odd)]
    assert ("statistics", VICTIM) in {(what, who) for who, what, *_ in seen[0].sums}
    assert {what for _, what, *_ in seen[0].sums} == {"statistics"}
    check(seen[0], seen[1], len(odd))


@pytest.mark.slow
def test_category_of_few_records__is_given_as_a_gap_where_nothing_hides_it(tmp_path: Path) -> None:
    policy = (
        "  unit: none\n  min_cohort: 3\n  require_transport: sealed\n  require_secagg: masked\n"
    )
    made = Lab.make(tmp_path, policy=policy)
    path = made.world.root / VICTIM / "table.csv"
    lines = [line.replace(",m,", ",f,") for line in path.read_text().splitlines()]
    lines[1] = lines[1].replace(",f,", ",m,")
    path.write_text("\n".join(lines) + "\n")
    others = sum(
        (made.world.root / site / "table.csv").read_text().count(",m,") for site in SITES[1:]
    )
    words = [*(one for one in STUDY if not one.startswith("privacy")), "privacy=none", *MASKED]
    lab = made.again(replace(composed([*words, "evaluation=pooled"]), out=made.config.out))
    federation = lab.federate()
    found = figures(federation, gather(federation), "", real_noise=True).pooled
    (sex,) = [one for one in found.choices if one.name == "sex"]
    counts = {one.name: one.count.value for one in sex.categories}
    assert counts["m"] == others, "the only man at a site is not among them"
    assert sex.missing is not None
    assert sex.missing.count.value == 1
    assert found.records.value == 60 * len(SITES)


@pytest.mark.slow
def test_exact_table__is_given_once_and_written_down_whatever_a_site_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that was started anew has nothing but its ledger."""
    monkeypatch.setattr(lab_module, "STUDY", [w for w in STUDY if not w.startswith("privacy.")])
    policy = "  {unit: none, min_cohort: 3, require_secagg: null, evaluation: [per_site]}\n"
    words = (*MASKED, "privacy=none", "evaluation=per_site", "secagg=off")
    lab = Lab.make(tmp_path, *words, policy=policy)
    assert len(gather(lab.federate()).alone) == len(SITES)
    lines = lab.world.ledger(VICTIM).read_text().splitlines()
    assert sum('"kind":"evaluate"' in line and "per_site" in line for line in lines) == 1
    with pytest.raises(ProtocolError, match="no site answered"):
        gather(lab.again(lab.config).federate())
