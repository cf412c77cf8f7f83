"""Where one rank cannot record, all ranks list it and go on, or end, together."""

import warnings

import pytest
import torch
from ranks import on_ranks
from torch import nn

from infoplane import open_run
from infoplane.hooks import Recorder, every

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2
PROBE = X, Y


class Uneven(nn.Module):
    """On rank 1 a layer is left out, or a pass fails."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.norm, self.extra, self.out = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.mode = ""

    def forward(self, x):
        if self.mode == "fail":
            raise AssertionError("only here")
        if self.mode == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        x = self.norm(self.fc(x))
        return self.out(x if self.mode == "skip" else self.extra(x))


def record_unevenly(rank, path, mode, on_error):
    model = Uneven()
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Recorder(
                model, PROBE, path, schedule=every(1), shard_probe=True, quiet=True, on_error=on_error
            ) as rec:
                rec.snapshot(1)
                model.mode = mode if rank == 1 else ""
                taken = rec.snapshot(2)
                model.mode = ""
                rec.snapshot(3)
                said = [rec.layers[0].key, taken]
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return said, [p.what for p in rec.problems], [str(w.message) for w in caught if "not recorded" in str(w.message)]


class TestSeveralRanks:
    def test_a_missing_layer_of_one_is_withdrawn_from_all(self, tmp_path):
        found = on_ranks(record_unevenly, 2, tmp_path / "a", "skip", "warn")
        for said, problems, warned in found:
            assert said == ["fc", True]
            assert problems == ["layer 'extra': on rank 1: was not called"]
            assert len(warned) == 1
        store = open_run(tmp_path / "a")
        assert store.problems == ()
        assert store.steps("extra") == [0, 1, 3]
        assert store.steps("fc") == [0, 1, 2, 3]
        assert [(p.what, p.steps, p.note) for p in store.verify()] == [
            ("layer 'extra': on rank 1: was not called", (2,), True)
        ]

    @pytest.mark.slow
    def test_a_failing_pass_of_one_is_a_step_of_none(self, tmp_path):
        found = on_ranks(record_unevenly, 2, tmp_path / "a", "fail", "warn")
        assert [said for said, _, _ in found] == [["fc", False]] * 2
        assert found[0][1] == ["a whole snapshot: rank 1 of 2: AssertionError: only here"]
        assert found[1][1] == ["a whole snapshot: AssertionError: only here"]
        store = open_run(tmp_path / "a")
        assert store.problems == ()
        assert store.steps() == [0, 1, 3]

    @pytest.mark.parametrize(
        ("mode", "on_error", "there", "here"),
        [
            ("fail", "raise", "AssertionError: only here", "PeerError: rank 1 of 2: AssertionError: only here"),
            pytest.param(
                *("memory", "warn", "OutOfMemoryError: CUDA", "PeerError: rank 1 of 2: OutOfMemoryError: CUDA"),
                marks=pytest.mark.slow,
            ),
            pytest.param(
                *("skip", "raise", "RuntimeError: 1 recorded layers", "RuntimeError: 1 recorded layers"),
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_what_ends_one_ends_all(self, tmp_path, mode, on_error, there, here):
        found = on_ranks(record_unevenly, 2, tmp_path / "a", mode, on_error)
        assert found[0].startswith(here)
        assert found[1].startswith(there)

    def test_a_start_that_fails_on_one_fails_on_all(self, tmp_path):
        found = on_ranks(start_unevenly, 2, tmp_path / "a")
        assert found == ["PeerError: rank 1 of 2: AssertionError: only here", "AssertionError: only here"]


def start_unevenly(rank, path):
    model = Uneven()
    model.mode = "fail" if rank == 1 else ""
    try:
        Recorder(model, PROBE, path, shard_probe=True, quiet=True).start().close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "started"
