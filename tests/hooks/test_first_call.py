"""A recording is never the call that makes or sets a model's weights, and leaves parameters as they are."""

import pytest
import torch
from recording import record, recorder
from torch import nn

import infoplane
from infoplane.hooks import every

X = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 2


def lazy():
    return nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Tanh(), nn.Linear(3, 2))


class Grows(nn.Module):
    """Makes its layer when it sees the first input."""

    def __init__(self):
        super().__init__()
        self.fc, self.out = None, nn.Linear(3, 2)

    def forward(self, x):
        if self.fc is None:
            self.fc = nn.Linear(x.shape[1], 3)
        return self.out(self.fc(x))


class Registers(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        if not hasattr(self, "scale"):
            self.register_parameter("scale", nn.Parameter(torch.rand(x.shape[1])))
        return self.out(self.scale * x)


class ActNorm(nn.Module):
    """Sets its parameters to the statistics of its first batch."""

    def __init__(self, kind):
        super().__init__()
        self.shift, self.ready = nn.Parameter(torch.zeros(5)), False
        self.kind = kind
        self.register_buffer("scale", torch.ones(5))

    def forward(self, x):
        if not self.ready:
            if self.kind == "data":
                self.shift.data.copy_(x.mean(0))
            elif self.kind == "buffer":
                self.scale.copy_(x.std(0))
            else:
                with torch.no_grad():
                    self.shift.sub_(x.mean(0))
            self.ready = True
        return (x - self.shift) / self.scale


def set_at_first(kind):
    return lambda: nn.Sequential(ActNorm(kind), nn.Linear(5, 2))


MAKE = {
    "lazy": (lazy, r"layer '0' \(LazyLinear\) and 1 more layers of Sequential has no weights yet"),
    "a layer made in forward": (Grows, r"'fc.weight' and 1 more first appeared in the probe's forward pass of Grows"),
    "a registered parameter": (Registers, "'scale' first appeared"),
    "set through .data": (set_at_first("data"), "'0.shift' is set by the first forward pass only"),
    "set in place": (set_at_first("in place"), "'0.shift' is set by the first"),
    "a buffer": (set_at_first("buffer"), "'0.scale' is set by the first"),
}


@pytest.mark.parametrize(("make", "message"), MAKE.values(), ids=MAKE.keys())
def test_the_first_call_is_the_users(make, message):
    """Refused, with the model as it was; after one forward pass its weights are those of the user's seed."""
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        model = make()
        with pytest.raises(ValueError, match=f"{message}.*run one forward pass first"):
            record(model, X)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=generator_after(seed, make)))
        torch.manual_seed(seed)
        model = make()
        with pytest.raises(ValueError, match="run one forward pass first"):
            record(model, X)
        model(X[:8])
        record(model, X)
        found.append([p.clone() for p in model.parameters()])
    for seed, weights in zip((1, 2, 1), found, strict=True):
        torch.manual_seed(seed)
        alone = make()
        alone(X[:8])
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), weights, strict=True))


def generator_after(seed, make):
    torch.manual_seed(seed)
    make()
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return generator


class Cached(nn.Module):
    """Multiplies by a table that the forward pass makes, and remembers in one of several ways that it has."""

    def __init__(self, way):
        super().__init__()
        self.fc, self.way, self.length = nn.Linear(5, 2), way, 2
        if way not in ("new", "statistics of a new one"):
            self.register_buffer("table", None if way == "none" else torch.ones(2))

    def forward(self, x):
        n = x.shape[1]
        if self.way == "length" and n > self.length:  # rotary embeddings that grow
            self.length, self.table = n, torch.arange(n).cos()
        elif self.way == "once" and self.length == 2:  # of its first batch
            self.length, self.table = n, x.mean(0)[:2]
        elif (self.way == "shape" and n > len(self.table)) or (self.way == "none" and self.table is None):
            self.table = torch.arange(n).cos()
        elif self.way == "new" and not hasattr(self, "table"):
            self.register_buffer("table", torch.arange(n).cos(), persistent=False)
        elif self.way == "statistics of a new one" and not hasattr(self, "table"):
            self.register_buffer("table", x.mean(0))
        return self.fc(x * (self.table[:n] if len(self.table) > 2 else self.table[0]))


@pytest.mark.parametrize("way", ["length", "once"])
def test_a_table_that_only_the_first_pass_makes_is_refused_and_the_model_as_before(way):
    model = Cached(way)
    table = model.table
    with pytest.raises(ValueError, match=r"'table' is set by the first forward pass only of Cached; .* run one"):
        record(model, X)
    assert model.table is table
    assert model.length == 2
    model(X[:2])
    record(model, X)


@pytest.mark.parametrize("way", ["shape", "none", "new", "statistics of a new one"])
def test_a_table_that_each_pass_makes_anew_is_recorded_and_not_kept(way):
    model = Cached(way)
    before = {k: None if b is None else b.clone() for k, b in model._buffers.items()}
    rec, sink = recorder(model, (X, Y), schedule=every(1), on_error="raise")
    with rec:
        rec.snapshot(1)
    assert set(model._buffers) == set(before)
    assert all(b is before[k] or torch.equal(b, before[k]) for k, b in model._buffers.items())
    wanted = model(X)  # training makes its own
    assert torch.allclose(torch.from_numpy(sink.snapshots[1].arrays["fc"]), wanted, atol=1e-6)


def test_the_table_of_layers_initialises_nothing():
    with pytest.raises(ValueError, match=r"LazyLinear.*run one forward pass first"):
        infoplane.layers(lazy(), X)


class Clipped(nn.Module):
    """Keeps its weights small whenever it is called, as embeddings with max_norm do."""

    def __init__(self, way):
        super().__init__()
        self.fc, self.way = nn.Linear(5, 2), way

    def forward(self, x):
        if self.way == "data":
            self.fc.weight.data.mul_(0.9)
        else:
            with torch.no_grad():
                self.fc.weight.mul_(0.9)
        return self.fc(x)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(50, 4, max_norm=0.5), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.embed((x[:, 0] * 10).long().abs()))


class Differentiates(nn.Module):
    """Its own gradients inside, as energy models take them."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            nn.functional.linear(x, self.fc.weight).square().sum().backward()
        return self.fc(x.detach() - 0.1 * x.grad)


@pytest.mark.parametrize("make", [lambda: Clipped("data"), lambda: Clipped("in place"), Embedded, Differentiates])
def test_parameters_and_gradients_are_as_before(make):
    torch.manual_seed(0)
    model = make()
    before = [p.clone() for p in model.parameters()]
    rec, sink = recorder(model, (X, Y), schedule=every(1))
    with rec:
        for step in (1, 2):
            rec.snapshot(step)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    first = sink.snapshots[0].arrays["fc"]
    assert all((s.arrays["fc"] == first).all() for s in sink.snapshots)


class Bag(Embedded):
    def __init__(self):
        super().__init__()
        self.embed = nn.EmbeddingBag(50, 4, max_norm=0.5)

    def forward(self, x):
        return self.fc(self.embed((x * 10).long().abs()))


class Tied(Embedded):
    """The embedding's weights are those of the output, too."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 50, bias=False)
        self.fc.weight = self.embed.weight


@pytest.mark.parametrize("make", [lambda: Clipped("data"), lambda: Clipped("in place"), Embedded, Bag, Tied])
def test_they_are_also_between_steps_of_training(make):
    """There are gradients then, of the same names as the parameters that change."""

    def trained(recording):
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rec, sink = recorder(model, (X, Y), schedule=every(1), on_error="raise")
        if recording:
            rec.start()
        for step in (1, 2, 3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            assert not recording or rec.snapshot(step)
        rec.close()
        return list(model.parameters()), sink.steps

    plain, _ = trained(False)
    recorded, steps = trained(True)
    assert steps == [0, 1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


class Forces(nn.Module):
    """Its output is a gradient of what its own layers give, autograd being switched on inside."""

    def __init__(self):
        super().__init__()
        self.fc, self.act, self.energy, self.out = nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1), nn.Linear(5, 2)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(self.act(self.fc(x)))
            (force,) = torch.autograd.grad(energy.sum(), x, create_graph=self.training)
        return self.out(force)


@pytest.mark.parametrize(
    "options",
    [{}, {"probe_batch_size": 7}, {"reduce": lambda t: t * 2}, {"functional": True}, {"dtype": torch.float64}],
)
def test_what_is_stored_has_no_history(options):
    model = Forces()
    with torch.no_grad():
        wanted = model.fc(X)
    rec, sink = recorder(model, (X, Y), schedule=every(1), **options)
    with rec:
        rec.snapshot(1)
    factor = 2 if "reduce" in options else 1
    for snapshot in sink.snapshots:
        assert torch.allclose(torch.from_numpy(snapshot.arrays["fc"]).float(), factor * wanted, atol=1e-5)
        assert not any(t.requires_grad for t in snapshot.tensors.values())
        assert len(snapshot.layers) == 4
    assert all(p.grad is None for p in model.parameters())


def test_gradients_that_the_forward_pass_adds_to():
    model = Differentiates()
    model(X)
    with pytest.raises(RuntimeError, match=r"changed the gradient 'fc.weight'"):
        record(model, X)


def test_large_parameters_that_change_are_refused(monkeypatch):
    monkeypatch.setattr("infoplane.hooks._pass.state.COPIED_PARAMETER_BYTES", 10)
    with pytest.raises(RuntimeError, match=r"the probe pass changed the parameter 'fc.weight'"):
        record(Clipped("in place"), X)
    record(Embedded(), X)
