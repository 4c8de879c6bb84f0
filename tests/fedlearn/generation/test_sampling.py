"""The next token: the likeliest one, or drawn with the chances that transformers has."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlearn.core.errors import ConfigError, DataError
from fedlearn.generation.sampling import Sampling, chances, next_token

RNG = np.random.default_rng(0)


def logits(seed: int, size: int = 50) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 3, size).astype(np.float32))


def test_token__without_temperature_is_the_likeliest_and_draws_nothing() -> None:
    before = RNG.bit_generator.state
    assert all(
        next_token(one, Sampling(), RNG) == int(one.argmax()) for one in map(logits, range(9))
    )
    assert RNG.bit_generator.state == before


@given(
    st.integers(0, 9),
    st.floats(0.1, 4),
    st.integers(0, 60),
    st.floats(0.05, 1),
)
def test_chances__are_of_the_fewest_likeliest_tokens_that_are_asked_for(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    one = logits(seed)
    found = chances(one, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    kept = found > 0
    assert found.sum() == pytest.approx(1)
    assert kept.any()
    assert not top_k or kept.sum() <= top_k
    whole = one.double().numpy() / temperature
    assert kept.all() or whole[kept].min() >= whole[~kept].max()
    # Apart from those that are left out, odds are those of the logits.
    best = found.argmax()
    odds = np.exp(whole[kept] - whole[best])
    np.testing.assert_allclose(found[kept] / found[best], odds, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("transformers"), reason="needs fedlearn[text]")
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.9), (0.5, 7, 0.6), (2.0, 1, 0.1)],
)
def test_chances__are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    for seed in range(5):
        theirs = logits(seed)[None]
        for step in (
            TemperatureLogitsWarper(temperature),
            *([TopKLogitsWarper(top_k)] if top_k else []),
            *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
        ):
            theirs = step(torch.zeros((1, 0), dtype=torch.int64), theirs)
        found = chances(logits(seed), Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
        np.testing.assert_allclose(found, theirs[0].softmax(0).numpy(), atol=1e-6)


def test_token__is_drawn_as_often_as_its_chance_says() -> None:
    one, how = torch.tensor([0.0, 1.0, 2.0, -1.0]), Sampling(temperature=1.0)
    expected = one.double().softmax(0).numpy()
    drawn = np.bincount([next_token(one, how, RNG) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(drawn - expected).max() < 4 * np.sqrt(0.25 / 4000)


def test_token__of_no_chance_is_never_drawn() -> None:
    class Last:
        def random(self) -> float:
            return np.nextafter(1.0, 0.0)

    one, how = torch.tensor([1.0, 0.0, 0.0]), Sampling(temperature=1.0, top_k=1)
    assert next_token(one, how, Last()) == 0  # type: ignore[arg-type]
    one = torch.tensor([0.0, -1e30, -1e30])
    assert next_token(one, Sampling(temperature=1e-300), Last()) == 0  # type: ignore[arg-type]


def test_a_diverged_model__is_said_to_have_diverged() -> None:
    with pytest.raises(DataError, match="diverged"):
        next_token(torch.tensor([0.0, torch.nan]), Sampling(), RNG)


def test_sampling__that_has_no_meaning_is_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Sampling(top_k=4, samples=2)
    assert str(error.value).count("has no effect with temperature=0") == 2
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Sampling(**wrong)  # type: ignore[arg-type]
