"""Where noise and coins come from."""

from __future__ import annotations

import os
import secrets
import select
import signal
from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.special import ndtri

from fedlearn.privacy.noise import NoiseSource, SeededNoise
from simulations.attacks.whole_update.bench import Bench, Floats
from simulations.attacks.whole_update.counting import Counting
from simulations.engines.forks import forking

_PATIENCE: Final = 10.0
"""Seconds that a twin of this process may take for a few draws."""

_DRAWS: Final = 1 << 11
"""Draws among which two of the same key are looked for: there are some among 2^20 keys."""

_VALUES: Final = 1 << 14
"""Numbers of a draw that are held against another draw."""

Source = Callable[[], NoiseSource]


def source_is_the_sites(bench: Bench, made: Counting) -> tuple[bool, str]:
    """Whether noise and coins are those of the source, and that of the site is no other's."""
    sound, where = source_is_sound(lambda: bench.site.noise(1))
    if not sound:
        return False, where
    seed = secrets.token_bytes(16)
    given = made.given()
    one, same = (made.bench.update(given, made.loss, noise=SeededNoise(seed)) for _ in range(2))
    other = made.bench.update(given, made.loss, noise=SeededNoise(secrets.token_bytes(16)))
    repeats = np.allclose(one, same, rtol=0, atol=1e-4)
    if not repeats or (bench.at_site and np.allclose(one, other, rtol=0, atol=1e-4)):
        return False, "noise or coins that are not drawn from the site's source"
    return True, ""


def source_is_sound(source: Source) -> tuple[bool, str]:
    """Whether what is drawn never comes again, in this process or in a twin of it."""
    if not source().is_private:
        return False, "the source of the noise, which can be repeated"
    if not _differs_in_twins(source):
        return False, "noise that comes again where a program starts from the same state"
    drawn = source()
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: drawn.normal(8, 1.0).tobytes(),
        lambda: drawn.bernoulli(128, 0.5).tobytes(),
        lambda: drawn.stream().words(4).tobytes(),
    )
    for draw in ways:
        if len({draw() for _ in range(_DRAWS)}) < _DRAWS:
            return False, "a source of few keys, whose draws come again"
    return True, ""


def drawn_beside(source: Source) -> tuple[Floats, dict[str, Floats]]:
    """Normals from a stream of a source, and by name what it draws before and after them."""
    drawn = source()
    before = drawn.bernoulli(_VALUES, 0.5)
    uniform = drawn.stream().words(_VALUES) * 2.0**-64
    others = {
        "coins before": before,
        "coins after": drawn.bernoulli(_VALUES, 0.5),
        "normals after": drawn.normal(_VALUES, 1.0),
        "words after": drawn.stream().words(_VALUES) * 2.0**-64,
        "words of a source made anew": source().stream().words(_VALUES) * 2.0**-64,
    }
    wide = {what: values.astype(np.float64) for what, values in others.items()}
    return np.asarray(ndtri(np.clip(uniform, 1e-20, 1 - 1e-16))), wide


def _differs_in_twins(source: Source) -> bool:
    """Whether two copies of this process, in the same state, draw other noise and other coins."""
    if not hasattr(os, "fork"):
        return True
    one, other = (_drawn_by_a_twin(source) for _ in range(2))
    return all(a != b for a, b in zip(one, other, strict=True))


def _drawn_by_a_twin(source: Source) -> tuple[bytes, ...]:
    reading, writing = os.pipe()
    with forking():
        twin = os.fork()
    if twin == 0:
        try:
            drawn = source()
            some = drawn.normal(16, 1.0).tobytes() + drawn.bernoulli(128, 0.5).tobytes()
            os.write(writing, some + drawn.stream().words(16).tobytes())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        # A twin may hang on a lock of a thread that it has not got; it then says nothing.
        answered = select.select([pipe], [], [], _PATIENCE)[0]
        if not answered:
            os.kill(twin, signal.SIGKILL)
        found = pipe.read()
    os.waitpid(twin, 0)
    found = found or secrets.token_bytes(64 + 128 + 128)
    return found[:64], found[64:192], found[192:]
