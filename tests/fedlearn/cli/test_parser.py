"""Every command can be called, explains itself, and takes its arguments in any order."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from fedlearn.cli import main
from fedlearn.cli.form import Commands
from fedlearn.cli.parser import parse, parser


def command_names(root: argparse.ArgumentParser) -> Iterator[str]:
    """The words of every command that can be called."""
    for action in root._actions:  # argparse has no public way to list them
        if isinstance(action, Commands):
            for child in action.choices.values():
                yield from command_names(child)
    if command := root.get_default("command"):
        yield command


COMMANDS = sorted(command_names(parser()))
GROUPS = ["", "data", "keys", "keys roster", "ledger", "studies"]


def test_commands__each_call_something_of_their_own() -> None:
    called = [leaf(parser(), words.split()).get_default("call") for words in COMMANDS]
    assert len(called) == 41
    assert all(map(callable, called))
    assert len(set(called)) == len(called)


@pytest.mark.parametrize("words", [*GROUPS, *COMMANDS])
@pytest.mark.parametrize("columns", ["40", "200"])
def test_help__of_every_command_shows_an_example_of_it_on_one_line(
    words: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as end:
        main([*words.split(), "--help"])
    assert end.value.code == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"example: fedlearn {words}".strip())


@pytest.mark.parametrize("words", COMMANDS)
def test_help__says_what_every_argument_is(words: str) -> None:
    command = leaf(parser(), words.split())
    assert all(action.help for action in command._actions)


def leaf(of: argparse.ArgumentParser, words: list[str]) -> argparse.ArgumentParser:
    """The parser of a command, by its words."""
    if not words:
        return of
    (group,) = (action for action in of._actions if isinstance(action, Commands))
    return leaf(group.choices[words[0]], words[1:])


@pytest.mark.parametrize("words", [*GROUPS, "nothing", "keys nothing", "keys new", "export runs/x"])
def test_commands__that_are_incomplete_end_with_2(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    assert "usage: fedlearn" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["server server.yaml --check a=1 b=2", "server server.yaml a=1 --check b=2",
     "server --check server.yaml a=1 b=2", "server server.yaml a=1 b=2 --check"],
)  # fmt: skip
def test_overrides__stand_before_and_after_options(words: str) -> None:
    options = parse(words.split())
    assert options.file == "server.yaml"
    assert options.overrides == ["a=1", "b=2"]
    assert options.check


@pytest.mark.parametrize("words", ["simulate a=1 --nothing", "report runs/x more", "client a b"])
def test_arguments__that_no_command_has_are_refused(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words.split())
    assert end.value.code == 2
    assert f"unrecognized arguments: {words.split()[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("simualte", "did you mean simulate?"),
        ("keys rotser", "did you mean roster?"),
        ("simulate --epsilon", "written key=value, as privacy.epsilon=VALUE"),
        ("simulate --epsilon 3", "written key=value, as privacy.epsilon=3"),
        ("compare --lr=0.1 seed=1", "written key=value, as training.learning_rate=0.1"),
        ("simulate --num-clients 4 seed=1", "written key=value, as partition.num_sites=4"),
        ("simulate --nothing", "written key=value, as nothing=VALUE"),
    ],
)
def test_words__that_are_nearly_right_are_answered_with_the_right_ones(
    words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(words.split())
    assert hint in capsys.readouterr().err


def test_examples__in_the_help_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in COMMANDS:
        with pytest.raises(SystemExit):
            main([*words.split(), "--help"])
        example = " ".join(capsys.readouterr().out.split()).split("example: fedlearn ")[1]
        assert parser().parse_args(example.split()).command == words
