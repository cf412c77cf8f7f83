"""Rows that are no samples are found at the start, and nothing that is right is refused."""

import warnings

import pytest
import torch
from recording import Collect, keys, record, recorder
from torch import nn

from infoplane.hooks import CollectionRecorder, NoiseInjection, every


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


X = torch.randn(64, 6, generator=seeded())


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


class Turned(nn.Module):
    """A recurrent layer that takes (time, batch, features)."""

    def __init__(self):
        super().__init__()
        self.gru, self.fc = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.gru(x.transpose(0, 1))[0][-1])


class Reordered(nn.Module):
    """What lies between `before` and `after` sees the rows in another order."""

    def __init__(self, order, back=True):
        super().__init__()
        self.before, self.inside, self.after = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.order, self.back = order, back

    def forward(self, x):
        h = self.before(x)
        order = self.order(h)
        h = self.inside(h[order])
        return self.after(h[order.argsort()] if self.back else h)


def by_gate(h):
    return h[:, 0].argsort()


def by_expert(h):
    return h[:, :3].argmax(1).argsort(stable=True)


def mirrored(h):
    return torch.arange(len(h)).flip(0)


def rolled(h):
    return torch.arange(len(h)).roll(1)


def halves(h):
    return torch.arange(len(h)).reshape(2, -1).T.flatten()


@pytest.mark.parametrize(("samples", "size"), [(24, 256), (48, 24), (24, 24), (50, 24)])
def test_samples_on_the_second_axis_of_a_chunk_as_long_as_a_sequence(samples, size):
    """As many steps as rows in a chunk: the shape says nothing."""
    x = torch.randn(samples, 24, 3, generator=seeded())
    with pytest.raises(ValueError, match=r"'gru@out\[0\]'.*batch_dim=\{'gru@out\[0\]': 1\}"):
        record(Turned(), x, layers="gru@out[0]", probe_batch_size=size)
    model = Turned()
    if samples % size in (0, samples):
        _, snapshot = record(model, x, layers="gru@out[0]", probe_batch_size=size, batch_dim={"gru@out[0]": 1})
        expected = model.gru(x.transpose(0, 1))[0].transpose(0, 1).reshape(samples, -1)
        torch.testing.assert_close(torch.as_tensor(snapshot.arrays["gru@out[0]"]), expected.detach())


@pytest.mark.parametrize("order", [by_gate, by_expert, mirrored, rolled, halves])
@pytest.mark.parametrize("samples", [4, 6, 64])
def test_rows_in_another_order_inside(order, samples):
    model = Reordered(order)
    with pytest.raises(
        ValueError, match=r"rows of layer 'inside' are not in the order .* \d+ of \d+ rows do not follow"
    ):
        record(model, X[:samples])
    _, snapshot = record(model, X[:samples], layers=["before", "after"])
    torch.testing.assert_close(torch.as_tensor(snapshot.arrays["before"]), model.before(X[:samples]).detach())
    with pytest.warns(UserWarning, match=r"'inside' are not in the order .* batch_dim= names their axis"):
        record(model, X[:samples], batch_dim={"inside": 0})
    with pytest.warns(UserWarning, match="'inside' are not in the order"):
        record(model, X[:samples], batch_dim=0)


def test_members_are_checked_on_the_first():
    models = [Reordered(by_gate) for _ in range(2)]
    with pytest.raises(ValueError, match="'inside' are not in the order"):
        CollectionRecorder(
            models[0],
            (X, torch.arange(64) % 2),
            state=torch.func.stack_module_state(models),
            keep_activations=False,
            member_sinks=lambda i: [Collect()],
        ).start()


def test_all_that_comes_after_is_named():
    with pytest.raises(ValueError, match=r"rows of layers 'inside', 'after' are not in the order"):
        record(Reordered(by_gate, back=False), X)


def test_a_probe_sorted_by_class_whose_first_chunk_goes_to_one_expert():
    x = X[X[:, 0].argsort()].clone()
    model = Reordered(lambda h: (h[:, 0] > 0).long().argsort(stable=True))
    with torch.no_grad():
        model.before.weight.copy_(torch.eye(6))
        model.before.bias.zero_()
    model.order = lambda h: (h[:, 0] < 0).long().argsort(stable=True)
    with pytest.raises(ValueError, match="'inside'"):
        record(model, x, probe_batch_size=16)


class Capacity(nn.Module):
    """Each expert takes its first rows and leaves the others as they are."""

    def __init__(self, capacity):
        super().__init__()
        self.capacity = capacity
        self.gate, self.experts = nn.Linear(6, 2), nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.mixed, self.out = nn.Identity(), nn.Linear(6, 2)

    def forward(self, x):
        chosen, out = self.gate(x).argmax(1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            mine = (chosen == i).nonzero().flatten()[: self.capacity]
            out[mine] = expert(x[mine])
        return self.out(self.mixed(out) + 0)


def test_experts_that_drop_what_exceeds_their_capacity():
    with pytest.raises(ValueError, match=r"'out' .* \d+ of 64 rows"):
        record(Capacity(10), X, layers="out")
    with pytest.warns(UserWarning, match="'out'"):
        record(Capacity(10), X, layers="out", batch_dim={"out": 0})
    record(Capacity(64), X, layers="out")


def test_the_sum_of_what_came_before():
    class Cumulated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(x.cumsum(0))

    with pytest.raises(ValueError, match=r"'fc'.*batch_dim=\{'fc': 0\} records it as it is"):
        record(Cumulated(), X)


def test_injected_noise_does_not_hide_an_order():
    model = Reordered(by_gate)
    with NoiseInjection(model, "inside", std=1.0), pytest.raises(ValueError, match="'inside'"):
        record(model, X)
    with NoiseInjection(model, "after", std=1.0):
        rec, _ = record(model, X, layers=["before", "after"])
    assert rec.layers[-1].noise is not None


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.generator = nn.Linear(6, 6), torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.fc(x) + torch.randn(x.shape, generator=self.generator)


class GlobalNoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(6, 6), nn.Tanh()

    def forward(self, x):
        return self.act(self.fc(x) + torch.rand(len(x), 1))


def dropped():
    return nn.Sequential(nn.Linear(6, 6), nn.Dropout(), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        (dropped(), {"mode": "train"}, "'1', '2'"),
        (GlobalNoise(), {}, "'act'"),
        (nn.Sequential(GlobalNoise()), {}, "'0.act'"),
    ],
)
def test_random_rows_are_recorded_and_said_to_be_unchecked(model, options, names):
    with pytest.warns(UserWarning, match=f"{names} are random: .* cannot be checked") as told:
        record(model, X, **options)
    assert len(told) == 1


class Drops(nn.Module):
    """Drops what `way` says, at random."""

    def __init__(self, way):
        super().__init__()
        self.layers, self.out = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 2)
        self.way = way

    def forward(self, x):
        for layer in self.layers:
            used = not self.training or bool(torch.rand(()) < 0.5)
            if self.way == "layers" and used:
                x = x + layer(x)
            elif self.way == "calls":
                x = layer(layer(x)) if used else layer(x)
            elif self.way == "rows":
                x = x + (layer(x) if used else layer(x[:9]).mean(0))
        return self.out(x)


@pytest.mark.parametrize("way", ["layers", "calls", "rows"])
def test_a_network_that_takes_another_way_at_random_is_not_refused(way):
    """Layer drop in training mode: what is missing at a later step is missing by name."""
    model = Drops(way)
    rec, sink = recorder(model, (X, torch.arange(64) % 2), schedule=every(1), mode="train", calls="all")
    with pytest.warns(UserWarning, match="whether rows are in|not recorded") as told, rec:
        _ = [rec.snapshot(step) for step in range(1, 9)]
    assert any("random: whether rows are in the probe's order" in str(t.message) for t in told)
    assert sink.steps == list(range(9))
    assert any("called" in p.what or "rows" in p.what for p in rec.problems)


class LeavesOut(nn.Module):
    """Leaves a layer out at one call: not for a random number, but for what it remembers."""

    def __init__(self):
        super().__init__()
        self.fc, self.sometimes, self.n = nn.Linear(6, 6), nn.Linear(6, 6), 0

    def forward(self, x):
        self.n += 1
        x = self.fc(x)
        return x if self.n == 4 else self.sometimes(x)


def test_a_layer_that_an_equal_pass_does_not_call_is_a_matter_of_state():
    """Two passes find the layers, the third and fourth are equal ones."""
    with pytest.warns(UserWarning, match=r"rows of layer 'sometimes' are not the same .* keeps state") as told:
        _, snapshot = record(LeavesOut(), X)
    assert len(told) == 2
    assert keys(snapshot) == ["fc", "sometimes"]


def test_order_is_checked_ahead_of_the_noise():
    model = nn.Sequential(Reordered(by_gate), nn.Dropout(), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="random"), pytest.raises(ValueError, match=r"layer '0.inside'"):
        record(model, X, mode="train")


class Experts(nn.Module):
    """Rows sorted by expert and put back."""

    def __init__(self):
        super().__init__()
        self.gate, self.a, self.b, self.out = nn.Linear(6, 2), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        first = (self.gate(x).argmax(1) == 0)[:, None]
        return self.out(torch.where(first, self.a(x), self.b(x)))


class Sign(nn.Module):
    def forward(self, x):
        return x.sign()


class Unrolled(nn.Module):
    """So chaotic that the last digit of the input decides."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        h = torch.sigmoid(self.fc(x))
        for _ in range(200):
            h = 3.99 * h * (1 - h)
        mixed = h @ torch.full((6, 6), 1 / 6)
        for _ in range(100):
            mixed = 3.99 * mixed * (1 - mixed)
        return mixed


RIGHT = {
    "batch statistics": (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh()), {"mode": "train"}),
    "no running statistics": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 2)
        ),
        {},
    ),
    "attention over the batch": (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=False), {}),
    "experts put back": (Experts, {}),
    "signs": (lambda: nn.Sequential(nn.Linear(6, 200), Sign(), nn.Linear(200, 200), Sign(), nn.Linear(200, 2)), {}),
    "bfloat16": (
        lambda: nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(6, 6), nn.Tanh())]),
        {"autocast": torch.bfloat16},
    ),
    "half": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh()).half(), {}),
    "double": (lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)).double(), {}),
    "NaN": (lambda: nn.Sequential(nn.Linear(6, 6), Logarithm()), {}),
    "chaos": (Unrolled, {}),
}


class Logarithm(nn.Module):
    def forward(self, x):
        return torch.log(x)


@pytest.mark.parametrize(("make", "options"), RIGHT.values(), ids=RIGHT.keys())
@pytest.mark.parametrize("samples", [2, 3, 5, 64, 300])
def test_what_is_right_is_recorded(make, options, samples):
    torch.manual_seed(samples)
    model, x = make(), torch.randn(samples, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(probe_batch_size=|NaN or infinite|by rounding alone)")
        record(model, x, **options)


def test_rows_given_many_times():
    torch.manual_seed(0)
    x = torch.randn(4, 24, 3).repeat(6, 1, 1)
    _, snapshot = record(nn.Sequential(nn.Flatten(), nn.Linear(72, 2)), x)
    assert keys(snapshot) == ["1"]
    with pytest.raises(ValueError, match="'gru"):
        record(Turned(), x, layers="gru@out[0]")


@pytest.mark.cpu_branch
def test_what_rounding_changes_is_said_once():
    """Thirty layers of batch statistics: rounding grows to the size of the values."""
    torch.manual_seed(7)
    layers = [m for _ in range(30) for m in (nn.Linear(30, 30), nn.BatchNorm1d(30), nn.ReLU())]
    with pytest.warns(UserWarning, match="are changed by rounding alone as much as by another order") as told:
        record(nn.Sequential(*layers), torch.randn(7, 30), mode="train")
    assert len(told) == 1


@pytest.mark.cpu_branch
def test_rounding_of_a_network_of_tokens():
    """Its input has no last digits; those of its embeddings are changed."""
    layers = [m for _ in range(45) for m in (nn.Linear(20, 20), nn.BatchNorm1d(20), nn.ReLU())]
    model = nn.Sequential(nn.Embedding(5000, 20), *layers)
    with pytest.warns(UserWarning, match="are changed by rounding alone as much as by another order"):
        record(model, torch.randint(5000, (8,)), mode="train")


@pytest.mark.parametrize("samples", [2, 3])
def test_so_few_rows_cannot_tell(samples):
    record(Reordered(mirrored), X[:samples])
    record(Reordered(mirrored), X, probe_batch_size=samples)


def test_a_model_that_takes_sorted_lengths_only():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.fc = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=True)
            return self.fc(self.gru(packed)[1][-1])

    lengths = torch.arange(1, 25).flip(0)
    probe = {"x": torch.randn(24, 24, 3), "lengths": lengths}
    with pytest.warns(UserWarning, match=r"order cannot be checked: the model does not run on another, RuntimeError"):
        record(Packed(), probe, layers="fc")


def test_a_graph_beside_the_rows():
    """Nodes as rows, their edges outside the probe: the user says that rows are rows."""
    edges = (torch.rand(64, 64, generator=seeded()) > 0.9).float()
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(model, x):
        return model(edges @ x)

    with pytest.raises(ValueError, match=r"rows of layers '0', '1', '2' .*batch_dim=\{'0': 0\}"):
        record(model, X, forward=forward)
    with pytest.warns(UserWarning, match="not in the order"):
        record(model, X, forward=forward, batch_dim=0)


def test_the_check_leaves_nothing_behind():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    model[1].eval()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    rec, _ = recorder(model, (X, torch.arange(64) % 2), initial=False, mode="train")
    with pytest.warns(UserWarning, match="random"), rec:
        pass
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Kept(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.first, self.fc = nn.Linear(6, 6), nn.Linear(6, 2)
        self.write, self.held = write, torch.zeros(6)

    def forward(self, x):
        h = self.first(x)
        self.write(self, h)
        return self.fc(h - self.held)


def running_mean(self, h):
    self.held = 0.9 * self.held + 0.1 * h.mean(0).detach()


def in_place(self, h):
    self.held.mul_(0.999).add_(h[0], alpha=0.001)


def hidden(self, h):
    self.held = torch.tanh(self.held + h[-1])


def counting(self, h):
    self.count = getattr(self, "count", 0) + 1
    self.held = torch.full((6,), float(self.count % 2))


@pytest.mark.cpu_branch
@pytest.mark.parametrize("write", [running_mean, in_place, hidden, counting])
def test_state_outside_buffers(write):
    with pytest.warns(
        UserWarning, match=r"rows of layer 'fc' are not the same when the same rows are passed twice"
    ) as told:
        record(Kept(write), X)
    assert len(told) == 2
    assert str(told[0].message) == str(told[1].message)  # at the start, and where it ends
    assert all(w.filename.endswith("recording.py") for w in told)  # where the recorder was used
    with pytest.warns(UserWarning, match="'@out' are not the same"):
        record(Kept(write), X, layers="first", logits=False)


def test_a_generator_of_its_own_is_state():
    with pytest.warns(UserWarning, match="not the same when") as told:
        record(OwnGenerator(), X, layers="@out")
    assert len(told) == 2


def test_state_in_buffers_is_none():
    class Buffered(Kept):
        def __init__(self, write):
            super().__init__(write)
            del self.held
            self.register_buffer("held", torch.zeros(6))

    for write in (running_mean, lambda self, h: self.held.mul_(0.5).add_(h.mean(0))):
        record(Buffered(write), X)
