"""Reports in every language: all of each, nothing of another, and numbers as it writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from jinja2 import nodes

from fedlearn.cli import main
from fedlearn.core.errors import ConfigError
from fedlearn.core.language import (
    ENGLISH,
    FOLDER,
    Figure,
    codes,
    language,
    language_of,
    message,
    read,
)
from fedlearn.report.facts import Facts
from fedlearn.report.made_smaller import AlikeAnswers, Compared, Costs, Weighed, texts_of
from fedlearn.report.page import write_report
from fedlearn.report.texts import (
    TEMPLATES,
    _environment,
    bytes_text,
    code_block,
    render,
    texts,
    up,
)
from fedlearn.report.verdict import verdict
from fedlearn.report.written import Samples
from fedlearn.results.reading import read_result
from fedlearn.results.result import ResultFile
from tests.fedlearn.report.sentences import entry, sentences
from tests.simulations.small import rename, table

OTHERS = [code for code in codes() if code != "en"]
TERM = {
    "de": "Differential Privacy (differenzielle Privatsphäre)",
    "es": "privacidad diferencial",
    "fr": "confidentialité différentielle",
    "zh": "差分隐私",
}
PLACE = re.compile(r"%\((\w+)\)s")
ENGLISH_WORDS = re.compile(r"\b(the|and|are|is|which|with|from|that|this|were|has|have)\b")
SIGNS = re.compile(r"%\(\w+\)s|%%|\W|\d|_")


def test_languages__are_those_that_a_file_is_there_for() -> None:
    assert {"en", "de", "es", "fr", "zh"} <= set(codes())
    with pytest.raises(ConfigError, match="language=xx: no such language; there are en, de"):
        language_of("xx")
    for code in OTHERS:
        assert language(code).code == code


@pytest.mark.parametrize("code", OTHERS)
def test_catalogue__has_every_sentence_and_no_other(code: str) -> None:
    known, wanted = language(code).messages, {forms[0] for forms in sentences()}
    missing = [entry(forms) for forms in sentences() if forms[0] not in known]
    assert not missing, f"add to {FOLDER / code}.po:\n\n" + "\n".join(missing)
    assert not known.keys() - wanted, "nobody says these any more"


@pytest.mark.parametrize("code", OTHERS)
def test_catalogue__keeps_the_values_of_a_sentence(code: str) -> None:
    known = language(code).messages
    for forms in sentences():
        values = set(PLACE.findall(" ".join(forms)))
        for form in known[forms[0]]:
            assert set(PLACE.findall(form)) == values, form
            bare = PLACE.sub("", form).replace("%%", "")
            assert "%" not in bare or not (values or "%%" in forms[0]), form


@pytest.mark.parametrize("code", OTHERS)
def test_catalogue__has_a_form_for_every_number_and_the_right_one(code: str) -> None:
    found = language(code)
    several = [forms for forms in sentences() if len(forms) > 1]
    assert several
    wanted = {found.plural(count) for count in range(200)}
    for one, many in several:
        assert len(found.messages[one]) == len(wanted)
        assert found.many(one, many, 7) == found.messages[one][found.plural(7)]
    assert [found.plural(n) for n in (0, 1, 2)] == {
        "de": [1, 0, 1], "es": [1, 0, 1], "fr": [0, 0, 1], "zh": [0, 0, 0],
    }.get(code, [found.plural(n) for n in (0, 1, 2)])  # fmt: skip


@pytest.mark.parametrize("code", OTHERS)
def test_catalogue__leaves_no_english(code: str) -> None:
    for text, forms in language(code).messages.items():
        letters = SIGNS.sub("", text)
        if "connect the dots" in text or not letters:
            continue
        for form in forms:
            if form == text:
                assert len(SIGNS.sub(" ", PLACE.sub("", text)).split()) <= 2, text
            assert not ENGLISH_WORDS.search(form), form
            if code == "zh" and form != text and SIGNS.sub("", form):
                assert re.search(r"[\u4e00-\u9fff。，、：；（]", form), form


# --- nothing but marked sentences in templates ----------------------------------------------

MARKUP = re.compile(
    r"<(style|script|pre)\b.*?</\1>|<!doctype[^>]*>|<[^>]*>|\[[^\]]*\]\([^)]*\)", re.S
)
SAME = {"epsilon", "delta", "p", "fedlearn"}
READ_ALOUD = re.compile(r'(?:alt|aria-label|title|data-name)="([^"]*)"')


def unmarked(source: str) -> Iterator[str]:
    """Words of a template that are the same in every language, because nothing marks them."""
    tree = _environment("html").parse(source)
    text = "".join(data.data for data in tree.find_all(nodes.TemplateData))
    for read_aloud in READ_ALOUD.findall(text):
        yield from re.findall(r"[A-Za-z]{2,}", read_aloud)
    shown = MARKUP.sub(" ", re.sub(r"<[^<>]*$", " ", text))
    yield from re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]*>?|[\w-]+=\"[^\"]*\"?", " ", shown))


def test_templates__say_nothing_that_a_language_cannot_say() -> None:
    answers = {"holds", "does", "not", "hold", "checked"}  # of the checklist: said where shown
    for path in TEMPLATES.rglob("*.*"):
        if path.name.startswith(("style", "sort")):
            continue
        assert set(unmarked(path.read_text())) <= SAME | answers | {"SHA"}, path


def test_templates__that_say_a_word_without_a_mark_are_found() -> None:
    assert [*unmarked("<p>Hello</p>")] == ["Hello"]
    assert [*unmarked('<p aria-label="Hello">{{ _("x") }}</p>')] == ["Hello"]
    assert [*unmarked("<p>{% trans %}Hello{% endtrans %} {{ value }}</p>")] == []


# --- numbers --------------------------------------------------------------------------------


def test_numbers__are_written_as_each_language_does() -> None:
    written = {code: language(code).number(12345.678, ",.2f") for code in codes()}
    assert written["en"] == written["zh"] == "12,345.68"
    assert written["de"] == written["es"] == "12.345,68"
    assert written["fr"] == "12\u202f345,68"
    share = {code: language(code).number(0.0512, ".1%") for code in codes()}
    assert share["en"] == share["zh"] == "5.1%"
    assert share["de"] == share["es"] == "5,1\u00a0%"
    assert share["fr"] == "5,1\u202f%"
    assert up(1.23401, language("de")) == "1,235"
    assert bytes_text(1234567, language("fr")) == "1,23 MB"


def test_message__is_english_until_a_language_says_it() -> None:
    one = message("%(name)s gets %(metric)s %(theirs)s, this model %(ours)s.",
                  name=message("a logistic regression on all records together"),
                  metric="AUC", theirs=Figure(0.5, ".3f"), ours=Figure(0.75, ".3f"))  # fmt: skip
    assert one == "a logistic regression on all records together gets AUC 0.500, this model 0.750."
    assert "0,750" in language("de").say(one)
    assert "logistische Regression" in language("de").say(one)
    named = message("%(site)s in %(count)s", site="run", count=3)
    assert language("de").say(named) == "run in 3", "a site's name is no sentence"
    assert language("de").say("never heard of") == "never heard of"


def test_sentence_that_a_catalogue_lacks__stays_english() -> None:
    header = '\n'.join(f'"{line}\\n"' for line in (
        "Language: xx", "Plural-Forms: nplurals=2; plural=(n != 1);", "X-Name: X",
        "X-Decimal: ,", "X-Group: .", "X-Percent: %",
    ))  # fmt: skip
    found = read(
        f'msgid ""\nmsgstr ""\n{header}\n\nmsgid "a"\nmsgstr ""\n\nmsgid "b \\"c\\""\nmsgstr "d"\n'
    )
    assert (found.one("a"), found.one('b "c"'), found.number(1.5, "g")) == ("a", "d", "1,5")
    with pytest.raises(ValueError, match="its header lacks"):
        read('msgid "a"\nmsgstr "b"\n')


# --- a run ----------------------------------------------------------------------------------

NAMES = ("<b>浙江医院</b>", "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = [*table(folder), "privacy.delta=1e-3", f"out={folder / 'run'}", "report.language=de"]
    assert main(["simulate", *words]) == 0
    rename(folder / "run", dict(zip(("north", "south"), NAMES, strict=True)))
    return folder / "run"


def shown(page: str) -> str:
    body = re.sub(r"<(style|script|pre|code|svg)\b.*?</\1>", " ", page, flags=re.S)
    return unescape(re.sub(r"<[^>]*>", " ", body))


def test_run__is_reported_in_the_language_of_its_config_or_as_asked(run: Path) -> None:
    made = (run / "report.html").read_text()
    assert '<html lang="de">' in made
    assert "Privatsphäre-Erklärung" in made
    assert main(["report", str(run), "--language", "xx"]) == 2
    assert main(["report", str(run), "--language", "en"]) == 0
    assert '<html lang="en">' in (run / "report.html").read_text()


def test_language__changes_neither_the_terms_of_a_study_nor_its_promise(run: Path) -> None:
    from fedlearn.config import compose

    plain, german = compose(["scenario=heart"]), compose(["scenario=heart", "report.language=de"])
    assert plain.terms == german.terms
    assert read_result(run).privacy.statement.startswith("Each single record"), "of record: English"


@pytest.mark.parametrize(
    "code", [pytest.param(c, marks=() if c == "zh" else pytest.mark.slow) for c in OTHERS]
)
def test_report__in_a_language_has_no_sentence_of_another(run: Path, code: str) -> None:
    page = write_report(run, code).read_text()
    text = " ".join(shown(page).split())
    assert TERM[code] in text
    assert f'<html lang="{code}">' in page
    for forms in sentences():
        for part in PLACE.split(forms[0])[::2]:
            if len(part.split()) >= 4 and language(code).one(forms[0]) != forms[0]:
                assert part.strip() not in text, part
    assert "<b>浙江" not in page
    assert "浙江医院" in page


def costs_for(result: ResultFile) -> Costs:
    """Of a smaller model that was weighed in every way there is."""
    weighed = Weighed(
        source="new.csv",
        all_sites=Compared(before={"accuracy": 0.9}, after={"accuracy": 0.8}),
        per_site={"浙江": Compared(before={"accuracy": 0.9}, after={"accuracy": 0.8})},
        agreement=AlikeAnswers(records=3, same=1.0, largest=0.0),
        unmeasured="private",
    )
    return Costs(
        form="int8", run_id="", model_sha256=result.model.sha256, epsilon=None, delta=None,
        metric="accuracy", bytes_before=40, bytes_after=10, weighed=weighed,
        worst_site="浙江", most_lost="浙江",
    )  # fmt: skip


@pytest.mark.parametrize("code", OTHERS)
def test_statement__verdict_and_card_are_in_the_language_and_settings_as_typed(
    run: Path, code: str
) -> None:
    result = read_result(run)
    many = {name: replace(size, train=500_000) for name, size in result.data.sites.items()}
    result = replace(result, data=replace(result.data, sites=many))
    facts = Facts(result=result, hashes={}, language=language(code))
    said = " ".join(remark.says for remark in verdict(facts))
    assert not ENGLISH_WORDS.search(said), said
    assert f"privacy.delta={facts.fitting_delta:g}" in said
    text = facts.promise.text
    assert TERM[code] in text
    assert not ENGLISH_WORDS.search(text.replace("connect the dots", "")), text
    epsilon = re.findall(r"(?i:epsilon)\D{1,3}([\d.,]+)", text)
    assert epsilon
    smaller = texts_of(costs_for(result), facts.task, facts.language)
    assert not ENGLISH_WORDS.search(" ".join(smaller.lines("size") + smaller.lines("cost")))
    written = {**facts.texts, "samples": Samples(failed=True), "block": code_block}
    written |= {"smaller": smaller, "costs": costs_for(result)}
    card = render("model_card.md.j2", settings="", **written)
    assert not ENGLISH_WORDS.search(card.split("SHA-256")[0]), card


def test_statement_of_an_older_release__is_shown_in_english_and_says_why(run: Path) -> None:
    result = read_result(run)
    older = replace(result, privacy=replace(result.privacy, promise=None))
    facts = Facts(result=older, hashes={}, language=language("fr"))
    assert facts.promise.language == ENGLISH
    assert facts.promise.text == result.privacy.statement


def test_texts__without_a_language_are_english() -> None:
    assert texts({}, "promise")["promise"]["record_image"] == "an image"
    assert texts({"language": language("fr")}, "promise")["promise"]["record_image"] == "une image"
