"""The task of language: losses in pieces, sums over tokens, and what is made of them."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlearn.metrics.ratios import Ratio
from fedlearn.metrics.sums import Sums, added
from fedlearn.tasks import Language, LanguageTask, TableInput, TaskForm, TextInput
from fedlearn.tasks import tokens as pieces
from fedlearn.tasks.tokens import TokenLogits, cut_loose, likeliest, token_grades, token_losses
from fedlearn.training.dp import ClippedGradients
from fedlearn.training.even_rows import even_rows
from fedlearn.training.parts import used_sizes
from fedlearn.training.settings import Training
from fedlearn.training.trials import check_loss, try_out

VOCABULARY, LENGTH, WIDTH = 11, 5, 6
TASK = LanguageTask(input=TextInput(vocabulary=VOCABULARY, max_length=LENGTH))


def outputs(n: int, seed: int = 0, kind: torch.dtype = torch.float64) -> TokenLogits:
    coins = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, LENGTH, WIDTH, generator=coins, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=coins, dtype=torch.float64)
    return TokenLogits(hidden.to(kind), weight.to(kind))


def some_targets(n: int, seed: int = 0, share: float = 0.6) -> Tensor:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, VOCABULARY, (n, LENGTH))
    return torch.from_numpy(np.where(rng.random((n, LENGTH)) < share, drawn, -1))


def nats(outputs: TokenLogits, targets: Tensor) -> list[list[float]]:
    """Token by token, by the definition of a softmax, in Python's floats."""
    found = []
    for states, wanted in zip(outputs.hidden.tolist(), targets.tolist(), strict=True):
        row = []
        for state, token in zip(states, wanted, strict=True):
            products = [math.fsum(map(float.__mul__, state, w)) for w in outputs.weight.tolist()]
            total = math.log(math.fsum(map(math.exp, products)))
            row.append(0.0 if token < 0 else total - products[token])
        found.append(row)
    return found


@pytest.mark.parametrize("rows", [1, 3, 128])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_token_losses__are_those_of_a_softmax_whatever_the_pieces(
    monkeypatch: pytest.MonkeyPatch, n: int, rows: int
) -> None:
    monkeypatch.setattr(pieces, "_ROWS", rows)
    made, targets = outputs(n), some_targets(n)
    expected = np.array(nats(made, targets)).reshape(n, LENGTH)
    np.testing.assert_allclose(token_losses(made, targets), expected, rtol=1e-12)
    np.testing.assert_allclose(token_losses(made.written_out(), targets), expected, rtol=1e-12)
    found, hits = token_grades(made, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    right = (made.written_out().argmax(-1) == targets).numpy() & (targets >= 0).numpy()
    np.testing.assert_array_equal(hits, right)
    np.testing.assert_array_equal(likeliest(made), made.written_out().argmax(-1))


@pytest.mark.parametrize("rows", [1, 3, 128])
def test_token_losses__have_the_gradient_that_differences_show(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(pieces, "_ROWS", rows)
    made, targets = outputs(3), some_targets(3)

    def loss(hidden: Tensor) -> Tensor:
        return TASK.loss(TokenLogits(hidden, made.weight), targets)

    assert torch.autograd.gradcheck(loss, made.hidden.clone().requires_grad_())


def test_token_losses__are_never_written_out_for_all_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest = 0
    plain = torch.Tensor.__matmul__

    def watched(self: Tensor, other: Tensor) -> Tensor:
        nonlocal largest
        found = plain(self, other)
        largest = max(largest, found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    made, leaf = cut_loose(outputs(400, kind=torch.float32))
    TASK.loss(made, some_targets(400)).sum().backward()
    assert leaf.grad is not None
    assert largest == pieces._ROWS * VOCABULARY < 400 * LENGTH * VOCABULARY


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_token_losses__of_a_record_are_its_own_bit_for_bit(seed: int, n: int) -> None:
    made, targets = outputs(n, seed, torch.float32), some_targets(n, seed)
    seen, leaf = cut_loose(made)
    losses = TASK.loss(seen, targets)
    losses.sum().backward()
    alone, own = cut_loose(made[:1])
    loss = TASK.loss(alone, targets[:1])
    loss.sum().backward()
    assert torch.equal(losses[:1], loss)
    assert leaf.grad is not None
    assert own.grad is not None
    assert torch.equal(leaf.grad[:1], own.grad)


def test_loss__is_the_mean_over_answer_tokens_and_nothing_without() -> None:
    made, targets = outputs(3), some_targets(3)
    targets[1] = -1
    rows = nats(made, targets)
    counts = [(row >= 0).sum().item() for row in targets]
    expected = [sum(row) / max(1, count) for row, count in zip(rows, counts, strict=True)]
    np.testing.assert_allclose(TASK.loss(made, targets), expected)
    assert TASK.loss(made, targets)[1] == 0
    check_loss(TASK.loss, made.float(), targets)


def test_loss__in_bfloat16_is_near_and_in_float32() -> None:
    made, targets = outputs(50, kind=torch.float32), some_targets(50)
    low = TokenLogits(made.hidden, made.weight, low=True)
    found, exact = TASK.loss(low, targets), TASK.loss(made, targets)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)


class Adapted(nn.Module):
    """A frozen vocabulary after layers that learn."""

    def __init__(self) -> None:
        super().__init__()
        coins = torch.Generator().manual_seed(3)
        self.word = nn.Embedding(VOCABULARY, WIDTH).requires_grad_(False)
        self.mix = nn.Linear(WIDTH, WIDTH)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=coins)

    def forward(self, ids: Tensor) -> TokenLogits:
        return TokenLogits(self.mix(self.word(ids)).tanh().cumsum(1), self.word.weight)


def test_engine__clips_through_the_pieces_as_a_loop_over_records_does() -> None:
    model, n, bound = Adapted(), 30, 0.3
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, VOCABULARY, (n, LENGTH)))
    targets = some_targets(n, 5)
    targets[4] = -1
    found = ClippedGradients(model, clip_norm=bound).step(lambda: TASK.loss(model(ids), targets))
    slow = Adapted().double()
    slow.load_state_dict(model.state_dict())
    total = {name: torch.zeros_like(p) for name, p in slow.mix.named_parameters()}
    for i in range(n):
        logits = slow(ids[i : i + 1]).written_out()[0]
        known = targets[i] >= 0
        if not known.any():
            continue
        loss = nn.functional.cross_entropy(logits[known], targets[i][known])
        gradients = torch.autograd.grad(loss, [*slow.mix.parameters()])
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient * min(1.0, bound / norm)
        assert float(found.norms[i]) == pytest.approx(norm, rel=1e-5)
    for name, expected in total.items():
        apart = (found.sums[f"mix.{name}"] - expected).norm() / expected.norm()
        assert apart < 1e-5


# --- evaluation ------------------------------------------------------------------------


def graded(n: int, seed: int = 0) -> tuple[Sums, np.ndarray, np.ndarray]:
    made, targets = outputs(n, seed), some_targets(n, seed)
    rows = TASK.graded(made, targets).numpy()
    return TASK.sums(rows, targets.numpy()), rows, targets.numpy()


@given(st.integers(0, 10), st.integers(0, 30))
def test_sums__of_parts_are_those_of_the_whole_and_give_the_metrics(seed: int, n: int) -> None:
    whole, rows, targets = graded(n, seed)
    parts = [TASK.sums(rows[s], targets[s]) for s in (slice(0, n // 3), slice(n // 3, n))]
    together = added(parts)
    assert together.counters() == pytest.approx(whole.counters(), abs=2)
    TASK.check_sums(whole)
    found = TASK.metrics(whole)
    tokens = int((targets >= 0).sum())
    if not tokens:
        assert found == {}
        return
    expected = sum(map(sum, nats(outputs(n, seed), torch.from_numpy(targets)))) / tokens
    assert found["nats_per_token"] == pytest.approx(expected)
    assert found["perplexity"] == pytest.approx(math.exp(expected))
    made = outputs(n, seed).written_out().argmax(-1).numpy()
    assert found["token_accuracy"] == pytest.approx(
        ((made == targets) & (targets >= 0)).sum() / tokens
    )


def test_sums__that_no_texts_add_up_to_are_refused() -> None:
    whole, _, _ = graded(4)
    for changed in ({"hits": whole["tokens"] + 1}, {"tokens": np.asarray(4 * LENGTH + 1)}):
        with pytest.raises(ValueError, match="more tokens than records have places, or more hits"):
            TASK.check_sums(Sums(layout=whole.layout, count=4, arrays={**whole.arrays, **changed}))


def test_contributions__of_a_record_stay_below_the_bounds_that_noise_is_for() -> None:
    wild = TokenLogits(1e4 * outputs(40).hidden, outputs(40).weight)
    targets = some_targets(40, share=1.0)
    rows = TASK.contributions(TASK.graded(wild, targets).numpy(), targets.numpy())
    bounds = [spec.bound for spec in TASK.noised_layout]
    assert (rows >= 0).all()
    assert (rows <= np.array(bounds) * (1 + 1e-12)).all()
    assert rows[:, 1].max() > bounds[1] / 2  # most of a wild record's tokens are cut to a guess
    assert rows[:, 3].max() == LENGTH


@pytest.mark.parametrize("seed", range(5))
def test_noised__without_noise_has_the_metrics_of_exact_sums_and_with_it_keeps_their_range(
    seed: int,
) -> None:
    whole, rows, targets = graded(60, seed)
    names = [spec.name for spec in TASK.noised_layout]
    totals = dict(zip(names, TASK.contributions(rows, targets).sum(0), strict=True))
    plain = {name: np.asarray(value) for name, value in totals.items()}
    quiet = TASK.metrics(TASK.noised(plain, dict.fromkeys(names, 1e-9)))
    assert quiet["token_accuracy"] == pytest.approx(TASK.metrics(whole)["token_accuracy"])
    assert 0 < quiet["nats_per_token"] <= math.log(VOCABULARY) + 1e-9
    rng = np.random.default_rng(seed)
    loud = {name: value + rng.normal(0, 300) for name, value in plain.items()}
    found = TASK.metrics(TASK.noised(loud, dict.fromkeys(names, 300.0)))
    assert all(0 <= value <= VOCABULARY + 1e-9 for value in found.values())


def test_ratio__is_as_sure_as_drawing_records_anew_shows() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(1, 20, 400).astype(float)
    x = 2.5 * y + rng.normal(0, 3, 400)
    ratio = Ratio(400, (x.sum(), y.sum()), ((x * x).sum(), (x * y).sum(), (y * y).sum()))
    rows = rng.integers(0, 400, (4000, 400))
    bootstrap = x[rows].sum(1) / y[rows].sum(1)
    assert ratio.value == pytest.approx(x.sum() / y.sum())
    assert ratio.stddev == pytest.approx(bootstrap.std(), rel=0.1)
    assert ratio.drawn(rng).std() == pytest.approx(bootstrap.std(), rel=0.15)
    assert np.isnan(Ratio(1, (3.0, 2.0), (9.0, 6.0, 4.0)).drawn(rng)).all()


def test_gap__names_the_group_with_fewer_nats_as_the_best() -> None:
    whole, rows, targets = graded(60)
    worse = rows.copy()
    worse[:, 0] += 9
    groups = {"one": whole, "other": TASK.sums(worse, targets)}
    gap = TASK.gap(groups, np.random.default_rng(0))
    assert gap is not None
    assert (gap.best, gap.worst) == ("one", "other")
    assert gap.value == pytest.approx(9 * 60 / (targets >= 0).sum())


# --- targets, canaries, and what it is not for -------------------------------------------


class Tokens(nn.Module):
    """A model of single tokens."""

    def __init__(self) -> None:
        super().__init__()
        coins = torch.Generator().manual_seed(3)
        self.register_buffer("words", torch.randn(VOCABULARY, WIDTH, generator=coins))
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> TokenLogits:
        words = cast(Tensor, self.words)
        return TokenLogits(self.linear(words[ids]), words)


@pytest.mark.parametrize("uneven", [False, True])
def test_trial__sees_a_machine_that_computes_logits_by_their_place_in_a_piece(
    monkeypatch: pytest.MonkeyPatch, uneven: bool
) -> None:
    """Where a token stands there is a matter of how many tokens the records before it have."""
    piece = pieces._piece

    def placed(logits: Tensor, wanted: Tensor, weight: Tensor, slopes: bool) -> list[Tensor]:
        losses, *rest = piece(logits, wanted, weight, slopes)
        return [losses * (1 + 1e-6 * uneven * (torch.arange(len(losses)) % 2)), *rest]

    monkeypatch.setattr(pieces, "_piece", placed)
    task = LanguageTask(input=TextInput(vocabulary=VOCABULARY, max_length=12))

    def records(n: int) -> tuple[Tensor, Tensor]:
        ids = torch.randint(VOCABULARY, (n, 12), generator=torch.Generator().manual_seed(0))
        return ids, torch.from_numpy(task.blank(n, np.zeros((1, 12), np.int64)))

    config = Training(
        optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_steps=1,
        sample_rate=1.0, nominal_records=60, dp_engine="fast", max_batch=64,
    )  # fmt: skip
    model = Tokens()
    try_out(model, records, config, loss=task.loss)
    assert used_sizes(model, config) == ((1,) if uneven else (32, 64))
    assert even_rows(Tokens(), records, 32, task.graded) == (1 if uneven else 32)


@given(st.integers(0, 2**64 - 1))
def test_mislabelled__moves_every_answer_token_and_no_other(word: int) -> None:
    targets = some_targets(6, 1).numpy()
    words = np.full(6, word, np.uint64)
    moved = TASK.mislabelled(targets, words)
    TASK.check(moved)
    assert ((moved != targets) == (targets >= 0)).all()
    np.testing.assert_array_equal(moved, TASK.mislabelled(targets, words))


def test_likelihood__is_the_geometric_mean_of_chances() -> None:
    made, targets = outputs(3), some_targets(3)
    found = TASK.likelihood(TASK.graded(made, targets).numpy(), targets.numpy())
    np.testing.assert_allclose(found, np.exp(-TASK.loss(made, targets).numpy()))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, LENGTH), np.int32),
        np.zeros((3, LENGTH + 1), np.int64),
        np.zeros(3, np.int64),
        np.full((3, LENGTH), VOCABULARY),
        np.full((3, LENGTH), -2),
    ],
)
def test_check__refuses_what_are_no_tokens_of_the_vocabulary(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="targets are"):
        TASK.check(wrong)


def test_language__is_for_texts_alone() -> None:
    with pytest.raises(ValueError, match="task=language: learns from texts"):
        Language().of(TaskForm(input=TableInput(numeric=2)))
