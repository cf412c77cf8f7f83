"""Distances, Gaussian kernels, width rules, scaling and clusters that the kernel methods share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.spatial.distance as ssd
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from infoplane import datasets
from infoplane.estimators._gram import Distances, centred, silverman
from infoplane.estimators._scaling import drawn_rows, is_constant, zscore
from infoplane.estimators.cs_qmi import CauchySchwarz
from infoplane.estimators.dse import spectral_clusters
from infoplane.estimators.hsic import Hsic


def rows(seed=0, snapshots=2, samples=30, units=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(snapshots, samples, units, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1.0, 1e150])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances(scale, offset):
    """Rounding is of the offset, so the tolerance is 1e3 x 1e-16 x sqrt(units), with a margin."""
    t = (rows() + offset) * scale
    found = Distances.of(t)
    for s in range(2):
        own = found.squared[s].sqrt() * found.scale[s] / scale
        np.testing.assert_allclose(own, ssd.squareform(ssd.pdist(rows()[s].numpy())), atol=1e-11)


def test_equal_rows_have_distance_zero():
    t = rows(samples=5).repeat(1, 2, 1) + 100
    squared = Distances.of(t.float()).squared
    assert torch.equal(squared[:, :5, 5:].diagonal(dim1=1, dim2=2), torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(squared, squared.mT, atol=1e-14, rtol=0)


def test_gaussian_kernel_and_median():
    t = rows()
    found = Distances.of(t)
    pairs = np.sort(ssd.pdist(t[1].numpy()))
    assert float(found.median()[1]) == pytest.approx(pairs[(len(pairs) - 1) // 2], rel=1e-12)
    expected = np.exp(-(ssd.squareform(ssd.pdist(t[1].numpy())) ** 2) / (2 * 0.7**2))
    np.testing.assert_allclose(found.gaussian(0.7)[1], expected, atol=1e-13)


def test_constant_layer_has_a_kernel_of_ones():
    found = Distances.of(torch.full((1, 6, 3), 0.1))
    assert torch.equal(found.gaussian(found.median()), torch.ones(1, 6, 6, dtype=torch.float64))


def test_width_rules():
    distances = Distances.of(rows())
    own = distances.median()
    assert CauchySchwarz(sigma=2.5).widths(distances, units=4).tolist() == [2.5, 2.5]
    assert Hsic(sigma=2.5).widths(distances, units=4).tolist() == [5.0, 5.0]
    assert Hsic(sigma="median").widths(distances, units=4, run_width=1.5).tolist() == [1.5, 1.5]
    assert Hsic(sigma="median").ready(rows()).run_sigma == float(own[1])
    assert torch.equal(Hsic(sigma="snapshot").widths(distances, units=4), own)
    assert silverman(2.0, 100, 3) == pytest.approx(2 * math.sqrt(3) * 100 ** (-1 / 7))
    for bad in ("mean", 0.0, -1, math.inf, True):
        with pytest.raises(ValueError, match="sigma must be a positive number, 'median' or 'snapshot', got"):
            Hsic(sigma=bad)


def test_the_last_finite_snapshot_gives_the_width():
    t = rows(snapshots=5)
    t[4, 0, 0] = math.nan
    y = torch.arange(t.shape[1])
    assert Hsic().prepare([t[:3], t[3:]], y).run_sigma == float(Distances.of(t[3:4]).median())
    with pytest.raises(ValueError, match="no finite snapshot"):
        Hsic().prepare([t[4:]], y)


def test_centring():
    k = Distances.of(rows()).gaussian(1.0)
    h = torch.eye(30, dtype=torch.float64) - 1 / 30
    torch.testing.assert_close(centred(k), h @ k @ h, atol=1e-14, rtol=0)


def test_zscore():
    scale = torch.tensor([1e-300, 1.0, 1e200, 0.0], dtype=torch.float64)
    t = rows() * scale + torch.tensor([0.0, 50.0, 0.0, 3.0])
    z = zscore(t)
    torch.testing.assert_close(z.mean(1), torch.zeros(2, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z[..., :3].square().mean(1), torch.ones(2, 3, dtype=torch.float64))
    assert not z[..., 3].any()
    # A unit that varies within float32 rounding is constant: no noise is blown up.
    wobble = torch.full((1, 50, 1), 100.0) + 1e-6 * torch.arange(50)[None, :, None]
    assert not zscore(wobble).any()
    assert zscore(torch.tensor([[[-128], [127]]], dtype=torch.int8)).flatten().tolist() == [-1.0, 1.0]


def test_constant_and_drawn_rows():
    t = torch.zeros(2, 5, 3)
    t[1, 4, 2] = 1e-30
    assert is_constant(t).tolist() == [True, False]
    assert drawn_rows(10, 10, seed=0) is None
    drawn = drawn_rows(1000, 50, seed=0)
    assert len(drawn.unique()) == 50
    assert torch.equal(drawn, drawn_rows(1000, 50, seed=0))
    assert not torch.equal(drawn, drawn_rows(1000, 50, seed=1))


def test_clusters_of_separate_groups():
    labels = torch.arange(4).repeat(25)
    x = 20.0 * torch.nn.functional.one_hot(labels).double() + rows(samples=100, snapshots=1)[0]
    found = spectral_clusters(x, 4)
    assert adjusted_rand_score(labels, found) == 1.0
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert adjusted_rand_score(found[order], spectral_clusters(x[order], 4)) == 1.0


@pytest.mark.parametrize("samples", [400, 900])
def test_clusters_agree_with_scikit_learn(samples):
    """Both sides of the switch to a sparse eigensolver. Ties among neighbours may fall differently."""
    x = torch.from_numpy(datasets.digits()[0][:samples]).double()
    theirs = SpectralClustering(
        10, affinity="nearest_neighbors", n_neighbors=10, assign_labels="cluster_qr", random_state=0
    ).fit_predict(x.numpy())
    assert adjusted_rand_score(theirs, spectral_clusters(x, 10)) > 0.9


def test_clusters_of_nothing_to_tell_apart():
    assert spectral_clusters(torch.ones(7, 3), 3).tolist() == [0] * 7
    assert len(spectral_clusters(rows(samples=3, snapshots=1)[0], 10).unique()) <= 3
