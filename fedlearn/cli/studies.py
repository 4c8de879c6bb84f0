"""`fedlearn studies` and `fedlearn desk`: what the owner of a site decides of studies."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedlearn.cli.form import PAGE_PLACE, Call, Command, command, say_lines, takes
from fedlearn.core.errors import ConfigError

if TYPE_CHECKING:
    from clients.studies.decisions import Verb
    from clients.studies.view import StudyView

_FILE = takes("file", "the file of the site", "SITEFILE", there=ConfigError)
_HELP: Final = "the begin of its hash, as `fedlearn studies list` shows it"
_STUDY = takes("study", _HELP, "STUDY")


@command("studies list", "studies list site.yaml", _FILE)
def studies_list(options: argparse.Namespace) -> None:
    """The studies that the site was asked to take part in, and how each of them stands."""
    from clients.studies.view import look

    view = look(Path(options.file))
    for one in view.studies:
        print(f"{one.terms[:16]}  {one.standing:<9}  asked {one.asked.since}  {one.title}")
    if not view.studies:
        print(f"{view.site.name}: no study has asked yet")
    for problem in view.wrong:
        print(f"wrong: {problem}")


@command(
    "studies show",
    "studies show site.yaml 5be1d2a90c4477f0",
    _FILE,
    takes("study", f"{_HELP}; left out: all that wait", "STUDY", nargs="?"),
)
def studies_show(options: argparse.Namespace) -> None:
    """The terms of a study in plain words: what it is for, who takes part, what it promises, what
    leaves the site; and what was decided of it."""
    from clients.studies.view import look

    view = look(Path(options.file))
    if options.study is not None:
        chosen = [view.study(options.study)]
    else:
        chosen = [one for one in view.studies if one.standing == "waiting"]
    for one in chosen:
        _print(one)
    if not chosen:
        print(f"{view.site.name}: no study waits for a decision")


def _print(study: StudyView) -> None:
    print(f"study {study.terms}")
    print(f"{study.standing}, asked for since {study.asked.since}")
    if study.problem:
        print(study.problem)
    for part in study.parts:
        print(f"\n{part.title}")
        if part.word:
            print(f"  {part.word}")
        for line in part.lines:
            print(f"  {line}")
    for made in study.history:
        print(f"\n{made.time}: {made.verb}")
    if study.choices:
        print(f"\nWhat can be decided: {', '.join(study.choices)}")
    print()


def _deciding(verb: Verb, sentence: str) -> Command:
    def decided(options: argparse.Namespace) -> None:
        from clients.studies.view import decide

        study = decide(Path(options.file), verb, options.study, datetime.now(UTC))
        print(f"study {study.terms[:16]} is {study.standing}: {study.title}")

    decided.__doc__ = sentence
    call: Call = decided
    made: Command = command(
        f"studies {verb}", f"studies {verb} site.yaml 5be1d2a90c4477f0", _FILE, _STUDY
    )(call)
    return made


studies_approve = _deciding(
    "approve",
    "Let the site take part in a study under these terms and this pinned list of sites, or go on "
    "with one that is paused; what the policy or the ledger refuses stays refused.",
)
studies_refuse = _deciding(
    "refuse", "Take no part in a study, whatever list of sites comes; that is for good."
)
studies_pause = _deciding(
    "pause",
    "Take part in no further round of a study until it is approved again; the coordinator waits "
    "for a while, and goes on without the site then.",
)
studies_withdraw = _deciding(
    "withdraw",
    "End the site's part in a study for good, at once; what was spent and given is not taken back.",
)


@command(
    "desk",
    "desk site.yaml",
    _FILE,
    *PAGE_PLACE,
)
def desk(options: argparse.Namespace) -> None:
    """A page in the browser of this machine: studies that wait with their terms, approve, refuse,
    pause and withdraw, the budget and what was spent, refusals, receipts."""
    from clients.desk.server import serve

    serve(Path(options.file), options.address, options.port, say_lines)
