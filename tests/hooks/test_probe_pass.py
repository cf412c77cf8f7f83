"""The probe pass measures the network and nothing else: what a model does to its inputs stays in the pass."""

import copy

import pytest
import torch
from recording import Collect, recorder
from torch import nn

from infoplane.hooks import CollectionRecorder, every

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = torch.arange(60) % 3


class InPlace(nn.Module):
    """Normalises its input with operations that overwrite it."""

    def __init__(self, change):
        super().__init__()
        self.change, self.fc = change, nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.change(x))


def centre(x):
    x -= 0.5
    return x


def through_numpy(x):
    array = x.numpy()
    array *= 0.5
    return x


def cumulated(x):
    x[:, 1].add_(x[:, 0])
    return x


CHANGES = {
    "methods": lambda x: x.sub_(0.13).div_(0.31),
    "operator": centre,
    "through .data": lambda x: x.data.mul_(0.5),
    "through NumPy": through_numpy,
    "a column": cumulated,
    "first layer": nn.ELU(inplace=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("given", ["tensor", "array"])
def test_a_model_that_works_in_place_on_its_input(change, given):
    """Weights do not move, so every snapshot is the layer on the probe: no pass may see what another left."""
    model = InPlace(change)
    x = X.clone()
    expected = model(X.clone()).detach()
    rec, sink = recorder(model, (x.numpy() if given == "array" else x, Y), schedule=every(1), probe_batch_size=25)
    with rec:
        for step in range(1, 5):
            rec.snapshot(step)
    assert torch.equal(x, X)
    for snapshot in sink.snapshots:
        torch.testing.assert_close(torch.as_tensor(snapshot.arrays["fc"]), expected)


def test_inputs_by_name_and_integer_inputs():
    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, letters, attention_mask):
            letters.masked_fill_(attention_mask == 0, 0)
            attention_mask.logical_not_()
            return self.fc(self.embed(letters).mean(1))

    torch.manual_seed(0)
    model = Masks()
    letters, mask = torch.randint(1, 9, (60, 5)), torch.rand(60, 5) > 0.4
    expected = model(letters.clone(), mask.clone()).detach()
    rec, sink = recorder(model, ({"letters": letters, "attention_mask": mask}, Y), schedule=every(1))
    with rec:
        rec.snapshot(1)
    for snapshot in sink.snapshots:
        torch.testing.assert_close(torch.as_tensor(snapshot.arrays["fc"]), expected)


@pytest.mark.parametrize("following", [nn.ReLU(inplace=True), nn.Sequential(nn.Hardtanh(-0.1, 0.1, inplace=True))])
def test_members_under_vmap_whose_next_layer_works_in_place(following):
    models = [nn.Sequential(nn.Linear(4, 5), copy.deepcopy(following), nn.Linear(5, 3)) for _ in range(2)]
    sinks = [Collect(), Collect()]
    with CollectionRecorder(
        models[0],
        (X, Y),
        state=torch.func.stack_module_state(models),
        keep_activations=False,
        member_sinks=lambda i: [sinks[i]],
        schedule=every(1),
    ):
        pass
    for model, sink in zip(models, sinks, strict=True):
        torch.testing.assert_close(torch.as_tensor(sink.snapshots[0].arrays["0"]), model[0](X).detach())
