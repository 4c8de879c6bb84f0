"""Audits of whole runs: what is measured through the real path, and what is refused.

Canaries and noise are drawn by the operating system. Each assertion on what was
measured fails by chance less than once in a million runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from opacus.optimizers import DPOptimizer

import fedlearn as fl
from clients.canaries import canary_file, read_canaries
from clients.owner import owner_of
from clients.site import TEST_NOISE
from fedlearn.auditing import NoAudit
from fedlearn.auditing.findings import NOT_JUDGED, Bound, Findings, Seat
from fedlearn.cli import main
from fedlearn.config import compose, load, plan_of
from fedlearn.core.errors import StoppedError
from fedlearn.models.tabular import ENCODED
from fedlearn.report.comparison import (
    Comparison,
    SweepPlan,
    point_result,
    read_comparison,
    write_comparison,
)
from fedlearn.report.page import write_report
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile, RoundResult
from fedlearn.training.private import PrivateOptimizer
from server.audit import read_seen
from server.federation import Federation
from server.stop import Stop
from simulations.run import simulate
from tests.simulations.small import table

pytestmark = pytest.mark.slow

FIVE = ("east", "middle", "north", "south", "west")


def words(folder: Path, *more: str, sites: tuple[str, ...] = ("north", "south")) -> list[str]:
    """A run of four rounds on tables; `more` comes in place of what it says by itself."""
    keys = {word.partition("=")[0] for word in more}
    own = [*table(folder, sites=sites), "audit=slots", "privacy.epsilon=8"]
    # A step on all records: what is drawn at random hides more than noise of that size says.
    own += ["training.local_steps=1", "training.sample_rate=1.0", "training.learning_rate=0.5"]
    own = [word.replace("rounds=2", "rounds=4").replace("=mlp", "=linear") for word in own]
    if "privacy" in keys:
        own.remove("privacy.epsilon=8")
    return [*(word for word in own if word.partition("=")[0] not in keys), *more]


def run(
    folder: Path, *more: str, sites: tuple[str, ...] = ("north", "south"), code: int = 0
) -> ResultFile:
    """A run that ends with this exit code."""
    out = folder / f"run-{len(list(folder.iterdir()))}"
    assert main(["simulate", *words(folder, *more, sites=sites), f"out={out}"]) == code
    return read_result(out)


def findings(result: ResultFile) -> Findings:
    assert result.audit is not None
    return result.audit


def bounds(result: ResultFile, seat: Seat) -> dict[str, Bound]:
    view = next(view for view in findings(result).views if view.seat == seat)
    return {bound.estimator: bound for bound in view.bounds}


def lowest(bound: Bound) -> float:
    assert bound.lower_bound is not None
    return bound.lower_bound


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> ResultFile:
    """Five sites that mask and seal, at epsilon 8."""
    folder = tmp_path_factory.mktemp("five")
    return run(folder, "secagg=masked", "transport=sealed", sites=FIVE)


def test_audit__measures_what_a_tight_mechanism_spends(five: ResultFile) -> None:
    own = bounds(five, "update")
    assert lowest(own["gaussian"]) >= 5
    for estimator in ("one_run", "f_dp"):
        assert 1 < lowest(own[estimator]) <= 8
    assert lowest(own["clopper_pearson"]) > 3
    found = findings(five)
    assert found.p_value is not None
    assert found.p_value > 1e-7
    assert found.promised == pytest.approx(8, abs=0.01)
    assert (found.seat, found.estimator, found.canaries) == ("update", "clopper_pearson", 1000)


def test_audit__through_the_sum_of_five_sites_measures_less_than_one_site_alone(
    five: ResultFile,
) -> None:
    alone, together = bounds(five, "update")["gaussian"], bounds(five, "sum")["gaussian"]
    assert alone.estimate is not None
    assert together.estimate is not None
    assert 1 < together.estimate < alone.estimate - 2
    (note,) = findings(five).notes
    assert f"{together.estimate:.2f}" in note
    assert "the sum of 5 sites" in note


def test_audit__leaves_the_promise_as_it_is(five: ResultFile) -> None:
    config = load(five.config)
    plain = plan_of(replace(config, audit=NoAudit()))
    assert plain == plan_of(config)
    assert plain is not None
    assert five.privacy.epsilon == pytest.approx(plain.epsilon)
    # Both classes' weights of age, smoker and a bias: no slot is among them.
    assert five.model.trainable == five.model.parameters == 2 * (ENCODED + 3 + 1)


def test_audit__shows_promised_against_measured_in_reports(
    five: ResultFile, tmp_path: Path
) -> None:
    folder = Path(five.config["out"])
    text = write_report(folder).read_text()
    assert "Promised against measured" in text
    found = findings(five)
    assert f"at least {found.lower_bound:.2f}, where 1000 canaries could have shown" in text
    assert findings(five).notes[0].replace("'", "&#39;") in text
    sweep = write_report(folder.parent).read_text()
    assert "measured, of at most" in sweep
    assert f"{found.lower_bound:.2f} of {found.ceiling:.2f}" in sweep


def test_audit__is_part_of_a_comparison(five: ResultFile, tmp_path: Path) -> None:
    plan = SweepPlan(name="a", overrides=(), swept={"seed": "0"}, reference=None, site=None)
    write_comparison(tmp_path, Comparison(points=[point_result(plan, five)]))
    (point,) = read_comparison(tmp_path).points
    assert point.audit == five.audit
    header, row = (tmp_path / "compare.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert cells["audit_verdict"] == findings(five).verdict
    assert float(cells["audit_lower_bound"]) == findings(five).lower_bound


@pytest.mark.parametrize("epsilon", [4, 8])
def test_audit__finds_noise_that_was_halved_behind_the_accountants_back(
    epsilon: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = PrivateOptimizer.add_noise

    def halved(self: PrivateOptimizer) -> None:
        grid = self.grid
        if grid is not None:  # the trained references of an audit have no noise
            self.grid = replace(grid, stddev=grid.stddev / 2)
        honest(self)
        self.grid = grid

    monkeypatch.setattr(PrivateOptimizer, "add_noise", halved)
    result = run(tmp_path, f"privacy.epsilon={epsilon}", code=6)
    assert "fedlearn: PROMISE BROKEN: " in capsys.readouterr().err
    assert result.privacy.epsilon == pytest.approx(epsilon, abs=0.01)
    found = findings(result)
    assert found.verdict == "PROMISE BROKEN"
    assert found.lower_bound is not None
    assert found.lower_bound > epsilon
    out = Path(result.config["out"])
    assert "PROMISE BROKEN" in write_report(out).read_text()
    assert main(["audit", str(out)]) == 6
    with pytest.warns(RuntimeWarning, match="PROMISE BROKEN"):
        again = fl.audit(out)
    assert again.audit
    assert again.audit.broken
    assert "PROMISE BROKEN" in repr(again)


def test_compare__ends_with_six_where_an_audit_says_that_a_promise_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PrivateOptimizer, "add_noise", _without_noise)
    chosen = [*words(tmp_path), f"out={tmp_path / 'sweep'}", "seed=0,1", "compare.workers=1"]
    assert main(["compare", *chosen]) == 6
    assert "PROMISE BROKEN: " in capsys.readouterr().out


def _without_noise(self: DPOptimizer) -> None:
    for parameter in self.params:
        parameter.grad = parameter.summed_grad.to(parameter.dtype)


def test_audit__without_privacy_reports_the_ceiling(tmp_path: Path) -> None:
    result = run(tmp_path, "privacy=none")
    for seat in ("update", "sum", "model"):
        found = bounds(result, seat)
        assert set(found) == {"one_run", "f_dp", "clopper_pearson"}
        assert all(bound.lower_bound == bound.ceiling for bound in found.values())
    assert findings(result).verdict == "no promise was made"


def test_audit__of_noise_that_sites_share_looks_at_their_sum(tmp_path: Path) -> None:
    """At epsilon 8 the Gaussian bound is about 7 with a deviation of .4."""
    result = run(
        tmp_path, "privacy=distributed", "privacy.epsilon=8", "secagg=masked",
        sites=FIVE,
    )  # fmt: skip
    found = findings(result)
    assert [view.seat for view in found.views] == ["sum", "model"]
    assert found.seat == "sum"
    assert lowest(bounds(result, "sum")["gaussian"]) > 4
    assert found.p_value is not None
    assert found.p_value > 1e-7


def test_audit__does_not_change_the_trained_model_by_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TEST_NOISE, "7")
    # Of several steps the noise of a step's slots would come before that of the next one's model.
    audited, plain = run(tmp_path), run(tmp_path, "audit=none")
    assert audited.model == plain.model
    assert audited.final == plain.final
    assert plain.audit is None
    assert findings(audited).verdict == "no promise was made"  # noise that repeats promises nothing


def test_audit__by_mislabelled_records_shows_the_final_model_alone(tmp_path: Path) -> None:
    result = run(tmp_path, "audit=mislabelled", "audit.canaries=24", "privacy=none")
    found = findings(result)
    assert [view.seat for view in found.views] == ["model"]
    assert (found.kind, found.estimator, found.canaries) == ("mislabelled", "one_run", 24)
    config = load(result.config)
    for site, size in result.data.sites.items():
        coins = read_canaries(canary_file(owner_of(config, site), result.run_id)).coins
        assert len(coins.rows) == len(set(coins.rows.tolist())) == 12
        assert size.train > 2 * 12 > coins.inside.sum()


def test_audit__of_a_run_without_canaries_asks_who_was_a_member(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(run(tmp_path, "audit=none").config["out"])
    assert main(["audit", str(out), "references=8"]) == 0
    found = findings(read_result(out))
    assert (found.verdict, found.kind, found.lower_bound) == (NOT_JUDGED, "membership", 0.0)
    assert [attack.name for attack in found.attacks] == ["loss", "rmia", "lira"]
    for attack in found.attacks:
        assert attack.auc_ceiling is not None
        assert attack.tpr_01_ceiling is not None
        assert attack.tpr_1_ceiling is not None
        assert 0.5 < attack.auc_ceiling < 1
        assert attack.tpr_01_ceiling < attack.tpr_1_ceiling < 0.5
    assert "not judged" in capsys.readouterr().out
    assert "Was a record trained on?" in (out / "report.html").read_text()


def test_audit__without_the_coins_is_refused(
    five: ResultFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = run(tmp_path)
    for path in Path(result.config["out"]).glob("sites/*/canaries-*.jsonl"):
        path.unlink()
    assert main(["audit", str(result.config["out"])]) == 5
    assert "without their coins nothing can be measured" in capsys.readouterr().err


@dataclass
class StopAfterTwo:
    stop: Stop

    def started(self, federation: Federation, first_round: int) -> None:
        pass

    def round_finished(self, entry: RoundResult) -> None:
        if entry.round == 2:
            self.stop.after_round.set()

    def finished(self, result: ResultFile) -> None:
        pass


def test_audit__of_a_resumed_run_goes_on_with_the_same_coins(tmp_path: Path) -> None:
    config = compose([*words(tmp_path, "audit.canaries=40"), f"out={tmp_path / 'run'}"])
    stop = Stop()
    with pytest.raises(StoppedError):
        simulate(config, StopAfterTwo(stop), stop)
    files = sorted(tmp_path.glob("run/sites/*/canaries-*.jsonl"))
    before = [path.read_text().splitlines()[0] for path in files]
    stop = Stop()
    simulate(replace(config, resume=True), StopAfterTwo(stop), Stop())
    assert [path.read_text().splitlines()[0] for path in files] == before
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 2
    for path in files:
        assert sorted(read_canaries(path).changes) == [1, 2, 3, 4]
    assert [seen.round for seen in read_seen(tmp_path / "run")] == [1, 2, 3, 4]
    tree = json.loads((tmp_path / "run" / "result.json").read_text())
    assert tree["audit"]["canaries"] == 40


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["privacy=client"], "audit=slots: measures what is promised within sites"),
        (["audit=mislabelled", "audit.canaries=50"], "set audit.canaries to at most"),
        (["audit.canaries=3"], "audit.canaries=3: must be >= 20"),
        (["audit=everything"], "audit=everything: must be one of mislabelled, none, slots"),
    ],
)
def test_audit__refuses_what_it_could_not_measure(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *words(tmp_path, *more), f"out={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["1", "3", "300", "many"])
def test_audit__refuses_a_wrong_number_of_references(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "runs/none", f"references={text}"]) == 2
    assert f"references={text}: must be an even number" in capsys.readouterr().err
