"""Gradient moments and weight norms of a collection: each member's are those of the member alone."""

import copy
import math

import pytest
import torch
from recording import Collect, recorder
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import infoplane
from infoplane.hooks import CollectionRecorder, GradientMoments, every

MEMBERS = 4
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=G), torch.randint(0, 3, (48,), generator=G)
BATCHES = torch.arange(48).split(8)
EPOCHS = 3


def alone():
    torch.manual_seed(7)
    return [nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(MEMBERS)]


def recorded_alone(models):
    """Layer metrics of every snapshot of every member, each trained and recorded by itself."""
    found = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        with GradientMoments(model, optimizer) as moments:
            rec, sink = recorder(model, (X, Y), schedule=every(1), gradients=moments)
            with rec:
                for epoch in range(EPOCHS):
                    for rows in BATCHES:
                        optimizer.zero_grad()
                        nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
                        optimizer.step()
                    rec.snapshot(epoch)
        found.append([s.layer_metrics for s in sink.snapshots])
    return found


def collect(model, **options):
    sinks = [Collect() for _ in range(MEMBERS)]
    rec = CollectionRecorder(
        model, (X, Y), keep_activations=False, member_sinks=lambda i: [sinks[i]], schedule=every(1), **options
    )
    return rec, sinks


def assert_as_alone(sinks, expected, names=("0", "2")):
    """`names` are those of the modules that stand for the layers "0" and "2" of the single networks."""
    renamed = dict(zip(("0", "2"), names, strict=True))
    for sink, snapshots in zip(sinks, expected, strict=True):
        assert len(sink.snapshots) == len(snapshots) == EPOCHS + 1
        for taken, metrics in zip(sink.snapshots, snapshots, strict=True):
            wanted = {(renamed[layer], name): value for (layer, name), value in metrics.items()}
            assert set(taken.layer_metrics) == set(wanted)
            for key, value in wanted.items():
                assert taken.layer_metrics[key] == pytest.approx(value, rel=2e-5), key
    last = [s.snapshots[-1].layer_metrics[names[0], "gradient_std_norm"] for s in sinks]
    assert len(set(last)) == MEMBERS


class Stacked(nn.Module):
    """Linear layers of all members in one product; `dims` are the axes of the members in weight and bias."""

    def __init__(self, layers, dims=(0, 0)):
        super().__init__()
        self.dims = dims
        self.weight = nn.Parameter(torch.stack([la.weight.detach() for la in layers], dims[0]))
        self.bias = nn.Parameter(torch.stack([la.bias.detach() for la in layers], dims[1]))

    def forward(self, x):
        weight, bias = self.weight.movedim(self.dims[0], 0), self.bias.movedim(self.dims[1], 0)
        return x @ weight.transpose(1, 2) + bias[:, None]


def stacked(models, dims=(0, 0)):
    return nn.Sequential(Stacked([m[0] for m in models], dims), nn.Tanh(), Stacked([m[2] for m in models], dims))


def summed_loss(logits, y):
    return sum(nn.functional.cross_entropy(own, y) for own in logits)


def train_stacked(model, optimizer, rec):
    for epoch in range(EPOCHS):
        for rows in BATCHES:
            optimizer.zero_grad()
            summed_loss(model(X[rows]), Y[rows]).backward()
            optimizer.step()
        rec.snapshot(epoch)


LAYOUTS = [
    ((0, 0), 0),
    ((1, 1), 1),
    ((-1, 0), {"*.weight": -1, "*": 0}),
    ((2, 1), {"0.weight": 2, "2.weight": 2, "*.bias": 1}),
]


@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize(("dims", "parameter_dim"), LAYOUTS)
def test_hand_stacked(dims, parameter_dim, with_optimizer):
    models = alone()
    model = stacked(models, dims)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with GradientMoments(
        model, optimizer if with_optimizer else None, members=MEMBERS, parameter_dim=parameter_dim
    ) as moments:
        rec, sinks = collect(model, member_dim=0, members=MEMBERS, gradients=moments)
        with rec:
            train_stacked(model, optimizer, rec)
    assert_as_alone(sinks, recorded_alone(models))


@pytest.mark.parametrize("how", ["grad", "backward"])
def test_functional(how, tmp_path):
    models = alone()
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    optimizer = torch.optim.SGD(parameters.values(), lr=0.3)

    def loss(p, x, y):
        return nn.functional.cross_entropy(functional_call(skeleton, p, (x,)), y)

    moments = GradientMoments.functional(skeleton, members=MEMBERS)
    with CollectionRecorder(
        skeleton,
        (X, Y),
        tmp_path / "m{member}",
        state=(parameters, buffers),
        gradients=moments,
        schedule=every(1),
        quiet=True,
    ) as rec:
        for epoch in range(EPOCHS):
            for rows in BATCHES:
                if how == "grad":
                    gradients = vmap(grad(loss), in_dims=(0, None, None))(parameters, X[rows], Y[rows])
                    for name, g in gradients.items():
                        parameters[name].grad = g
                else:
                    optimizer.zero_grad()
                    vmap(loss, in_dims=(0, None, None))(parameters, X[rows], Y[rows]).sum().backward()
                moments.add({name: p.grad for name, p in parameters.items()})
                optimizer.step()
            rec.snapshot(epoch)
    for i, snapshots in enumerate(recorded_alone(models)):
        stored = infoplane.open_run(tmp_path / f"m{i}").metrics()
        found = {(step, layer, name): value for step, _, name, layer, value in stored}
        expected = {(step, *key): v for step, metrics in enumerate(snapshots) for key, v in metrics.items()}
        assert set(found) == set(expected)
        assert all(found[key] == pytest.approx(value, rel=2e-5) for key, value in expected.items())


def test_weight_norms_alone():
    models = alone()
    for i, model in enumerate(models):
        model[2].weight.data *= i + 1
    expected = [
        [math.sqrt(sum(float(p.detach().square().sum()) for p in m[k].parameters())) for k in (0, 2)] for m in models
    ]
    dims = {"*.weight": 2, "*": 1}
    for options in (
        {"model": stacked(models, (2, 1)), "member_dim": 0, "members": MEMBERS, "parameter_dim": dims},
        {"model": models[0], "state": stack_module_state(models)},
    ):
        rec, sinks = collect(weight_norms=True, **options)
        with rec:
            pass
        for sink, norms in zip(sinks, expected, strict=True):
            taken = sink.snapshots[0].layer_metrics
            assert list(taken) == [("0", "weight_norm"), ("2", "weight_norm")]
            assert list(taken.values()) == pytest.approx(norms, rel=1e-5)


def test_parameters_that_the_state_leaves_out_are_every_members():
    models = alone()
    parameters, buffers = stack_module_state(models)
    state = {k: v for k, v in parameters.items() if k.startswith("2")}, buffers
    rec, sinks = collect(models[0], state=state, weight_norms=True)
    with rec:
        pass
    shared = math.sqrt(sum(float(p.detach().square().sum()) for p in models[0][0].parameters()))
    for i, sink in enumerate(sinks):
        taken = sink.snapshots[0].layer_metrics
        own = math.sqrt(sum(float(p.detach().square().sum()) for p in models[i][2].parameters()))
        assert list(taken.values()) == pytest.approx([shared, own], rel=1e-5)


def test_a_member_that_diverges_leaves_the_others():
    model = stacked(alone())
    moments = GradientMoments(model, members=MEMBERS)
    with moments:
        for rows in BATCHES:
            model.zero_grad()
            losses = [nn.functional.cross_entropy(own, Y[rows]) for own in model(X[rows])]
            (losses[0] + losses[1] + losses[2] * torch.inf + losses[3]).backward()
    taken = moments.take()
    for name in ("gradient_mean_norm", "gradient_std_norm"):
        assert torch.isfinite(taken["0", name]).tolist() == [True, True, False, True]
    assert taken["0", "gradient_steps"].tolist() == [len(BATCHES)] * MEMBERS


def test_one_functional_network():
    """Without members the numbers are those that hooks on the parameters give."""
    model = alone()[0]
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    moments = GradientMoments.functional(model)
    with GradientMoments(model) as hooked:
        for rows in BATCHES:
            model.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
            loss = lambda p, r=rows: nn.functional.cross_entropy(functional_call(model, p, (X[r],)), Y[r])  # noqa: E731
            gradients = grad(loss)(parameters)
            moments.add({**gradients, "2.bias": None})
    expected, found = hooked.take(), moments.take()
    assert found.keys() == expected.keys()
    assert all(float(found["0", n]) == pytest.approx(float(expected["0", n]), rel=1e-5) for layer, n in expected)
    assert float(found["2", "gradient_mean_norm"]) < float(expected["2", "gradient_mean_norm"])


def moments_of(members=MEMBERS):
    return GradientMoments(stacked(alone()), members=members)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GradientMoments(stacked(alone()), members=3),
            r"'0.weight' should have 3 members at axis 0, got shape \(4, 5, 6\); state their axis",
        ),
        (
            lambda: GradientMoments(stacked(alone()), members=4, parameter_dim=5),
            r"'0.weight' should have 4 members at axis 5, got shape \(4, 5, 6\)",
        ),
        (
            lambda: GradientMoments(stacked(alone()), members=4, parameter_dim={"1.weight": 1}),
            r"parameter_dim names '1.weight', no parameter of the model; closest: ",
        ),
        (
            lambda: collect(stacked(alone()), member_dim=0, members=4, weight_norms=True, parameter_dim=1),
            r"'0.weight' should have 4 members at axis 1, got shape \(4, 5, 6\)",
        ),
        (
            lambda: collect(stacked(alone()), member_dim=0, members=4, gradients=GradientMoments(alone()[0])),
            r"must be GradientMoments\(model, optimizer, members=4\), got those of one network",
        ),
        (
            lambda: collect(alone()[0], state=stack_module_state(alone()), gradients=moments_of()),
            r"must be GradientMoments.functional\(model, members=4\), got those of 4",
        ),
        (
            lambda: collect(
                alone()[0],
                state=stack_module_state(alone()),
                gradients=GradientMoments.functional(alone()[0], members=3),
            ),
            r"must be GradientMoments.functional\(model, members=4\), got those of 3, functional",
        ),
        (
            lambda: recorder(alone()[0], (X, Y), gradients=moments_of()),
            "these GradientMoments are of 4 members; give them to a CollectionRecorder, or leave members= out",
        ),
        (
            lambda: GradientMoments.functional(alone()[0], members=4).add({"weight": X}),
            "the model has no parameter 'weight'; closest: ",
        ),
        (
            lambda: GradientMoments.functional(alone()[0], members=4).add({"0.bias": torch.zeros(5)}),
            r"the gradient of '0.bias' must have shape \(4, 5\), got \(5,\)",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gradients_are_not_added_twice():
    with moments_of() as moments, pytest.raises(RuntimeError, match=r"are added to GradientMoments\.functional"):
        moments.add({})
