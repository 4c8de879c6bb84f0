"""A Flower app that is not ours, protected: the same numbers, and nothing of one site in clear."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fedlearn.core.errors import ConfigError, ProtocolError
from fedlearn.core.ring import Ring, unpack
from fedlearn.flower import Protection, private, protect, secure
from fedlearn.flower.apps import mod
from fedlearn.secagg.framing import decode
from fedlearn.secagg.messages import Masked
from fedlearn.secagg.server import ServerSession
from tests.effort import thinned
from tests.fedlearn.flower.small_apps import (
    START,
    Seen,
    TappedGrid,
    lose,
    make_client,
    moved,
    numbers,
    partition,
    plain,
    protected,
    record,
    run,
)

RESOLUTION = Protection().resolution


@pytest.fixture
def same_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower samples by Python's global generator; two runs shall ask the same nodes in order."""
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.random.sample", lambda x, k: x[:k])


# --- The same numbers -------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    thinned(
        [
            FedAvg,
            lambda: FedProx(proximal_mu=0.1),
            lambda: FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
            FedAdam,
            FedYogi,
            FedAdagrad,
            lambda: FedAvg(fraction_train=0.8),
        ]
    ),
)
def test_protected_app__gives_the_strategy_the_mean_that_it_would_have_made_itself(
    make: Callable[[], Strategy], same_sample: None
) -> None:
    bare, masked = plain(strategy=make(), rounds=3), protected(strategy=make(), rounds=3)
    for name, values in numbers(bare.arrays).items():
        # Adaptive strategies divide by the size of a change: steps of the sum show more there.
        np.testing.assert_allclose(
            numbers(masked.arrays)[name], values, atol=40 * RESOLUTION, err_msg=name
        )
    for round_number, metrics in bare.train_metrics_clientapp.items():
        for key, value in metrics.items():
            assert masked.train_metrics_clientapp[round_number][key] == pytest.approx(value)
    assert masked.evaluate_metrics_clientapp == bare.evaluate_metrics_clientapp


def test_protected_app__counts_whole_numbers_exactly_and_hands_them_out_as_such() -> None:
    seen = Seen()
    result = protected(seen=seen, rounds=2)
    assert set(seen.counters) == {"int64"}
    weights = np.array([10 + 5 * i for i in range(5)])
    step = np.average([3 + i for i in range(5)], weights=weights)
    first = round(7 + step)  # what round 2 starts from
    assert float(numbers(result.arrays)["batches"]) == pytest.approx(first + step, abs=1e-12)


def test_strategy__gets_one_reply_in_the_servers_name_and_an_error_for_each_that_is_gone() -> None:
    taken = list[list[Message]]()

    class Watching(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            taken.append(list(replies))
            return super().aggregate_train(server_round, taken[-1])

    grid = TappedGrid(make_client(protect()), 5)
    lose(grid, "mask", 1)
    run(grid, Watching(), Protection(), averages=True)
    mean, *errors = taken[0]
    assert [reply.has_error() for reply in taken[0]] == [False, True]
    assert mean.metadata.src_node_id == mean.metadata.dst_node_id
    assert errors[0].metadata.src_node_id == list(grid.contexts)[1]
    assert errors[0].error.reason == "no answer in time"


def test_evaluation__pooled_is_the_weighted_mean_and_nobodys_metrics_reach_the_server() -> None:
    taken = list[list[RecordDict]]()

    class Watching(FedAvg):
        def aggregate_evaluate(self, server_round: int, replies: Any) -> Any:
            taken.append([reply.content for reply in replies])
            return super().aggregate_evaluate(server_round, list(replies))

    protection = Protection(evaluation="pooled")
    app = make_client(protect(protection))
    pooled = run(TappedGrid(app, 5), Watching(), protection, averages=True)
    own = [0.5 + i / 100 for i in range(5)]
    wanted = np.average(own, weights=[4 + i for i in range(5)])
    assert pooled.evaluate_metrics_clientapp[1]["eval_acc"] == pytest.approx(wanted, abs=1e-9)
    assert len(taken[0]) == 1
    app = make_client(protect())
    run(TappedGrid(app, 5), Watching(), Protection(), averages=True)
    assert len(taken[1]) == 5


# --- What may be seen -------------------------------------------------------------


def _records_in_clear(messages: list[Message]) -> list[str]:
    return [
        name
        for message in messages
        if message.has_content()
        for name, one in message.content.items()
        if isinstance(one, MetricRecord)
        or (isinstance(one, ArrayRecord) and any(a.stype == "numpy.ndarray" for a in one.values()))
    ]


def test_listener__finds_no_array_and_no_metric_of_anybody_on_the_way() -> None:
    grid = TappedGrid(make_client(protect()), 5)
    run(grid, protection=Protection(), rounds=2)
    crossing = [*grid.ear.sent, *grid.ear.came]
    assert len(crossing) == 2 * 5 * (2 + 2 * 6)
    assert _records_in_clear(crossing) == []
    data = b"".join(private.content_to_bytes(m.content) for m in crossing)
    for site in range(5):
        assert moved(START, site)["weight"].tobytes() not in data
    assert START["weight"].tobytes() not in data
    # The same ears on the same app without protection hear everything.
    grid = TappedGrid(make_client(), 5)
    run(grid)
    assert _records_in_clear([*grid.ear.sent, *grid.ear.came])


@pytest.mark.slow
def test_server__opens_contributions_that_are_uniform_and_unlike_in_every_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = list[Any]()
    inner = ServerSession.receive

    def listening(self: ServerSession, name: str, reply: bytes) -> None:
        if self.step == "mask":
            packed = decode(Masked, reply, self.context).packed
            vectors.append(unpack(packed, self.params.length, Ring(bits=self.params.bits)))
            bits.append(self.params.bits)
        inner(self, name, reply)

    bits = list[int]()
    monkeypatch.setattr(ServerSession, "receive", listening)

    def still(content: RecordDict, context: Context) -> RecordDict:
        # The same reply in every round: only masks can tell two of them apart.
        content["arrays"] = record(moved(START, partition(context)))
        return content

    run(TappedGrid(make_client(protect(), train=still), 5), protection=Protection(), rounds=12)
    assert len(vectors) == 5 * 12
    words = np.concatenate(vectors).astype(np.float64) / 2.0 ** bits[0]
    assert bits == bits[:1] * 60
    # Kolmogorov-Smirnov against the uniform law; a true one fails once in 10^6 runs.
    ordered = np.sort(words)
    distance = np.abs(ordered - (np.arange(len(ordered)) + 0.5) / len(ordered)).max()
    assert distance < np.sqrt(np.log(2e6) / (2 * len(ordered))) + 0.5 / len(ordered)
    assert len({vector.tobytes() for vector in vectors}) == 60
    firsts = np.array([vector[0] for vector in vectors])
    assert len(set(firsts.tolist())) == 60


def test_reply__leaves_the_site_only_if_all_of_it_can_be_summed() -> None:
    def adds(name: str, one: ConfigRecord | ArrayRecord) -> Any:
        return lambda content, context: RecordDict({**content, name: one})

    for extra in (adds("note", ConfigRecord({"a": 1})), adds("more", ArrayRecord())):
        with pytest.raises(ProtocolError, match=r"note beside what is summed|2 records of type"):
            protected(train=extra)


def test_evaluation_and_queries__may_not_carry_arrays_past_the_masks() -> None:
    def leak(content: RecordDict, context: Context) -> RecordDict:
        return RecordDict({**content, "arrays": record(moved(START, partition(context)))})

    result = protected(evaluate=leak)
    assert result.evaluate_metrics_clientapp == {}
    assert protected(5, Protection(masked=False), evaluate=leak).evaluate_metrics_clientapp


# --- Who can take part ------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [Krum(), MultiKrum(), Bulyan(), FedMedian(), FedTrimmedAvg(), QFedAvg(0.1),
     DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 5)],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_secure__refuses_strategies_that_need_single_updates(strategy: Strategy) -> None:
    grid = TappedGrid(make_client(protect()), 5)
    with pytest.raises(ConfigError, match=rf"{type(strategy).__name__}: needs every site's update"):
        secure(grid, strategy)


def test_secure__lets_krum_see_single_updates_where_both_sides_agree_not_to_mask(
    same_sample: None,
) -> None:
    protection = Protection(masked=False)
    sealed = protected(5, protection, strategy=Krum(num_malicious_nodes=1))
    bare = plain(strategy=Krum(num_malicious_nodes=1))
    for name, values in numbers(bare.arrays).items():
        np.testing.assert_array_equal(numbers(sealed.arrays)[name], values)


def test_secure__names_everything_that_a_strategy_would_get_wrong() -> None:
    strategy = FedAvg(weighted_by_key="rows", train_metrics_aggr_fn=lambda *_: MetricRecord())
    with pytest.raises(ConfigError) as caught:
        secure(TappedGrid(make_client(), 5), strategy)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "FedAvg(weighted_by_key='rows')",
        "FedAvg(train_metrics_aggr_fn=...)",
    ]


def test_app__without_the_mod_or_the_grid_is_told_what_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ProtocolError, match="0 sites can take part; needed: 3"):
        run(TappedGrid(make_client(), 5), protection=Protection())
    seen = Seen()
    with caplog.at_level(logging.INFO, "flwr"):
        logging.getLogger("flwr").addHandler(caplog.handler)
        result = run(TappedGrid(make_client(protect(), seen=seen), 5))
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert result.arrays is None or not result.arrays
    assert seen.trained == []
    assert "fedlearn.flower.secure(grid, strategy)" in caplog.text


def test_site__with_other_code_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mod, "code_digest", lambda: "0" * 64)
    with pytest.raises(ProtocolError, match=r"runs fedlearn .* install the same release on both"):
        protected()


def test_site__with_another_protection_is_left_out_and_the_difference_named() -> None:
    app = make_client(protect(Protection(clip=2.0, min_cohort=4)))
    with pytest.raises(ProtocolError, match=r"differ in clip: 16.0 and 2.0; min_cohort: 3 and 4"):
        run(TappedGrid(app, 5), protection=Protection())


# --- Sites vanish, and fail ---------------------------------------------------------


@pytest.mark.parametrize("step", ["advertise", "share", "mask"])
def test_sum__is_that_of_the_sites_that_stayed(step: str) -> None:
    grid = TappedGrid(make_client(protect()), 5)
    lose(grid, step, 2)
    result = run(grid, protection=Protection())
    stayed = [0, 1, 3, 4]
    weights = [10 + 5 * i for i in stayed]
    wanted = np.average([moved(START, i)["weight"] for i in stayed], axis=0, weights=weights)
    np.testing.assert_allclose(numbers(result.arrays)["weight"], wanted, atol=2 * RESOLUTION)


@pytest.mark.parametrize("step", ["agree", "unmask"])
def test_sum__holds_a_site_that_vanishes_after_it_has_added_its_part(step: str) -> None:
    grid = TappedGrid(make_client(protect()), 5)
    lose(grid, step, 2)
    result = run(grid, protection=Protection())
    weights = [10 + 5 * i for i in range(5)]
    wanted = np.average([moved(START, i)["weight"] for i in range(5)], axis=0, weights=weights)
    np.testing.assert_allclose(numbers(result.arrays)["weight"], wanted, atol=2 * RESOLUTION)


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "agree", "unmask"])
def test_sum__below_the_threshold_is_not_released(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerSession, "total", _never)
    grid = TappedGrid(make_client(protect()), 5)
    lose(grid, step, 0, 1, 2)
    with pytest.raises(ProtocolError, match="No partial sum is released"):
        run(grid, protection=Protection())


def _never(self: ServerSession) -> Any:
    raise AssertionError("a sum was opened")


def test_app__that_raises_is_left_out_and_its_words_stay_at_the_site(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(content: RecordDict, context: Context) -> RecordDict:
        if partition(context) == 3:
            raise ValueError("patient 4711 has no age")
        return content

    grid = TappedGrid(make_client(protect(), train=fail), 5)
    told = list[str]()

    class Watching(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            taken = list(replies)
            told.extend(reply.error.reason for reply in taken if reply.has_error())
            return super().aggregate_train(server_round, taken)

    run(grid, Watching(), Protection(), averages=True)
    assert told == ["its app failed (ValueError)"]
    assert "patient 4711" in caplog.text  # at the site, which is this process too


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num-examples": 2.5}, "must be a whole number from 0 to"),
        ({"num-examples": 2**20 + 1}, "must be a whole number from 0 to"),
        ({"num-examples": -1}, "must be a whole number from 0 to"),
        ({"train_loss": float("nan")}, "a metric of the reply is nan"),
        ({"curve": [1.0] * 40}, "41 numbers, and protection.metrics=32"),
    ],
)
def test_reply__that_cannot_be_summed_says_why(change: dict[str, Any], reason: str) -> None:
    def spoil(content: RecordDict, context: Context) -> RecordDict:
        metrics = {**content.metric_records["metrics"], **change}
        return RecordDict({**content, "metrics": MetricRecord(metrics)})

    with pytest.raises(ProtocolError, match=reason):
        protected(train=spoil)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"weight": np.full((3, 4), np.nan, np.float32)}, "weight holds NaN or infinite values"),
        ({"weight": np.zeros((4, 3), np.float32)}, r"weight is \(4, 3\), and \(3, 4\) was sent"),
        ({"other": np.zeros(1, np.float32)}, "not those of the model that was sent: other"),
        ({"batches": np.array(7.5)}, "batches holds fractions"),
        ({"batches": np.array(2**60)}, "batches changed by more than"),
    ],
)
def test_arrays__that_cannot_be_summed_say_why(arrays: dict[str, Any], reason: str) -> None:
    def spoil(content: RecordDict, context: Context) -> RecordDict:
        own = {**numbers(content.array_records["arrays"]), **arrays}
        return RecordDict({**content, "arrays": record(own)})

    with pytest.raises(ProtocolError, match=reason):
        protected(train=spoil)


@pytest.mark.parametrize("liar", [0, 2, 4])
def test_site__with_other_metrics_than_most_is_left_out_whenever_it_answers(liar: int) -> None:
    def odd(content: RecordDict, context: Context) -> RecordDict:
        if partition(context) == liar:
            content.metric_records["metrics"]["mood"] = 1.0
        return content

    result = protected(train=odd)
    assert "mood" not in result.train_metrics_clientapp[1]


def test_values__beyond_the_clip_are_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    protected(5, Protection(clip=0.25))
    # bias: 3 values at sites 3 and 4 move by .375 and .5; weight: site by site those over .25.
    weights = sum(np.count_nonzero(0.01 * (i + 1) * np.arange(12) > 0.25) for i in range(5))
    assert f"{6 + weights} of 75 values changed by more than protection.clip=0.25" in caplog.text


def test_sum__of_sites_without_an_example_is_an_error() -> None:
    def empty(content: RecordDict, context: Context) -> RecordDict:
        metrics = {**content.metric_records["metrics"], "num-examples": 0}
        return RecordDict({**content, "metrics": MetricRecord(metrics)})

    with pytest.raises(ProtocolError, match="num-examples of all sites are zero"):
        protected(train=empty)


def test_cohort__of_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="a cohort of 2 reveals single updates"):
        protected(5, strategy=FedAvg(fraction_train=0.4))
    two = TappedGrid(make_client(protect()), 2)
    assert list(secure(two, FedAvg()).get_node_ids()) == []  # Flower waits for more


def test_protection__names_all_its_mistakes() -> None:
    with pytest.raises(ConfigError) as caught:
        Protection(clip=-1, min_cohort=2, evaluation="loud", dropout_fraction=1.0)  # type: ignore[arg-type]
    assert [problem.split("=")[0] for problem in caught.value.problems] == [
        "protection.evaluation",
        "protection.clip",
        "protection.min_cohort",
        "protection.dropout_fraction",
    ]
    with pytest.raises(ConfigError, match="need 66 bits a value"):
        Protection(clip=2.0**10, max_weight=2**36).secagg(5)
