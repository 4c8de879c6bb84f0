"""`fedlearn report`: one file that holds the numbers of a run and asks the network for nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedlearn.cli import main
from fedlearn.report.comparison import Comparison, SweepPlan, point_result, write_comparison
from fedlearn.report.page import write_report
from fedlearn.report.runs import differences, grouped, read_runs, telling
from tests.simulations.small import rename, table

Output = pytest.CaptureFixture[str]

SITES = ("<b>north</b>", 'south" onload="alert(1)')


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two private runs and one of another experiment; names of sites are markup."""
    folder = tmp_path_factory.mktemp("runs")
    base = table(folder)
    private = [*base, "privacy.delta=1e-3"]
    out = folder / "runs"
    assert main(["simulate", *private, "privacy.epsilon=8", f"out={out / 'a'}"]) == 0
    assert main(["simulate", *private, "privacy.epsilon=8", "seed=1", f"out={out / 'b'}"]) == 0
    other = ["privacy=none", "experiment=custom", "evaluation=pooled", "training.learning_rate=0.1"]
    assert main(["simulate", *base, *other[:1], *other[2:], f"out={out / 'c'}"]) == 0
    for run in ("a", "b", "c"):
        rename(out / run, dict(zip(("north", "south"), SITES, strict=True)))
    return out


@pytest.fixture(scope="module")
def text_of(runs: Path) -> Callable[[str], str]:
    """The report of a run, or of all (`.`), as they were left; each made once."""
    return cache(lambda name: report(runs / name))


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs, to be spoiled."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def edit(run: Path, **changes: Any) -> None:
    (run / "result.json").write_text(json.dumps(result_of(run) | changes))


def report(folder: Path) -> str:
    return write_report(folder).read_text()


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    EMPTY = ("meta", "link", "img", "br", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_run__leaves_its_report_and_says_where(tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "run"
    assert main(["simulate", *table(tmp_path), "privacy=none", f"out={out}"]) == 0
    # A long path may be broken anywhere, so spaces are left out of the comparison.
    assert "report.htmlshowsit" in "".join(capsys.readouterr().out.split())
    assert (out / "report.html").is_file()


def test_report__of_a_run_has_its_numbers(runs: Path, text_of: Callable[[str], str]) -> None:
    result, page = result_of(runs / "a"), Page(text_of("a"))
    final, privacy = result["final"], result["privacy"]
    for value in final["evaluate"].values():
        assert f"{value:.3f}" in page.text
    for site, found in final["per_site"].items():
        assert site in page.text
        assert f"{found['accuracy']:.3f}" in page.text
    for sentence in re.sub(r"\n\n[A-Z][a-z ]+: ", ". ", privacy["statement"]).split(". "):
        assert sentence.rstrip(".") in page.text
    assert "epsilon spent" in page.text
    assert result["model"]["sha256"] in page.text
    assert result["environment"]["torch"] in page.text
    assert "learning_rate" in page.text


def test_report__of_a_run_without_privacy_claims_none(text_of: Callable[[str], str]) -> None:
    page = Page(text_of("c"))
    assert "none differential privacy" in page.text
    assert "epsilon spent" not in page.text


@pytest.mark.parametrize("name", ["a", "c", "."])
def test_report__fetches_nothing_and_runs_no_script_but_its_own(
    text_of: Callable[[str], str], name: str
) -> None:
    text = text_of(name)
    page = Page(text)
    assert not [a for _, a in page.tags if {"src", "onload", "onclick"} & set(a)]
    links = {
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key.endswith("href")
    }
    assert all(str(link).startswith("#") for link in links)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"\w+://[^\"' <]+", text)) <= names
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert [tag for tag, _ in page.tags].count("script") == 1


@pytest.mark.parametrize("name", ["a", "."])
def test_report__takes_names_for_text_and_never_for_markup(
    text_of: Callable[[str], str], name: str
) -> None:
    text = text_of(name)
    assert "<b>north" not in text
    assert "&lt;b&gt;north" in text
    assert not any("alert(1)" in str(a.get("onload", "")) for _, a in Page(text).tags)


@pytest.mark.parametrize("name", ["a", "c", "."])
def test_report__describes_every_plot_and_takes_its_colours_from_the_page(
    text_of: Callable[[str], str], name: str
) -> None:
    text = text_of(name)
    plots = [attributes for tag, attributes in Page(text).tags if tag == "svg"]
    assert plots
    for attributes in plots:
        assert attributes["role"] == "img"
        assert len(str(attributes["aria-label"])) > 40
        assert "width" not in attributes
    svgs = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    used = set(re.findall(r"#[0-9a-f]{6}\b", svgs))
    assert not used, "a colour that is not the page's would vanish in the dark"
    assert set(re.findall(r"var\((--[\w-]+)\)", svgs)) <= set(re.findall(r"(--[\w-]+):", text))


@pytest.mark.slow
def test_report__made_again_is_the_same_file(runs: Path, text_of: Callable[[str], str]) -> None:
    assert report(runs / "a") == text_of("a")
    assert report(runs) == text_of(".")


@pytest.mark.slow
def test_report__of_a_run_that_was_cut_off_says_so(copy: Path) -> None:
    edit(copy / "a", status="failed", reason="too few sites")
    text = unescape(Page(report(copy / "a")).text)
    assert "The run failed before its end" in text
    assert "too few sites" in text


def test_report__of_a_run_without_a_round_is_possible(copy: Path) -> None:
    final: dict[str, Any] = {"evaluate": {}, "per_site": {}, "worst_site": None}
    edit(copy / "a", status="interrupted", rounds=[], final=final)
    assert "Nothing was measured" in Page(report(copy / "a")).text


# --- several runs -------------------------------------------------------------------


def test_report__of_unlike_runs_compares_what_they_share_and_says_what_differs(copy: Path) -> None:
    config = result_of(copy / "c")["config"] | {"experiment": "another"}
    data = result_of(copy / "c")["data"] | {"sha256": "0" * 64}
    edit(copy / "c", config=config, data=data)
    page = Page(report(copy))
    assert "runs of different experiments (custom, another)" in page.text
    assert "did not learn from the same data" in page.text
    differ = page.text.split("In what the runs differ", 1)[1].split("Who could learn what")[0]
    for key in ("experiment", "seed", "evaluation", "privacy.kind", "training.learning_rate"):
        assert key in differ
    assert "rounds" not in differ
    for run in "abc":
        assert f"{result_of(copy / run)['final']['evaluate']['accuracy']:.3f}" in page.text
    # One table for each of the two ways in which these runs protect.
    assert page.text.count("A listener on the network") == 2


def test_report__of_unlike_metrics_shows_only_those_that_all_have(copy: Path) -> None:
    final = result_of(copy / "c")["final"]
    del final["evaluate"]["auc"]
    edit(copy / "c", final=final)
    labels = [a["aria-label"] for t, a in Page(report(copy)).tags if t == "svg"]
    assert [
        name for name in ("accuracy", "AUC") if any(f"Test {name}" in str(x) for x in labels)
    ] == ["accuracy"]


def test_groups__are_runs_that_differ_in_their_seed_alone(runs: Path) -> None:
    found, missing = read_runs(runs)
    assert not missing
    groups = grouped(found)
    assert [[run.name for run in group.runs] for group in groups] == [["a", "b"], ["c"]]
    assert [group.epsilon is None for group in groups] == [False, True]


def test_telling__leaves_out_what_follows_from_the_option_of_a_group(copy: Path) -> None:
    found, _ = read_runs(copy)
    keys = {difference.key for difference in differences(found)}
    assert {"privacy.kind", "privacy.clip_norm", "privacy.delta", "seed"} <= keys
    keys_that_tell = telling(found)
    assert "privacy.kind" in keys_that_tell
    assert not {"privacy.clip_norm", "privacy.delta", "privacy.epsilon"} & set(keys_that_tell)
    config = result_of(copy / "b")["config"]
    edit(copy / "b", config=config | {"privacy": config["privacy"] | {"epsilon": 2.0}})
    assert "privacy.epsilon" in telling(read_runs(copy)[0]), "where it varies by itself it tells"


def test_report__plots_the_mean_over_seeds_at_the_epsilon_that_was_spent(
    runs: Path, text_of: Callable[[str], str]
) -> None:
    accuracies = [result_of(runs / n)["final"]["evaluate"]["accuracy"] for n in "ab"]
    spent = result_of(runs / "a")["privacy"]["epsilon"]
    label = next(str(a["aria-label"]) for t, a in Page(text_of(".")).tags if t == "svg")
    assert f"epsilon {spent:.3g}: {sum(accuracies) / 2:.3f}" in label


@pytest.mark.slow
def test_report__keeps_half_a_run_out_of_the_curves_but_lists_it(copy: Path) -> None:
    edit(copy / "b", status="failed", reason="lost power")
    page = Page(report(copy))
    assert "b: failed, lost power" in page.text
    accuracy = result_of(copy / "a")["final"]["evaluate"]["accuracy"]
    label = next(str(a["aria-label"]) for t, a in page.tags if t == "svg")
    assert f": {accuracy:.3f}" in label
    assert [str(a.get("data-key")) for t, a in page.tags if t == "td"].count("failed") == 1


def test_report__of_a_comparison_without_a_result_yet_lists_what_is_missing(tmp_path: Path) -> None:
    plan = SweepPlan(
        name="seed=0", overrides=("seed=0",), swept={"seed": "0"}, reference=None, site=None
    )
    write_comparison(tmp_path, Comparison(points=[point_result(plan, None)]))
    page = Page(report(tmp_path))
    assert "Not finished: seed=0: planned" in page.text
    assert "share no metric" in page.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "holds neither a run"),
        ("{}", "not a comparison that this version reads"),
        ('{"schema": "fedlearn/compare/v9", "points": []}', "schema is 'fedlearn/compare/v9'"),
    ],
)
def test_report__of_no_runs_is_refused(
    content: str | None, reason: str, tmp_path: Path, capsys: Output
) -> None:
    if content is not None:
        (tmp_path / "compare.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 5
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_report__of_a_result_that_was_tampered_with_is_refused(copy: Path, capsys: Output) -> None:
    edit(copy / "a", seconds="many")
    assert main(["report", str(copy / "a")]) == 5
    assert "not a result that this version reads" in capsys.readouterr().err


def test_report__of_metrics_without_the_one_that_leads_is_refused(
    copy: Path, capsys: Output
) -> None:
    final = result_of(copy / "a")["final"]
    for where in ("evaluate", "per_site"):
        without = json.loads(json.dumps(final))
        found = without[where] if where == "evaluate" else next(iter(without[where].values()))
        del found["accuracy"]
        edit(copy / "a", final=without)
        assert main(["report", str(copy / "a")]) == 5
        assert f"final.{where}" in (said := capsys.readouterr().err)
        assert "without accuracy, the metric that leads" in said
    final["per_site"][final["worst_site"]] = {}
    edit(copy / "a", final=final)
    assert main(["report", str(copy / "a")]) == 5
    assert f"final.per_site.{final['worst_site']}: without" in capsys.readouterr().err


@pytest.mark.slow
def test_report__names_sites_that_were_set_aside_and_their_reasons(copy: Path) -> None:
    """They are words of sites: what looks like a tag is none."""
    edit(copy / "a", declined=["site <b>oak</b>: the roster has no such site"])
    page = Page(report(copy / "a"))
    assert "went on without sites that were asked to take part: site <b>oak</b>: the" in page.text
    edit(copy / "a", declined=[])
    assert "went on without sites" not in Page(report(copy / "a")).text


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "added"), [("record", True), ("client", False)])
def test_headline__of_a_run_with_a_parent_has_what_both_have_spent(
    unit: str, added: bool, copy: Path
) -> None:
    result = result_of(copy / "a")
    parent = {"sha256": "ab" * 32, "run_id": "cd" * 16, "unit": unit, "epsilon": 1.5, "delta": 1e-6}
    result["config"] |= {"init": "before", "parent": parent}
    (copy / "a" / "result.json").write_text(json.dumps(result))
    tiles = unescape(report(copy / "a")).partition('class="tiles"')[2].partition("</section>")[0]
    own = result["privacy"]["epsilon"]
    assert f"<b>{own:.4g}"[:6] in tiles
    assert "per record" in tiles
    assert ("epsilon together with the run that it begins from" in tiles) is added
    assert (f"<b>{own + 1.5:.3g}"[:5] in tiles) is added
