"""Captured equals computed, and training does not notice: over the ways in which models are built and run.

Values are compared with copies taken by replaced `forward` methods, not by hooks, in chunks of the same size;
training is compared loss by loss and bit by bit.
"""

import contextlib

import pytest
import torch
from recording import recorder
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from infoplane.hooks import every

X = torch.randn(72, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
CHUNK = 20


class InPlace(nn.Module):
    """Every output is overwritten by what follows."""

    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.2)

    def forward(self, x):
        h = self.a(x)
        h += 1
        return self.b(self.drop(self.relu(self.bn(h)))).mul_(2)


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 12), nn.Identity(), nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x)
        right = h[:, 6:]
        right.add_(self.b(h[:, :6].T.T))
        return self.c(right)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.tanh, self.c = nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
        self.again = self.a

    def forward(self, x):
        return self.c(self.tanh(self.again(self.tanh(self.a(x)))))


class Tuples(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.c = nn.LSTM(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.c(self.rnn(x.reshape(len(x), 4, 2))[0][:, -1])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 12), nn.Dropout(0.3), nn.ReLU(inplace=True))
        self.c = nn.Linear(12, 3)

    def forward(self, x):
        return self.c(checkpoint(self.block, x, use_reentrant=False))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.c = nn.Linear(8, 3)

    def forward(self, x):
        return self.c(self.block(x.reshape(len(x), 2, 4)).flatten(1))


def compiled(model):
    return torch.compile(model, backend="eager")


CASES = {
    "in place": (InPlace, None, None),
    "views": (Views, None, None),
    "shared modules": (Shared, None, None),
    "tuples": (Tuples, None, None),
    "checkpointing": (Checkpointed, None, None),
    "attention": (Attention, None, None),
    "compiled": (InPlace, compiled, None),
    "autocast": (InPlace, None, torch.bfloat16),
}


def build(case):
    make, wrap, autocast = CASES[case]
    torch.manual_seed(0)
    plain = make()
    return plain, wrap(plain) if wrap else plain, autocast


def train(model, autocast, after):
    torch.manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), batch_size=24, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for epoch in range(3):
        for x, y in loader:
            region = torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext()
            with region:
                loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        after(epoch)
    return losses


def computed(model, autocast):
    """What every leaf module returned, copied by a replaced `forward`, by (name, call)."""
    outputs = {}

    def watch(name, module):
        original = module.forward

        def forward(*args, **kwargs):
            out = original(*args, **kwargs)
            tensor = out[0] if isinstance(out, tuple) else out
            calls = outputs.setdefault(name, [])
            calls.append(tensor.clone())
            return out

        module.forward = forward
        return lambda: module.__dict__.pop("forward")

    leaves = [
        (n, m) for n, m in model.named_modules() if not list(m.children()) or isinstance(m, nn.MultiheadAttention)
    ]
    undo = [watch(n, m) for n, m in leaves]
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    chunks = []
    with torch.no_grad():
        for a in range(0, len(X), CHUNK):
            outputs.clear()
            with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
                model(X[a : a + CHUNK])
            chunks.append({(n, k): t for n, calls in outputs.items() for k, t in enumerate(calls)})
    torch.backends.mha.set_fastpath_enabled(True)
    model.train()
    for restore in undo:
        restore()
    return {key: torch.cat([c[key] for c in chunks]) for key in chunks[0]}


@pytest.mark.parametrize("case", CASES)
def test_captured_is_computed(case):
    plain, model, autocast = build(case)
    train(model, autocast, lambda epoch: None)
    reference = computed(plain, autocast)
    rec, sink = recorder(model, (X, Y), probe_batch_size=CHUNK, calls="all", autocast=autocast)
    with rec:
        pass
    compared = differing = 0
    snapshot = sink.snapshots[0]
    for layer in snapshot.layers:
        expected = reference[layer.name, layer.call].reshape(len(X), -1)
        captured = snapshot.tensors[layer.key]
        assert captured.dtype == expected.dtype
        compared += captured.numel()
        differing += int((captured != expected).sum())
    print(f"{case}: {len(snapshot.layers)} layers, {compared} values compared, {differing} differing")
    assert compared >= len(X) * 10
    assert differing == 0


@pytest.mark.parametrize("case", CASES)
def test_training_does_not_notice(case):
    results = []
    for record in (False, True):
        plain, model, autocast = build(case)
        if record:
            rec, sink = recorder(
                model, (X, Y), probe_batch_size=CHUNK, calls="all", autocast=autocast, schedule=every(1)
            )
            with rec:
                losses = train(model, autocast, rec.snapshot)
            assert sink.steps == [0, 1, 2, 3]
        else:
            losses = train(model, autocast, lambda epoch: None)
        results.append((losses, plain.state_dict()))
    (l0, s0), (l1, s1) = results
    same = sum(a == b for a, b in zip(l0, l1, strict=True))
    print(f"{case}: {same} of {len(l0)} losses identical")
    assert l0 == l1
    assert all(torch.equal(s0[k], s1[k]) for k in s0)
