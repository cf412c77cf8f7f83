"""What single units and heads are about: nPMI, disentanglement, attention entropy."""

from __future__ import annotations

import numpy as np
import pytest

from infoplane.diagnostics import Place, attention_entropy, disentanglement, unit_npmi
from infoplane.estimators.knn import ross

Y = np.arange(300) % 3


def test_npmi_of_equal_exclusive_and_independent_events():
    t = np.stack([Y == 0, Y != 0, np.arange(300) % 2 == 0, np.zeros(300)], 1).astype(float)
    found = unit_npmi(t, Y, quantile=None)
    assert found.value[0].tolist() == [pytest.approx(1.0), -1.0, -1.0]
    assert found.value[1, 0] == -1.0
    np.testing.assert_allclose(found.value[2], 0.0, atol=1e-12)
    assert (found.value[3] == -1.0).all()
    assert found.rare[3].all()
    row = found.rows(Place(layer="relu"))[0]
    assert (row.quantity, row.value, row.unit, row.n_units) == ("nPMI class 0", 1.0, "nPMI", 4)


def test_npmi_against_its_formula_and_limits():
    t = np.random.default_rng(0).normal(size=(300, 4)) + Y[:, None]
    found = unit_npmi(t, Y, quantile=0.8)
    a, b = t[:, 2] > np.quantile(t[:, 2], 0.8), Y == 2
    joint = (a & b).mean()
    assert found.value[2, 2] == pytest.approx(np.log(joint / (a.mean() * b.mean())) / -np.log(joint))
    assert unit_npmi(np.ones((50, 1)), np.zeros(50), quantile=None).value.tolist() == [[1.0]]
    with pytest.raises(ValueError, match=r"quantile must be between 0 and 1, or None for a threshold, got 1\.5"):
        unit_npmi(t, Y, quantile=1.5)


def attributes(same: float, samples: int = 1000) -> np.ndarray:
    """Two binary attributes that are equal in this share of the samples, exactly."""
    first = np.arange(samples) % 2
    return np.stack([first, np.where(np.arange(samples) < same * samples, first, 1 - first)], 1)


def test_gaps_of_a_perfect_code():
    """z = a: with attributes equal in 0.8 the second unit knows 1 - h(0.2) of each."""
    found = disentanglement(attributes(0.8), attributes(0.8))
    np.testing.assert_allclose(found.mig, 0.7219, atol=1e-4)
    np.testing.assert_allclose(found.dmig, 1.0, atol=1e-12)
    independent = disentanglement(attributes(0.5), attributes(0.5))
    np.testing.assert_allclose([independent.mig, independent.dmig], 1.0, atol=1e-12)
    assert found.units.tolist() == [[0, 1], [1, 0]]


def test_an_attribute_that_another_determines_has_no_dependent_gap():
    a = np.stack([np.arange(400) % 4, np.arange(400) % 4 // 2], 1)
    found = disentanglement(a, a)
    np.testing.assert_allclose(found.mig, [0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.dmig, [0.5, np.nan], atol=1e-12)
    split = disentanglement(np.stack([a[:, 0], a[:, 0]], 1), a[:, :1])
    assert split.mig.tolist() == [0.0]
    assert split.dmig.tolist() == [0.0]
    names = [row.quantity for row in split.rows(Place(layer="z"))]
    assert names == ["MIG", "DMIG", "MIG attribute 0", "DMIG attribute 0"]


def test_continuous_units_by_an_estimator():
    a = attributes(0.5)
    z = a + 0.01 * np.random.default_rng(0).normal(size=a.shape)
    np.testing.assert_allclose(disentanglement(z, a, information=ross).mig, 1.0, atol=0.05)
    with pytest.raises(ValueError, match="attribute 1 has one value"):
        disentanglement(z, np.stack([a[:, 0], 0 * a[:, 1]], 1))
    with pytest.raises(ValueError, match=r"at least 2 units.*got \(1000, 1\)"):
        disentanglement(z[:, :1], a)


def causal(samples: int, size: int, weight) -> np.ndarray:
    raw = np.tril(weight(np.ones((samples, 1, size, size))))
    return raw / raw.sum(3, keepdims=True)


def test_uniform_attention_is_one_and_one_key_is_zero():
    uniform = causal(2, 5, lambda w: w)
    one = np.zeros((2, 1, 5, 5))
    one[..., 0] = 1.0
    mask = np.tril(np.ones((5, 5), bool))
    found = attention_entropy(np.concatenate([uniform, one], 1), mask=mask)
    np.testing.assert_allclose(found.mean, [1.0, 0.0], atol=1e-12)
    assert np.isnan(found.by_query[:, 0]).all()
    assert found.queries == 8
    np.testing.assert_allclose(attention_entropy(uniform).mean, 1.0, atol=1e-12)  # the mask is seen in the weights
    rows = {row.quantity: row.flags for row in found.rows(Place(layer="block1.attn"))}
    assert rows["attention entropy head 0"] == "attention_overload"
    assert rows["attention entropy head 1"] == "attention_collapse"


def test_weights_that_are_no_attention_are_refused():
    uniform = causal(2, 4, lambda w: w)
    with pytest.raises(ValueError, match=r"sum to 1 over keys.*before dropout"):
        attention_entropy(uniform * 0.5)
    with pytest.raises(ValueError, match="mask does not allow"):
        attention_entropy(uniform, mask=np.eye(4, dtype=bool))
    with pytest.raises(ValueError, match=r"\(samples, heads, queries, keys\), got \(2, 4, 4\)"):
        attention_entropy(uniform[:, 0])


def test_a_class_for_every_sample_and_labels_in_columns():
    y = np.arange(200)
    found = unit_npmi(np.arange(200.0)[:, None], y, quantile=0.5)
    assert found.count.tolist() == [[0] * 100 + [1] * 100]
    with pytest.raises(ValueError, match=r"y must have shape \(samples,\), got \(200, 2\)"):
        unit_npmi(np.ones((200, 1)), np.stack([y, y], 1))


def test_a_unit_with_a_value_for_each_sample_is_said():
    t, a = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50)[:, None] % 2
    assert {row.flags for row in disentanglement(t, a).rows(Place())} == {"saturated"}
    assert disentanglement(np.round(t), a).flags == ()
    assert disentanglement(t, a, information=ross).flags == ()


def test_heads_and_masks():
    weights = np.stack([np.full((3, 3), 1 / 3), np.eye(3)])[None]
    mask = np.stack([np.ones((3, 3), bool), np.eye(3, dtype=bool)])[None]
    found = attention_entropy(weights, mask=mask)
    assert found.mean[0] == pytest.approx(1.0)
    assert np.isnan(found.mean[1])
    assert [row.flags for row in found.rows(Place())] == ["", "attention_overload", "degenerate"]
    assert found.source != attention_entropy(weights, mask=np.ones((3, 3), bool)).source
    with pytest.raises(ValueError, match=r"mask must broadcast to .* \(1, 2, 3, 3\), got \(1, 5\)"):
        attention_entropy(weights, mask=np.ones((1, 5), bool))


def test_a_table_that_would_not_fit_is_refused():
    with pytest.raises(ValueError, match="a table of 8000 x 8000 values has too many cells"):
        disentanglement(np.random.default_rng(0).normal(size=(8000, 2)), np.arange(8000)[:, None])
