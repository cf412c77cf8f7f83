"""O-information against closed forms: bits, a Gaussian law, and both of its forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from infoplane.diagnostics import Place, o_information

A, B = np.array(list(itertools.product((0, 1), repeat=2))).repeat(20, axis=0).T
MIXED = np.random.default_rng(0).normal(size=(5, 5))
COVARIANCE = MIXED @ MIXED.T + 0.3 * np.eye(5)


def half_logdet(of):
    return 0.5 * np.linalg.slogdet(COVARIANCE[np.ix_(of, of)])[1] / np.log(2)


def truth():
    everything = list(range(5))
    without = [[j for j in everything if j != i] for i in everything]
    return 3 * half_logdet(everything) + sum(half_logdet([i]) - half_logdet(without[i]) for i in everything)


@pytest.mark.parametrize(("third", "bits"), [(A ^ B, -1.0), (B, 0.0)], ids=["xor", "pair and another"])
def test_bits(third, bits):
    assert o_information([A, B, third], method="codes").value == pytest.approx(bits, abs=1e-12)


def test_copies_of_a_bit_are_redundant():
    assert o_information([A, A, A], method="codes").value == pytest.approx(1.0, abs=1e-12)


def test_a_gaussian_law_within_its_interval():
    """Twenty draws: the mean within three standard errors of the truth, the interval covers it in most of them."""
    rng, found = np.random.default_rng(1), []
    for _ in range(20):
        x = rng.multivariate_normal(np.zeros(5), COVARIANCE, size=300)
        found.append(o_information(list(x.T)))
    values = np.array([each.value for each in found])
    assert abs(values.mean() - truth()) < 3 * values.std(ddof=1) / np.sqrt(20)
    assert sum(each.low < truth() < each.high for each in found) >= 16


def test_informations_alone_give_the_same():
    """The recursion over variables is the entropy form, on exact informations."""
    place = {COVARIANCE[i, i]: i for i in range(5)}

    def information(a, b):
        one, two = ([place[v] for v in side[0]] for side in (a, b))
        return half_logdet(one) + half_logdet(two) - half_logdet(one + two)

    variables = [np.full((10, 1), COVARIANCE[i, i]) for i in range(5)]
    assert o_information(variables, information=information).value == pytest.approx(truth(), abs=1e-12)


def test_what_is_refused_and_what_stands_in_the_row():
    x = np.random.default_rng(2).normal(size=(100, 2))
    with pytest.raises(ValueError, match="linear function of the others: the O-information is infinite"):
        o_information([x[:, 0], x[:, 1], x[:, 0] + x[:, 1]])
    with pytest.raises(ValueError, match="at least 3 variables, got 2"):
        o_information([x[:, 0], x[:, 1]])
    with pytest.raises(ValueError, match="same samples, got 100, 100, 99"):
        o_information([x[:, 0], x[:, 1], x[1:, 0]])
    (row,) = o_information([A, B, A ^ B], method="codes").rows(Place(layer="fc1"))
    assert (row.quantity, row.unit, row.value) == ("O-information", "bit", -1.0)


def test_as_few_samples_as_are_allowed_have_an_interval():
    found = o_information(list(np.random.default_rng(0).normal(size=(10, 20))))
    assert found.low < found.value < found.high
    rare = np.random.default_rng(1).normal(size=(3, 60))
    rare[0, 1:] = 0.0
    assert np.isnan(o_information(list(rare)).low)
    with pytest.raises(ValueError, match="a variable is constant"):
        o_information([*rare[1:], np.ones(60)])


def test_the_scale_of_a_unit_says_nothing():
    x = np.random.default_rng(0).normal(size=(3, 100))
    x[2] += x[0] + x[1]
    scaled = o_information([1e-200 * x[0], 1e200 * x[1], x[2] + 1e3])
    assert scaled.value == pytest.approx(o_information(list(x)).value, abs=1e-9)
    with pytest.raises(ValueError, match="a variable is constant"):
        o_information([*x[:2], 1e3 + 1e-13 * x[2]])
