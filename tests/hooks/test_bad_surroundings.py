"""Loaders, memory, forks and networks that are not what was asked for."""

import os

import pytest
import torch
from recording import record, recorder
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from infoplane.hooks import every
from infoplane.hooks.probe import as_probe_set

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 2


class TestLoaders:
    def test_a_loader_stands_for_its_samples_and_draws_nothing(self):
        torch.manual_seed(3)
        expected = torch.rand(3)
        torch.manual_seed(3)
        data = TensorDataset(X, Y)
        probe = as_probe_set({"train": DataLoader(data, batch_size=8), "test": (X, Y)})
        assert torch.equal(torch.rand(3), expected)
        assert torch.equal(probe.inputs.args[0], torch.cat([X, X]))
        assert probe.record.labels.tolist() == [*Y.tolist(), *Y.tolist()]
        assert as_probe_set(DataLoader(data, batch_size=8)).record.samples == 50

    def test_keyword_batches(self):
        class Rows(Dataset):
            def __len__(self):
                return 10

            def __getitem__(self, i):
                return {"a": X[i], "b": X[i] * 2}, Y[i]

        probe = as_probe_set(DataLoader(Rows(), batch_size=4))
        assert torch.equal(probe.inputs.kwargs["b"], 2 * X[:10])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shuffle": True}, "draws its samples by a RandomSampler; pass one with shuffle=False"),
            ({"drop_last": True}, "drops the last 2 samples"),
        ],
    )
    def test_loaders_that_do_not_keep_their_samples(self, options, message):
        with pytest.raises(ValueError, match=message):
            as_probe_set(DataLoader(TensorDataset(X, Y), batch_size=8, **options))

    def test_random_transforms_warn(self):
        class Noisy(Dataset):
            def __len__(self):
                return 10

            def __getitem__(self, i):
                return X[i] + torch.rand(4), Y[i]

        with pytest.warns(UserWarning, match="two passes over the probe's loader gave different inputs"):
            as_probe_set(DataLoader(Noisy(), batch_size=4))

    def test_batches_without_labels(self):
        with pytest.raises(TypeError, match=r"must give \(x, y\) batches, got Tensor"):
            as_probe_set(DataLoader(X, batch_size=4))


class Hungry(nn.Module):
    """Runs out of memory above a batch size, as an accelerator does."""

    def __init__(self, most):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.fc(x)


def test_out_of_memory_halves_the_chunks_once():
    with pytest.warns(UserWarning, match="out of memory in the probe pass; goes on with probe_batch_size=16"):
        rec, snapshot = record(Hungry(16), X, probe_batch_size=32)
    assert snapshot.arrays["fc"].shape == (50, 2)
    assert rec.settings()["probe_batch_size"] == 16
    with (
        pytest.warns(UserWarning, match="probe_batch_size=16"),
        pytest.raises(torch.OutOfMemoryError) as raised,
    ):
        record(Hungry(8), X, probe_batch_size=32)
    assert "in chunks of 16 samples" in raised.value.__notes__[0]


def test_out_of_memory_later_is_an_error():
    model = Hungry(32)
    rec, _ = recorder(model, (X, Y), probe_batch_size=32, schedule=every(1))
    with rec:
        model.most = 8
        with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
            rec.snapshot(1)


def test_further_passes_without_noise_warn():
    with pytest.warns(UserWarning, match="repeats asks for further noisy passes, but the network gives the same"):
        record(nn.Linear(4, 2), X, repeats=(5, 2))


def test_a_child_process_is_refused():
    rec, _ = recorder(nn.Linear(4, 2), (X, Y))
    with rec:
        rec._session._pid = os.getppid()
        with pytest.raises(RuntimeError, match=f"belongs to process {os.getppid()}, not to its child {os.getpid()}"):
            rec.snapshot(1)
