"""Reductions against their definition, on the numbers that are stored."""

import numpy as np
import pytest
import torch
from recording import keys, record
from torch import nn

from infoplane.hooks import Flatten, Last, Mean, Projection, Units, projection, tokens, units
from infoplane.hooks.reduce import as_reduction

G = torch.Generator().manual_seed(0)
TEXT = torch.randn(9, 5, 4, generator=G)
IMAGE = torch.randn(9, 3, 6, 7, generator=G)
LENGTHS = torch.tensor([1, 2, 3, 4, 5, 5, 3, 2, 1])
MASK = torch.arange(5) < LENGTHS[:, None]


class Pass(nn.Module):
    """Keeps its input's shape; keywords as a language model takes them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Tanh()

    def forward(self, x, attention_mask=None):
        return self.layer(x)


def stored(x, reduce, **options):
    _, snapshot = record(Pass(), x, layers="layer", reduce=reduce, logits=False, **options)
    (layer,) = snapshot.layers
    return snapshot.arrays["layer"], layer


@pytest.mark.parametrize(
    ("x", "reduce", "expected", "label"),
    [
        (TEXT, "flatten", lambda t: t.reshape(9, 20), "flatten"),
        (TEXT, "mean", lambda t: t.mean(1), "mean over tokens"),
        (TEXT, "mean-space", lambda t: t.mean(2), "mean over space"),
        (TEXT, "cls", lambda t: t[:, 0], "tokens 0"),
        (TEXT, "last", lambda t: t[:, -1], "last token"),
        (TEXT, tokens([0, -1, 2]), lambda t: t[:, [0, 4, 2]].reshape(9, 12), "tokens 0,-1,2"),
        (IMAGE, "mean", lambda t: t.mean((2, 3)), "mean over space"),
        (IMAGE, Mean("tokens"), lambda t: t.mean(1).reshape(9, 42), "mean over tokens"),
        (TEXT[:, 0], "mean", lambda t: t, "flatten"),
        (TEXT[:, 0, 0], "flatten", lambda t: t[:, None], "flatten"),
    ],
)
def test_definitions(x, reduce, expected, label):
    array, layer = stored(x, reduce)
    np.testing.assert_allclose(array, expected(torch.tanh(x)).numpy(), rtol=1e-6)
    assert layer.reduction == label
    assert layer.raw_shape == tuple(x.shape[1:])
    assert layer.unit_shape == array.shape[1:]


@pytest.mark.parametrize("how", ["attention_mask", "name", "tensor"])
def test_padding_does_not_count(how):
    class Named(Pass):
        def forward(self, x, pad=None):
            return self.layer(x)

    h = torch.tanh(TEXT)
    mean = torch.stack([h[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    last = torch.stack([h[i, n - 1] for i, n in enumerate(LENGTHS)])
    for reduce, expected in (("mean", mean), ("last", last)):
        if how == "tensor":
            _, snapshot = record(Pass(), TEXT, reduce=reduce, mask=MASK, probe_batch_size=4)
        elif how == "name":
            _, snapshot = record(Named(), {"x": TEXT, "pad": MASK}, reduce=reduce, mask="pad", probe_batch_size=4)
        else:
            _, snapshot = record(Pass(), {"x": TEXT, "attention_mask": MASK.long()}, reduce=reduce, probe_batch_size=4)
        np.testing.assert_allclose(snapshot.arrays["layer"], expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fill", [float("inf"), float("nan"), 1e38])
def test_what_padding_holds_does_not_reach_the_mean(fill):
    """A model may write anything there: attention over nothing is NaN."""
    plain = as_reduction("mean")(TEXT, MASK)
    filled = as_reduction("mean")(TEXT.masked_fill(~MASK[..., None], fill), MASK)
    assert torch.equal(filled, plain)


def test_units_are_the_same_at_every_snapshot_and_seeded():
    flat = torch.tanh(TEXT).reshape(9, 20).numpy()
    array, layer = stored(TEXT, units(6, seed=3))
    columns = [int(np.flatnonzero((flat == array[:, [i]]).all(0))[0]) for i in range(6)]
    assert columns == sorted(set(columns))
    np.testing.assert_array_equal(stored(TEXT, Units(6, 3))[0], array)
    assert not np.array_equal(stored(TEXT, Units(6, 4))[0], array)
    assert layer.reduction == "6 of 20 units, seed 3"
    assert stored(TEXT, units(20))[1].reduction == "flatten"


def test_projection_keeps_squared_distances_on_average():
    """E|Pd|^2 = |d|^2; with n directions its relative standard deviation is sqrt(2/n)."""
    flat = torch.tanh(TEXT).reshape(9, 20)
    array, layer = stored(TEXT, projection(4000, seed=1))
    ratio = torch.cdist(torch.from_numpy(array), torch.from_numpy(array)) / torch.cdist(flat, flat)
    off = ~torch.eye(9, dtype=torch.bool)
    assert float((ratio[off] ** 2 - 1).abs().max()) < 5 * (2 / 4000) ** 0.5
    assert layer.reduction == "4000 Gaussian projections of 20 units, seed 1"
    np.testing.assert_array_equal(stored(TEXT, Projection(4000, 1))[0], array)


def test_a_function_names_itself():
    def spectrum(t):
        return torch.fft.rfft(t, dim=1).abs()

    array, layer = stored(TEXT, spectrum)
    assert array.shape == (9, 3, 4)
    assert layer.reduction.startswith("callable ")
    assert layer.reduction.endswith("spectrum")


def test_by_pattern():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 4))
    reduce = {"0": Flatten(), "*": "mean", "1*": units(5)}
    _, snapshot = record(model, IMAGE, reduce=reduce)
    assert [la.unit_shape for la in snapshot.layers] == [(40,), (5,), (4,)]
    assert keys(snapshot) == ["0", "1", "3"]
    assert [la.reduction for la in snapshot.layers] == ["flatten", "5 of 40 units, seed 0", "flatten"]


def test_too_many_units_are_refused_with_the_sizes():
    x = torch.zeros(3, 16, 64, 65)
    with pytest.raises(ValueError, match=r"'layer' has 16x64x65 = 66560 units, more than 65536; .*reduce='mean'"):
        stored(x, "flatten")
    assert stored(x, Flatten(max_units=66560))[0].shape == (3, 66560)


@pytest.mark.parametrize(
    ("x", "reduce", "message"),
    [
        (TEXT, tokens([5]), "layer 'layer' has 5 tokens, so there is none at position 5"),
        (TEXT[:, 0], "cls", r"layer 'layer' has shape \(9, 4\), no axis of tokens for 'tokens 0'"),
        (TEXT[:, 0], Last(), "no axis of tokens for 'last token'"),
        (TEXT, lambda t: t.sum(), r"layer 'layer' must stay a tensor of 9 rows under callable .*, got \(\)"),
        (TEXT, lambda t: t.tolist(), "got list"),
    ],
)
def test_what_does_not_fit(x, reduce, message):
    with pytest.raises(ValueError, match=message):
        stored(x, reduce)


def test_a_mask_of_another_length():
    with pytest.raises(ValueError, match="layer 'layer' has 5 tokens, the mask 4"):
        stored(TEXT, "mean", mask=MASK[:, :4])


def test_a_function_that_raises_names_the_layer():
    with pytest.raises(RuntimeError, match="shape") as raised:
        stored(TEXT, lambda t: t.reshape(7))
    assert "in the reduction of layer 'layer'" in raised.value.__notes__


def test_a_pattern_that_fits_no_recorded_layer():
    with pytest.raises(ValueError, match=r"reduce names 'layr', no recorded layer; closest: layer"):
        stored(TEXT, {"layr": "mean"})
    with pytest.raises(ValueError, match=r"batch_dim names 'l', no recorded layer"):
        stored(TEXT, "mean", batch_dim={"l": 1})


def test_unknown():
    with pytest.raises(ValueError, match="unknown reduction 'median'; available: flatten, mean"):
        as_reduction("median")
    with pytest.raises(TypeError, match="got int"):
        as_reduction(3)
    with pytest.raises(ValueError, match="got 'time'"):
        Mean("time")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        units(0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        projection(0)


class Growing(nn.Module):
    """Pads to the longest of the batch, as tokenizers do."""

    def forward(self, x):
        longest = int((x != 0).sum(1).max())
        return self.layer(x[:, :longest, None].expand(-1, -1, 2))

    def __init__(self):
        super().__init__()
        self.layer = nn.Tanh()


def test_a_shape_that_changes_between_chunks():
    x = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]])
    message = r"layer 'layer' has shape \(6,\) for samples 2 to 3 and \(4,\) before; .*mask"
    with pytest.raises(ValueError, match=message):
        record(Growing(), x, probe_batch_size=2)
    _, snapshot = record(Growing(), x, probe_batch_size=2, reduce="mean")
    assert snapshot.arrays["layer"].shape == (4, 2)


WHOLE = torch.arange(9 * 5 * 4).reshape(9, 5, 4) % 17


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.int16, torch.bool])
def test_means_and_projections_of_whole_numbers(dtype):
    """A projection matrix in the layer's own type would be one of zeros."""
    whole = WHOLE.to(dtype)
    expected = whole.double()
    np.testing.assert_allclose(Projection(3)(whole, None), Projection(3)(expected, None))
    np.testing.assert_allclose(Mean()(whole, None), expected.mean(1))
    np.testing.assert_allclose(Mean("space")(whole, None), expected.mean(2))
    np.testing.assert_allclose(Mean()(whole, MASK), Mean()(expected, MASK))


@pytest.mark.parametrize("reduction", [Mean(), Projection(2)])
def test_whole_numbers_that_would_be_mixed_up(reduction):
    near, far = WHOLE + 2**53 - 17, WHOLE + 2**60
    np.testing.assert_allclose(reduction(near, None), reduction(near.double(), None))
    with pytest.raises(ValueError, match=r"has whole numbers beyond 2\*\*53"):
        reduction(far, None)
    assert torch.equal(Flatten()(far, None), far.reshape(9, 20))
