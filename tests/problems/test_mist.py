"""The truths that the network of `benchmarks.mist` is trained on, each by another way, and that the command runs."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import trapezoid

from benchmarks import _simulated as simulated
from benchmarks import mist


@pytest.mark.parametrize("std", [0.05, 0.4, 1.5])
def test_a_line_through_gaussian_noise(std):
    assert simulated.channel_nats("line", False, False, std) == pytest.approx(0.5 * math.log1p(std**-2), abs=0.005)


@pytest.mark.parametrize(
    ("wave", "uniform", "laplace", "std"),
    [("line", True, True, 0.1), ("waves", True, False, 0.1), ("bowl", False, True, 0.8)],
)
def test_channels_by_another_quadrature(wave, uniform, laplace, std):
    """The density of Y by trapezia over X instead of quantiles of X, its entropy by trapezia over Y."""
    x = np.linspace(-1.7, 1.7, 801) if uniform else np.linspace(-6, 6, 801)
    p = np.full(len(x), 1 / 3.4) if uniform else stats.norm.pdf(x)
    noise = stats.laplace(scale=std) if laplace else stats.norm(scale=std)
    centres = simulated.WAVES[wave](x)
    y = np.linspace(centres.min() - 15 * std, centres.max() + 15 * std, 1201)
    density = trapezoid(p[:, None] * noise.pdf(y - centres[:, None]), x, axis=0)
    want = trapezoid(-density * np.log(np.maximum(density, 1e-300)), y) - noise.entropy()
    assert simulated.channel_nats(wave, uniform, laplace, std) == pytest.approx(want, abs=0.01)


def test_clusters_by_quadrature():
    """Log ratios averaged over 20,000 draws, standard error below .01, against a sum over a grid of the plane."""
    weights, x, y, stds = (
        np.array([0.5, 0.3, 0.2]),
        [-2.0, 0.0, 1.0],
        [1.0, -1.0, 2.0],
        [[0.4, 0.9], [1.0, 0.5], [0.3, 0.3]],
    )
    law = simulated.Clusters(weights, np.array(x)[:, None], np.array(y)[:, None], np.array(stds))
    grid = np.arange(-6, 6, 0.04)
    of_x, of_y = (
        np.stack([stats.norm.pdf(grid, m, s[i]) for m, s in zip(means, stds, strict=True)])
        for i, means in enumerate((x, y))
    )
    both = np.einsum("k,ka,kb->ab", weights, of_x, of_y)
    ratio = both / np.outer(weights @ of_x, weights @ of_y)
    want = (both * np.log(ratio)).sum() * 0.04**2
    drawn = law.log_ratios(*law.draw(np.random.default_rng(0), 20_000))
    assert drawn.std() / math.sqrt(len(drawn)) < 0.01
    assert drawn.mean() == pytest.approx(want, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_pairs_have_the_information_of_their_correlations(seed):
    pair = simulated.gaussian(np.random.default_rng(seed), 200_000)
    rho = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(pair.x.T, pair.y.T, strict=True)])
    assert -0.5 * np.log1p(-(rho**2)).sum() == pytest.approx(pair.nats, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_maps_can_be_undone(seed):
    """Bends keep the order of a unit, shears move one by a function of another, mixtures are linear of full rank."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((200, 3))
    assert (np.argsort(simulated.bent(z, rng), 0) == np.argsort(z, 0)).all()
    moved = simulated.sheared(z, rng)
    assert (moved[:, :2] == z[:, :2]).all()
    assert np.abs(moved[:, 2] - z[:, 2]).max() <= 2 * z[:, 2].std()
    mixed = simulated.mixed(z, rng)
    back = mixed @ np.linalg.lstsq(mixed, z, rcond=None)[0]
    assert back == pytest.approx(z, abs=1e-9)


def test_the_order_of_samples_does_not_matter_and_quantiles_never_cross():
    rows, facts, truth = mist.batch(0, 0, 8)
    torch.manual_seed(0)
    network = mist.SetNetwork(rows.shape[2], facts.shape[1])
    found = network(rows, facts)
    assert found.shape == (len(truth), len(mist.QUANTILES))
    assert torch.allclose(network(rows[:, torch.randperm(rows.shape[1])], facts), found, atol=1e-5)
    assert (found.diff(dim=1) > 0).all()
    assert 4 * sum(p.numel() for p in network.parameters()) < 1e6


def test_the_command_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mist", "--quick"])
    mist.main()
    lines = capsys.readouterr().out.splitlines()
    for title in (*mist.GROUPS, "curved", mist.HOME):
        rows = [line for line in lines if line.startswith(f"| {title} |")]
        assert len(rows) == 1 + len(mist.SIZES)
        assert title == "independent" or not any("| - |" in row for row in rows), rows
