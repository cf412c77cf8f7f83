"""`probe:family=mlp`: what a network reads beyond the linear probe that it starts from."""

from __future__ import annotations

import math

import pytest
import torch

import infoplane
from infoplane.core.device import accelerator_branches
from infoplane.estimators import config_json, parse, probe
from infoplane.estimators._network_probe import Folds, network_inputs, network_scores
from infoplane.estimators._scaling import zscore
from infoplane.estimators.probe import LinearProbe

MLP = LinearProbe(family="mlp")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def exclusive_or(units, samples=2000, seed=0):
    """Bits with noise of std 0.1 in every unit; the label is the exclusive or of the first two: 1 bit."""
    g = generator(seed)
    bits = torch.randint(2, (samples, units), generator=g)
    return (2.0 * bits - 1 + 0.1 * torch.randn(samples, units, generator=g))[None], bits[:, 0] ^ bits[:, 1]


def gaussian_classes(means, samples, seed, units=0, wrong=0.0):
    """Classes at `means` with unit variance, `units` of noise beside; a share of labels is drawn anew."""
    g = generator(seed)
    y = torch.randint(len(means), (samples,), generator=g)
    t = torch.cat([torch.tensor(means)[y][:, None] + torch.randn(samples, 1, generator=g),
                   torch.randn(samples, units, generator=g)], 1)  # fmt: skip
    drawn = torch.rand(samples, generator=g) < wrong
    return t[None], torch.where(drawn, torch.randint(len(means), (samples,), generator=g), y)


def truth_bits(means, wrong=0.0):
    """I(T;Y) of these classes by quadrature over a grid."""
    t = torch.linspace(min(means) - 8, max(means) + 8, 20001, dtype=torch.float64)
    p = torch.exp(-0.5 * (t - torch.tensor(means, dtype=torch.float64)[:, None]).square()) / math.sqrt(2 * math.pi)
    p = (1 - wrong) * p / len(means) + wrong * p.sum(0) / len(means) ** 2
    return float(torch.trapezoid(torch.special.xlogy(p, p / p.sum(0) * len(means)).sum(0), t)) / math.log(2)


@pytest.mark.parametrize("units", [*(pytest.param(units, marks=pytest.mark.slow) for units in (2, 4, 8)), 20])
def test_exclusive_or_among_units_is_read(units):
    """A linear probe reads nothing there."""
    t, y = exclusive_or(units)
    found = MLP.estimate(t, y)
    for name in ("I(T;Y)", "I(T;Y) lower", "gain over linear"):
        assert 0.9 < float(found[name].value) < 1.01, name
    assert found["I(T;Y)"].flags["saturated"].all()
    assert float(parse("probe").estimate(t, y)["I(T;Y)"].value) < 0.02


def test_shuffled_labels_say_nothing():
    """The middle of held-out and fitted values keeps no optimism: 0.02 bit is three times its scatter over seeds."""
    t, y = exclusive_or(8)
    y = y[torch.randperm(len(y), generator=generator(1))]
    found = MLP.estimate(t, y)
    assert abs(float(found["I(T;Y)"].value)) <= 0.02
    assert float(found["I(T;Y) lower"].value) <= 0.01


@pytest.mark.parametrize(("means", "wrong"), [((-1.0, 1.0), 0.0), ((0.0, 2.0, 5.0), 0.0), ((-3.0, 0.0, 3.0), 0.2)])
def test_truth(means, wrong):
    """Off by four of its standard errors, and by 0.01 bit that a network of this size does not resolve."""
    t, y = gaussian_classes(means, 3000, seed=2, units=3, wrong=wrong)
    found, truth = MLP.estimate(t, y), truth_bits(means, wrong)
    middle, lower = found["I(T;Y)"], found["I(T;Y) lower"]
    error = float(lower.high - lower.value) / 1.96
    assert abs(float(middle.value) - truth) < 4 * error + 0.01
    assert float(lower.value) < truth + 2 * error
    assert (middle.bound, lower.bound) == ("point", "lower")


def test_where_a_linear_probe_reads_all_they_agree():
    t, y = gaussian_classes((-1.0, 1.0), 2000, seed=3, units=5)
    found = MLP.estimate(t, y)
    linear = float(parse("probe").estimate(t, y)["I(T;Y)"].value)
    assert abs(float(found["I(T;Y)"].value) - linear) < 0.03
    gain = found["gain over linear"]
    assert float(gain.low) < 0.01
    assert float(gain.value) > -0.01


def test_labels_that_are_wrong_cost_it_nothing():
    """Far classes, a fifth of the labels drawn anew: log p(y|t) is bounded, as the mixture with the prior is."""
    t, y = gaussian_classes((-6.0, 6.0), 2000, seed=4, wrong=0.2)
    assert abs(float(MLP.estimate(t, y)["I(T;Y)"].value) - truth_bits((-6.0, 6.0), 0.2)) < 0.04


@pytest.mark.slow
def test_real_targets():
    """y = x^2 + noise: I(T;Y) is at least that of the sign-free part, and a linear probe reads nothing of it."""
    g = generator(5)
    x = torch.randn(2000, 1, generator=g, dtype=torch.float64)
    y = x[:, 0].square() + 0.1 * torch.randn(2000, generator=g, dtype=torch.float64)
    found = MLP.estimate(x[None], y)
    assert float(found["I(T;Y) lower"].value) > 1.5
    assert float(parse("probe").estimate(x[None], y)["I(T;Y)"].value) < 0.05
    noise = MLP.estimate(torch.randn(1, 2000, 3, generator=g), y)
    assert abs(float(noise["I(T;Y)"].value)) < 0.02


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("spec", ["probe", "probe:family=mlp"])
@pytest.mark.parametrize("kind", ["classes", "targets"])
def test_the_mean_of_what_samples_give_is_the_value(spec, kind):
    t, y = gaussian_classes((-1.0, 1.0), 300, seed=6, units=2)
    y = y if kind == "classes" else t[0, :, 0].double() + torch.randn(300, generator=generator(7), dtype=torch.float64)
    rows = parse(spec).pointwise(t.repeat(2, 1, 1), y)
    value = parse(spec).estimate(t.repeat(2, 1, 1), y)["I(T;Y)"].value
    assert rows.shape == (2, 300)
    torch.testing.assert_close(rows.mean(1), value, atol=1e-6, rtol=0)


def test_a_wrong_label_shows_in_its_own_sample():
    t, y = gaussian_classes((-4.0, 4.0), 400, seed=8)
    y[7] = 1 - y[7]
    rows = MLP.pointwise(t, y)[0]
    assert int(rows.argmin()) == 7
    assert float(rows[7]) < -1


@pytest.mark.usefixtures("short_trainings")
def test_alone_as_among_others():
    t, y = gaussian_classes((-1.0, 1.0), 400, seed=9, units=3)
    others = torch.randn(2, *t.shape[1:], generator=generator(10))
    together = MLP.estimate(torch.cat([others[:1], t, others[1:]]), y)
    alone = MLP.estimate(t, y)
    for name, q in alone.items():
        assert abs(float(q.value) - float(together[name].value[1])) < 0.02
    with accelerator_branches():
        forced = MLP.estimate(t, y)
    for name, q in alone.items():
        assert abs(float(q.value) - float(forced[name].value)) < 0.02


def test_more_units_than_a_network_takes():
    """The leading components stand for them."""
    g = generator(11)
    y = torch.arange(400) % 2
    t = (torch.randn(400, 1, generator=g) + 3.0 * y[:, None]) @ torch.ones(1, 300) + torch.randn(400, 300, generator=g)
    assert float(MLP.estimate(t[None], y)["I(T;Y) lower"].value) > 0.5


@pytest.mark.usefixtures("short_trainings")
def test_one_class_and_a_constant_layer():
    t = torch.randn(1, 60, 2, generator=generator(12))
    single = MLP.estimate(t, torch.zeros(60, dtype=torch.int64))["I(T;Y)"]
    assert single.flags["single_class"].all()
    assert float(single.value) == 0.0
    constant = MLP.estimate(torch.full((1, 60, 2), 0.1), torch.arange(60) % 2)["I(T;Y)"]
    assert constant.flags["degenerate"].all()
    assert abs(float(constant.value)) < 0.02
    flat = MLP.estimate(t, torch.ones(60, dtype=torch.float64))["I(T;Y)"]
    assert flat.flags["degenerate"].all()


@pytest.mark.usefixtures("short_trainings")
def test_a_stopped_analysis_goes_on_to_the_same_bytes(tmp_path):
    """Snapshots are trained in chunks counted from the first step: ten are eight and two, whatever is there already."""
    y = torch.arange(60) % 2
    t = torch.randn(10, 60, 3, generator=generator(13)) + y[:, None]
    run = tmp_path / "run"
    infoplane.from_arrays(run, {step: {"layer": each.numpy()} for step, each in enumerate(t)}, labels=y.numpy())
    infoplane.analyze(run, MLP, progress=False, table=tmp_path / "whole.csv")
    whole = (tmp_path / "whole.csv").read_bytes()
    assert whole.count(b"mlp-probe") == 30
    for length in (len(whole) // 3, len(whole) - 40):
        cut = tmp_path / f"{length}.csv"
        cut.write_bytes(whole[:length])
        infoplane.analyze(run, MLP, progress=False, table=cut)
        assert cut.read_bytes() == whole


@pytest.mark.usefixtures("short_trainings")
def test_settings_and_what_is_recorded():
    assert "family" not in config_json(LinearProbe())
    assert '"family":"mlp"' in config_json(MLP)
    assert "blocks" in LinearProbe().guarantees
    assert MLP.guarantees == frozenset()
    with pytest.raises(ValueError, match="family must be 'linear' or 'mlp', got 'tree'"):
        LinearProbe(family="tree")
    t, y = exclusive_or(2, samples=40)
    assert {q.estimand for q in MLP.estimate(t, y).values()} == {"mlp-probe"}


def test_settings_of_the_linear_probe_are_its_own_here_too():
    t, y = gaussian_classes((-1.0, 1.0), 100, seed=16, units=2)
    code = "prequential code length"
    found = parse("probe:family=mlp,code_length=true").estimate(t, y)
    assert torch.equal(found[code].value, parse("probe:code_length=true").estimate(t, y)[code].value)
    single = parse("probe:family=mlp,code_length=true").estimate(t, torch.zeros_like(y))
    assert float(single[code].value) == 0.0
    # So large a ridge leaves the linear probe nothing: all that is read is gained over it.
    stiff = parse("probe:family=mlp,ridge=1e9").estimate(t, y)
    torch.testing.assert_close(stiff["gain over linear"].value, stiff["I(T;Y) lower"].value, atol=0.01, rtol=0)


@pytest.mark.usefixtures("short_trainings")
def test_rows_that_are_read_choose_nothing(monkeypatch):
    """With the labels of two rows of a fold exchanged, its probe and network score every row as before."""
    seen = []

    def watched(task, z, linear, folds):
        scores, doubtful = network_scores(task, z, linear, folds)
        seen.append((linear, scores))
        return scores, doubtful

    monkeypatch.setattr(probe, "network_scores", watched)
    t, y = gaussian_classes((-1.0, 1.0), 80, seed=17, units=1)
    x_ids = torch.arange(80) // 2
    fold = probe.fold_of_row(x_ids, 5, 0)
    assert (fold[::2] == fold[1::2]).all()
    read = (fold == 3).nonzero()[:, 0]
    other = y.clone()
    a, b = read[y[read] == 0][0], read[y[read] == 1][0]
    other[a], other[b] = 1, 0
    for labels in (y, other):
        MLP.estimate(t, labels, x_ids=x_ids)
    for before, after in zip(*seen, strict=True):
        assert torch.equal(before[:, 3], after[:, 3])
        assert not torch.equal(before[:, 2], after[:, 2])  # rows of fold 3 choose the step there


def test_rows_that_choose_the_step_are_of_all_classes():
    """Of a probe set in the order of its classes the first rows are of some only."""
    y, fold = torch.arange(20_000) // 2000, torch.arange(20_000) % 5
    validation = torch.stack([fold == (i + 1) % 5 for i in range(5)])
    fitted = torch.stack([(fold != i) & ~validation[i] for i in range(5)])
    folds = Folds.of(fitted, validation, 0)
    assert folds.checked.shape == (5, 2048)
    for rows, chosen in zip(folds.checked, validation, strict=True):
        assert chosen[rows].all()
        assert len(rows.unique()) == 2048
        assert int(y[rows].bincount(minlength=10).min()) > 150  # of 205, with a standard deviation of 11


def test_a_small_fold_takes_no_rows_from_the_others():
    """Of repeated inputs some folds are small; all of the others still choose."""
    fold = torch.tensor([0, 1, *[2] * 20, *[3] * 30, *[4] * 25])
    validation = torch.stack([fold == (i + 1) % 5 for i in range(5)])
    folds = Folds.of(torch.stack([(fold != i) & ~validation[i] for i in range(5)]), validation, 0)
    assert [len(rows.unique()) for rows in folds.checked] == [1, 20, 30, 25, 1]


@pytest.mark.slow
def test_more_rows_and_units_than_are_ever_taken_apart():
    """Each of two signs shifts 300 units by 0.3: leading components, with all of which they are known almost surely."""
    g = generator(18)
    signs = torch.randint(2, (2100, 2), generator=g) * 2.0 - 1
    t = torch.randn(1, 2100, 2100, generator=g)
    t[0, :, 1500:] += 0.3 * signs.repeat_interleave(300, 1)
    inputs = network_inputs(zscore(t))[0].double()
    for sign in signs.double().T:
        along = inputs @ (inputs.T @ sign)
        assert float((along * sign).mean() / along.std(correction=0)) > 0.95


@pytest.mark.usefixtures("short_trainings")
@pytest.mark.parametrize("count", [3, 5, 7])
def test_alone_as_in_stacks_of_any_size(count):
    layers = [gaussian_classes((-1.0, 1.0), 300, seed=9, units=3 + i)[0][:, :, :4] for i in range(count)]
    t, y = torch.cat(layers), gaussian_classes((-1.0, 1.0), 300, seed=9, units=3)[1]
    together = MLP.estimate(t, y)
    for i in (0, count - 1):
        for name, q in MLP.estimate(t[i : i + 1], y).items():
            assert abs(float(q.value) - float(together[name].value[i])) < 0.02


@pytest.mark.usefixtures("short_trainings")
def test_a_run_that_has_grown_is_that_of_its_full_length(tmp_path):
    """The last stack of the shorter run had two snapshots; it is trained again with all that it has now."""
    y = torch.arange(40) % 2
    t = torch.randn(11, 40, 2, generator=generator(19)) + y[:, None]
    arrays = {step: {"layer": each.numpy()} for step, each in enumerate(t)}
    run, table = tmp_path / "run", tmp_path / "table.csv"
    infoplane.from_arrays(run, arrays, labels=y.numpy())
    for steps in (range(10), (3, 9), range(11)):
        infoplane.analyze(run, MLP, progress=False, table=table, steps=steps)
    infoplane.analyze(run, MLP, progress=False, table=tmp_path / "whole.csv")
    assert table.read_bytes() == (tmp_path / "whole.csv").read_bytes()
