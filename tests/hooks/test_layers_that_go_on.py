"""Which modules are layers: those whose output goes on. The model's output is the one that it returns."""

import pytest
import torch
from recording import keys, record
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

import infoplane

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


class Adapter(nn.Module):
    """A linear map with a low-rank addition."""

    def __init__(self, n, m, rank, scale=0.5):
        super().__init__()
        self.base, self.a, self.b = nn.Linear(n, m), nn.Linear(n, rank, bias=False), nn.Linear(rank, m, bias=False)
        self.dropout, self.scale = nn.Dropout(0.1), scale

    def forward(self, x):
        return self.base(x) + self.scale * self.b(self.a(self.dropout(x)))


class InPlaceAdapter(Adapter):
    def forward(self, x):
        out = self.base(x)
        out += self.b(self.a(x) * self.scale)
        return out


class OwnWeight(nn.Module):
    def __init__(self, n, m, rank):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(m, n))
        self.down, self.up = nn.ModuleDict({"x": nn.Linear(n, rank)}), nn.ModuleDict({"x": nn.Linear(rank, m)})

    def forward(self, x):
        return functional.linear(x, self.weight) + self.up["x"](self.down["x"](x))


class Scaled(nn.Module):
    def __init__(self, n, m):
        super().__init__()
        self.inner, self.by = nn.Linear(n, m), nn.Parameter(torch.rand(m))

    def forward(self, x):
        return self.inner(x) * self.by


class FakeQuantized(nn.Module):
    """Rounds its weight by a module of its own."""

    class Round(nn.Module):
        def forward(self, w):
            return (w * 8).round() / 8

    def __init__(self, n, m):
        super().__init__()
        self.weight, self.round = nn.Parameter(torch.randn(m, n)), self.Round()

    def forward(self, x):
        return functional.linear(x, self.round(self.weight.abs() * 2))


class Generated(nn.Module):
    """Weights made by a network of its own."""

    def __init__(self, n, m):
        super().__init__()
        self.code, self.make, self.shape = nn.Parameter(torch.randn(3)), nn.Linear(3, n * m), (m, n)

    def forward(self, x):
        return functional.linear(x, self.make(self.code).reshape(self.shape))


MAKE = {
    "weight norm": lambda n, m: parametrizations.weight_norm(nn.Linear(n, m)),
    "spectral norm": lambda n, m: parametrizations.spectral_norm(nn.Linear(n, m)),
    "symmetric": lambda n, m: parametrize.register_parametrization(nn.Linear(n, m), "weight", nn.Identity()),
    "two": lambda n, m: parametrizations.weight_norm(parametrizations.weight_norm(nn.Linear(n, m)), "bias", dim=0),
    "adapter": lambda n, m: Adapter(n, m, 3),
    "adapter of full rank": lambda n, m: Adapter(n, m, m),
    "adapter in place": lambda n, m: InPlaceAdapter(n, m, 2),
    "own weight": lambda n, m: OwnWeight(n, m, 2),
    "scaled": Scaled,
    "fake quantized": FakeQuantized,
    "generated": Generated,
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
@pytest.mark.parametrize("units", [12, 5])  # of 12, a weight has as many rows as the chunk
def test_a_linear_map_made_of_parts(make, units):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", make(6, units))
    model.add_module("act", nn.Tanh())
    model.add_module("last", make(units, 3))
    model.eval()
    rec, snapshot = record(model, X)
    assert keys(snapshot) == ["first", "act", "last"]
    assert [la.role for la in snapshot.layers] == ["other", "activation", "output"]
    torch.testing.assert_close(torch.as_tensor(snapshot.arrays["first"]), model.first(X).detach())
    torch.testing.assert_close(torch.as_tensor(snapshot.arrays["last"]), model(X).detach())
    assert rec.chain is True
    assert keys(record(model, X, layers="act")[1]) == ["act", "last"]
    rows = {r.name: r.role for r in infoplane.layers(model, X)}
    assert (rows["first"], rows["act"], rows["last"]) == ("other", "activation", "output")


def test_parts_can_still_be_named():
    model = nn.Sequential(Adapter(6, 5, 2), nn.Tanh())
    assert keys(record(model, X, layers=["0.base", "0.b"], logits=False)[1]) == ["0.base", "0.b"]
    assert keys(record(model, X, layers=nn.Linear, logits=False)[1]) == ["0.base", "0.a", "0.b"]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.v, self.g = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x):
        return self.v(x) * torch.sigmoid(self.g(x))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        x = x.reshape(len(x), 3, 2)
        return (self.q(x) @ self.k(x).mT @ self.v(x)).flatten(1)


class Activated(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return torch.relu(self.fc(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act, self.out = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)

    def forward(self, x):
        return x + self.out(self.act(self.fc(x)))


@pytest.mark.parametrize(
    ("block", "parts"),
    [(Gated, ["v", "g"]), (Head, ["q", "k", "v"]), (Activated, ["fc"]), (Residual, ["fc", "act", "out"])],
)
def test_blocks_are_no_layers(block, parts):
    model = nn.Sequential(block(), nn.LazyLinear(2))
    model(X)
    assert keys(record(model, X)[1]) == [f"0.{p}" for p in parts] + ["1"]


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(4, 3)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


def with_auxiliary(m, x):
    h = m.a(x)
    out = m.b(h)
    m.c(h)
    return out


def sum_of_two(m, x):
    h = m.a(x)
    return m.b(h) + m.c(h)


def pair(m, x):
    h = m.a(x)
    return m.b(h), m.c(h)


def named(m, x):
    h = m.a(x)
    return {"features": h, "logits": m.b(h), "other": m.c(h)}


@pytest.mark.parametrize(
    ("way", "output"),
    [
        (with_auxiliary, "b"),
        (sum_of_two, "@out"),
        (pair, "b"),
        (named, "b"),
        (lambda m, x: functional.log_softmax(m.b(m.a(x)), 1), "b"),
        (lambda m, x: m.b(m.a(x))[:, :1].squeeze(1), "b"),
        (lambda m, x: m.b(m.a(x)).unsqueeze(1), "b"),
        (lambda m, x: (m.b(m.a(x)) * m.c(m.a(x))).sum(1, keepdim=True), "@out"),
    ],
)
def test_the_output_is_what_the_model_returns(way, output):
    model = Net(way)
    options = {"calls": "last"}
    _, snapshot = record(model, X, **options)
    assert [la.key for la in snapshot.layers if la.role == "output"] == [output]
    returned = way(model, X)
    returned = (
        returned[0] if isinstance(returned, tuple) else returned["logits"] if isinstance(returned, dict) else returned
    )
    if returned.numel() == snapshot.arrays[output].size and way.__name__ != "<lambda>":
        torch.testing.assert_close(torch.as_tensor(snapshot.arrays[output]), returned.detach())
    assert keys(record(model, X, layers="a", **options)[1])[-1] == output
    assert keys(record(model, X, layers="a", logits=False, **options)[1])[-1].startswith("a")


def test_the_last_block_of_a_residual_network_is_its_output():
    model = nn.Sequential(Residual(), Residual())
    _, snapshot = record(model, X)
    assert [la.key for la in snapshot.layers if la.role == "output"] == ["1"]
    torch.testing.assert_close(torch.as_tensor(snapshot.arrays["1"]), model(X).detach())


class Cut(nn.Module):
    def forward(self, x):
        return x[:, :0]


class Beside(nn.Module):
    """An empty tensor beside what goes on."""

    def __init__(self, part):
        super().__init__()
        self.fc, self.part, self.out = nn.Linear(6, 4), part, nn.Linear(4, 2)

    def forward(self, x):
        h = self.fc(x)
        return self.out(torch.cat([h, self.part(h)], 1))


def empty_linear():
    with pytest.warns(UserWarning, match="zero-element"):
        return nn.Linear(4, 0)


@pytest.mark.parametrize("part", [Cut, empty_linear, lambda: nn.Sequential(nn.Tanh(), Cut())])
@pytest.mark.parametrize("layers", [None, "**.part", "**"])
def test_a_layer_without_units_is_skipped_aloud(part, layers):
    model = Beside(part())
    layers = ["fc", "part"] if layers == "**.part" else layers
    with pytest.warns(UserWarning, match=r"no units, its shape is \(12, 0\)"):
        rec, snapshot = record(model, X, layers=layers)
    assert [k for k, why in rec.skipped.items() if "no units" in why]
    assert "out" in keys(snapshot)
    assert all(snapshot.arrays[k].size for k in keys(snapshot))


def test_nothing_but_empty_layers():
    with pytest.raises(ValueError, match=r"no layer can be recorded: .*no units"):
        record(nn.Sequential(Cut()), X)


def test_a_model_that_goes_through_numpy():
    """What cannot be followed is not taken for a constant."""

    class Through(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(torch.from_numpy(self.fc(x).detach().numpy() * 2))

    _, snapshot = record(Through(), X)
    assert keys(snapshot) == ["fc", "out"]
    assert snapshot.layers[1].role == "output"


def test_what_does_not_depend_on_the_input_is_no_layer():
    """A table of positions as long as the chunk looks like rows of samples."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.fc = nn.Embedding(12, 4), nn.Linear(48, 2)

        def forward(self, x):
            return self.fc((x + self.position(torch.arange(12))).flatten(1))

    x = torch.randn(12, 12, 4)
    with pytest.warns(UserWarning, match="'position': its output does not depend on the model's input"):
        _, snapshot = record(Positions(), x)
    assert keys(snapshot) == ["fc"]
    with pytest.raises(ValueError, match="'position'"):
        record(Positions(), x, layers="position")
