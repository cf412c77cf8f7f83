"""Functions called inside modules, as layers of their own."""

import numpy as np
import pytest
import torch
from recording import keys, record
from torch import nn
from torch.nn import functional

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.Tanh()

    def forward(self, x):
        h = torch.relu(self.fc(x))
        h = functional.relu_(h - 0.1)
        return self.act(h).sigmoid()


def net():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(4, 2))


def test_opt_in_adds_the_activations_that_are_no_modules():
    rec, snapshot = record(net(), X, functional=True, calls="all")
    block = ["fc", ":relu#0", ":relu#1", "act", ":sigmoid"]
    expected = [f"{i}{k if k.startswith(':') else '.' + k}".replace(":", "::") for i in (0, 1) for k in block]
    assert keys(snapshot) == [*expected, "2"]
    roles = {la.key: la.role for la in snapshot.layers}
    assert roles["0::relu#0"] == roles["0::sigmoid"] == roles["0.act"] == "activation"
    assert rec.chain is True
    assert keys(record(net(), X)[1]) == ["0.fc", "0.act", "1.fc", "1.act", "2"]


def test_values_of_each_call():
    model = net()
    _, snapshot = record(model, X, layers=["0::relu#1", "1::relu#0", "0::sigmoid"], probe_batch_size=6)
    h = torch.relu(model[0].fc(X))
    second = functional.relu(h - 0.1)
    out = torch.tanh(second).sigmoid()
    np.testing.assert_allclose(snapshot.arrays["0::relu#1"], second.detach(), atol=1e-6)
    np.testing.assert_allclose(snapshot.arrays["0::sigmoid"], out.detach(), atol=1e-6)
    np.testing.assert_allclose(snapshot.arrays["1::relu#0"], torch.relu(model[1].fc(out)).detach(), atol=1e-6)
    layer = snapshot.layers[0]
    assert (layer.key, layer.name, layer.call, layer.module_type) == ("0::relu#1", "0::relu", 1, "relu")


def test_globs_and_other_functions():
    _, snapshot = record(net(), X, layers="*::sub", logits=False)
    assert keys(snapshot) == ["0::sub", "1::sub"]
    assert all(la.role == "other" for la in snapshot.layers)
    _, snapshot = record(net(), X, layers=["*::relu#0", nn.Tanh], logits=False)
    assert keys(snapshot) == ["0::relu#0", "0.act", "1::relu#0", "1.act"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("0::gelu", r"no function call of the forward pass matches '0::gelu'; closest: 0::relu"),
        ("0::relu", r"layer '0::relu' runs 2 times .*'0::relu#0'"),
        ("0::relu#2", "layer '0::relu' runs 2 times, so there is no call #2"),
    ],
)
def test_errors(layers, message):
    with pytest.raises(ValueError, match=message):
        record(net(), X, layers=layers)


def test_a_function_of_the_model_itself():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return functional.softmax(functional.gelu(self.fc(x)), dim=1)

    _, snapshot = record(Net(), X, functional=True)
    assert keys(snapshot) == ["fc", "::gelu", "::softmax"]
