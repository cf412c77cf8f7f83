"""The truths that `benchmarks.silent` measures against, each by another way, and its count of what was not flagged."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from benchmarks import _estimates, silent
from benchmarks import _problems as p


def gaussian_nats(rho: float) -> float:
    return -0.5 * math.log(1 - rho**2)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_cells_of_a_gaussian_pair(rho):
    """Narrow cells keep everything; two cells keep what a sign does, here by arcsine probabilities of quadrants."""
    narrow = p._cut_nats(rho, np.arange(-8, 8, 0.02))
    assert narrow == pytest.approx(gaussian_nats(rho), abs=2e-3)
    a, cell = np.random.default_rng(0).standard_normal((2, 200_000))
    cell = rho * a + math.sqrt(1 - rho**2) * cell > 0
    # log p(cell | a) / p(cell), averaged over draws: standard error below .002.
    q = scipy.stats.norm.cdf(rho * a / math.sqrt(1 - rho**2))
    drawn = np.log(2 * np.where(cell, q, 1 - q))
    assert p._cut_nats(rho, np.array([0.0])) == pytest.approx(drawn.mean(), abs=0.005)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
def test_rectified_side_of_a_gaussian_pair(rho):
    """By draws: the density ratio above 0, that of the atom below."""
    a, y = np.random.default_rng(1).standard_normal((2, 200_000))
    spread = math.sqrt(1 - rho**2)
    y = rho * a + spread * y
    above = scipy.stats.norm.logpdf(a, rho * y, spread) - scipy.stats.norm.logpdf(a)
    atom = np.log(2 * scipy.stats.norm.cdf(-rho * y / spread))
    assert p._rectified_nats(rho) == pytest.approx(np.where(a > 0, above, atom).mean(), abs=0.01)


@pytest.mark.parametrize(("dims", "nu"), [(1, 2.0), (2, 3.0), (4, 5.0)])
def test_entropy_of_a_t_law(dims, nu):
    assert p.t_excess(dims, nu) == pytest.approx(scipy.stats.multivariate_t(np.zeros(dims), df=nu).entropy(), abs=1e-8)


def test_redrawn_labels():
    """Separate classes of which a share is redrawn: H(Y) - H(Y'|Y) in closed form."""
    points = np.arange(-8, 58, 0.05)
    density = scipy.stats.norm.pdf(points[:, None], [0, 20, 40], 1)
    weights = np.array([0.5, 0.25, 0.25])
    noisy, after = p.flipped(density, weights, 0.3)
    channel = 0.7 * np.eye(3) + 0.1
    want = scipy.stats.entropy(weights @ channel) - weights @ scipy.stats.entropy(channel, axis=1)
    assert p.class_nats(noisy, after, 0.05) == pytest.approx(want, abs=1e-6)
    assert after == pytest.approx(weights @ channel)


def test_cells_of_classes():
    """A binning of two unit Gaussians: the plug-in value of many samples, whose bias is below .001 nat."""
    rng = np.random.default_rng(3)
    y = rng.integers(2, size=400_000)
    t = 2.0 * y + rng.standard_normal(len(y))
    edges = np.linspace(t.min(), t.max(), 31)[1:-1]
    nats = p._cell_truth(edges, np.array([[0.0], [2.0]]), np.array([0.5, 0.5]), 0.0)
    counts = np.histogram2d(np.digitize(t, edges), y, bins=(30, 2), range=[[0, 30], [0, 2]])[0] / len(y)
    outer = counts.sum(1, keepdims=True) * counts.sum(0)
    plain = (counts[counts > 0] * np.log(counts[counts > 0] / outer[counts > 0])).sum()
    assert nats == pytest.approx(plain, abs=0.003)


def test_mixture_of_two_points():
    """Two points two noise std apart: 0.4859 bit by quadrature, for the point and for its class."""
    t = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    i_xt, i_ty = p.mixture_nats(t, (t[:, 0] > 0).long(), 1.0, 0)
    assert i_xt == pytest.approx(0.4859 * math.log(2), abs=0.03)
    assert i_ty == pytest.approx(0.4859 * math.log(2), abs=0.03)


def test_problems_are_those_of_their_seed_and_finite():
    names = ["curved_pairs", "atomic_pairs", "noisy_network"]
    first, again, other = (list(p.problems(seed, names)) for seed in (0, 0, 1))
    assert [len(g) for g in (first, other)] == [sum(p.FAMILIES[f] for f in p.FAMILIES if f.__name__ in names)] * 2
    assert all(torch.equal(a.t, b.t) and torch.equal(a.y, b.y) for a, b in zip(first, again, strict=True))
    assert not all(a.t.shape == b.t.shape and torch.equal(a.t, b.t) for a, b in zip(first, other, strict=True))
    for problem in first:
        assert bool(torch.isfinite(problem.t).all())
        assert problem.nats >= 0 or math.isnan(problem.nats)


def record(value: float, *flags: str, bound: str = "point", truth: float = 1.0, ground: bool = True) -> dict:
    error = value - truth
    wrong, near = silent.miss(error, bound) > silent.WRONG, abs(error) <= silent.NEAR
    kind = {"estimator": "made", "kind": "classes", "family": "one", "ground": ground}
    return {**kind, "flagged": bool(flags), "wrong": wrong, "near": near}


def test_bars_count_what_was_wrong_and_what_was_said():
    held = [record(1.0)] * 97 + [record(2.0, "unreliable")] * 2 + [record(0.2, bound="lower")]
    assert all(holds for _, _, holds in silent.bars(held))
    silently = dict((name.split(":")[0], holds) for name, _, holds in silent.bars([*held, record(2.0)]))
    assert silently["wrong and unflagged, of all values"]
    assert not silently["wrong and unflagged, of what is recommended"]
    timid = [record(1.0, "unreliable")] * 50 + [record(1.0)] * 50
    assert [holds for _, _, holds in silent.bars(timid)] == [True, True, False, False]


def value(estimator: str, nats: float, truth: float, *flags: str, **settings: float) -> dict:
    made = {"kind": "pairs", "family": "curved", "quantity": "I(T;Y)", "truth": truth, "nats": truth, "seconds": 0.1}
    return {**made, "estimator": estimator, "value": nats, "flagged": bool(flags), "settings": {"D": 12, **settings}}


def test_targets_are_mean_errors_of_auto_and_others_stand_beside():
    found = [value("auto", 1.1, 1.0), value("auto", 2.0, 2.1, "unreliable"), value("knn", 1.0, 2.0)]
    held = dict((promise.partition(":")[0], holds) for promise, _, holds in silent.missed_targets(found))
    assert held == {"auto, pairs, all": True, "auto, pairs, ten units and more": True, "auto, classes": True}
    row = next(line for line in silent.targets(found).splitlines() if line.startswith("| pairs, all"))
    assert [cell.strip() for cell in row.split("|")[3:5]] == ["0.100", "1.000 (of 1)"]
    far = [*found, value("auto", 2.0, 1.0), {**value("auto", 0.8, 0.7, K=2), "kind": "classes"}]
    missed = [promise for promise, _, holds in silent.missed_targets(far) if not holds]
    assert len(missed) == 4
    assert missed[0].startswith("auto, classes, all")
    assert missed[-1].startswith("auto, classes:")


def test_a_stopped_run_goes_on_from_its_file(tmp_path, monkeypatch):
    """What stands in the file is not estimated again; a line that a stop tore is."""
    tasks = [_estimates.Task(0, "parity_classes", i, "gaussian") for i in range(2)]
    path = tmp_path / "cache.jsonl"
    lines = _estimates.estimates(tasks, 0, path)
    whole = path.read_text()
    assert len(whole.splitlines()) == 2
    assert all(line["values"] for line in lines.values())
    path.write_text(whole.splitlines(keepends=True)[0] + whole.splitlines()[1][:40])
    asked = []
    monkeypatch.setattr(_estimates, "estimate", lambda task: asked.append(task) or {**task._asdict(), "values": []})
    assert _estimates.estimates(tasks, 0, path)[tasks[0]] == lines[tasks[0]]
    assert asked == tasks[1:]
    assert list(_estimates.read(path)) == tasks
