"""Positions along the token axis of a layer: their names, and that each is estimated as a layer of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import infoplane
from infoplane.core import Layer, Probe, Snapshot
from infoplane.core.tokens import layer_matches, split_token, token_key, token_position, token_range
from infoplane.estimators.binning import Binning
from infoplane.estimators.hsic import Hsic
from infoplane.hooks import Recorder, tokens
from infoplane.results import ResultTable
from infoplane.results.views import ordered_layers
from infoplane.store import ActivationStore, StoreWriter, open_run

N, TOKENS, WIDTH = 80, 6, 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids):
        return self.head(self.mix(self.embed(ids)).mean(1))


def record(path, **how):
    ids = torch.randint(9, (N, TOKENS), generator=torch.Generator().manual_seed(1))
    ids[:, 1] %= 3
    with Recorder(Network(), (ids, (ids[:, 4] > 4).long()), path, quiet=True, **how):
        pass
    return path


def analyze(path, layers, estimators="hsic:sigma=snapshot", **how):
    return infoplane.analyze(path, estimators, layers=layers, progress=False, **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("tokens") / "run")


def test_names():
    assert token_key("lstm@out[0]", 7) == "lstm@out[0][token=7]"
    assert split_token("lstm@out[0][token=7]") == ("lstm@out[0]", "7")
    assert split_token("lstm@out[0]") == ("lstm@out[0]", None)
    assert token_position("a[token=12]") == 12
    assert [token_position(k) for k in ("a", "a[token=*]", "a[token=-1]", "[token=1]")] == [None] * 4


@pytest.mark.parametrize(
    ("which", "found"),
    [("*", range(6)), ("2", [2]), ("-1", [5]), ("1:3", [1, 2]), ("::2", [0, 2, 4]), ("-2:", [4, 5]), ("4:99", [4, 5])],
)
def test_positions(which, found):
    assert list(token_range(which, 6)) == list(found)


@pytest.mark.parametrize("which", ["6", "-7", "4:2"])
def test_a_position_that_is_not_there(which):
    with pytest.raises(ValueError, match=rf"no position \[token={which}\] among 6 tokens"):
        token_range(which, 6)


@pytest.mark.parametrize("which", ["", "x", "1,2", "::0", "::-1", "1:2:3:4"])
def test_another_form_of_position(which):
    with pytest.raises(ValueError, match="a position is an integer"):
        token_range(which, 6)


def test_patterns_for_tables():
    keys = ["a", "a[token=3]", "ab[token=10]"]
    for pattern, found in {
        "a": [0], "a*": [0, 1, 2], "a[token=*]": [1], "a*[token=*]": [1, 2], "a[token=3]": [1], "*[token=5:]": [2],
        "*[token=::5]": [2], "a*[token=-1]": [], "a[token=?]": [],
    }.items():  # fmt: skip
        assert [i for i, key in enumerate(keys) if layer_matches(key, pattern)] == found, pattern


def test_a_token_is_estimated_as_its_own_layer(run):
    table = analyze(run, "embed[token=*]")
    store = open_run(run)
    t = torch.from_numpy(store.read("embed", [0])).reshape(1, N, TOKENS, WIDTH)
    y = torch.tensor(store.probe.labels)
    x = torch.tensor(store.probe.inputs.reshape(N, -1))
    assert list(dict.fromkeys(table.layer)) == [f"embed[token={i}]" for i in range(TOKENS)]
    for i in range(TOKENS):
        direct = Hsic(sigma="snapshot").estimate(t[:, :, i], y, x=x.double())
        rows = table.select(layer=f"embed[token={i}]")
        assert set(rows.n_units) == {WIDTH}
        assert set(rows.depth) == {store.layer("embed").depth}
        assert dict(zip(rows.quantity, rows.value, strict=True)) == {q: float(v.value[0]) for q, v in direct.items()}
    values = table.select(quantity="nHSIC(T;Y)").value
    assert values.argmax() == 4  # the label is a function of this token
    assert values[4] > 3 * np.delete(values, 4).max()


def test_tokens_of_several_layers_come_in_forward_order(run):
    table = analyze(run, ["mix[token=-1]", "*[token=0:3:2]", "head"])
    keys = ["embed[token=0]", "embed[token=2]", "mix[token=0]", "mix[token=2]", "mix[token=5]", "head"]
    assert list(dict.fromkeys(table.layer)) == keys
    assert list(dict.fromkeys(table.select(layer="mix[token=*]").layer)) == keys[2:5]


def test_tables_order_positions_as_numbers():
    rows = [
        infoplane.results.Row(
            run="r", step=0, epoch=0.0, layer=key, depth=1, subset="all", estimator="e", config="{}", n_samples=1,
            n_units=1, quantity="q", source="s",
        )
        for key in ("b[token=10]", "b[token=2]", "b", "a[token=3]")
    ]  # fmt: skip
    assert ordered_layers(ResultTable.from_rows(rows)) == ["a[token=3]", "b", "b[token=2]", "b[token=10]"]


def test_what_prepare_finds_is_of_the_token_alone(run):
    table = analyze(run, ["mix[token=1]", "mix"], "binning:n_bins=4")
    store = open_run(run)
    t = torch.from_numpy(store.read("mix", [0])).reshape(1, N, TOKENS, WIDTH)[:, :, 1]
    ready = Binning(n_bins=4).prepare([t], torch.tensor(store.probe.labels))
    row = table.select(layer="mix[token=1]", quantity="I(X;T)")
    assert float(ready.estimate(t, torch.tensor(store.probe.labels))["H(T)"].value) == row.value[0]
    assert len(set(table.select(quantity="I(X;T)").config)) == 2


def test_positions_are_no_chain(run):
    """The plain chain that was recorded holds of whole layers: a position is a part, and others feed the next layer."""
    table = analyze(run, ["embed", "mix", "embed[token=*]", "mix[token=*]"], "binning:n_bins=3")
    assert next(iter(table.meta["runs"].values()))["chain"]
    assert [row.chain for row in table.dpi()] == [("embed", "mix")]
    single = table.select(layer="*[token=*]")
    assert single.dpi() == []
    ax = infoplane.plots.plane(single, layers=["mix[token=0:2]"])
    assert "no data-processing share: single positions are no chain" in " ".join(infoplane.plots.caption(ax).split())


def test_an_analysis_goes_on_where_it_was(run, tmp_path):
    both = analyze(run, "embed[token=1:3]", table=tmp_path / "a.csv")
    first = analyze(run, "embed[token=1]", table=tmp_path / "b.csv")
    again = analyze(run, "embed[token=1:3]", table=tmp_path / "b.csv")
    assert len(first) == len(both) / 2
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    np.testing.assert_array_equal(again.value, both.value)


@pytest.mark.usefixtures("warm_workers")
def test_other_processes_find_the_token(run, tmp_path):
    for name, jobs in (("a", 1), ("b", 2)):
        analyze(run, "embed[token=1:3]", table=tmp_path / f"{name}.csv", jobs=jobs)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_reductions_that_keep_tokens(run, tmp_path):
    kept = record(tmp_path / "kept", reduce={"embed": tokens([4, -1]), "mix": lambda t: t, "*": "flatten"})
    table = analyze(kept, ["embed[token=*]", "mix[token=4]"])
    assert list(dict.fromkeys(table.layer)) == ["embed[token=4]", "embed[token=5]", "mix[token=4]"]
    whole = analyze(run, ["embed[token=4:]", "mix[token=4]"])
    np.testing.assert_array_equal(table.value, whole.value)
    with pytest.raises(ValueError, match=r"'embed' was recorded at tokens 4, 5, none of 'embed\[token=3\]'"):
        analyze(kept, "embed[token=3]")


def test_requests_that_cannot_be_met(run, tmp_path):
    with pytest.raises(ValueError, match=r"no position \[token=6\] among 6 tokens"):
        analyze(run, "embed[token=6]")
    with pytest.raises(ValueError, match=r"needs a layer with an axis of tokens; 'head' was recorded as 'flatten'"):
        analyze(run, "head[token=0]")
    with pytest.raises(ValueError, match=r"no layer of .* matches 'embde\[token=0\]'; closest: embed"):
        analyze(run, "embde[token=0]")
    with pytest.raises(ValueError, match="'mix' was recorded as 'mean over tokens' with shape"):
        analyze(record(tmp_path / "mean", reduce={"embed": "flatten", "*": "mean"}), "mix[token=0]")


def written(path, arrays):
    """Snapshots of one layer of tokens, recorded as it is."""
    on = Probe(
        sample_ids=np.arange(N), input_ids=np.arange(N), repeats=np.zeros(N, np.int64), labels=np.arange(N) % 2,
        part=np.zeros(N, np.int64),
    )  # fmt: skip
    with StoreWriter(path, probe=on, settings={}, background=False) as write:
        for step, array in enumerate(arrays):
            layer = Layer(key="t", name="t", depth=0, unit_shape=array.shape[1:])
            write(Snapshot(step=step, epoch=float(step), time=0.0, layers=(layer,), arrays={"t": array}))
    return path


def test_a_token_without_a_number_spoils_no_other(tmp_path):
    arrays = np.random.default_rng(0).normal(size=(2, N, 3, 2)).astype(np.float32)
    arrays[1, 5, 2, 0] = np.nan
    table = analyze(written(tmp_path / "run", arrays), "t[token=*]").select(quantity="nHSIC(T;Y)")
    missing = np.isnan(table.value)
    assert [(layer, step) for layer, step in zip(table.layer[missing], table.step[missing], strict=True)] == [
        ("t[token=2]", 1)
    ]
    assert table.flag("nonfinite").tolist() == missing.tolist()


def test_a_layer_that_changes_its_shape_is_refused_where_it_is_another(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(N, n, 2)).astype(np.float32) for n in (3, 3, 4)]
    table = analyze(written(tmp_path / "run", arrays), "t[token=1]")
    assert set(table.step) == {0, 1}
    skipped = next(iter(table.meta["runs"].values()))["skipped"]
    assert [(each["layer"], each["steps"]) for each in skipped] == [("t[token=1]", [2])]
    assert "its shape is (4, 2)" in skipped[0]["reason"]


def test_a_token_holds_one_snapshot_of_its_layer_at_a_time(tmp_path, monkeypatch):
    """A block is sized for the token; as many snapshots of the whole layer would be TOKENS times as large."""
    ids = torch.randint(9, (N, TOKENS), generator=torch.Generator().manual_seed(1))
    with Recorder(Network(), (ids, ids[:, 0]), tmp_path / "run", schedule=1, quiet=True) as recorder:
        for step in range(12):
            recorder.snapshot(step)
    asked = []
    read = ActivationStore.read
    monkeypatch.setattr(
        ActivationStore, "read", lambda self, key, steps: (asked.append(len(steps)), read(self, key, steps))[1]
    )
    few = analyze(tmp_path / "run", "embed[token=3]", "binning", table=tmp_path / "a.csv")
    assert set(asked) == {1}
    asked.clear()
    analyze(tmp_path / "run", "embed", "binning", table=tmp_path / "b.csv")
    assert max(asked) > 1
    store = open_run(tmp_path / "run")
    whole = torch.from_numpy(store.read("embed", store.steps())).reshape(-1, N, TOKENS, WIDTH)[:, :, 3]
    direct = Binning(range="layer").prepare([whole], ids[:, 0]).estimate(whole, ids[:, 0])
    assert few.select(quantity="I(X;T)").value.tolist() == direct["I(X;T)"].value.tolist()
