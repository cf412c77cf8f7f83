"""Similarity of layers: unrelated ones read 0, rotated ones 1, and the null is what permuted rows give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from analysis_cases import layer_of, make_run
from analysis_cases import probe as some_probe
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA

from infoplane import open_run
from infoplane.diagnostics import Place, run_similarity, similarity, similarity_matrix

MEASURES = ["cka", "kernel-cka", "knn", "rsa", "svcca"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def slow_hsic(k, l):  # noqa: E741 - the letters of Song et al.
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    terms = np.trace(k @ l), (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)), 2 / (n - 2) * one @ k @ l @ one
    return (terms[0] + terms[1] - terms[2]) / (n * (n - 3))


def slow_cka(k, l):  # noqa: E741
    return slow_hsic(k, l) / math.sqrt(slow_hsic(k, k) * slow_hsic(l, l))


def distances(a):
    return np.linalg.norm(a[:, None] - a[None, :], axis=-1)


def test_each_measure_is_its_formula():
    s, t = normal(40, 3), normal(40, 4, seed=1)
    t[:, 0] += s[:, 0]
    ds, dt = distances(s), distances(t)
    pairs = np.triu_indices(40, 1)
    assert similarity(s, t).value == pytest.approx(slow_cka(s @ s.T, t @ t.T), abs=1e-12)
    kernels = [np.exp(-(d**2) / 2 / (0.5 * np.median(d[pairs])) ** 2) for d in (ds, dt)]
    assert similarity(s, t, measure="kernel-cka", scale=0.5).value == pytest.approx(slow_cka(*kernels), abs=1e-12)
    assert similarity(s, t, measure="rsa").value == pytest.approx(spearmanr(ds[pairs], dt[pairs])[0], abs=1e-12)
    near = [{i: set(row.argsort()[1:6]) for i, row in enumerate(d)} for d in (ds, dt)]
    shared = np.mean([len(near[0][i] & near[1][i]) / 5 for i in range(40)])
    assert similarity(s, t, measure="knn", n_neighbors=5).value == pytest.approx(shared, abs=1e-12)
    cca = CCA(n_components=3, max_iter=5000, tol=1e-12).fit(s, t)
    canonical = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*(x.T for x in cca.transform(s, t)), strict=True)])
    assert similarity(s, t, measure="svcca", variance=1.0).value == pytest.approx(canonical, abs=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_rotated_copy_is_the_same_and_calibration_keeps_that(measure):
    s = normal(120, 6)
    turned = 3.0 * s @ np.linalg.qr(normal(6, 6, seed=1))[0] + 7.0
    found = similarity(s, turned, measure=measure)
    assert found.value == pytest.approx(1.0, abs=1e-9)
    assert found.calibrated == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)
    assert found.flags == ()


def test_independent_wide_layers_read_zero():
    """512 units on 200 rows: the biased estimate is .72 there; unbiased CKA has a deviation of .006 over draws."""
    values = [
        similarity(normal(200, 512, seed=k), normal(200, 512, seed=99 + k), null_draws=0).value for k in range(20)
    ]
    assert np.mean(values) == pytest.approx(0.0, abs=4 * 0.006 / math.sqrt(20))
    assert np.std(values) == pytest.approx(0.006, rel=0.5)
    found = similarity(normal(200, 512), normal(200, 512, seed=1), measure="svcca", null_draws=6)
    assert found.value == pytest.approx(0.96, abs=0.01)
    assert found.flags == ("below_null", "few_samples")
    low, high = found.calibrated[1:]
    assert low < 0.0 < high


def test_the_null_of_neighbours_has_the_mean_k_over_n_less_one():
    found = similarity(normal(60, 3), normal(60, 3, seed=1), measure="knn", n_neighbors=10, null_draws=400)
    assert found.null.mean() == pytest.approx(10 / 59, abs=4 * found.null.std() / 20)


def test_calibration_is_the_map_of_the_nulls_mean_and_ends():
    s = normal(50, 20)
    found = similarity(s, s + normal(50, 20, seed=1), measure="rsa")
    mean, low, high = found.null.mean(), *np.quantile(found.null, [0.025, 0.975])
    assert found.calibrated == pytest.approx([(found.value - at) / (1 - at) for at in (mean, high, low)])


def test_inside_classes_what_labels_share_is_no_similarity():
    """Both layers are the class and noise of their own: alike over all rows, not beyond the labels."""
    y = np.arange(200) % 2
    s, t = (4.0 * y[:, None] * np.ones(5) + normal(200, 5, seed=k) for k in (0, 1))
    over_all, inside = (similarity(s, t, labels=y, within=w) for w in ("all", "class"))
    assert over_all.calibrated[0] > 0.8
    assert "below_null" in inside.flags
    assert abs(inside.calibrated[0]) < 0.2
    with pytest.raises(ValueError, match="within='class' needs labels="):
        similarity(s, t, within="class")
    with pytest.raises(ValueError, match="labels must be 200 integers, one for each row, got int64"):
        similarity(s, t, within="class", labels=y[:9])
    with pytest.raises(ValueError, match="a class with two rows"):
        similarity(s, t, labels=np.arange(200), within="class")


def test_equal_rows_and_constant_layers_are_flagged():
    grid = np.repeat(normal(4, 2), 10, axis=0)
    assert "ties" in similarity(grid, normal(40, 2), measure="knn", n_neighbors=3).flags
    for measure in MEASURES:
        settings = {"n_neighbors": 3} if measure == "knn" else {}
        found = similarity(np.full((40, 2), 1e300), normal(40, 2), measure=measure, **settings)
        assert "degenerate" in found.flags
        assert math.isnan(found.value)


def test_a_matrix_has_the_pairs_and_computes_each_layer_once():
    layers = [normal(50, 4, seed=k) for k in range(3)]
    found = similarity_matrix(iter(layers), measure="rsa")
    assert sorted(found.pairs) == [(0, 1), (0, 2), (1, 2)]
    np.testing.assert_allclose(found.value, found.value.T)
    np.testing.assert_allclose(np.diag(found.value), 1.0)
    np.testing.assert_allclose(np.diag(found.calibrated), 1.0)
    one = similarity(layers[0], layers[2], measure="rsa")
    assert found.pairs[0, 2].value == pytest.approx(one.value)
    np.testing.assert_allclose(found.pairs[0, 2].null, one.null)
    beside = similarity_matrix(layers[:1], layers, measure="rsa")
    np.testing.assert_allclose(beside.value, found.value[:1])
    assert beside.calibrated[0, 2] == pytest.approx(one.calibrated[0])


def test_more_rows_than_wanted_are_drawn_alike_for_both():
    s = normal(300, 3)
    found = similarity(s, 2 * s, max_samples=100)
    assert (found.value, found.n_samples) == (pytest.approx(1.0), 100)


def test_rows_of_the_table():
    one, null, calibrated = similarity(normal(50, 4), normal(50, 4, seed=1)).rows(Place(layer="fc1", partner="fc2"))
    assert [row.quantity for row in (one, null, calibrated)] == [
        "CKA(T;T')", "CKA(T;T') null", "CKA(T;T') calibrated"
    ]  # fmt: skip
    assert (one.unit, one.ceiling, one.partner, one.n_samples, one.n_units) == ("CKA", 1.0, "fc2", 50, 4)
    assert null.low <= null.value <= null.high
    assert calibrated.low <= calibrated.value <= calibrated.high
    assert calibrated.flags == one.flags == "below_null"
    assert null.flags == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measure": "cca"}, "no measure named 'cca'; closest: svcca; available: cka, kernel-cka"),
        ({"n_neighbors": 3}, "measure 'cka' has no setting 'n_neighbors'; it has none"),
        ({"measure": "svcca", "variance": 1.5}, "variance must be positive, at most 1, got 1.5"),
        ({"measure": "knn", "n_neighbors": 39}, "n_neighbors must be at least 1 and below the number of other"),
        ({"null_draws": -1}, "null_draws"),
        ({"within": "rows"}, "within must be 'all' or 'class'"),
    ],
)
def test_what_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        similarity(normal(40, 2), normal(40, 2, seed=1), **change)


def test_arrays_that_are_refused():
    with pytest.raises(ValueError, match=r"others\[0\] has 1 non-finite values"):
        similarity(normal(5, 1), [[1.0], [math.inf], [3.0], [0.0], [1.0]])
    with pytest.raises(ValueError, match="must see the same samples, got 5 and 6"):
        similarity(normal(5, 1), normal(6, 1))
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        similarity(normal(3, 1), normal(3, 1))
    with pytest.raises(ValueError, match="at least two layers"):
        similarity_matrix([normal(5, 1)])


# From a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    make_run(path)
    return open_run(path)


def test_layers_of_a_run_at_its_last_step(run):
    table = run_similarity(run, measure="rsa")
    (first, second), last = [layer.key for layer in run.layers], run.steps()[-1]
    row = next(iter(table.select(quantity="RSA(T;T')")))
    assert (row.layer, row.partner, row.step, row.run) == (first, second, last, run.run_id)
    arrays = [run.read(key, [last])[0] for key in (first, second)]
    assert row.value == pytest.approx(similarity(*arrays, measure="rsa").value)


def test_steps_of_one_layer(run):
    key, steps = run.layers[0].key, run.steps()
    table = run_similarity(run, layers=key, within="class").select(quantity="CKA(T;T')")
    assert len(table) == len(steps) * (len(steps) - 1) // 2
    assert set(table.partner) == {f"step={step}" for step in steps[1:]}
    assert set(table.layer) == {key}


def test_two_runs_need_one_probe(run, tmp_path):
    make_run(tmp_path / "b", seed=1)
    other = open_run(tmp_path / "b")
    table = run_similarity(run, other, steps=0).select(quantity="CKA(T;T')")
    assert set(table.partner) == {f"{layer.key}@run={other.run_id}" for layer in other.layers}
    assert len(table) == len(run.layers) ** 2
    make_run(tmp_path / "c", on=some_probe(sample_ids=np.arange(len(run.probe.sample_ids))[::-1].copy()))
    with pytest.raises(ValueError, match="have other probes: their sample ids differ"):
        run_similarity(run, open_run(tmp_path / "c"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layers": "nothing"}, "no layer of run .* matches 'nothing'; closest"),
        ({"steps": 77}, "steps must be of .*, got .*77"),
        ({"steps": [0, 1]}, "layers at 2 steps: name one layer, or one step"),
        ({"layers": []}, "layers must name at least one layer"),
    ],
)
def test_what_a_run_does_not_have(run, asked, said):
    with pytest.raises(ValueError, match=said):
        run_similarity(run, **asked)


def test_a_step_that_diverged_is_named(tmp_path):
    make_run(tmp_path / "run", bad={(1, 5)})
    with pytest.raises(ValueError, match=r"fc1 at step 5 of run .* has 1 non-finite values; did training diverge"):
        run_similarity(open_run(tmp_path / "run"))


def test_bfloat16_is_read_as_numbers(tmp_path):
    make_run(tmp_path / "run", units=(4, 2))
    stored = open_run(tmp_path / "run")

    class Narrow:
        """The run as if it had been stored in bfloat16."""

        run_id, path, settings, probe = stored.run_id, stored.path, stored.settings, stored.probe
        steps, epoch = stored.steps, stored.epoch
        layers = tuple(layer_of(i, layer.units, "bfloat16") for i, layer in enumerate(stored.layers))

        def layer(self, key, step=None):
            return next(layer for layer in self.layers if layer.key == key)

        def read(self, key, steps):
            return (stored.read(key, steps).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    narrow = run_similarity(Narrow(), measure="rsa").select(quantity="RSA(T;T')")
    wide = run_similarity(stored, measure="rsa").select(quantity="RSA(T;T')")
    assert narrow.value == pytest.approx(wide.value, abs=0.02)


def test_equal_distances_share_a_rank():
    """One-hot rows lie at two distances; which of the equal ones rounding puts first says nothing."""
    y = np.arange(60) % 6
    s = np.eye(6)[y]
    t = s @ np.random.default_rng(0).normal(size=(6, 8)) + np.random.default_rng(1).normal(size=(60, 8))
    slow = spearmanr(
        (y[:, None] != y)[np.triu_indices(60, 1)],
        np.round(np.linalg.norm(t[:, None] - t, axis=2), 9)[np.triu_indices(60, 1)],
    )
    assert similarity(s, t, measure="rsa", null_draws=0).value == pytest.approx(slow[0], abs=1e-9)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    assert similarity(s, s @ turn, measure="rsa", null_draws=0).value == pytest.approx(1.0, abs=1e-9)


def test_the_whole_variance_has_no_more_directions_than_vary():
    s = np.random.default_rng(0).normal(size=(50, 2)) @ np.random.default_rng(1).normal(size=(2, 10))
    found = similarity(s, s[:, :3], measure="svcca", variance=1.0, null_draws=0)
    assert found.config["prepared"] == [2.0, 2.0]
    with pytest.raises(ValueError, match=r"n_neighbors must be a whole number, got 2\.5"):
        similarity(s, s, measure="knn", n_neighbors=2.5)


def test_other_classes_make_other_rows():
    s, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    one, two = (similarity(s, s**2, labels=labels, within="class", null_draws=5) for labels in (y, y[::-1] // 1 * 3))
    assert one.source != two.source
