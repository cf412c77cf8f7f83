"""The stated information of every problem against Monte Carlo over its own law, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from infoplane import datasets
from infoplane.estimators import parse


def monte_carlo(t, y, class_log_density, p) -> tuple[float, float]:
    """Mean and standard error of log2 p(t|y) / p(t) over the samples of a problem."""
    log = class_log_density(t)  # (N, K)
    mixture = np.logaddexp.reduce(log + np.log(p), axis=1)
    terms = (log[np.arange(len(y)), y] - mixture) / math.log(2)
    return terms.mean(), terms.std() / math.sqrt(len(terms))


def normal(t, mean, std):
    return stats.norm(mean, std).logpdf(t)


def agrees(problem, log_density, p) -> None:
    mean, error = monte_carlo(problem.t, problem.y, log_density, np.asarray(p))
    assert abs(mean - problem.bits) < 4 * error + 1e-9
    assert error < 0.01


def test_gaussian_classes_on_a_line():
    means, stds, p = [-1.0, 0.3, 2.5], [0.4, 1.0, 0.7], [0.2, 0.5, 0.3]
    known = datasets.gaussian_classes(40_000, means=means, stds=stds, weights=p, seed=1)
    agrees(known, lambda t: np.stack([normal(t[:, 0], m, s) for m, s in zip(means, stds, strict=True)], 1), p)


def test_gaussian_classes_in_a_plane():
    means = np.array([[0, 0], [1.5, 0], [0, 2], [-2, -1.0]])
    known = datasets.gaussian_classes(40_000, means=means, stds=0.8, seed=2)
    agrees(known, lambda t: np.stack([normal(t, m, 0.8).sum(1) for m in means], 1), [0.25] * 4)


def test_plane_and_line_agree():
    """Means on a line of the plane carry what they carry on the line."""
    line = datasets.gaussian_classes(10, means=[-1.0, 0.5, 1.0], stds=0.6).bits
    plane = datasets.gaussian_classes(10, means=[[-0.6, -0.8], [0.3, 0.4], [0.6, 0.8]], stds=0.6).bits
    assert plane == pytest.approx(line, abs=1e-7)


@pytest.mark.parametrize("dims", [1, 2, 5, 20])
def test_gaussian_shells(dims):
    stds, p = [0.5, 1.0, 1.8], [0.3, 0.3, 0.4]
    known = datasets.gaussian_shells(40_000, stds=stds, dims=dims, weights=p, seed=3)
    agrees(known, lambda t: np.stack([normal(t, 0, s).sum(1) for s in stds], 1), p)


def test_shells_by_another_quadrature():
    def term(x):
        p, q = stats.norm.pdf(x), stats.norm.pdf(x, scale=3)
        m = 0.5 * (p + q)
        return 0.5 * (p * np.log2(p / m) + q * np.log2(q / m))

    expected = 2 * quad(term, 0, 30, epsabs=1e-11, limit=400, points=[1, 3, 10])[0]
    assert datasets.gaussian_shells(10, stds=[1.0, 3.0], dims=1).bits == pytest.approx(expected, abs=1e-6)


def test_uniform_classes_closed_form():
    known = datasets.uniform_classes(40_000, classes=5, seed=4)
    agrees(
        known,
        lambda t: np.stack([stats.uniform(k, 2).logpdf(t[:, 0]) for k in range(5)], 1),
        [0.2] * 5,
    )
    assert datasets.uniform_classes(10, classes=1).bits == 0


def test_signed_bits_is_a_sum_of_channels():
    gains = [0.7, 1.5]
    known = datasets.signed_bits(40_000, gains=gains, seed=5)
    signs = [(2 * (k & 1) - 1, 2 * (k >> 1) - 1) for k in range(4)]
    agrees(known, lambda t: np.stack([normal(t, np.multiply(gains, s), 1).sum(1) for s in signs], 1), [0.25] * 4)


@pytest.mark.parametrize(("noise", "bits"), [(1.0, 0.485944), (0.5, 0.912822)])
def test_binary_channel(noise, bits):
    assert datasets.binary_channel(noise) == pytest.approx(bits, abs=1e-6)


def test_zero_inflated():
    means, p = [-1.0, 0.5, 2.0], [0.5, 0.2, 0.3]
    known = datasets.zero_inflated(40_000, means=means, weights=p, seed=6)

    def log_density(t):
        atom = np.stack([np.full(len(t), stats.norm.logcdf(0, m)) for m in means], 1)
        return np.where(t == 0, atom, np.stack([normal(t[:, 0], m, 1) for m in means], 1))

    agrees(known, log_density, p)
    assert 0.2 < (known.t == 0).mean() < 0.8


def test_code_table_is_drawn_from_its_table():
    known = datasets.code_table(400_000, codes=4, classes=3, concentration=0.5, seed=7)
    table = np.zeros((4, 3))
    np.add.at(table, (known.t, known.y), 1 / len(known.t))
    # Plug-in bias (K - 1)(L - 1) / 2N is 1e-5 bits here, the standard error about 1e-3.
    assert datasets.table_information(table) == pytest.approx(known.bits, abs=5e-3)


def test_discrete_codes_are_read_by_counting_as_by_their_table():
    """Bins that part the values, and noise far below their distance, give the plug-in value; the law is 0.02 off.

    Plug-in bias (K - 1)(L - 1) / 2N is 0.007 bit for 27 codes, 4 classes and N = 8000, the standard error 0.008.
    """
    known = datasets.discrete_codes(8000, words=3, ways=3, classes=4, seed=1)
    assert (known.t.shape, np.unique(known.t).tolist()) == ((8000, 3), [0.0, 1.0, 2.0])
    table = np.zeros((27, 4))
    np.add.at(table, (known.t.astype(int) @ [9, 3, 1], known.y), 1 / 8000)
    plugin = datasets.table_information(table)
    assert plugin == pytest.approx(known.bits, abs=0.007 + 2 * 0.008)
    t, y = torch.from_numpy(known.t)[None], torch.from_numpy(known.y)
    for spec in ("binning:n_bins=3", "adaptive:n_bins=3"):
        assert float(parse(f"{spec},null_draws=0").estimate(t, y)["I(T;Y)"].value) == pytest.approx(plugin, abs=1e-9)
    some, of_some = slice(0, 800), np.zeros((27, 4))
    np.add.at(of_some, (known.t[some].astype(int) @ [9, 3, 1], known.y[some]), 1 / 800)
    for spec in ("noise:std=0.05,n_draws=2,null_draws=0", "kde:variance=0.0025,null_draws=0"):
        found = parse(spec).estimate(t[:, some], y[some])["I(T;Y)"]
        assert float(found.value) == pytest.approx(datasets.table_information(of_some), abs=0.02)


def test_discrete_codes_of_one_place_are_their_laws():
    """One place: the table is that of the laws themselves; more places never say less of the class."""
    rng = np.random.default_rng(3)
    laws = rng.gamma(0.3, size=(5, 1, 4))[:, 0]
    laws /= laws.sum(1, keepdims=True)
    one = datasets.discrete_codes(10, words=1, ways=4, classes=5, seed=3)
    assert one.bits == pytest.approx(datasets.table_information(laws / 5), abs=1e-12)
    assert 0 < one.bits < datasets.discrete_codes(10, words=4, ways=4, classes=5, seed=3).bits <= math.log2(5)


def test_table_information_of_known_tables():
    assert datasets.table_information(np.array([[0.45, 0.05], [0.05, 0.45]])) == pytest.approx(0.5310044064)
    assert datasets.table_information(np.eye(4) / 4) == pytest.approx(2.0)
    assert datasets.table_information(np.full((3, 5), 1 / 15)) == pytest.approx(0.0, abs=1e-15)


def test_noise_channel_is_a_cube_through_noise():
    known = datasets.noise_channel(40_000, dims=3, noise=0.6, units=7, seed=8)
    corners = np.stack([known.t[known.y == k].mean(0) for k in range(8)])
    # Means of 5,000 rows each: their distances are those of the cube's corners to within 4 / sqrt(5000).
    distance = np.linalg.norm(corners[0] - corners[[1, 3, 7]], axis=1)
    np.testing.assert_allclose(distance, 2 * np.sqrt([1, 2, 3]), atol=0.06)
    assert known.bits == pytest.approx(3 * datasets.binary_channel(0.6))


def test_gaussian_pair_has_the_stated_correlation():
    known = datasets.gaussian_pair(100_000, bits=2.0, dims=2, seed=9)
    r = [np.corrcoef(known.t[:, j], known.y[:, j])[0, 1] for j in range(2)]
    np.testing.assert_allclose(r, math.sqrt(1 - 2.0**-2), atol=0.01)
    assert known.bits == pytest.approx(2.0)


def test_noise_takes_information_from_an_embedded_pair():
    """The canonical correlations of the noisy embedded pair, measured, give the stated bits."""
    known = datasets.gaussian_pair(50_000, bits=3.0, dims=2, units=6, noise=0.5, seed=10)
    joint = np.cov(np.concatenate([known.t, known.y], 1).T)
    det = [np.linalg.slogdet(c)[1] for c in (joint[:6, :6], joint[6:, 6:], joint)]
    # Bias units^2 / 2N nats = 5e-4; standard error of the order sqrt(2 / N).
    assert 0.5 * (det[0] + det[1] - det[2]) / math.log(2) == pytest.approx(known.bits, abs=0.03)
    assert known.bits < 3.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: datasets.gaussian_pair(10, bits=-1), "bits must not be negative, got -1"),
        (lambda: datasets.gaussian_pair(10, bits=1, dims=3, units=2), r"units must be at least dims \(3\), got 2"),
        (lambda: datasets.gaussian_classes(10, means=np.zeros((3, 3))), r"means must have shape .*got \(3, 3\)"),
        (lambda: datasets.gaussian_classes(10, means=[0, 1], weights=[0.5, 0.6]), "sum to 1"),
        (lambda: datasets.noise_channel(10, dims=2, noise=0.0), "noise must be positive, got 0.0"),
        (lambda: datasets.discrete_codes(10, words=30, ways=4, classes=2), "at most 4194304, got 2305843009213693952"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_seeds_are_problems():
    a, b = (datasets.gaussian_classes(50, means=[0, 1], units=4, seed=s) for s in (0, 0))
    np.testing.assert_array_equal(a.t, b.t)
    assert not np.array_equal(a.t, datasets.gaussian_classes(50, means=[0, 1], units=4, seed=1).t)
