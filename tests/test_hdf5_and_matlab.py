"""HDF5 and MATLAB files become runs: steps, layers and labels where their names and lengths say so, or a refusal."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from click.testing import CliRunner

import infoplane
from infoplane import importers
from infoplane.cli import main

N = 40
Y = np.arange(N) % 3
rng = np.random.default_rng(0)
FC = {step: rng.normal(size=(N, 3)).astype(np.float32) for step in (1, 2)}
MAPS = rng.normal(size=(4, 5, 2, N))

pytestmark = pytest.mark.usefixtures("foreign_here")


def mat(path, **arrays):
    scipy.io.savemat(path, arrays)
    return path


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            array = np.asarray(array)
            file.create_dataset(
                name, data=array, **({"compression": "gzip", "chunks": True} if array.size > 50 else {})
            )
    return path


def refused(tmp_path, files, message, **options):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        importers.from_files(tmp_path / "run", files, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# HDF5


def test_a_file_for_each_step_with_groups_for_layers(tmp_path):
    rows = {"labels": Y, "sample_ids": 7 * np.arange(N), "block/conv": MAPS.T}
    files = [h5(tmp_path / f"step-{s}.h5", fc=FC[s], loss=1 / s, **rows) for s in FC]
    store = importers.from_files(tmp_path / "run", files)
    assert store.steps() == [1, 2]
    assert [layer.key for layer in store.layers] == ["block/conv", "fc"]
    assert store.verify() == []
    np.testing.assert_array_equal(store.read("fc", [2])[0], FC[2])
    np.testing.assert_array_equal(store.read("block/conv", [1])[0], MAPS.T)
    np.testing.assert_array_equal(store.probe.labels, Y)
    assert [v for *_, v in store.metrics()] == [1.0, 0.5]
    assert set(importers.read_arrays(files[0])) == {"fc", "block/conv", "labels", "sample_ids", "loss"}


def test_groups_that_are_steps_and_an_array_of_steps(tmp_path):
    nested = h5(tmp_path / "a.hdf5", **{f"{s}/fc": FC[s] for s in FC}, **{"1/loss": 0.5, "y": Y})
    stacked = h5(tmp_path / "b.h5", fc=np.stack(list(FC.values())), steps=[1, 2], loss=[0.5, 0.25], y=Y)
    for file, losses in ((nested, [0.5]), (stacked, [0.5, 0.25])):
        store = importers.from_files(tmp_path / file.stem, [file])
        assert store.steps() == [1, 2]
        np.testing.assert_array_equal(store.read("fc", [2])[0], FC[2])
        assert [v for *_, v in store.metrics()] == losses


def test_whole_numbers_beyond_float64_and_labels_of_a_file_of_their_own(tmp_path):
    far = np.arange(N, dtype=np.uint64)[:, None] + np.uint64(2**63)
    files = [h5(tmp_path / "step-1.h5", far=far, on=FC[1] > 0)]
    store = importers.from_files(tmp_path / "run", files, labels=h5(tmp_path / "labels.h5", classes=Y))
    np.testing.assert_array_equal(store.read("far", [1])[0], far)
    assert store.layer("on").dtype == "bool"


def test_text_and_links_are_left_out_aloud_and_a_refusal_writes_nothing(tmp_path):
    file = h5(tmp_path / "step-1.h5", fc=FC[1], y=Y)
    with h5py.File(file, "r+") as opened:
        opened["names"], opened["link"] = ["a", "b"], h5py.SoftLink("/fc")
    with pytest.warns(UserWarning, match=r"step-1\.h5: left out 'link' .a soft link., 'names' .text.$") as caught:
        importers.from_files(tmp_path / "other", [file])
    assert caught[0].filename == __file__
    h5(tmp_path / "step-1.h5", fc=1j * FC[1], y=Y)
    refused(tmp_path, [file], r"^step-1\.h5: 'fc' holds complex numbers; save its real")
    refused(
        tmp_path, [h5(tmp_path / "step-1.h5", fc=FC[1].T, y=Y)], "layer 'fc' at step 1 has 3 rows, there are 40 labels"
    )


# MATLAB


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("labels", [Y[:, None], Y[None]])
def test_the_axis_as_long_as_the_labels_holds_the_samples(tmp_path, turned, labels):
    fc = FC[1].T if turned else FC[1]
    file = mat(
        tmp_path / "step-1.mat", fc=fc, maps=MAPS, y=labels, loss=0.25, x=fc, ids=1.0 + np.arange(N), one=FC[1][:, 0]
    )
    store = importers.from_files(tmp_path / "run", [file])
    np.testing.assert_array_equal(store.read("fc", [1])[0], FC[1])
    np.testing.assert_array_equal(store.read("maps", [1])[0], np.moveaxis(MAPS, -1, 0))
    np.testing.assert_array_equal(store.read("one", [1])[0], FC[1][:, :1])
    np.testing.assert_array_equal(store.probe.labels, Y)
    np.testing.assert_array_equal(store.probe.inputs, FC[1])
    np.testing.assert_array_equal(store.probe.sample_ids, 1 + np.arange(N))
    assert [(name, v) for _, _, name, _, v in store.metrics()] == [("loss", 0.25)]


def test_the_axis_as_long_as_steps_holds_the_steps(tmp_path):
    acts = np.stack([FC[1], FC[2], FC[1], FC[2]])  # 4 steps, 40 samples, 3 units
    for axes in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        file = mat(tmp_path / "all.mat", fc=acts.transpose(axes), steps=[0, 10, 20, 30], loss=np.ones((4, 1)), labels=Y)
        store = importers.from_files(tmp_path / f"run{axes}", [file])
        assert store.steps() == [0, 10, 20, 30]
        np.testing.assert_array_equal(store.read("fc", [10])[0], FC[2])
        assert len(store.metrics()) == 4
    single = mat(tmp_path / "x.mat", fc=FC[1], steps=7, labels=Y)
    assert importers.from_files(tmp_path / "single", [single]).steps() == [7]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fc": np.ones((N, N))}, r"'fc' has shape \(40, 40\), and 2 of its axes have the length of the 40 labels"),
        ({"fc": np.ones((3, 5))}, r"'fc' has shape \(3, 5\), and none of its axes has the length of the 40 labels"),
        ({"fc": FC[1], "x": np.ones((2, 5))}, r"'x' has shape \(2, 5\), and none of its axes"),
        ({"fc": np.ones((3, N, 3)), "steps": [1, 2, 3]}, r"'fc' .* and 2 of its axes have the length of the 3 steps"),
        ({"fc": np.ones((2, N, 3)), "steps": [1, 2, 3, 4]}, "'fc' .* none of its axes has the length of the 4 steps"),
        ({"fc": np.ones((4, 5, 3)), "steps": [1, 2, 3, 4]}, r"'fc' has shape \(5, 3\), and none .* the 40 labels"),
        ({"fc": FC[1], "ids": np.arange(N) + 0.5}, "ids must be 40 integers, got shape"),
    ],
)  # fmt: skip
def test_where_none_or_two_have_that_length_it_is_refused(tmp_path, arrays, message):
    refused(tmp_path, [mat(tmp_path / "step-1.mat", labels=Y, **arrays)], message)


def test_labels_from_elsewhere_tell_the_length_too(tmp_path):
    files = [mat(tmp_path / "step-1.mat", fc=FC[1].T), mat(tmp_path / "step-2.mat", fc=FC[2].T)]
    refused(tmp_path, files, "no labels: expected an array named")
    np.save(tmp_path / "y.npy", Y)
    for labels in (tmp_path / "y.npy", mat(tmp_path / "y.mat", classes=Y)):
        store = importers.from_files(tmp_path / labels.suffix, files, labels=labels)
        np.testing.assert_array_equal(store.read("fc", [2])[0], FC[2])
        np.testing.assert_array_equal(store.probe.labels, Y)
    mat(files[1], fc=FC[2], labels=Y)
    np.testing.assert_array_equal(importers.from_files(tmp_path / "run", files).read("fc", [1])[0], FC[1])


def test_labels_in_a_file_of_another_kind_tell_it_as_well(tmp_path):
    """Tensors of a type that numpy does not know among them."""
    torch.save({"fc": torch.from_numpy(FC[1]), "labels": torch.from_numpy(Y + 0.5).bfloat16()}, tmp_path / "step-1.pt")
    store = importers.from_files(tmp_path / "run", [tmp_path / "step-1.pt", mat(tmp_path / "step-2.mat", fc=FC[2].T)])
    np.testing.assert_array_equal(store.read("fc", [2])[0], FC[2])
    assert store.probe.labels.tolist() == (Y + 0.5).tolist()


# Classes stored as doubles


def test_labels_from_1_as_doubles_are_classes_only_when_asked(tmp_path):
    file = mat(tmp_path / "step-1.mat", fc=FC[1], labels=1.0 + Y)
    with pytest.warns(UserWarning, match=r"float labels are regression targets, .*, or say classes=True$"):
        assert importers.from_files(tmp_path / "targets", [file]).probe.target == "continuous"
    store = importers.from_files(tmp_path / "classes", [file], classes=True)
    assert store.probe.target == "discrete"
    np.testing.assert_array_equal(store.probe.labels, 1 + Y)
    np.savez(tmp_path / "step-2.npz", fc=FC[2], labels=1.0 + Y)
    assert importers.from_files(tmp_path / "npz", [tmp_path / "step-2.npz"], classes=True).probe.target == "discrete"
    same = infoplane.from_arrays(tmp_path / "ints", {1: {"fc": FC[1]}}, Y, classes=True)
    np.testing.assert_array_equal(same.probe.labels, Y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Y + 0.5, r"labels that are classes must be whole numbers, got 0\.5; for targets leave out classes=True"),
        (Y - 1.0, "class labels must not be negative, got -1"),
        (np.stack([Y, Y], 1) + 2.0, r"labels \(40, 2\) are one for each of 2 positions, and no layer has as many"),
        (1e300 * Y, "must be whole numbers, got 1e.300"),
    ],
)
def test_labels_that_are_no_classes_are_refused_when_asked(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        infoplane.from_arrays(tmp_path / "run", {1: {"fc": FC[1]}}, labels, classes=True)
    assert not (tmp_path / "run").exists()


def test_from_the_command_line_to_an_estimate(tmp_path):
    file = mat(tmp_path / "step-1.mat", fc=FC[1].T, labels=1.0 + Y)
    outcome = CliRunner().invoke(main, ["import", str(file), "--classes", "-o", str(tmp_path / "run")])
    assert outcome.exit_code == 0, outcome.output
    found = infoplane.analyze(tmp_path / "run", "binning", progress=False)
    assert {"I(X;T)", "I(T;Y)"} <= set(found.quantity)
