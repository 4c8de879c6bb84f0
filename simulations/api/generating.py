"""Text from a language model that a run has tuned, in Python."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlearn.core.errors import ConfigError

if TYPE_CHECKING:
    from fedlearn.generation.generator import Answer
    from fedlearn.generation.prompts import Way


def generate(
    folder: Path | str,
    *prompts: str,
    way: Way = "prompt",
    tuned: bool = True,
    base: Path | str = "",
    **sampling: Any,
) -> list[Answer]:
    """What the language model of a run, or of an export, makes of prompts.

    Args:
        folder: a run of `task=language`, or what `fedlearn export` wrote of one.
        prompts: made into tokens as those of the run's records were.
        way: `prompt`; or `text`, which is to go on; or `message`, what a user says in a
            conversation, by the model's own template.
        tuned: False: as the model was before training.
        base: where the model lies that an export was tuned from, if not where the run had it.
        sampling: `max_tokens` (64), `temperature` (0: the likeliest token every time), `top_k`,
            `top_p`, `stop` (words that end an answer), `samples`, `seed`.

    Returns:
        An answer for every prompt and sample: `text`, how it `ended`, and its `tokens`.

    Raises:
        ConfigError: it is no language model, or what is asked for has no meaning.
        DataError: there is no such model, or it is not the one that its folder names.
    """
    from fedlearn.config import decode
    from fedlearn.data.datasets.archives import default_cache
    from fedlearn.generation.generator import TextGenerator
    from fedlearn.generation.sampling import Sampling
    from fedlearn.report.export import open_model

    wanted = decode(Sampling, json.dumps(sampling))
    if way not in ("prompt", "text", "message"):
        raise ConfigError(f"way={way}: must be prompt, text or message")
    model = open_model(Path(folder), str(base), tuned=tuned)
    generator = TextGenerator.of(model, default_cache(os.environ))
    return list(generator.answers(generator.prompts.asked(prompts, way), wanted))
