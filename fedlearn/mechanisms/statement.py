"""What a plan promises, in words for the people in the data."""

from __future__ import annotations

import math
from typing import assert_never

from fedlearn.mechanisms.client import ClientPlan
from fedlearn.mechanisms.distributed import DistributedPlan
from fedlearn.mechanisms.record import RecordPlan
from fedlearn.privacy.accounting import ACCOUNTANT

Plan = RecordPlan | ClientPlan | DistributedPlan


def statement(
    plan: Plan | None,
    *,
    epsilon: float,
    noise_is_private: bool,
    sum_only: bool | None = None,
    record: str = "a row",
) -> str:
    """What was promised to the people in the data, in words for people.

    `epsilon` is the largest that any site spent in this run; it may be less than
    `plan.epsilon` when the run ended early. `sum_only` says whether secure
    aggregation shows the coordinator nothing but sums; by default it does where the
    plan needs it, and only there. `record` is what one record is.
    """
    if sum_only is None:
        sum_only = isinstance(plan, DistributedPlan)
    if plan is None:
        return (
            "No differential privacy: the model and the updates may reveal records of the "
            "training data."
        )
    if not noise_is_private:
        return (
            "No privacy is claimed: the noise came from a repeatable seed, and whoever knows the "
            "seed can remove it."
        )
    if math.isinf(epsilon):
        return (
            "No privacy holds: there was no noise, or next to none, so single records of the "
            "training data may be revealed."
        )
    return " ".join(
        (
            _promise(plan, epsilon, record),
            _against(plan, sum_only),
            _sampling(plan),
            _method(plan),
            _not_covered(plan),
        )
    )


def _promise(plan: Plan, epsilon: float, record: str) -> str:
    whom, change = (
        "single record",
        f"one record ({record} of a site's training data) is added or removed",
    )
    if plan.unit == "client":
        whom, change = "client", "all data of one client is added or removed"
    return (
        f"Each {whom} is protected with epsilon {_rounded_up(epsilon)} and delta "
        f"{plan.delta:g}: whether {change} changes the chance of anything seen from this run by at "
        f"most the factor e^epsilon, except for a chance of about {plan.delta:g}."
    )


def _against(plan: Plan, sum_only: bool) -> str:
    match plan:
        case RecordPlan():
            return (
                "This holds against the coordinator, the other sites and everyone who gets the "
                "model, because each site adds the full noise before anything leaves it; it does "
                "not hold against the site itself, and a person with several records is protected "
                "less."
            )
        case ClientPlan() if sum_only:
            return (
                "This holds against the other clients and everyone who gets the model; it does not "
                "hold against the coordinator, which sees the sum of the updates of a round before "
                "it adds the noise, and is trusted to add it and to forget that sum. Each client "
                "clips its own update; secure aggregation shows nobody a single one."
            )
        case ClientPlan():
            return (
                "This holds against the other clients and everyone who gets the model; it does not "
                "hold against the coordinator, which sees the updates in clear and is trusted to "
                "clip them, to add the noise and to forget them."
            )
        case DistributedPlan() if not sum_only:
            return (
                "This holds against those alone who see nothing but the model: updates were not "
                "masked, so the coordinator saw every single one, with one share of the noise "
                "only, and against it no such privacy holds. It is a study of the arithmetic, not "
                "a protection."
            )
        case DistributedPlan():
            return _against_of_shares(plan)
        case _:
            assert_never(plan)


def _against_of_shares(plan: DistributedPlan) -> str:
    """Who is kept out by noise in shares: it depends on secure aggregation and on honest sites."""
    colluding = (
        f"even if it pools what it knows with up to {plan.max_colluders} of the sites; so it "
        f"holds against the other sites, up to {plan.max_colluders} of them together,"
        if plan.max_colluders
        else "as long as no site tells it the noise that it added; it does not hold against "
        "another site, which can subtract its own noise,"
    )
    return (
        f"This holds against the coordinator {colluding} and against everyone who gets the model, "
        "provided that secure aggregation shows nothing but the sum: the noise on a single update "
        f"would not do. It needs the honest noise of at least "
        f"{plan.min_survivors - plan.max_colluders} of {plan.num_clients} sites; no sum of fewer "
        f"than {plan.min_survivors} is used. It does not hold against the site itself"
        + (
            ", and a person with several records is protected less."
            if plan.unit == "record"
            else "; a client that is taken away still sends its noise, on a zero update."
        )
    )


def _sampling(plan: Plan) -> str:
    match plan:
        case ClientPlan() if plan.adversary == "outsider":
            return (
                f"In every round each client took part with chance {plan.sample_rate:g}, by secret "
                "coins, and this epsilon holds only against those who cannot tell who took part: "
                "not against the coordinator, nor anyone whom it tells."
            )
        case ClientPlan():
            return "Nothing is gained from the sampling of clients: who took part may be known."
        case _ if plan.sample_rate == 1:
            what = "record" if plan.unit == "record" else "client"
            return f"Every {what} was used in every step; nothing is gained from sampling."
        case _:
            return (
                f"In every step each record took part with chance {plan.sample_rate:g}, "
                "independently (Poisson sampling), and the protection counts on nobody outside "
                "the site learning which records these were."
            )


def _method(plan: Plan) -> str:
    match plan:
        case RecordPlan() | ClientPlan():
            noise = (
                f"by {ACCOUNTANT} over all rounds that were run, taking the noise to be ideally "
                "Gaussian."
            )
        case DistributedPlan(law="discrete_gaussian"):
            noise = (
                f"by {ACCOUNTANT} over all rounds that were run; the noise is on whole numbers, "
                "and rounding, table errors and the distance to a Gaussian are accounted."
            )
        case DistributedPlan():
            noise = (
                "by Renyi differential privacy over all rounds that were run; the noise is on "
                "whole numbers, and rounding and table errors are accounted."
            )
        case _:
            assert_never(plan)
    return f"Epsilon was computed {noise}"


def _not_covered(plan: Plan) -> str:
    public = (
        "the number of steps, the sample rate, the clip norm and the value ranges of the columns"
    )
    if plan.unit == "client":
        public = "the number of rounds, who the clients are and the clip norm"
    return (
        "Not covered: metrics computed on test data and released in clear, settings that were "
        "chosen by looking at the data, and what was published from the same data elsewhere. "
        f"Taken as public: how many records each site has, {public}."
    )


def _rounded_up(value: float) -> str:
    """Three digits, never less than `value`."""
    text = f"{value:.3g}"
    if float(text) >= value:
        return text
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{value + unit:.3g}"
