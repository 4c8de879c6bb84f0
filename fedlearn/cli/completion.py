"""What a shell offers at the press of a key: commands, options, keys of a run and their values.

A shell asks by calling `fedlearn` with what was typed so far (argcomplete). Keys are looked up
as a run would find them, under the options that other words choose, without what takes a second
to import.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fedlearn.cli.form import command, takes

SHELLS: Final = ("bash", "zsh", "fish")

_FILES: Final = frozenset({"path", "folder", "out", "init", "sites", "test_path", "vocabulary"})
"""Last names of keys whose values are files or folders."""
_DEMOS: Final = ("inversion", "poison", "exposure")


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may follow, and end; nothing where none does."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options=False)


@command(
    "completion",
    "completion bash",
    takes("shell", "the shell that you use", choices=SHELLS),
)
def completion(options: argparse.Namespace) -> None:
    """What a shell has to read to complete commands, keys and values: in ~/.bashrc by
    eval "$(fedlearn completion bash)", in zsh likewise, in fish by
    fedlearn completion fish | source."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["fedlearn"], shell=options.shell))


def words(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """`key=` and `key=value` that may go on as `prefix` begins, beside other overrides."""
    given = [word for word in getattr(parsed_args, "overrides", None) or () if word != prefix]
    return _words(prefix, given)


def audit_words(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The same of `fedlearn audit`: also folders of runs, and demonstrations."""
    given = [word for word in getattr(parsed_args, "words", None) or () if word != prefix]
    demos = [f"demo={name}" for name in _DEMOS] if "=" in prefix else ["demo="]
    demos = [word for word in demos if word.startswith(prefix)]
    return [*demos, *_words(prefix, given), *([] if "=" in prefix else _paths(prefix))]


def data_names(prefix: str, **_: Any) -> list[str]:
    """Sets of data that can be fetched."""
    from fedlearn.data.datasets import archives
    from fedlearn.data.images.medmnist_sets import SETS

    return [name for name in (*archives.ARCHIVES, *SETS) if name.startswith(prefix)]


def _words(prefix: str, given: list[str]) -> list[str]:
    key, is_value, text = prefix.partition("=")
    if is_value:
        return [f"{key}={value}" for value in _values(key, text, given) if value.startswith(text)]
    from fedlearn.config.layers import groups_of_files

    keys = {*groups_of_files(), *(name for name, _ in _leaves(_tree(given)))}
    return sorted(f"{name}=" for name in keys if name.startswith(key))


def _tree(given: list[str]) -> Mapping[str, Any]:
    """The settings of a run under the options that words choose."""
    from fedlearn.config.layers import composed, options_of

    chosen = (word.partition("=") for word in given)
    choices = {key: f"{key}={value}" for key, _, value in chosen if value in options_of(key)}
    return composed(tuple(choices.values()))


def _leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; which option a group has is no setting, but a choice."""
    for name, value in tree.items():
        whole = f"{before}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{whole}.")
        elif whole.count(".") != 1 or name != "kind":
            yield whole, value


def _values(key: str, text: str, given: list[str]) -> list[str]:
    from fedlearn.config.layers import options_of

    if options := options_of(key):
        return options
    if key.rpartition(".")[2] in _FILES:
        return _paths(text)
    return _shown(dict(_leaves(_tree(given))).get(key))


def _shown(value: Any) -> list[str]:
    """What a setting may be where that can be listed, or else what it is unless it is set."""
    if isinstance(value, bool):
        return ["false", "true"]
    plain = isinstance(value, int | float) or (isinstance(value, str) and "$" not in value)
    return [str(value)] if plain and value not in ("", "???") else []


def _paths(text: str) -> list[str]:
    """Files and folders that begin so; a folder ends with a slash."""
    folder, _, begun = text.rpartition("/")
    place = Path(folder or ("/" if text.startswith("/") else "."))
    try:
        found = sorted(place.iterdir()) if place.is_dir() else []
    except OSError:  # it may not be read
        return []
    before = text[: len(text) - len(begun)]
    shown = [one for one in found if one.name.startswith(begun) and (begun or one.name[0] != ".")]
    return [f"{before}{one.name}{'/' if one.is_dir() else ''}" for one in shown]
