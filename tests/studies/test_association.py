"""What goes with the gap: closed forms and slow references, nulls that hold their level, and the traps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from many_runs import of
from scipy import stats

from infoplane.studies import correlation, design

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("method", correlation.METHODS)
def test_correlations_are_those_of_the_textbook_also_with_ties(method):
    x, y = np.round(normal(30, 4)), np.round(normal(30, seed=1))
    expected = [SCIPY[method](column, y).statistic for column in x.T]
    np.testing.assert_allclose(correlation.correlations(x, y, method), expected, atol=1e-7)
    orders = np.stack([np.arange(30), np.roll(np.arange(30), 1)])
    moved = [SCIPY[method](column, np.roll(y, 1)).statistic for column in x.T]
    np.testing.assert_allclose(correlation.null(x, y, orders, method), [expected, moved], atol=1e-7)


def slow_partial(x, y, z):
    """Residuals of the ranks on the ranks of the control, by least squares."""
    rx, ry, rz = map(stats.rankdata, (x, y, z))
    design = np.stack([np.ones(len(rz)), rz], axis=1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (rx, ry)]
    return stats.pearsonr(*left).statistic


@pytest.mark.parametrize("method", correlation.METHODS)
def test_a_draw_is_the_correlation_of_its_runs(method):
    x, y, z = np.round(normal(12, 2), 1), normal(12, seed=1), normal(12, seed=2)
    weights = design.weights_of(np.arange(12) // 2, 4, np.random.default_rng(0))
    assert (weights[:, ::2] == weights[:, 1::2]).all()  # both seeds of a configuration
    assert (weights.sum(axis=1) == 12).all()
    drawn = [np.repeat(np.arange(12), w.astype(int)) for w in weights]
    expected = [[SCIPY[method](x[rows, m], y[rows]).statistic for m in range(2)] for rows in drawn]
    np.testing.assert_allclose(correlation.bootstrap(x, y, weights, method), expected, atol=1e-6)
    partial = [[slow_partial(x[rows, m], y[rows], z[rows]) for m in range(2)] for rows in drawn]
    np.testing.assert_allclose(correlation.partial_bootstrap(x, y, z, weights), partial, atol=1e-9)


def test_a_correlation_of_49_in_54_runs_has_the_interval_26_to_67():
    """tanh(atanh(.49) -+ 1.96 / sqrt(51)) is .256 and .670; the percentile interval is that on average."""
    ends = []
    for seed in range(40):
        pair = np.linalg.qr(normal(54, 3, seed=seed) - normal(54, 3, seed=seed).mean(axis=0))[0]
        y = 0.49 * pair[:, 0] + math.sqrt(1 - 0.49**2) * pair[:, 1]
        found = of(pair[:, :1], y).association(method="pearson", draws=1000, permutations=19)
        assert found.numbers["pearson"][0] == pytest.approx(0.49)
        ends.append(np.concatenate(found.interval))
    # The spread of one interval's end over samples is about .06, of the mean of 40 a sixth of it.
    np.testing.assert_allclose(np.mean(ends, axis=0), [0.256, 0.670], atol=0.035)


def test_sixty_runs_see_correlations_above_a_quarter_only():
    x = normal(60, 400)
    found = of(x, normal(60, seed=1)).association(draws=0, permutations=499)
    value, p = abs(found.numbers["spearman"]), found.numbers["p"]
    assert value[p <= 0.05].min() > 0.22
    assert value[p > 0.05].max() < 0.29


def adjusted(x, y, groups, strata, random, method="spearman"):
    orders, _ = design.orders_of(groups, strata, 99, random)
    return correlation.p_values(correlation.correlations(x, y, method), correlation.null(x, y, orders, method))


def test_of_studies_of_nothing_one_in_twenty_has_a_finding():
    """1,000 studies of 54 runs and 12 columns, half of them alike: adjusted p holds its level, raw p does not."""
    random, own, none = np.random.default_rng(0), np.arange(54), np.zeros(54, int)
    found = []
    for _ in range(1000):
        x = random.normal(size=(54, 12))
        x[:, 6:] += 2 * x[:, :1]
        found.append([p.min() <= 0.05 for p in adjusted(x, random.normal(size=54), own, none, random)])
    raw, fair = np.mean(found, axis=0)
    assert abs(fair - 0.05) < 0.014
    assert raw > 0.3


def test_seeds_are_no_independent_configurations():
    """Nine configurations of six seeds: what all seeds of one share is no finding of 54 runs."""
    random, none = np.random.default_rng(0), np.zeros(54, int)
    groups, own = np.repeat(np.arange(9), 6), np.arange(54)
    found = []
    for _ in range(200):
        x, y = (random.normal(size=(9, m))[groups] + 0.3 * random.normal(size=(54, m)) for m in (5, 1))
        found.append([adjusted(x, y[:, 0], g, none, random)[1].min() <= 0.05 for g in (groups, own)])
    together, apart = np.mean(found, axis=0)
    assert together < 0.05 + 0.046  # three standard errors of 200 studies
    assert apart > 0.5


@pytest.mark.parametrize("swept", [True, False])
def test_what_a_control_explains_is_no_finding_given_it(swept):
    """Columns and gap follow the control: 100 studies, with five values of the control or one for each run."""
    random, hits = np.random.default_rng(0), np.zeros(3)
    for _ in range(100):
        z = np.repeat(np.arange(5.0), 10) if swept else random.normal(size=50)
        x = 1.5 * z[:, None] + random.normal(size=(50, 5))
        study = of(x, 1.5 * z + random.normal(size=50), n_weights=z.tolist(), lr=range(50))
        numbers = study.association(control="n_weights", draws=0, permutations=99).numbers
        hits += [numbers[name].min() <= 0.05 for name in ("partial_p_adjusted", "p_adjusted", "partial_p")]
    assert hits[0] <= 5 + 6.5  # three standard errors
    assert hits[1] <= 5 + 6.5 if swept else hits[1] == 100  # where it is swept both stay within its values


def test_the_planted_column_is_found_and_the_others_are_not():
    x, y = normal(54, 20), normal(54, seed=1)
    x[:, 7] -= 1.5 * y
    found = of(x, y).association(permutations=999)
    assert found.columns[found.strongest()[0]] == "c7"
    assert found.p_adjusted[7] <= 0.001
    assert np.delete(found.p_adjusted, 7).min() > 0.05
    low, high = found.interval
    assert low[7] < found.value[7] < high[7] < 0
    again = of(x, y).association(permutations=999)
    assert again.frame.equals(found.frame)
    text = str(found).splitlines()
    assert text[1].startswith("c7 ")
    assert "20 columns tried on 54 runs" in text
    assert "with gap (test loss - train loss, final)" in text


def test_the_partial_correlation_is_that_of_residuals():
    x, y, z = normal(30, 3), normal(30, seed=1), normal(30, seed=2)
    found = of(x + z[:, None], y + z, n_weights=z.tolist()).association(control="n_weights", permutations=99)
    expected = [slow_partial(column, y + z, z) for column in (x + z[:, None]).T]
    np.testing.assert_allclose(found.value, expected)
    low, high = found.interval
    assert (low < found.value).all()
    assert (found.value < high).all()


def test_runs_and_columns_that_lack_numbers_are_named():
    x, y = normal(40, 5), normal(40, seed=1)
    x[:10, 0], x[3, 1], x[:, 2], y[5] = np.nan, np.nan, 1.0, np.nan
    found = of(x, y).association(permutations=99, draws=50)
    assert found.columns == ["c1", "c3", "c4"]
    assert found.left_out == {"c0": "in 30 of 39 runs", "c2": "constant"}
    assert len(found.runs) == 38
    assert "3 columns tried on 38 runs; 2 runs lack a number" in found.words
    assert "not tried: c0 (in 30 of 39 runs), c2 (constant)" in found.words


def test_what_hangs_on_one_run_has_an_interval_with_0_in_it():
    """A column that varies in one run of twenty is constant in a third of the draws."""
    x, y = np.zeros((20, 1)), np.arange(20.0)
    x[-1] = 1.0
    for method in correlation.METHODS:
        low, high = of(x, y).association(method=method, permutations=9).interval
        assert low == 0
        assert high > 0.3


def test_few_orders_are_said():
    y = np.arange(6.0)
    found = of(normal(6, 2), y, lr=[1, 1, 2, 2, 3, 3], wd=range(6)).association(control="lr", permutations=99)
    assert "p from all 8 orders of configurations of one lr" in found.words[3]
    assert found.words[3].endswith("no p is below 0.125")
    assert set(found.numbers["p"] * 8) <= {float(k) for k in range(1, 9)}


@pytest.mark.parametrize(
    ("study", "how", "said"),
    [
        (of(normal(1, 2), [1.0]), {}, "at least 5 configurations with all numbers, got 1 in 1 runs"),
        (of(normal(8, 2), normal(8), lr=[1] * 4 + [2] * 4, seed=range(8)), {}, "got 2 in 8 runs"),
        (of(normal(8, 2), [1.0] * 8), {}, "gap is 1 in all 8 runs, so nothing goes with it"),
        (of(normal(8, 2), normal(8), n=[2] * 8), {"control": "n"}, "n is 2 in all 8 runs"),
        (of(normal(8, 2), normal(8), net=["mlp"] * 8), {"control": "net"}, "needs numbers, the column 'net' has 'mlp'"),
        (of(np.ones((8, 2)), normal(8)), {}, r"no column can be tried: c0 \(constant\), c1 \(constant\)"),
        (of(normal(8, 2), normal(8)), {"target": "gab"}, "no column 'gab'; closest: gap"),
        (of(normal(8, 2), normal(8)), {"target": "error_gap"}, "no error_gap: no run recorded a held-out metric"),
        (of(normal(8, 2), normal(8)), {"layer": "fc7"}, "no layer 'fc7'; closest: fc0"),
        (of(normal(8, 2), normal(8)), {"control": "gap"}, "another column than the target, got 'gap' for both"),
        (of(normal(8, 2), normal(8)), {"seed": -1}, "got 9, 9 and -1"),
        (of(normal(8, 2), normal(8), run=range(8)), {"repetitions": ("rum",)}, "no hyper-parameter 'rum'"),
        (of(normal(8, 2), normal(8)), {"method": "cosine"}, "pearson, spearman, kendall, got 'cosine'"),
        (of(normal(8, 2), normal(8)), {"layers": "fc7"}, "takes no 'layers'; columns are chosen by layer, subset"),
    ],
)  # fmt: skip
def test_what_cannot_be_associated_is_said(study, how, said):
    with pytest.raises((ValueError, TypeError), match=said):
        study.association(permutations=9, draws=9, **how)


def test_one_name_of_a_repetition_is_no_set_of_letters():
    study = of(normal(12, 2), normal(12), d=list(range(6)) * 2, seed=[0] * 6 + [1] * 6)
    found = study.association(repetitions="seed", permutations=9, draws=9)
    assert len(np.unique(found.configurations)) == 6
    assert len(study.claim("+", permutations=9, draws=9).cells) == 2


@pytest.mark.parametrize(("permutations", "draws"), [(0, 9), (9, -1)])
def test_numbers_of_draws_are_checked(permutations, draws):
    with pytest.raises(ValueError, match=f"permutations must be at least 1, .* got {permutations}, {draws} and 0"):
        of(normal(8, 2), normal(8)).association(permutations=permutations, draws=draws)


def test_a_claim_has_the_share_of_settings_in_which_it_holds():
    y = normal(40, seed=1)
    x = normal(40, 4) + np.outer(y, [-3, -3, 0, 3])
    x[:, 2] = correlation.residuals(x[:, 2:3], y)[:, 0]
    study = of(x, y, lr=[0.1] * 20 + [0.2] * 20)
    claim = study.claim("-", repetitions=None, draws=400)
    assert claim.cells == ["c0", "c1", "c2", "c3"]
    assert (claim.holds, claim.clear) in [(0.5, 0.5), (0.75, 0.5)]
    assert study.claim("+", repetitions=None, draws=200).clear == 0.25
    assert "with an interval without 0 in 2 (50%)" in str(claim)
    within = study.claim(-1, within="lr", layer="fc0", draws=200)
    assert within.cells == ["lr = 0.1, c0", "lr = 0.1, c1", "lr = 0.2, c0", "lr = 0.2, c1"]
    assert (within.holds, within.clear) == (1.0, 1.0)
    few = of(x[:23], y[:23], lr=[0.1] * 20 + [0.2] * 3).claim("-", within="lr", draws=50)
    assert list(few.skipped) == ["lr = 0.2"]
    with pytest.raises(ValueError, match="sign must be"):
        study.claim("up")
    with pytest.raises(ValueError, match="no column 'lt'; closest: lr"):
        study.claim("-", within="lt")
