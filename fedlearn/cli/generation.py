"""`fedlearn generate`: what a language model of a run, or of an export, makes of prompts."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from fedlearn.cli.form import command, takes
from fedlearn.core.errors import ConfigError, DataError
from fedlearn.core.files import possible

if TYPE_CHECKING:
    from fedlearn.generation.generator import Answer, TextGenerator
    from fedlearn.generation.prompts import Prompt
    from fedlearn.generation.sampling import Sampling

BASE: Final = takes(
    "--base",
    "the folder of the model that an export was tuned from, if it lies elsewhere than for the run",
    "FOLDER",
)
_WAYS: Final = ("prompt", "text", "message")


@command(
    "generate",
    "generate runs/law --prompt Confidentiality --max-tokens 80",
    takes(
        "model",
        "a run of task=language, or what `fedlearn export` made of it",
        "FOLDER",
        there=DataError,
    ),
    takes(
        "--prompt", "what is to be answered; may be given several times", "TEXT", action="append"
    ),
    takes(
        "--file",
        "prompts: lines of JSON (.jsonl), or a table, with `prompt`, `text` or `messages`",
        "FILE",
    ),
    takes(
        "--as",
        "what --prompt is: a prompt, as those of the run (default); a text that is to go on; or a "
        "message, in a conversation by the model's own template",
        "|".join(_WAYS),
        dest="way",
        choices=_WAYS,
    ),
    takes("--max-tokens", "of an answer (default: 64)", "N", type=int),
    takes(
        "--temperature",
        "0: the likeliest token every time (default); above, tokens are drawn, and 1 leaves their "
        "chances as they are",
        "T",
        type=float,
    ),
    takes("--top-k", "draw among so many, the likeliest ones (default: all)", "K", type=int),
    takes("--top-p", "draw among the likeliest that have this chance together", "P", type=float),
    takes("--stop", "ends an answer; may be given several times", "TEXT", action="append"),
    takes("--samples", "answers to each prompt (default: 1)", "N", type=int),
    takes("--seed", "of what is drawn (default: 0)", "N", type=int),
    takes("--untuned", "ask the model as it was before training", action="store_true"),
    BASE,
    takes("--json", "a line of JSON for every answer", action="store_true"),
    takes("--to", "where answers are written (default: the screen)", "FILE"),
)
def generate(options: argparse.Namespace) -> None:
    """What a language model makes of prompts."""
    sampling = _sampling(options)
    if (options.prompt is None) == (options.file is None):
        raise ConfigError("--prompt: give either prompts or a --file of them")
    if options.way is not None and options.file is not None:
        raise ConfigError("--as: goes with --prompt; a file says of every line what it is")
    generator = _generator(options)
    asked = _asked(generator, options)
    for note in generator.notes(asked, sampling):
        print(f"note: {note}", file=sys.stderr)
    alone = len(asked) == 1 and sampling.samples == 1
    with _output(options.to) as out:
        for answer in generator.answers(asked, sampling):
            print(_json(answer) if options.json else _text(answer, alone), file=out, flush=True)


def _sampling(options: argparse.Namespace) -> Sampling:
    """What of the command line says how to draw, checked before a model is read."""
    from fedlearn.config import decode
    from fedlearn.generation.sampling import Sampling

    named = {one.name: getattr(options, one.name) for one in fields(Sampling)}
    return decode(Sampling, json.dumps({n: v for n, v in named.items() if v is not None}))


def _generator(options: argparse.Namespace) -> TextGenerator:
    from fedlearn.data.datasets.archives import default_cache
    from fedlearn.generation.generator import TextGenerator
    from fedlearn.report.export import open_model

    found = open_model(Path(options.model), options.base or "", tuned=not options.untuned)
    return TextGenerator.of(found, default_cache(os.environ))


def _asked(generator: TextGenerator, options: argparse.Namespace) -> list[Prompt]:
    if options.file is not None:
        return generator.prompts.read(Path(options.file))
    return generator.prompts.asked(options.prompt, options.way or "prompt")


@contextmanager
def _output(to: str | None) -> Iterator[TextIO]:
    if to is None:
        yield sys.stdout
        return
    with (
        possible("written", f"--to {to}", ConfigError),
        Path(to).open("w", encoding="utf-8") as file,
    ):
        yield file


def _json(answer: Answer) -> str:
    found: dict[str, Any] = vars(answer)
    # A prompt can hold half a character, which no file does.
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace").decode()


def _text(answer: Answer, alone: bool) -> str:
    """The answer; below its prompt where there are several. It draws nothing on a terminal."""
    from fedlearn.core.names import harmless

    if alone:
        return harmless(answer.text)
    return f"> {harmless(answer.prompt.strip())}\n{harmless(answer.text)}\n"
