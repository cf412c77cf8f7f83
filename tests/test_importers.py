"""Activations from elsewhere become the same run, and nothing in a file is executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

import infoplane
from infoplane import importers
from infoplane.core.errors import StoreError


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    return {
        s: {"fc": rng.normal(size=(40, 5)).astype(np.float32), "conv/1": rng.normal(size=(40, 2, 3))} for s in (0, 10)
    }, y


def check(store, data, y):
    assert store.steps() == list(data)
    assert store.verify() == []
    for step, arrays in data.items():
        for name, a in arrays.items():
            np.testing.assert_array_equal(store.read(name, [step])[0], a)
    np.testing.assert_array_equal(store.probe.labels, y)


def save(kind, path, arrays):
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "pt":
        torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
    else:
        from safetensors.torch import save_file

        save_file({k: torch.from_numpy(v) for k, v in arrays.items()}, path)


def test_from_arrays_keeps_every_bit_and_analyses(data, tmp_path):
    arrays, y = data
    check(infoplane.from_arrays(tmp_path / "run", arrays, y, metrics={10: {"loss": 0.5}}), arrays, y)
    table = infoplane.analyze(tmp_path / "run", "binning", progress=False)
    assert set(table.layer) == {"fc", "conv/1", ""}
    assert float(table.select(quantity="loss").value[0]) == 0.5


@pytest.mark.parametrize("kind", ["npz", "pt", "safetensors"])
@pytest.mark.parametrize("stacked", [False, True])
def test_files_of_every_kind(data, tmp_path, kind, stacked):
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    arrays, y = data
    if stacked:
        files = [tmp_path / f"all.{kind}"]
        whole = {name: np.stack([arrays[s][name] for s in arrays]) for name in arrays[0]}
        save(kind, files[0], whole | {"steps": np.array(list(arrays)), "labels": y})
        run = importers.from_files(tmp_path / "run", files)
    else:
        files = [tmp_path / f"step-{step:04d}.{kind}" for step in arrays]
        for file, step in zip(files, arrays, strict=True):
            save(kind, file, arrays[step])
        np.save(tmp_path / "y.npy", y)
        run = importers.from_files(tmp_path / "run", files, labels=tmp_path / "y.npy")
    check(run, arrays, y)


def test_bfloat16_parts_and_duplicate_inputs(tmp_path):
    t = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    store = infoplane.from_arrays(
        tmp_path / "run", {3: {"a": t}}, torch.rand(6), inputs=np.array([[0], [1], [0], [2], [2], [2]]),
        parts=["train"] * 4 + ["test"] * 2,
    )  # fmt: skip
    assert store.layer("a").dtype == "bfloat16"
    np.testing.assert_array_equal(store.read("a", [3])[0], t.view(torch.uint16).numpy())
    assert store.probe.input_ids.tolist() == [0, 1, 0, 2, 2, 2]
    assert store.probe.part_names == ("train", "test")
    assert store.probe.target == "continuous"


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["pt", "npy", "npz"])
def test_pickled_code_is_refused_in_one_line_and_not_run(tmp_path, kind):
    file, trace = tmp_path / f"step-1.{kind}", tmp_path / "executed"
    if kind == "pt":
        torch.save({"a": Evil(trace)}, file)
    elif kind == "npy":
        np.save(file, np.array([Evil(trace)], dtype=object), allow_pickle=True)
    else:
        file.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(ValueError, match=rf"step-1.{kind} cannot be read as plain arrays") as caught:
        importers.from_files(tmp_path / "run", [file])
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, y: (a, y[:-1]), "layer 'fc' at step 0 has 40 rows, there are 39 labels"),
        (
            lambda a, y: ({0: a[0], 10: {"fc": a[10]["fc"]}}, y),
            "step 10 has the layers fc; the first step has fc, conv/1",
        ),
        (
            lambda a, y: ({0: a[0], 10: a[10] | {"fc": a[10]["fc"][:, :2]}}, y),
            r"'fc' at step 10 must have shape \(40, 5\)",
        ),
        (lambda a, y: ({}, y), "activations is empty"),
        (lambda a, y: (a, np.where(y == 1, np.nan, 1.0)), "labels must be finite"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_file_is_written(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        infoplane.from_arrays(tmp_path / "run", *change(*data))
    assert not (tmp_path / "run").exists()


def test_other_refusals(data, tmp_path):
    arrays, y = data
    np.savez(tmp_path / "weights.npz", **arrays[0])
    with pytest.raises(ValueError, match=r"'weights\.npz' tells no step"):
        importers.from_files(tmp_path / "run", [tmp_path / "weights.npz"])
    np.savez(tmp_path / "w1.npz", **arrays[0])
    with pytest.raises(ValueError, match="no labels"):
        importers.from_files(tmp_path / "run", [tmp_path / "w1.npz"])
    (tmp_path / "w1.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"expected \.npz, \.npy"):
        importers.from_files(tmp_path / "run", [tmp_path / "w1.csv"])
    with pytest.raises(TypeError, match="real numbers, got complex128"):
        infoplane.from_arrays(tmp_path / "run", {0: {"a": np.ones((40, 1), complex)}}, y)
    infoplane.from_arrays(tmp_path / "run", arrays, y)
    with pytest.raises(
        StoreError, match=r"already holds a run, .*; choose another directory, or delete this one"
    ) as held:
        infoplane.from_arrays(tmp_path / "run", arrays, y)
    assert "resume" not in str(held.value)  # an import has no such option
