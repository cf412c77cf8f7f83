"""The table of layers and the plan of sizes."""

import pytest
import torch
from recording import record, recorder
from torch import nn

from infoplane.core import Layer
from infoplane.hooks import Recorder, SizePlan, layers, log_spaced
from infoplane.hooks.overview import size


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.rnn = nn.GRU(6, 5, batch_first=True)
        self.head = nn.Linear(5, 2)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        h = self.drop(self.act(self.act(self.conv(x))))
        return self.head(self.rnn(h.mean(1))[0][:, -1])


def test_table():
    model = Net()
    table = layers(model, torch.randn(8, 1, 8, 8), samples=1000)
    rows = {r.name: r for r in table}
    assert table.names == ["conv", "act", "drop", "rnn", "head", "", "spare"]
    assert (rows["conv"].type, rows["conv"].output, rows["conv"].calls) == ("Conv2d", "8x4x6x6", 1)
    assert rows["conv"].bytes == 1000 * 4 * 6 * 6 * 4
    assert (rows["act"].calls, rows["act"].role) == (2, "activation")
    assert rows["act"].note == "a layer at each call: act#0 to #1"
    assert rows["drop"].note == "passes its input on"
    assert rows["rnn"].note == "choose a tensor: rnn@out[0]"
    assert rows["head"].role == "output"
    assert rows[""].role == "block"
    assert (rows["spare"].calls, rows["spare"].note) == (0, "never ran")
    text = str(table)
    assert text.splitlines()[0] == "Net"
    assert "conv   Conv2d   8x4x6x6" in text
    assert "562 KiB" in text
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_what_the_table_says_of_several_calls_is_what_a_recording_does(tmp_path):
    """Each call of a module without weights is a layer; of one with weights a call has to be chosen."""
    act, tied = nn.ReLU(), nn.Linear(3, 3)
    reused = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    x = torch.randn(6, 3)
    assert {r.name: r.note for r in layers(reused, x)}["1"] == "a layer at each call: 1#0 to #1"
    with Recorder(reused, (x, torch.arange(6) % 2), tmp_path / "run", quiet=True) as rec:
        assert [layer.key for layer in rec.layers if layer.key.startswith("1")] == ["1#0", "1#1"]
    looped = nn.Sequential(tied, nn.Tanh(), tied)
    assert {r.name: r.note for r in layers(looped, x)}["0"] == "choose a call: 0#0"
    with pytest.raises(ValueError, match="layer '0' runs 2 times"):
        record(looped, x)


def test_keywords_and_tuples():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, a, b=None):
            return self.fc(a if b is None else a + b)

    for batch in ((torch.ones(4, 3),), (torch.ones(4, 3), torch.ones(4, 3)), {"a": torch.ones(4, 3)}):
        assert layers(Two(), batch).names == ["fc", ""]


def test_sizes():
    a = Layer(key="a", name="a", depth=0, unit_shape=(512,), raw_shape=(512,))
    b = Layer(key="b", name="b", depth=1, unit_shape=(256,), raw_shape=(4, 8, 8), dtype="bfloat16")
    plan = SizePlan(layers=(a, b), samples=2048, snapshots=10, free=100 << 20, where="/data")
    assert plan.per_snapshot == 2048 * (512 * 4 + 256 * 2) == 5 << 20
    assert plan.total == 50 << 20
    plan.check()
    assert "2048 samples, 5.0 MiB a snapshot; 10 snapshots: 50.0 MiB, 100 MiB free in /data" in str(plan)
    assert "b      4x8x8  256 bfloat16, flatten  1.0 MiB" in str(plan)
    tight = SizePlan(layers=(a, b), samples=2048, snapshots=10, free=49 << 20, where="/data")
    message = r"10 snapshots of 5.0 MiB need 50.0 MiB, and 49.0 MiB are free in /data; .*allow_full_disk=True"
    with pytest.raises(OSError, match=message):
        tight.check()
    open_end = SizePlan(layers=(a, b), samples=2048, snapshots=None, free=9 << 20, where="/data")
    assert "room for 1" in str(open_end)
    with pytest.raises(OSError, match=r"the first and the last snapshot of 5.0 MiB need 10.0 MiB"):
        open_end.check()


def test_size_units():
    assert [size(n) for n in (0, 1023, 1024, 1000 << 10, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1000 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip


def probe():
    return torch.randn(300, 4), torch.arange(300) % 2


def test_the_plan_is_printed_before_the_first_step(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 2))
    with Recorder(model, probe=probe(), run=tmp_path / "a", schedule=log_spaced(10, 100), total=100) as rec:
        text = capsys.readouterr().err
        assert "300 samples, 25.8 KiB a snapshot; 11 snapshots: 284 KiB" in text
        assert "1      10     10 float32, flatten  11.7 KiB" in text
        assert rec.sizes.per_snapshot == 300 * 22 * 4
    with Recorder(model, probe=probe(), run=tmp_path / "b", quiet=True):
        assert capsys.readouterr().err == ""


def test_a_run_that_cannot_fit_is_refused_before_any_file(tmp_path, monkeypatch):
    monkeypatch.setattr("infoplane.hooks._session.free_bytes", lambda path: 1000)
    model = nn.Linear(4, 2)
    with pytest.raises(OSError, match="1000 B are free"):
        Recorder(model, probe=probe(), run=tmp_path / "a", quiet=True).start()
    assert not (tmp_path / "a").exists()
    with Recorder(model, probe=probe(), run=tmp_path / "a", quiet=True, allow_full_disk=True):
        pass
    assert (tmp_path / "a").exists()


def test_many_layers_are_cut_short():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(40)])
    rec, _ = recorder(model, probe())
    with rec:
        assert "... and 16 more layers" in str(rec.sizes)
