"""Quantities between two recorded arrays: right where the truth is known, refused where it is infinite, and resumed."""

from __future__ import annotations

import math
import shutil
from contextlib import nullcontext

import click.testing
import numpy as np
import pytest
import torch
from analysis_cases import Apart, activations, layer_of, make_run, probe
from torch import nn

import infoplane
from infoplane.cli import main
from infoplane.core import Snapshot
from infoplane.core.records import Noise
from infoplane.estimators import available, get
from infoplane.estimators.hsic import Hsic
from infoplane.hooks import NoiseInjection, Recorder
from infoplane.plots import curves, heatmap
from infoplane.results import ResultTable
from infoplane.results.views import choose
from infoplane.store import StoreWriter

N, STD = 2000, 0.5
INFINITE = "both are functions of one X, and their Shannon information is infinite or log2 of the number of inputs"


def network(width, depth=3):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))


def record(path, width=1, noise="0", steps=(0, 5, 7), samples=N, inputs=None, model=None, **how):
    """A linear network on Gaussian inputs whose weights stay, so that every snapshot has the same law."""
    torch.manual_seed(1)
    x = torch.randn(samples, width) if inputs is None else inputs
    model = model or network(width)
    noisy = NoiseInjection(model, noise, std=STD) if noise else nullcontext()
    with noisy, Recorder(model, (x, (x[:, 0] > 0).long()), path, quiet=True, schedule=list(steps), **how) as recorder:
        for step in steps[1:]:
            recorder.snapshot(step)
    return path


def estimate(run, estimators="knn", **asked):
    return infoplane.analyze(run, estimators, progress=False, **asked)


def values(table, quantity="I(T;T')"):
    return table.select(quantity=quantity).value


def gain(width=1):
    """Variance of the clean first layer as a matrix over that of the noise."""
    w = next(network(width).parameters()).detach().double()
    return w @ w.T / STD**2


def of_correlation(rho):
    return -0.5 * math.log2(1 - rho**2)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return record(tmp_path_factory.mktemp("noisy") / "run")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return record(tmp_path_factory.mktemp("plain") / "run", noise=None, samples=300)


# Values


def test_two_layers_of_a_noisy_linear_network_have_their_gaussian_information(tmp_path):
    run = record(tmp_path / "run", width=3)
    table = estimate(run, "gaussian", pairs=[("0", "2")])
    truth = 0.5 * float(torch.logdet(torch.eye(3) + gain(3))) / math.log(2)
    # A canonical correlation rho has a standard error of (1 - rho^2) / sqrt(N), so -log(1 - rho^2) / 2 one of
    # rho / sqrt(N) nats at most: three of them, three standard errors.
    assert values(table) == pytest.approx([truth] * 3, abs=3 * math.sqrt(3 / N) / math.log(2))
    rows = table.select(estimator="gaussian")
    assert set(rows.partner) == {"2"}
    assert set(rows.layer) == {"0"}
    assert rows.quantity.tolist() == ["I(T;T')"] * 3


def test_noise_on_a_layer_between_parts_two_layers(tmp_path):
    run = record(tmp_path / "run", noise="1")
    truth = 0.5 * math.log2(1 + float(gain()) * float(list(network(1).parameters())[1].detach()) ** 2)
    found = values(estimate(run, pairs=[("0", "2")]))
    # One pair of units: one correlation, and half as much again for the scatter of neighbours (0.03 nat at N = 2000).
    assert found == pytest.approx([truth] * 3, abs=3 * (1 / math.sqrt(N) + 0.01) / math.log(2))


def test_a_layer_against_itself_at_the_step_before(noisy):
    table = estimate(noisy, layers="2", against="previous")
    rows = table.select(quantity="I(T;T')")
    assert rows.step.tolist() == [5, 7]
    assert rows.partner.tolist() == ["2@step=0", "2@step=5"]
    rho = float(gain() / (gain() + 1))
    assert rows.value == pytest.approx([of_correlation(rho)] * 2, abs=0.12)


def test_two_passes_of_a_noisy_network_are_two_views(tmp_path):
    run = record(tmp_path / "run", repeats=(N - 10, 1))
    rows = estimate(run, layers="1", against="view=2").select(quantity="I(T;T')")
    assert set(rows.partner) == {"view=2"}
    assert set(rows.n_samples) == {N - 10}
    rho = float(gain() / (gain() + 1))
    assert rows.value == pytest.approx([of_correlation(rho)] * 3, abs=0.12)


def test_random_views_of_one_sample_need_no_noise_in_the_network(tmp_path):
    torch.manual_seed(2)
    source = torch.randn(N, 1)
    inputs = torch.cat([source + STD * torch.randn(N, 1) for _ in range(2)])
    ids = np.tile(np.arange(N), 2)
    run = record(tmp_path / "run", noise=None, inputs=inputs, input_ids=ids, samples=2 * N, steps=(0,))
    rows = estimate(run, layers="2", against="view=2").select(quantity="I(T;T')")
    assert rows.value == pytest.approx([of_correlation(1 / (1 + STD**2))], abs=0.12)
    assert rows.n_samples.tolist() == [N]


def test_two_runs_of_other_recorder_seeds(noisy, tmp_path):
    other = record(tmp_path / "other", seed=1)
    rows = estimate(noisy, layers="1", against=other, table=tmp_path / "t.csv").select(quantity="I(T;T')")
    assert set(rows.partner) == {f"1@run={infoplane.open_run(other).run_id}"}
    rho = float(gain() / (gain() + 1))
    assert rows.value == pytest.approx([of_correlation(rho)] * 3, abs=0.12)


def test_identical_layers_have_their_own_self_value(plain):
    store = infoplane.open_run(plain)
    t = torch.from_numpy(store.read("2", [7]).copy())
    truth = Hsic(sigma=1.0).estimate(t, t[0].double())["nHSIC(T;Y)"].value
    found = estimate(plain, "hsic:sigma=1", pairs=[("2", "2")], steps=[7])
    assert values(found, "nHSIC(T;T')") == pytest.approx(truth.numpy(), rel=1e-12)


@pytest.mark.parametrize("name", ["hsic", "cs-qmi", "renyi", "dse"])
def test_what_is_no_information_takes_any_pair(plain, name, tmp_path):
    for asked in ({"pairs": [("0", "2")]}, {"against": "previous"}):
        table = estimate(plain, name, table=tmp_path / "t.csv", **asked)
        found = [q for q in dict.fromkeys(table.quantity) if "(T;T')" in q]
        assert found
        assert np.isfinite(table.select(quantity=found).value).all()


@pytest.mark.parametrize("name", available())
def test_every_estimator_says_rightly_whether_it_gives_shannon_information(name):
    cls = get(name)
    y = torch.arange(80) % 2
    t = torch.randn(1, 80, 2, generator=torch.Generator().manual_seed(0)).softmax(2)
    y = y if "discrete" in cls.targets else y + t[0, :, 0].double()
    found = cls(**{"noise": {"std": 0.5}, "flow": {"steps": 0}, "critic": {"steps": 25}}.get(name, {})).estimate(t, y)
    units = {q.unit for quantity, q in found.items() if "(T;Y)" in quantity}
    assert getattr(cls, "shannon", True) == ("bit" in units)


# What is refused


def test_layers_of_a_deterministic_network_are_refused_with_the_reason(plain):
    with pytest.raises(ValueError, match="no noise was recorded between 2 and 0 that every path goes") as error:
        estimate(plain, pairs=[("2", "0")])
    assert INFINITE in str(error.value)
    assert "put NoiseInjection on 0" in str(error.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"pairs": [("1", "2")]}, "no noise was recorded between 1 and 2 that every path"),
        ({"pairs": [("0", "0")]}, "no noise was recorded between 0 and 0 that every path"),
        ({"layers": "0", "against": "previous"}, "no noise was recorded on a layer before 0 that every path"),
        ({"layers": "1", "against": "view=2"}, "no input of .* has 2 rows in subset 'all'"),
        ({"layers": "1", "against": "view=1"}, "views are counted from 1"),
        ({"against": "before"}, "against must be 'previous', 'view=2', or another run, got 'before'"),
        ({"pairs": ["0,2"]}, r"pairs are of two layers, as \('fc1', 'fc4'\), got '0,2'"),
        ({"pairs": []}, "pairs must name at least one pair"),
        ({"pairs": [("0", "9")]}, "no layer of .* matches '9'"),
        ({"pairs": [("0", "2")], "layers": "0"}, "layers and pairs both choose layers"),
        ({"pairs": [("0", "2")], "estimators": "binning"}, "binning takes classes, and the second layer"),
        ({"pairs": [("0", "2")], "estimators": "geometry"}, r"geometry gives no quantity of \(T;Y\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(noisy, asked, message):
    with pytest.raises(ValueError, match=message):
        estimate(noisy, **asked)


class Around(nn.Module):
    """A skip connection around the noise."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1), nn.Linear(2, 1)

    def forward(self, x):
        return self.second(torch.cat([x, self.first(x)], 1))


def test_noise_that_a_path_goes_around_does_not_count(tmp_path):
    run = record(tmp_path / "run", model=Around(), noise="first", samples=100)
    with pytest.raises(ValueError, match="no noise was recorded between first and second that every path goes through"):
        estimate(run, pairs=[("first", "second")])


def test_a_value_recorded_after_its_noise_has_none_behind_it(tmp_path):
    how = {"reduce": {"1": lambda t: t * 2.0}, "samples": 100}
    run = record(tmp_path / "run", noise="1", **how)
    assert not infoplane.open_run(run).layer("1").noise.clean
    table = estimate(run, "gaussian", pairs=[("0", "1")])  # the noise lies in the second value
    assert len(values(table)) == 3
    with pytest.raises(ValueError, match="no noise was recorded between 1 and 2"):
        estimate(run, "gaussian", pairs=[("1", "2")])


def run_with_noise(path, at, clean, ranks=1, **of_probe):
    """A chain fc0 -> fc1 -> fc2 with noise on one of them, recorded ahead of it (`clean`) or behind."""
    on = probe(**of_probe)
    noise = Noise(std=STD, clean=clean)
    layers = tuple(layer_of(i, 2, noise=noise if i == at else None) for i in range(3))
    same = {"probe": on, "settings": {"chain": True, "seed": 0}, "background": False, "world_size": ranks}
    writers = [StoreWriter(path, **same)]
    writers += [StoreWriter(path, rank=rank, session=1, **same) for rank in range(1, ranks)]
    for rank, write in enumerate(writers):
        rows = np.array_split(np.arange(on.samples), ranks)[rank]
        for step in range(2):
            arrays = {layer.key: activations(0, step, layer.depth, 2, on.samples)[rows] for layer in layers}
            write(Snapshot(step=step, epoch=0.0, time=0.0, layers=layers, arrays=arrays, rows=rows))
    for write in writers[::-1]:
        write.close()
    return path


@pytest.mark.parametrize(
    ("at", "clean", "parted"),
    [
        (0, True, {"01", "02"}),
        (0, False, set()),
        (1, True, {"02", "12"}),
        (1, False, {"01", "02"}),
        (2, True, set()),
        (2, False, {"02", "12"}),
    ],
)
def test_noise_parts_what_was_recorded_ahead_of_it_from_what_follows(tmp_path, at, clean, parted):
    """A value ahead of the noise of its layer has that noise behind it, one after it holds it."""
    run = run_with_noise(tmp_path / "run", at, clean)
    found = {two for two in ("01", "02", "12") if not refused(run, pairs=[(f"fc{two[0]}", f"fc{two[1]}")])}
    assert found == parted
    random = {i for i in range(3) if not refused(run, layers=f"fc{i}", against="previous")}
    assert random == set(range(at + clean, 3))


def refused(run, **asked):
    try:
        return not len(estimate(run, "gaussian", **asked))
    except ValueError as error:
        assert INFINITE in str(error)  # noqa: PT017
        return True


def test_runs_of_one_seed_draw_one_noise(noisy, tmp_path):
    other = record(tmp_path / "other")
    with pytest.raises(ValueError, match="the recorder's seed 0 too, and equal seed and step draw equal") as error:
        estimate(noisy, layers="1", against=other)
    assert INFINITE in str(error.value)
    with pytest.raises(ValueError, match="against itself"):
        estimate(noisy, layers="1", against=noisy)
    rest = record(tmp_path / "rest", samples=50, seed=1)
    with pytest.raises(ValueError, match="have other probes"):
        estimate(noisy, layers="1", against=rest)


def test_views_that_are_equal_are_refused(tmp_path):
    inputs = torch.randn(60, 1).repeat(2, 1)
    inputs[60:90] += 1.0
    ids = np.tile(np.arange(60), 2)
    run = record(tmp_path / "run", noise=None, inputs=inputs, input_ids=ids, samples=120)
    with pytest.raises(ValueError, match="30 of 60 inputs are the same in view 1 and view 2"):
        estimate(run, layers="1", against="view=2")
    assert len(estimate(run, "hsic", layers="1", against="view=2"))


@pytest.mark.parametrize(("ranks", "further"), [(1, False), (2, False), (2, True)])
def test_rows_that_processes_shared_may_have_one_noise(tmp_path, ranks, further):
    """Each process draws from the same seed: the first row of one has the noise of the first of another."""
    half = np.arange(30)
    inputs = np.tile(np.random.default_rng(0).normal(size=(30, 4)), (2, 1))
    repeats = np.repeat([0, int(further)], 30)
    ids = np.concatenate([half, half if further else half + 30])
    of_probe = {"input_ids": np.tile(half, 2), "inputs": inputs, "repeats": repeats, "sample_ids": ids}
    run = run_with_noise(tmp_path / "run", 0, clean=True, ranks=ranks, **of_probe)
    if ranks == 2 and not further:
        with pytest.raises(ValueError, match=r"30 of 30 inputs .* no noise of their own"):
            estimate(run, "gaussian", layers="fc1", against="view=2")
    else:
        assert len(values(estimate(run, "gaussian", layers="fc1", against="view=2"))) == 2


def test_noise_that_was_taken_off_is_refused_at_these_steps_alone(tmp_path):
    model = network(1)
    x = torch.randn(100, 1)
    with Recorder(model, (x, (x[:, 0] > 0).long()), tmp_path / "run", quiet=True, schedule=[1, 2]) as recorder:
        recorder.snapshot(1)
        with NoiseInjection(model, "0", std=STD):
            recorder.snapshot(2)
    with pytest.raises(ValueError, match="at steps 0-1 no noise was recorded between"):
        estimate(tmp_path / "run", "gaussian", pairs=[("0", "2")])
    assert len(values(estimate(tmp_path / "run", "gaussian", pairs=[("0", "2")], steps=[2]))) == 1


# Tables, resumption, views


def bytes_of(folder):
    return (folder / "results.csv").read_bytes()


def asked_of(run, jobs=1):
    pairs = [("fc*", "fc1"), ("fc0", "fc2")]
    subsets = ("all", "test", "class=*")
    return estimate(run, [Apart(), "hsic:sigma=1"], pairs=pairs, subsets=subsets, block_bytes=2500, jobs=jobs)


@pytest.mark.usefixtures("warm_workers")
def test_a_stopped_analysis_of_pairs_is_resumed_to_the_byte(tmp_path):
    wide = {"units": (4, 2, 3), "bad": [(1, 2)], "steps": range(5)}
    whole = make_run(tmp_path / "whole", **wide)
    shutil.copytree(whole, tmp_path / "part")
    shutil.copytree(whole, tmp_path / "jobs")
    asked_of(whole)
    for share in (0.1, 0.5, 0.9):
        for file in (tmp_path / "part").glob("results.*"):
            file.unlink()
        written = bytes_of(whole)
        (tmp_path / "part" / "results.csv").write_bytes(written[: int(share * len(written))])  # killed within a row
        again = asked_of(tmp_path / "part")
        assert bytes_of(tmp_path / "part") == written
    asked_of(tmp_path / "jobs", jobs=2)
    assert bytes_of(tmp_path / "jobs") == bytes_of(whole)
    before = bytes_of(whole)
    asked_of(whole)
    assert bytes_of(whole) == before
    bad = again.take(again.flag("nonfinite")).select(subset="all", estimator="hsic")
    assert set(zip(bad.layer, bad.partner, bad.step, strict=True)) == {(f"fc{i}", "fc1", 2) for i in range(3)}


def test_ordinary_rows_and_rows_of_pairs_stand_side_by_side(noisy, tmp_path):
    at = tmp_path / "t.csv"
    estimate(noisy, ["gaussian", "binning"], table=at)
    estimate(noisy, "gaussian", pairs=[("0", "1"), ("0", "2")], table=at)
    estimate(noisy, "gaussian", layers="2", against="previous", table=at)
    table = ResultTable.read(at)
    assert len(table.plane("binning")) == 9
    assert {c.quantity for c in table.curves(None, estimator="gaussian")} == {"I(T;Y)", "shrinkage"}
    assert [(c.layer, c.partner) for c in table.curves("I(T;T')")] == [("0", "1"), ("0", "2"), ("2", "2@previous")]
    assert choose(table, estimator="gaussian", layers=["*"]).layers == ["0", "1", "2"]
    assert set(choose(table, estimator="gaussian").quantities) == {"I(T;Y)", "shrinkage"}
    assert len(table.select(partner="2")) == 3
    assert len(table.select(partner="")) == len(table) - 8
    assert len(table.current()) == len(table)
    drawn = curves(table, quantity="I(T;T')", estimator="gaussian")
    assert {t.get_text() for t in drawn.texts} >= {"0 with 1", "0 with 2"}
    assert heatmap(table, quantity="I(T;T')", estimator="gaussian").get_yticklabels()[0].get_text() == "0 with 1"
    data = choose(table, shows="I(T;T')", estimator="gaussian", layers=["*"]).grid("I(T;T')")
    assert data.layers == ["0 with 1", "0 with 2", "2 with 2@previous"]
    assert data.ceiling_name() == "largest estimate"
    printed = str(table)
    assert "pair" not in printed.split("\n")[1]
    only = ResultTable.read(at).select(quantity="I(T;T')")
    assert "0 with 1" in str(only)
    assert "partner" in only._repr_html_()
    assert "partner" not in table.select(partner="")._repr_html_()
    with pytest.raises(ValueError, match=r"pairs alone, which are asked for by quantity=\"I\(T;T'\)\""):
        choose(only)
    part = table.take((table.estimator != "gaussian") | (table.partner != ""))
    with pytest.raises(ValueError, match=r"pairs alone of gaussian, which are asked for by quantity="):
        choose(part, estimator="gaussian")


def test_the_source_is_of_both_arrays(tmp_path):
    run = make_run(tmp_path / "run", units=(4, 2, 3), steps=range(2))
    table = estimate(run, "hsic:sigma=1", pairs=[("fc0", "fc1"), ("fc0", "fc2")])
    rows = table.select(quantity="HSIC(T;T')")
    assert len(set(rows.source)) == 4
    assert infoplane.open_run(run).source("fc0", 0) not in rows.source


def test_tokens_and_classes_of_a_pair(tmp_path):
    run = make_run(tmp_path / "run", units=((3, 2), 2), steps=range(2))
    table = estimate(run, "hsic:sigma=1", pairs=[("fc0[token=*]", "fc1")], subsets=("train", "class=1"))
    rows = table.select(quantity="nHSIC(T;T')")
    assert list(dict.fromkeys(rows.layer)) == [f"fc0[token={i}]" for i in range(3)]
    assert set(rows.subset) == {"train", "class=1"}
    store = infoplane.open_run(run)
    part = store.probe.part == 0
    t, y = (torch.from_numpy(store.read(key, [1])[:, part]) for key in ("fc0", "fc1"))
    truth = Hsic(sigma=1.0).estimate(t[:, :, 2], y[0].double())["nHSIC(T;Y)"].value
    found = rows.select(layer="fc0[token=2]", subset="train", step=1).value
    assert found == pytest.approx(truth.numpy(), rel=1e-12)


def test_from_the_command_line(noisy, plain, tmp_path):
    run = click.testing.CliRunner().invoke
    same = ["-q", "estimate", str(noisy), "-e", "gaussian", "-t", str(tmp_path / "t.csv")]
    done = run(main, [*same, "--pairs", "0,2"])
    assert done.exit_code == 0, done.output
    assert "0 with 2" in done.output
    done = run(main, [*same, "-l", "1", "--against", "previous"])
    assert done.exit_code == 0, done.output
    assert "1 with 1@previous" in done.output
    done = run(main, ["-q", "estimate", str(plain), "-e", "knn", "--pairs", "0,2", "-t", str(tmp_path / "other.csv")])
    assert done.exit_code == 2
    assert INFINITE in done.output
    done = run(main, ["-q", "estimate", str(plain), "--pairs", "0", "-t", str(tmp_path / "other.csv")])
    assert done.exit_code == 2
    assert "pairs are of two layers" in done.output


def test_a_second_array_that_is_lost_is_said(tmp_path):
    run = make_run(tmp_path / "run", units=(4, 2), steps=range(3))
    settings = {"chain": True, "seed": 1}
    other = make_run(tmp_path / "other", units=(4, 2), steps=range(3), settings=settings, seed=1, seal_bytes=1)
    last = sorted((other / "shards").glob("*.h5"))[-1]
    values = infoplane.open_run(other).read("fc0", [2]).tobytes()
    data = last.read_bytes()
    assert data.count(values) == 1
    last.write_bytes(data.replace(values, values[:-1] + bytes([values[-1] ^ 1])))
    table = estimate(run, "hsic:sigma=1", layers="fc0", against=other)
    assert table.select(quantity="HSIC(T;T')").step.tolist() == [0, 1]
    (lost,) = table.meta["runs"][infoplane.open_run(run).run_id]["skipped"]
    assert "digest" in lost["reason"]
    assert lost["steps"] == [2]
    assert lost["layer"].startswith("fc0 with fc0@run=")


def test_layers_that_hold_whole_numbers_are_targets_too(tmp_path):
    x = torch.randint(5, (60, 2), generator=torch.Generator().manual_seed(0))
    arrays = {0: {"a": x, "b": (x[:, :1] > 2)}}
    run = infoplane.from_arrays(tmp_path / "run", arrays, labels=(x[:, 0] > 1).long())
    truth = Hsic(sigma=1.0).estimate(x[None].double(), (x[:, :1] > 2).double())["nHSIC(T;Y)"].value
    found = estimate(run, "hsic:sigma=1", pairs=[("a", "b")])
    assert values(found, "nHSIC(T;T')") == pytest.approx(truth.numpy(), rel=1e-12)


def test_a_pair_is_made_of_all_samples_where_positions_have_labels_of_their_own(tmp_path):
    """Labels that are missing at a position cost a pair nothing: it has the second array in their place."""
    ids = torch.randint(5, (60, 3), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)
    labels[:20, 1] = -100
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 2))
    with Recorder(model, (ids, labels), tmp_path / "run", quiet=True):
        pass
    table = estimate(tmp_path / "run", "hsic:sigma=1", pairs=[("0[token=1]", "1[token=2]")])
    rows = table.select(quantity="HSIC(T;T')")
    assert rows.n_samples.tolist() == [60]
    assert rows.partner.tolist() == ["1[token=2]"]
    assert "no label" not in str(table)
    assert choose(table, shows="HSIC(T;T')").unlabelled == []


def test_a_number_that_is_missing_in_padding_spoils_a_pair(tmp_path):
    """A pair takes the samples that have no label there, so what they hold counts."""
    a = torch.randn(60, 3, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (60, 3), generator=torch.Generator().manual_seed(1))
    labels[:20, 1] = -100
    a[5, 1] = math.nan
    run = infoplane.from_arrays(tmp_path / "run", {0: {"a": a, "b": a[:, 0]}}, labels=labels)
    table = estimate(run, "hsic:sigma=1", pairs=[("a[token=*]", "b")])
    flags = dict(zip(table.layer[table.partner == "b"], table.flags[table.partner == "b"], strict=True))
    assert flags == {"a[token=0]": "", "a[token=1]": "nonfinite", "a[token=2]": ""}
