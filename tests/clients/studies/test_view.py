"""What an owner is shown of a study: all of its terms, under their own hash, and harmless."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.studies import asked
from clients.studies.view import decide, look
from clients.studies.words import MOST_PURPOSE, in_words, title_of
from fedlearn.cli import main
from fedlearn.config import RunConfig, compose, to_tree
from fedlearn.config.study import study_hash, study_text
from fedlearn.core.errors import ConfigError, DataError
from server.deployment import composed
from tests.effort import examples

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = """\
name: cleveland
data: {kind: heart}
ledger: state/ledger.jsonl
policy: {epsilon_total: 8.0, approval: ask}
"""


@cache
def study() -> RunConfig:
    return composed(["experiment=medical_heart", "purpose=Find heart disease early."])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


def ask(site: Path, config: RunConfig) -> str:
    return asked.note(site.parent / "state" / "ledger.jsonl", study_text(to_tree(config)), NOW, ())[
        0
    ]


def shown(config: RunConfig, *sites: str) -> str:
    parts = in_words(config, sites, "")
    return "\n".join(line for part in parts for line in (part.title, part.word, *part.lines))


def test_terms__are_said_in_plain_words() -> None:
    text = shown(study(), "cleveland", "hungary")
    for words in (
        "Find heart disease early.",
        "No others than these 2 sites: cleveland, hungary.",
        f"It starts with {max(study().strategy.min_sites, 3)} sites at the least.",
        f"epsilon {study().privacy.epsilon:g}",  # type: ignore[union-attr]
        "Each record is protected",
        "Approval raises no budget",
        "A coordinator that keeps to the protocol sees the sum of a round's updates",
        "Test metrics: private.",
    ):
        assert words in text


NOISE = ["privacy.epsilon=null", "privacy.noise_multiplier=1", "evaluation=none"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["privacy=none", "evaluation=pooled"], "No differential privacy: nothing bounds"),
        (["privacy=client"], "Each site as a whole is protected"),
        (NOISE, "Each record is protected with epsilon"),
        (["privacy=distributed", "secagg=masked"], "Each record is protected with epsilon"),
        (["privacy=none", "secagg=off", "evaluation=none"], "sees the update of every single site"),
    ],
)  # fmt: skip
def test_terms__of_every_kind_of_protection_are_said(words: list[str], sentence: str) -> None:
    config = compose(["experiment=medical_heart", *words])
    assert sentence in shown(config)


ODD = st.text(
    alphabet=st.one_of(
        st.characters(),
        st.sampled_from("\x1b[]\x07\u202e\u2066\u200b\u200f\x00\x85\u2028\n\r<>&\"'`"),
    ),
    max_size=300,
)
HONEST = "A purpose that no example is."


def test_validation__and_models_of_a_site_are_said_to_its_owner() -> None:
    asked_for = ["scenario.validation_fraction=0.1", "training.keep=best", "training.patience=3"]
    text = shown(composed(["experiment=medical_heart", *asked_for]))
    assert "Some records were kept from training for validation." in text
    assert "epsilon is that of all rounds as planned" in text
    own = shown(composed(["experiment=medical_heart", "strategy=ditto"]))
    assert "Every site has a model of its own as well" in own


@settings(max_examples=examples(200), deadline=None)
@given(purpose=ODD)
def test_purpose__of_any_signs_draws_nothing_and_hides_no_line(purpose: str) -> None:
    honest, odd = (shown(replace(study(), purpose=one)).splitlines() for one in (HONEST, purpose))
    assert all(sign.isprintable() for line in odd for sign in line)
    assert [line for line in odd if line in honest and line] == [
        line for line in honest if line not in (HONEST, "")
    ]
    assert all(sign.isprintable() for sign in title_of(replace(study(), purpose=purpose)))


def test_purpose__that_is_long_is_cut_and_counted() -> None:
    text = shown(replace(study(), purpose="long " * 10_000))
    assert "It has 50,000 characters, of which the first are shown." in text
    assert len(max(text.splitlines(), key=len)) <= MOST_PURPOSE


@settings(max_examples=examples(40), deadline=None)
@given(purpose=st.text(st.characters(exclude_categories=("Cs",)), max_size=50),
       rounds=st.integers(1, 99))  # fmt: skip
def test_study__that_is_read_again_is_the_one_that_was_asked_for(
    tmp_path_factory: pytest.TempPathFactory, purpose: str, rounds: int
) -> None:
    ledger = tmp_path_factory.getbasetemp() / "asked" / "ledger.jsonl"
    config = replace(study(), purpose=purpose, rounds=rounds)
    terms = asked.note(ledger, study_text(to_tree(config)), NOW, ())[0]
    found = asked.load(asked.folder_beside(ledger) / f"{terms}.json")
    assert found.terms == config.terms.hex() == terms
    again = found.config()
    assert (again.terms, again.purpose, again.rounds) == (config.terms, purpose, rounds)


def test_study__whose_file_was_exchanged_is_not_shown(site: Path) -> None:
    one, other = ask(site, study()), ask(site, replace(study(), purpose="other"))
    folder = site.parent / "state" / "ledger.studies"
    (folder / f"{other}.json").replace(folder / f"{one}.json")
    (folder / "x.json").write_text("[" * 100_000)
    view = look(site)
    assert view.studies == ()
    assert len(view.wrong) == 2
    with pytest.raises(DataError, match="not those of its name"):
        asked.load(folder / f"{one}.json")


def test_study__of_another_release_cannot_be_approved(site: Path) -> None:
    tree = json.loads(study_text(to_tree(study())))
    for change in ({"newer": 1}, {"rounds": 2.0}):
        text = json.dumps({**tree, "config": {**tree["config"], **change}})
        terms = asked.note(site.parent / "state" / "ledger.jsonl", text, NOW, ())[0]
        assert terms == study_hash(text).hex()
        assert look(site).study(terms).choices == ("refuse",)
        with pytest.raises(ConfigError, match="not those of a study of this release"):
            decide(site, "approve", terms, NOW)


def test_study__longer_than_any_is_not_written_down(site: Path) -> None:
    with pytest.raises(ConfigError, match="more than"):
        ask(site, replace(study(), purpose="x" * asked.MOST_BYTES))
    assert look(site).studies == ()


def test_studies__are_private_files_in_a_private_folder(site: Path) -> None:
    terms = ask(site, study())
    folder = site.parent / "state" / "ledger.studies"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / f"{terms}.json").stat().st_mode & 0o777 == 0o600


def test_commands__list_show_and_decide(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terms, file = ask(site, study()), str(site)

    def said(*words: str, code: int = 0) -> str:
        assert main(["studies", *words]) == code
        found = capsys.readouterr()
        return found.out + found.err

    line = said("list", file)
    assert f"{terms[:16]}  waiting" in line
    assert 'medical_heart: "Find heart disease early."' in line
    assert "What it promises" in said("show", file)
    assert "What can be decided: approve, refuse" in said("show", file, terms[:16])
    assert f"study {terms[:16]} is approved" in said("approve", file, terms[:16])
    assert "is approved; what can be done with it: pause, withdraw" in said(
        "approve", file, terms[:16], code=2
    )
    assert "no study waits for a decision" in said("show", file)
    assert "is paused" in said("pause", file, terms)
    assert "is approved" in said("approve", file, terms)
    assert "is withdrawn" in said("withdraw", file, terms[:20])
    assert "a coordinator who changes the terms" in said("approve", file, terms[:16], code=2)
    assert "withdraw" in said("show", file, terms[:16])
    assert "there is none" in said("refuse", file, "0" * 16, code=2)


def test_list__of_a_site_that_nobody_has_asked_says_so(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["studies", "list", str(site)]) == 0
    assert "no study has asked yet" in capsys.readouterr().out
    assert list(site.parent.iterdir()) == [site], "it was looked at, and nothing made"
