"""What card and report say of use, limits, probabilities and source follows from the run."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.config import compose, to_tree
from fedlearn.metrics.scores import Calibration, ScoreGroup
from fedlearn.report.facts import Facts
from fedlearn.report.page import write_report
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile, SiteSize
from fedlearn.robust import Bounded, FlTrust, NotRobust, Proofs
from simulations.display import Display
from tests.simulations.small import table

FOUND = Calibration(
    error=0.0625,
    by_chance=0.04,
    groups=[
        ScoreGroup(count=30, predicted=0.25, observed=0.1, low=0.02, high=0.2),
        ScoreGroup(count=90, predicted=0.75, observed=0.8, low=0.7, high=0.9),
    ],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = [*table(folder), "rounds=1", "privacy=none", "purpose='to be a <b>test</b>'"]
    assert main(["simulate", *words, f"out={folder / 'run'}"]) == 0
    return folder / "run"


def lines(result: ResultFile, block: str) -> tuple[str, ...]:
    found: tuple[str, ...] = Facts(result=result, hashes={}).texts["card"].lines(block)
    return found


def use(result: ResultFile) -> tuple[str, ...]:
    return lines(result, "use")


def limits(result: ResultFile) -> tuple[str, ...]:
    return lines(result, "limits")


def calibration(result: ResultFile) -> str:
    return " ".join(lines(result, "calibration"))


def with_config(result: ResultFile, **changes: object) -> ResultFile:
    return replace(result, config=result.config | changes)


@pytest.mark.slow
def test_use__states_the_purpose_of_the_run_or_that_there_is_none(run: Path) -> None:
    result = read_result(run)
    assert "Stated purpose: to be a <b>test</b>" in use(result)
    assert "No purpose was stated" in use(with_config(result, purpose=""))[0]
    older = {key: value for key, value in result.config.items() if key != "purpose"}
    assert "No purpose was stated" in use(replace(result, config=older))[0]


@pytest.mark.slow
def test_use__names_the_classes_and_how_far_a_column_goes(run: Path) -> None:
    result = read_result(run)
    assert result.data.classes == ["0", "1"]
    assert any("The classes: 0, 1." in line for line in use(result))
    assert not any("end of the range" in line for line in use(result))
    scaling = {"kind": "ranges", "columns": {"age": [0, 99]}}
    bounded = with_config(result, scenario=result.config["scenario"] | {"scaling": scaling})
    assert any("end of the range" in line for line in use(bounded))
    many = replace(result, data=replace(result.data, classes=[str(i) for i in range(20)]))
    assert any("The classes: 20." in line for line in use(many))


def test_limits__follow_from_partition_privacy_and_sizes(run: Path) -> None:
    result = read_result(run)
    text = " ".join(limits(result))
    assert "without differential privacy" in text
    assert "north has only 12 test records: one of them counts for 8.3% of its results" in text
    assert "dealt out" not in text
    private = replace(result, privacy=replace(result.privacy, epsilon=1.0))
    assert "without differential privacy" not in " ".join(limits(private))
    assert "(dirichlet)" in " ".join(
        limits(with_config(result, partition={"kind": "dirichlet", "num_sites": 2, "alpha": 0.5}))
    )


def test_limits__say_when_a_model_has_one_answer_to_everything(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_result(run)
    same = {"loss": 0.3, "accuracy": 0.9, "balanced_accuracy": 0.5, "macro_f1": 0.9 / 1.9}
    one = replace(result, final=replace(result.final, evaluate=same | {"auc": 0.75}))
    assert "into the same class" in " ".join(limits(one))
    assert "AUC of 0.750 how well it ranks" in " ".join(limits(one))
    assert "into the same class" in final_table_and_notes(one, capsys)
    better = replace(result, final=replace(result.final, evaluate=same | {"macro_f1": 0.55}))
    assert "into the same class" not in " ".join(limits(better))
    untold = replace(one, data=replace(one.data, classes=[]))  # by an older release
    assert "into the same class" not in " ".join(limits(untold))


def final_table_and_notes(result: ResultFile, capsys: pytest.CaptureFixture[str]) -> str:
    Display().finished(result)
    return " ".join(capsys.readouterr().out.split())


def test_card__says_which_classes_were_weighed(run: Path) -> None:
    result = read_result(run)
    assert "weighed" not in str(lines(result, "training"))
    training = result.config["training"] | {"class_weights": {"1": 20.0}}
    assert "(1 20, any other 1)" in str(lines(with_config(result, training=training), "training"))


def test_calibration__is_message_with_its_chance_level_and_tendency(run: Path) -> None:
    result = replace(read_result(run), calibration=FOUND)
    text = calibration(result)
    assert "off by 0.062 on average" in text or "off by 0.063 on average" in text
    assert "over 2 groups" in text
    assert "more than the 0.040" in text
    assert "no more" not in text
    # (30 * .25 + 90 * .75) / 120 and (30 * .1 + 90 * .8) / 120
    assert "expects 1 in 62.5% of the records; it is so in 62.5%" in text
    calm = replace(result, calibration=replace(FOUND, error=0.01))
    assert "no more than the 0.040" in calibration(calm)


def test_calibration__that_was_not_measured_says_why(run: Path) -> None:
    result = read_result(run)
    assert result.calibration is None
    assert calibration(result).endswith("was not measured: it takes 100 test records.")
    three = replace(result.final, evaluate={"accuracy": 0.5})
    assert "for two classes alone" in calibration(replace(result, final=three))
    larger = replace(result.data, sites={"north": SiteSize(train=1, test=500)})
    assert "has not ended" in calibration(replace(result, data=larger))
    untested = replace(result.final, evaluate={}, per_site={})
    assert calibration(replace(result, final=untested)) == ""


def test_report__shows_use_limits_and_calibration_and_escapes_the_purpose(
    run: Path, tmp_path: Path
) -> None:
    tree = json.loads((run / "result.json").read_text())
    group = {"count": 60, "predicted": 0.3, "observed": 0.4321, "low": 0.4, "high": 0.5}
    tree["calibration"] = {"error": 0.1321, "by_chance": 0.05, "groups": [group]}
    tree["environment"]["commit"] = "ab12cd+"
    for name in ("config.yaml", "result.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "result.json").write_text(json.dumps(tree))
    text = write_report(tmp_path).read_text()
    assert "to be a &lt;b&gt;test&lt;/b&gt;" in text
    assert "<b>test" not in text
    assert "off by 0.132 on average" in text
    assert "0.30, 0.43" in unescape(text)
    assert "It has not been approved for any use" in text.split("<h3>Limits</h3>")[1]
    assert "ab12cd, with changes that are not in it" in text


def rows(result: ResultFile) -> tuple[tuple[str, ...], ...]:
    found: tuple[tuple[str, ...], ...] = (
        Facts(result=result, hashes={}).texts["card"].rows("provenance")
    )
    return found


def test_card__of_an_older_result_says_nothing_of_the_source(run: Path) -> None:
    result = read_result(run)
    names = [name for name, _ in rows(result)]
    assert "SHA-256 of fedlearn's source" in names
    older = replace(result, environment=replace(result.environment, code="", commit=""))
    older_names = [name for name, _ in rows(older)]
    assert "SHA-256 of fedlearn's source" not in older_names
    assert "git commit of fedlearn" not in older_names


RULES = {one.kind: one for one in (NotRobust(), Bounded(), Proofs(), FlTrust())}


@pytest.mark.parametrize("kind", RULES)
def test_limits__say_what_a_lying_site_could_do_under_the_rule_that_held(
    run: Path, kind: str
) -> None:
    """A rule that the aggregation had no use for has held nothing."""
    result = read_result(run)
    secagg = "two_server" if RULES[kind].proves else "masked"
    tree = to_tree(compose(["experiment=medical_heart", f"robust={kind}", f"secagg={secagg}"]))
    rest = {key: value for key, value in result.config.items() if key not in ("robust", "secagg")}
    here = {key: tree[key] for key in ("robust", "secagg") if key in tree}  # no defaults
    result = replace(result, config=rest | here)
    for held in {kind, "none"}:
        there = replace(result, protection=replace(result.protection, robust=held))
        text = " ".join(limits(there))
        assert [one.kind for one in RULES.values() if one.open_to in text] == [held]
