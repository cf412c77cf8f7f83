"""Which layers form a Markov chain X -> T1 -> T2 -> ...: seen from the forward pass."""

import pytest
import torch
from recording import record
from torch import nn
from torch.nn import functional

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, wiring):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.wiring = wiring

    def forward(self, x):
        return self.wiring(self, x)


def in_place_residual(m, x):
    h = m.b(functional.relu(m.a(x)))
    h += x
    return m.c(h)


def written_in_parts(m, x):
    h = torch.empty_like(x)
    h[:, :2] = m.a(x)[:, :2]
    h[:, 2:] = m.b(x)[:, 2:]
    return m.c(h)


@pytest.mark.parametrize(
    ("wiring", "chain"),
    [
        (lambda m, x: m.c(m.b(m.a(x))), True),
        (lambda m, x: m.c(torch.tanh(m.b(functional.relu(m.a(x)) * 2).T.contiguous().T)), True),
        (lambda m, x: m.c(m.b(functional.relu_(m.a(x)))), True),
        (lambda m, x: m.c(m.a(x) + m.b(m.a(x))), "runs 2 times"),
        (lambda m, x: (lambda h: m.c(h + m.b(h)))(m.a(x)), ["a", "c"]),
        (lambda m, x: m.c(m.b(m.a(x)) + x), False),
        (in_place_residual, False),
        (written_in_parts, False),
        (lambda m, x: m.c(m.a(x) + m.b(x)), False),
        (lambda m, x: m.c(torch.cat([m.b(m.a(x))[:, :2], x[:, 2:]], 1)), False),
        (lambda m, x: m.c(m.b(m.a(x))) + 0 * x.sum(), True),
        (lambda m, x: m.c(m.b(m.a(torch.zeros_like(x)))), False),
    ],
)
def test_wirings(wiring, chain):
    if isinstance(chain, str):
        with pytest.raises(ValueError, match=chain):
            record(Net(wiring), X)
        return
    rec, _ = record(Net(wiring), X)
    assert rec.chain == chain


def test_blocks_of_a_residual_network_are_a_chain_of_their_own():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return x + self.act(self.fc(x))

    model = nn.Sequential(Block(), Block(), nn.Linear(4, 2))
    assert record(model, X)[0].chain is False
    assert record(model, X, layers=["0", "1"])[0].chain is True
    rec, _ = record(model, X, layers=["0", "0.fc", "1", "1.act"])
    assert rec.chain == ["0", "1", "2"]


def test_convolutions_normalisation_and_dropout():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 5), nn.Softmax(1),
    )  # fmt: skip
    x = torch.randn(8, 1, 6, 6)
    assert record(model, x)[0].chain is True


def test_a_reduced_layer_is_no_link():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    rec, _ = record(model, X, reduce={"1": lambda t: t[:, :3]})
    assert rec.chain == ["0", "2"]


def test_inputs_of_layers_are_links_too():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    rec, _ = record(model, X, layers=["1@in", "1", "2@in"])
    assert rec.chain is True
