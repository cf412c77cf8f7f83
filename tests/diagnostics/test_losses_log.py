"""From losses and logits: codes of known length, random labels without structure, uniform logits, known test errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infoplane.diagnostics import Place, prequential, supersample_bound, surprisal
from infoplane.plots import tokens_data
from infoplane.results import ResultTable


def online(x, y, classes, batch, rate=0.1):
    """Losses of a linear classifier before each step, and its final losses on the second half, in nats."""
    half, w = len(x) // 2, np.zeros((x.shape[1], classes))

    def log_p(rows):
        scores = x[rows] @ w
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)

    losses = []
    for start in range(0, half, batch):
        rows = np.arange(start, start + batch)
        found = log_p(rows)
        losses.append(-found[np.arange(batch), y[rows]])
        w += rate * x[rows].T @ (np.eye(classes)[y[rows]] - np.exp(found))  # the sum over the batch
    rest = np.arange(half, len(x))
    return np.concatenate(losses), -log_p(rest)[np.arange(half), y[rest]]


def test_code_of_a_coin_by_the_rule_of_succession():
    """With p = (ones + 1) / (n + 2) the code of N tosses with k ones is log2((N + 1) binomial(N, k)), exactly."""
    tosses = np.random.default_rng(0).random(500) < 0.2
    before = np.arange(500)
    ones = np.concatenate([[0], np.cumsum(tosses)[:-1]])
    p = np.where(tosses, ones + 1, before - ones + 1) / (before + 2)
    k = int(tosses.sum())
    final = np.full(500, -math.log(0.2) * 0.2 - math.log(0.8) * 0.8)
    found = prequential(-np.log(p), before, final, final_on="held-out")
    assert found.code_length == pytest.approx(math.log2(501 * math.comb(500, k)), abs=1e-9)
    assert found.code_length == pytest.approx(found.epiplexity + found.entropy, abs=1e-9)
    assert found.entropy == pytest.approx(500 * final[0] / math.log(2))


def test_random_labels_have_no_structure_and_structured_ones_have():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 5))
    kinds = {"random": rng.integers(0, 4, 4000), "structured": (x @ rng.normal(size=(5, 4))).argmax(axis=1)}
    found = {
        (kind, batch): prequential(losses, np.arange(2000), final, final_on="held-out")
        for kind, y in kinds.items()
        for batch in (1, 10)
        for losses, final in [online(x, y, 4, batch, rate=0.01)]
    }
    for batch in (1, 10):
        none, some = found["random", batch], found["structured", batch]
        assert abs(none.epiplexity) < none.epiplexity_half < 100
        assert none.entropy == pytest.approx(2000 * 2, rel=0.02)
        assert some.epiplexity > some.epiplexity_half + 500
    one, ten = (found["structured", batch].epiplexity for batch in (1, 10))
    assert ten == pytest.approx(one, rel=0.1)


def test_final_losses_of_the_first_pass_are_compared_one_by_one():
    """Losses that all fall by the same: no scatter is left, whatever the losses."""
    losses = np.random.default_rng(2).random(50) + 1
    paired = prequential(losses, np.arange(50), losses - 0.5, final_on="first-pass")
    assert paired.epiplexity == pytest.approx(25 / math.log(2))
    assert paired.epiplexity_half == pytest.approx(0, abs=1e-6)
    assert prequential(losses, np.arange(50), losses - 0.5, final_on="held-out").epiplexity_half > 1
    rows = paired.rows(Place(run="a", step=7))
    assert [row.quantity for row in rows] == ["prequential code length", "epiplexity", "time-bounded entropy"]
    assert (rows[0].n_samples, rows[0].unit, rows[0].config) == (50, "bit", '{"final_on":"first-pass"}')


def test_the_interval_covers():
    """Losses and final losses of one law: 0 is inside the interval in about 95 % of draws."""
    inside = 0
    for seed in range(200):
        a, b = np.random.default_rng(seed).exponential(size=(2, 60))
        found = prequential(a, np.arange(60), b, final_on="held-out")
        inside += abs(found.epiplexity) < found.epiplexity_half
    assert 180 <= inside <= 199


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [4, 9, 4, 4]}, "example 4 was seen 3 times"),
        ({"ids": [1, 2]}, r"ids must be 4, one for each loss, got shape \(2,\)"),
        ({"losses": [1.0, -0.5, 1.0, 1.0]}, "never negative, got -0.5"),
        ({"losses": [1.0, np.nan, 1.0, 1.0]}, "losses has 1 non-finite"),
        ({"final": [1.0, 2.0], "final_on": "first-pass"}, "must be 4, one for each example, got 2"),
        ({"final_on": "train"}, "held-out, first-pass: .* got 'train'"),
    ],
)
def test_bad_logs(changes, message):
    good = {"losses": [1.0, 1.0, 1.0, 1.0], "ids": [0, 1, 2, 3], "final": [0.5, 0.5], "final_on": "held-out"}
    with pytest.raises(ValueError, match=message):
        prequential(**(good | changes))


# Surprisal


def test_uniform_logits():
    found = surprisal(np.full((3, 6, 50), 7.0), np.random.default_rng(0).integers(0, 50, (3, 6)))
    assert found.mean == pytest.approx(math.log2(50))
    assert found.variance == pytest.approx(0, abs=1e-20)
    assert (found.counted, found.without_label, found.padding) == (15, 0, 0)


def test_position_t_predicts_the_token_after_it():
    """A known table of transitions: the surprisal is that of the next token, not of the token itself."""
    p = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.5, 0.5, 0.0]])
    tokens = np.array([[0, 1, 2, 1]])
    with np.errstate(divide="ignore"):
        logits = np.log(p)[tokens]
    expected = [2.0, -math.log2(0.75), 1.0]
    for kind in (np.float64, np.float32):
        found = surprisal(logits.astype(kind), tokens)
        assert found.bits[0] == pytest.approx(expected, abs=1e-6)
    assert found.variance == pytest.approx(np.var(expected), abs=1e-6)
    half = surprisal(logits.astype(np.float16), tokens)
    assert half.bits[0] == pytest.approx(expected, abs=2e-3)


def test_what_does_not_count():
    """-100, padding on either side, and the first token after padding, which has nothing before it."""
    logits, tokens = np.zeros((3, 5, 4)), np.ones((3, 5), int)
    tokens[0, 2] = -100
    mask = np.ones((3, 5), int)
    mask[1, 3:] = 0
    mask[2, :2] = 0
    found = surprisal(logits, tokens, mask=mask)
    left_out = np.isnan(found.bits).tolist()
    assert left_out == [[False, True, False, False], [False, False, True, True], [True, True, False, False]]
    assert (found.counted, found.without_label, found.padding) == (7, 1, 4)
    rows = {row.quantity: row for row in found.rows(Place(layer="head"))}
    assert (rows["tokens"].value, rows["tokens left out"].value, rows["surprisal variance"].unit) == (7, 5, "bit^2")


def test_batches_are_one_sample_and_positions_are_drawn():
    rng = np.random.default_rng(3)
    logits, tokens = rng.normal(size=(8, 6, 9)), rng.integers(0, 9, (8, 6))
    whole = surprisal(logits, tokens)
    parts = surprisal((logits[i : i + 3] for i in range(0, 8, 3)), tokens)
    assert whole.source == parts.source
    rows = whole.rows(Place(run="a", layer="head", depth=2), positions=True)
    table = ResultTable.from_rows(rows)
    data = tokens_data(table, "surprisal")
    assert data.value.shape[-1] == 5
    sums = np.nansum(whole.bits - whole.mean, axis=1)
    assert whole.mean_half == pytest.approx(1.959964 * sums.std(ddof=1) * math.sqrt(8) / 40, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "tokens", "mask", "message"),
    [
        (np.zeros((1, 3, 4)), [[0, 1, 9]], None, "tokens must be 0 to 3, .* got 1 to 9"),
        (np.zeros((1, 3, 4)), [[0, 1]], None, r"logits must have shape \(1, 2\) and the vocabulary, got \(1, 3, 4\)"),
        (np.zeros((1, 3, 4)), [[0, 1, 2]] * 2, None, "tokens has 2 samples, logits have 1"),
        (np.full((1, 3, 4), np.nan), [[0, 1, 2]], None, "have NaN"),
        (np.where(np.arange(4) == 1, -np.inf, np.zeros((1, 3, 4))), [[0, 1, 2]], None, "the probability 0"),
        (np.zeros((1, 3, 4)), [[0, 1, 2]], [[1, 0, 1]], "no token counts: of 2"),
        (np.zeros((1, 3, 4)), [[0.0, 1.0, 2.0]], None, "must be integers"),
    ],
)
def test_bad_logits(logits, tokens, mask, message):
    with pytest.raises(ValueError, match=message):
        surprisal(logits, tokens, mask=mask)


# Supersample


def trainings(count, pairs, error, seed=0):
    """0-1 losses of networks without training error, wrong on what they have not seen with this probability."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, 2, (count, pairs))
    losses = (rng.random((count, pairs, 2)) < error).astype(float)
    np.put_along_axis(losses, chosen[:, :, None], 0.0, axis=2)
    return losses, chosen


@pytest.mark.parametrize("pooled", [False, True])
def test_error_of_interpolating_networks(pooled):
    """Its information in bits is the test error: 0.2 within its sampling error, 3 sqrt(.16 / 20000) = .008."""
    losses, chosen = trainings(400, 50, 0.2)
    found = supersample_bound(losses, chosen, pooled=pooled, null_draws=5)
    assert found.interpolating
    assert found.information.mean() == pytest.approx(0.2, abs=0.01)
    assert found.gap == pytest.approx(0.2, abs=0.01)
    assert found.bound == pytest.approx(math.sqrt(2 * 0.2 * math.log(2)), abs=0.01)
    rows = {row.quantity: row for row in found.rows(Place())}
    assert rows["interpolating test error"].value == rows["supersample information"].value
    assert (rows["gap bound"].bound, rows["gap bound"].flags) == ("upper", "")


def test_labels_that_have_nothing_to_do_with_the_inputs():
    """A memorising network: error 1/2 on what it has not seen. The bound holds on each of 20 repeats, and says less
    than 1."""
    for seed in range(20):
        losses, chosen = trainings(40, 30, 0.5, seed)
        found = supersample_bound(losses, chosen, null_draws=5)
        assert found.gap + found.gap_half < found.bound < 1
        assert found.null.max() < found.bound


def test_losses_that_know_nothing_of_the_selector_are_within_the_null():
    losses, (_, chosen) = np.random.default_rng(0).random((60, 40, 2)), trainings(60, 40, 0.5)
    found = supersample_bound(losses, chosen, levels=3, null_draws=20)
    assert found.null.min() - 0.02 < found.bound < found.null.max() + 0.02
    assert found.information.mean() == pytest.approx(0, abs=0.02)  # corrected; of the plug-in .07
    assert not found.interpolating
    few = supersample_bound(losses[:20], chosen[:20], levels=3).rows(Place())
    assert [row.flags for row in few] == ["few_samples", "few_samples", "", ""]


@pytest.mark.parametrize(
    ("losses", "chosen", "options", "message"),
    [
        (np.full((5, 3, 2), 0.5), np.zeros((5, 3)), {}, "must be 0 or 1; for others give levels=3"),
        (np.full((5, 3, 2), 1.5), np.zeros((5, 3)), {"levels": 3}, "in 0 to 1, got 1.5"),
        (np.zeros((5, 3, 2)), np.full((5, 3), 2), {}, "trained_on must hold 0 and 1"),
        (np.zeros((5, 3, 2)), np.full((5, 3), np.nan), {}, "trained_on must hold 0 and 1, got nan"),
        (np.zeros((5, 3)), np.zeros((5, 3)), {}, r"shape \(trainings, pairs, 2\)"),
    ],
)
def test_bad_trainings(losses, chosen, options, message):
    with pytest.raises(ValueError, match=message):
        supersample_bound(losses, chosen, **options)


def test_many_levels_take_no_more_than_those_that_occur():
    rng = np.random.default_rng(0)
    losses, chosen = rng.random((40, 6, 2)), rng.integers(0, 2, (40, 6))
    found = supersample_bound(losses, chosen, levels=10**9, null_draws=5)
    np.testing.assert_allclose(found.information, supersample_bound(losses, chosen, levels=10**6).information)
