"""Canonical coordinates of a pair: what the trained estimators start from."""

from __future__ import annotations

import math

import pytest
import torch

from infoplane.estimators._canonical import canonical_nats, gaussian_log_ratio
from infoplane.estimators._coordinates import Coordinates, Marginal


def pair(dims, nats, samples=2000, seed=0):
    """Gaussian pairs of so many independent coordinates, rotated on both sides."""
    g = torch.Generator().manual_seed(seed)
    rho = math.sqrt(1 - math.exp(-2 * nats / dims))
    x = torch.randn(samples, dims, generator=g, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(samples, dims, generator=g, dtype=torch.float64)
    rotations = [torch.linalg.qr(torch.randn(dims, dims, generator=g, dtype=torch.float64))[0] for _ in range(2)]
    return x @ rotations[0], y @ rotations[1]


def coordinates(x, y, fitted=None, most=(64, 64)):
    fitted = torch.arange(len(x)) if fitted is None else fitted
    return Coordinates.of(Marginal.of(x, 0), Marginal.of(y, 1), fitted, most)


@pytest.mark.parametrize(("dims", "nats"), [(1, 0.0), (1, 3.0), (4, 1.0), (4, 5.0), (20, 3.0), (20, 8.0)])
def test_gaussian_information_is_in_the_correlations(dims, nats):
    """The sample's own error is sqrt(dims / N) or less."""
    found = coordinates(*pair(dims, nats))
    assert abs(float(canonical_nats(found.correlations)) - nats) < max(0.1, 0.05 * nats)


def test_increasing_maps_of_units_change_nothing():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2000, 4, generator=g, dtype=torch.float64)
    y = 0.9 * x + math.sqrt(0.19) * torch.randn(2000, 4, generator=g, dtype=torch.float64)
    here, there = coordinates(x, y), coordinates(x**3, y.exp())
    torch.testing.assert_close(there.correlations, here.correlations, atol=1e-9, rtol=0)


def test_coordinates_are_white_and_paired_on_the_rows_they_were_fitted_to():
    x, y = pair(5, 2.0)
    fitted = torch.arange(0, 2000, 2)
    found = coordinates(x, y[:, :3], fitted)
    u, v = found.u[fitted], found.v[fitted]
    assert u.shape[1] == 5
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(3, dtype=v.dtype), atol=0.01, rtol=0)
    cross = u.T @ v / len(u)
    cross.fill_diagonal_(0)
    assert float(cross.abs().max()) < 1e-9


def test_other_rows_go_the_same_way():
    """Rows that were not fitted change no map: coordinates of the others stay."""
    x, y = pair(3, 1.0, samples=600)
    fitted = torch.arange(300)
    moved = x.clone()
    moved[300:] = moved[300:].flip(0)  # the ranks stay
    a, b = coordinates(x, y, fitted), coordinates(moved, y, fitted)
    torch.testing.assert_close(a.u[:300], b.u[:300])
    torch.testing.assert_close(a.u[300:].flip(0), b.u[300:])


def test_more_units_than_rows_and_a_limit_of_dimensions():
    g = torch.Generator().manual_seed(3)
    latent = torch.randn(200, 2, generator=g, dtype=torch.float64)
    wide = latent @ torch.randn(2, 400, generator=g, dtype=torch.float64)
    wide += 0.01 * torch.randn(wide.shape, generator=g, dtype=torch.float64)
    found = coordinates(wide, latent, most=(2, 2))
    assert found.u.shape == (200, 2)
    assert found.kept[0] > 0.95
    assert float(found.correlations.min()) > 0.99
    assert coordinates(wide, latent).u.shape[1] <= 64


def test_atoms_are_scaled_only_and_constants_go():
    g = torch.Generator().manual_seed(4)
    x = torch.relu(torch.randn(500, 2, generator=g, dtype=torch.float64))
    side = Marginal.of(torch.cat([x, torch.full((500, 1), 3.0, dtype=torch.float64)], 1), 0)
    assert side.tied
    torch.testing.assert_close(side.columns, (x - x.mean(0)) / x.std(0, correction=0))
    none = Marginal.of(torch.ones(500), 1)
    found = Coordinates.of(side, none, torch.arange(500), (64, 64))
    assert found.v.shape == (500, 0)
    assert found.correlations.shape == (0,)


def test_the_ratio_is_that_of_the_densities():
    """Against the logarithm of three normal densities."""
    rho = torch.tensor([0.8, -0.3], dtype=torch.float64).abs()
    u, v = pair(2, 1.0, samples=5)
    normal = torch.distributions.MultivariateNormal
    for i in range(5):
        for j in range(5):
            joint = sum(
                normal(
                    torch.zeros(2, dtype=torch.float64), torch.tensor([[1, r], [r, 1]], dtype=torch.float64)
                ).log_prob(torch.stack([u[i, k], v[j, k]]))
                for k, r in enumerate(rho.tolist())
            )
            apart = -0.5 * (u[i].square().sum() + v[j].square().sum()) - 2 * math.log(2 * math.pi)
            assert abs(float(joint - apart) - float(gaussian_log_ratio(u, v, rho)[i, j])) < 1e-9


def test_of_a_wide_side_what_follows_products_comes_next_and_noise_is_left_out():
    """Unit 0 goes with an input, unit 1 with the sign of a product, the others with nothing; all turned."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(2000, 3, generator=g, dtype=torch.float64)
    clean = torch.stack([x[:, 0], (x[:, 1] * x[:, 2]).sign()], 1)
    t = torch.cat([clean, torch.zeros(2000, 18, dtype=torch.float64)], 1)
    t = t + 0.3 * torch.randn(t.shape, generator=g, dtype=torch.float64)
    t = t @ torch.linalg.qr(torch.randn(20, 20, generator=g, dtype=torch.float64))[0]
    fitted, sides = torch.arange(1500), (Marginal.of(t, 0), Marginal.of(x, 1))
    for flip in (False, True):
        found = Coordinates.of(*(sides[::-1] if flip else sides), fitted, (64, 64), seen=16)
        wide, few = (found.v, found.u) if flip else (found.u, found.v)
        assert (wide.shape, few.shape) == ((2000, 20), (2000, 3))
        assert abs(float(torch.corrcoef(torch.stack([wide[1500:, 3], clean[1500:, 1]]))[0, 1])) > 0.8
        assert bool((wide[:, 4:] == 0).all())
    all_kept = Coordinates.of(*sides, fitted, (64, 64), seen=20)
    assert not bool((all_kept.u == 0).any())
