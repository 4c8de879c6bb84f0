"""Spare rounds: the noise is that of all rounds that a site can pay for, as the promise says."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from fedlearn.config import compose, plan_of, to_tree
from fedlearn.core.errors import ConfigError
from server.deployment import composed

BASE = ("rounds=6", "evaluation=none", "privacy.delta=1e-5")
RECORD = (*BASE, "privacy=record", "training.sample_rate=1", "training.local_steps=2")
CLIENT = (*BASE, "privacy=client", "secagg=off", "transport=plain")


def delta_of(noise: float, releases: int, epsilon: float) -> float:
    """What so many Gaussian sums of sensitivity 1 cost: Balle and Wang 2018, theorem 8."""
    deviation = noise / math.sqrt(releases)
    shift = 1 / (2 * deviation)
    least = norm.cdf(shift - epsilon * deviation)
    return float(least - math.exp(epsilon) * norm.cdf(-shift - epsilon * deviation))


@pytest.mark.parametrize("spare", [0, 1, 4])
@pytest.mark.parametrize(("words", "steps"), [(RECORD, 2), (CLIENT, 1)])
def test_noise__is_that_of_rounds_and_spare_rounds_and_of_no_other_number(
    words: tuple[str, ...], steps: int, spare: int
) -> None:
    plan = plan_of(compose([*words, "privacy.epsilon=3", f"spare_rounds={spare}"]))
    assert plan is not None
    releases = steps * (6 + spare)
    assert delta_of(plan.noise_multiplier, releases, 3.0) <= 1e-5
    assert delta_of(plan.noise_multiplier, releases + steps, 3.0) > 1e-5, "and not for one more"
    assert plan.epsilon == pytest.approx(3.0, abs=0.02)
    assert plan.total_event.steps == releases


def test_epsilon__of_a_given_noise_counts_the_spare_rounds() -> None:
    words = [*RECORD, "privacy.epsilon=null", "privacy.noise_multiplier=4"]
    without, beside = (plan_of(compose([*words, f"spare_rounds={n}"])) for n in (0, 2))
    assert without is not None
    assert beside is not None
    assert delta_of(4, 16, beside.epsilon) == pytest.approx(1e-5, rel=0.05)
    assert beside.epsilon > without.epsilon


def test_spare__pays_for_no_evaluation_and_no_further_round() -> None:
    """The number of rounds, and which are evaluated, is what it was."""
    words = [*RECORD, "evaluation=private", "privacy.epsilon=3", "evaluate_every=3"]
    without, beside = (compose([*words, f"spare_rounds={n}"]) for n in (0, 2))
    assert beside.most_rounds == without.most_rounds == 6
    assert [beside.evaluates(n) for n in range(1, 9)] == [without.evaluates(n) for n in range(1, 9)]


def test_spare__is_in_the_terms_where_there_is_one_and_changes_no_other_run() -> None:
    plain, none, one = (
        compose([*RECORD, "privacy.epsilon=3", *words])
        for words in ((), ("spare_rounds=0",), ("spare_rounds=1",))
    )
    assert "spare_rounds" not in to_tree(plain)
    assert plain.terms == none.terms != one.terms
    with pytest.raises(ConfigError, match="spare_rounds"):
        compose([*RECORD, "privacy.epsilon=3", "spare_rounds=-1"])


@pytest.mark.parametrize(
    ("words", "spare"),
    [
        (("privacy.epsilon=3",), 1),
        (("privacy.epsilon=3", "spare_rounds=0"), 0),
        (("privacy.epsilon=3", "spare_rounds=5"), 5),
        (("privacy.epsilon=null", "privacy.noise_multiplier=4"), 0),
        (("privacy=none",), 0),
    ],
)
def test_deployment__has_one_where_the_noise_follows_from_an_epsilon(
    words: tuple[str, ...], spare: int
) -> None:
    assert composed(words).spare_rounds == spare
    assert compose(words).spare_rounds == (spare if "spare_rounds" in words[-1] else 0)
