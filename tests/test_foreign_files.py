"""Files of other programs: one order of samples, plain steps, and nothing on the disk after a refusal."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import infoplane
from infoplane import importers
from infoplane.cli import main
from infoplane.core.errors import StoreError

N = 40
Y = np.arange(N) % 2
IDS = 1000 + 7 * np.arange(N)
rng = np.random.default_rng(0)
ACTS = {step: (3.0 * Y[:, None] + rng.normal(size=(N, 2)) * 0.1 + step / 1000).astype(np.float32) for step in (1, 2, 3)}
INPUTS = rng.normal(size=(N, 3))
ORDERS = {1: np.arange(N), 2: rng.permutation(N), 3: rng.permutation(N)}


def saved(folder, step, **arrays):
    file = folder / f"step-{step}.npz"
    np.savez(file, **arrays)
    return file


def shuffled(folder, *kinds):
    """One file a step, each with rows in its own order, and those of labels, inputs, ids that are asked for."""
    rows = {"labels": Y, "inputs": INPUTS, "sample_ids": IDS}
    return [saved(folder, s, fc=ACTS[s][o], **{k: rows[k][o] for k in kinds}) for s, o in ORDERS.items()]


def check_aligned(store):
    for step, expected in ACTS.items():
        np.testing.assert_array_equal(store.read("fc", [step])[0], expected)
    np.testing.assert_array_equal(store.probe.labels, Y)
    np.testing.assert_array_equal(store.probe.sample_ids, IDS)


# One order of samples


def test_files_in_different_orders_are_aligned_by_their_ids(tmp_path):
    files = shuffled(tmp_path, "labels", "inputs", "sample_ids")
    store = importers.from_files(tmp_path / "run", files)
    check_aligned(store)
    np.testing.assert_array_equal(store.probe.inputs, INPUTS)
    found = [r.value for r in infoplane.analyze(store, "knn", progress=False) if r.quantity == "I(T;Y)"]
    assert min(found) > 0.9


@pytest.mark.parametrize("kinds", [("sample_ids",), ("sample_ids", "inputs")])
def test_labels_of_a_file_of_their_own_are_aligned_too(tmp_path, kinds):
    order = rng.permutation(N)
    np.savez(tmp_path / "y.npz", labels=Y[order], sample_ids=IDS[order])
    check_aligned(importers.from_files(tmp_path / "run", shuffled(tmp_path, *kinds), labels=tmp_path / "y.npz"))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("labels",), r"step-1\.npz and step-2\.npz differ in their labels, first at row \d+; put 'sample_ids'"),
        (("labels", "inputs"), r"step-1\.npz and step-2\.npz differ in their labels"),
        (("inputs",), r"step-1\.npz and step-2\.npz differ in their inputs, first at row \d+"),
        (("sample_ids",), r"step-2\.npz has sample_ids, y\.npy has none, so its order is not known"),
    ],
)
def test_or_refused_with_the_names_of_two(tmp_path, kinds, message):
    np.save(tmp_path / "y.npy", Y)
    labels = None if "labels" in kinds else tmp_path / "y.npy"
    with pytest.raises(ValueError, match=message):
        importers.from_files(tmp_path / "run", shuffled(tmp_path, *kinds), labels=labels)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"labels": Y, "sample_ids": IDS + 7}, "hold different samples: step-2.npz has no sample id 1000 .2 ids"),
        ({"labels": 1 - Y, "sample_ids": IDS}, "differ in their labels, first at sample id 1000; a sample has one"),
        ({"labels": Y.astype(float), "sample_ids": IDS}, None),
        ({"labels": Y[:-1]}, r"differ in their labels: shapes \(40,\) and \(39,\)"),
        ({"labels": Y, "sample_ids": np.zeros(N, int)}, "step-2.npz: sample ids must be unique, but 1 occur"),
        ({"labels": Y, "sample_ids": IDS[:-1]}, "hold different samples"),
        ({"labels": Y, "sample_ids": IDS.astype(float)}, "step-2.npz: ids must be 40 integers"),
        ({"labels": np.array(["a", "b"])[Y]}, "step-1.npz and step-2.npz differ in their labels"),
        ({"labels": Y, "y": Y}, "step-2.npz has both 'labels' and 'y'"),
        ({"fc": ACTS[2][:-1], "sample_ids": IDS}, "step-2.npz: layer 'fc' has 39 rows, there are 40 sample_ids"),
    ],
)
def test_what_two_files_say_of_a_sample(tmp_path, second, message):
    first = saved(tmp_path, 1, fc=ACTS[1], labels=Y, sample_ids=IDS)
    files = [first, saved(tmp_path, 2, **{"fc": ACTS[2], **second})]
    if message is None:
        assert importers.from_files(tmp_path / "run", files).steps() == [1, 2]
        return
    with pytest.raises(ValueError, match=message):
        importers.from_files(tmp_path / "run", files)
    assert not (tmp_path / "run").exists()


def test_a_file_without_ids_beside_two_that_have_them(tmp_path):
    files = [saved(tmp_path, s, fc=ACTS[s], labels=Y, **({"ids": IDS} if s < 3 else {})) for s in ACTS]
    with pytest.raises(ValueError, match=r"step-1\.npz has sample_ids, step-3\.npz has none"):
        importers.from_files(tmp_path / "run", files)
    # What stands in one file only is that of all.
    files = [saved(tmp_path, s, fc=ACTS[s], **({"ids": IDS, "y": Y, "x": INPUTS} if s == 1 else {})) for s in ACTS]
    check_aligned(importers.from_files(tmp_path / "run", files))


def test_steps_inside_one_file_are_held_to_the_same(tmp_path):
    content = {s: {"fc": torch.from_numpy(ACTS[s][o]), "labels": torch.from_numpy(Y[o])} for s, o in ORDERS.items()}
    torch.save(content, tmp_path / "acts.pt")
    with pytest.raises(ValueError, match=r"acts\.pt, step 1 and acts\.pt, step 2 differ in their labels"):
        importers.from_files(tmp_path / "run", [tmp_path / "acts.pt"])
    for s, o in ORDERS.items():
        content[s]["sample_ids"] = torch.from_numpy(IDS[o])
    torch.save(content, tmp_path / "acts.pt")
    check_aligned(importers.from_files(tmp_path / "run", [tmp_path / "acts.pt"]))


def test_what_is_given_beside_the_files(tmp_path):
    files = [saved(tmp_path, s, fc=ACTS[s], labels=Y, inputs=INPUTS) for s in ACTS]
    check_aligned(importers.from_files(tmp_path / "run", files, sample_ids=IDS, inputs=INPUTS))
    with pytest.raises(ValueError, match=r"step-1\.npz and the argument inputs differ in their inputs"):
        importers.from_files(tmp_path / "other", files, inputs=INPUTS[::-1])
    np.save(tmp_path / "y.npy", 1 - Y)
    with pytest.raises(ValueError, match=r"step-1\.npz and y\.npy differ in their labels"):
        importers.from_files(tmp_path / "other", files, labels=tmp_path / "y.npy")
    with pytest.raises(TypeError, match="from_files has no option 'role'; closest: roles"):
        importers.from_files(tmp_path / "other", files, role={})
    with pytest.raises(ValueError, match="parts cannot be given where the files hold their rows in different orders"):
        importers.from_files(tmp_path / "other", shuffled(tmp_path, "labels", "sample_ids"), parts=["a"] * N)


# Steps


def test_the_step_is_the_number_that_varies(tmp_path):
    files = []
    for step in (100, 200, 300):
        files.append(tmp_path / f"step-{step}_fp16.npz")
        np.savez(files[-1], fc=ACTS[1], labels=Y)
    assert importers.from_files(tmp_path / "run", files).steps() == [100, 200, 300]
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        np.savez(tmp_path / f"checkpoint-{step}" / "acts_v2.npz", fc=ACTS[1], labels=Y)
    files = sorted(tmp_path.glob("checkpoint-*/*.npz"))
    assert importers.from_files(tmp_path / "folders", files).steps() == [5, 10]


def test_a_number_in_the_file_goes_before_its_name(tmp_path):
    files = [tmp_path / "a1.npz", tmp_path / "b1.npz"]
    for step, file in enumerate(files):
        np.savez(file, fc=ACTS[1], labels=Y, step=10.0 * step, loss=1.5 - step)
    store = importers.from_files(tmp_path / "run", files)
    assert store.steps() == [0, 10]
    assert [(s, name, v) for s, _, name, _, v in store.metrics()] == [(0, "loss", 1.5), (10, "loss", 0.5)]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([0.0, 0.5, 1.0], "all.npz: a step must be a whole number from 0 to 2..62, got 0.5"),
        ([1, 2, 1], "all.npz: step 1 comes twice in the array 'steps'"),
        ([-1, 0, 1], "got -1"),
        ([0, 1, np.nan], "got nan"),
        ([True, False, True], "got True"),
        (["1", "2", "3"], "must be a whole number from 0, got '1'"),
        ([[1, 2, 3]], r"must be a whole number from 0, got \[\[1, 2, 3\]\]"),
        ([1, 2], "'fc' has 3 steps, the array 'steps' has 2"),
        ([1.0, 2.0, 3.0], None),
    ],
)
def test_steps_of_a_stacked_file(tmp_path, steps, message):
    np.savez(tmp_path / "all.npz", fc=np.stack(list(ACTS.values())), labels=Y, steps=steps, loss=[3.0, 2.0, 1.0])
    if message is None:
        store = importers.from_files(tmp_path / "run", [tmp_path / "all.npz"])
        assert store.steps() == [1, 2, 3]
        assert [v for *_, v in store.metrics()] == [3.0, 2.0, 1.0]
        return
    with pytest.raises((ValueError, TypeError), match=message):
        importers.from_files(tmp_path / "run", [tmp_path / "all.npz"])
    assert not (tmp_path / "run").exists()


def test_one_step_in_two_files(tmp_path):
    a, b = tmp_path / "step-1.npz", tmp_path / "step-01.npz"
    np.savez(a, fc=ACTS[1], labels=Y)
    np.savez(b, fc=ACTS[2], labels=Y)
    with pytest.raises(ValueError, match=r"step-1\.npz and step-01\.npz both hold 'fc' of step 1; keep one"):
        importers.from_files(tmp_path / "run", [a, b])
    np.savez(tmp_path / "all.npz", fc=np.stack([ACTS[1], ACTS[2]]), steps=[0, 1])
    with pytest.raises(ValueError, match=r"step-1\.npz and all\.npz both hold 'fc' of step 1"):
        importers.from_files(tmp_path / "run", [a, tmp_path / "all.npz"])
    with pytest.raises(ValueError, match=r"both hold 'fc' of step 1"):
        importers.from_files(tmp_path / "run", [a, a])
    np.savez(b, head=ACTS[2])
    assert [la.key for la in importers.from_files(tmp_path / "run", [a, b]).layers] == ["fc", "head"]


def test_command_line_names_the_files_and_leaves_nothing(tmp_path):
    files = [tmp_path / "3-100.npz", tmp_path / "4-200.npz"]
    for file in files:
        np.savez(file, fc=ACTS[1], labels=Y)
    words = ["import", *map(str, files), "-o", str(tmp_path / "run")]
    outcome = CliRunner().invoke(main, words)
    assert outcome.exit_code == 2
    assert "'3-100.npz' does not tell which number is its step, 3 or 100" in outcome.output
    assert not (tmp_path / "run").exists()
    for file in files:
        file.rename(file.with_name(f"step-{file.stem.partition('-')[2]}.npz"))
    outcome = CliRunner().invoke(
        main, ["import", *map(str, sorted(tmp_path.glob("*.npz"))), "-o", str(tmp_path / "run")]
    )
    assert outcome.exit_code == 0, outcome.output
    assert infoplane.open_run(tmp_path / "run").steps() == [100, 200]


# .npy


def npy(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, array)
    return file


def test_npy_names_its_layer_by_folder(tmp_path):
    files = [npy(tmp_path / "acts" / layer / f"step-{s}.npy", ACTS[s]) for layer in ("fc1", "fc2") for s in ACTS]
    files.append(npy(tmp_path / "acts" / "labels.npy", Y))
    store = importers.from_files(tmp_path / "run", files)
    assert [la.key for la in store.layers] == ["fc1", "fc2"]
    assert store.steps() == [1, 2, 3]
    np.testing.assert_array_equal(store.read("fc2", [3])[0], ACTS[3])


def test_npy_alone_is_named_by_the_file(tmp_path, monkeypatch):
    np.save(tmp_path / "y.npy", Y)
    file = npy(tmp_path / "act_5.npy", ACTS[1])
    store = importers.from_files(tmp_path / "run", [file], labels=tmp_path / "y.npy")
    assert ([la.key for la in store.layers], store.steps()) == (["act_5"], [5])
    store = importers.from_files(tmp_path / "both", [file, tmp_path / "y.npy"], inputs=None)
    assert ([la.key for la in store.layers], store.steps()) == (["act_5"], [5])
    monkeypatch.chdir(npy(tmp_path / "fc" / "1.npy", ACTS[1]).parent)
    files = [Path("1.npy"), npy(Path("2.npy"), ACTS[2])]
    assert [la.key for la in importers.from_files(tmp_path / "here", files, labels=tmp_path / "y.npy").layers] == ["fc"]


@pytest.mark.parametrize("folders", [("step-100", "step-200"), ("100", "200"), ("checkpoint-100",)])
def test_npy_with_steps_for_folders_is_refused(tmp_path, folders):
    files = [npy(tmp_path / folder / f"{layer}.npy", ACTS[1]) for folder in folders for layer in ("fc1", "fc2")]
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(ValueError, match=r"100/fc1\.npy: the folder of a \.npy names its layer .* expected LAYER/step"):
        importers.from_files(tmp_path / "run", files, labels=tmp_path / "y.npy")


# .pt


def from_pt(tmp_path, content, **options):
    torch.save(content, tmp_path / "step-7.pt")
    return importers.from_files(tmp_path / "run", [tmp_path / "step-7.pt"], **options)


FC, LABELS = torch.from_numpy(ACTS[1]), torch.from_numpy(Y)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_nested_dicts_and_sparse_tensors_are_read(tmp_path, legacy):
    sparse = torch.relu(FC - 2)
    content = OrderedDict(
        labels=Y.tolist(), loss=0.5, epoch=3, lr=torch.tensor(0.25), acts={"fc": FC, "deep": {"out": FC.bfloat16()}},
        coo=sparse.to_sparse(), csr=sparse.to_sparse_csr(), weight=torch.nn.Parameter(FC),
    )  # fmt: skip
    torch.save(content, tmp_path / "step-7.pt", _use_new_zipfile_serialization=not legacy)
    store = importers.from_files(tmp_path / "run", [tmp_path / "step-7.pt"])
    assert [la.key for la in store.layers] == ["acts/fc", "acts/deep/out", "coo", "csr", "weight"]
    for name in ("coo", "csr"):
        np.testing.assert_array_equal(store.read(name, [7])[0], sparse.numpy())
    assert {name: v for _, _, name, _, v in store.metrics()} == {"loss": 0.5, "epoch": 3.0, "lr": 0.25}
    assert list(importers.read_arrays(tmp_path / "step-7.pt"))[4:6] == ["acts/fc", "acts/deep/out"]


@pytest.mark.parametrize("keys", [(0, 10), ("0", "10")])
def test_steps_as_keys(tmp_path, keys):
    content = {"labels": LABELS} | {key: {"fc": FC, "loss": 1.5} for key in keys}
    store = from_pt(tmp_path, content)
    assert store.steps() == [0, 10]
    assert [v for *_, v in store.metrics()] == [1.5, 1.5]


class Foreign:
    pass


ITSELF: dict[str, object] = {"fc": FC}
ITSELF["me"] = ITSELF


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc": FC, "head": ACTS[1]}, "'head' holds numpy arrays, .* save torch.from_numpy"),
        ({"fc": FC, "loss": np.float64(0.5)}, "'loss' holds numpy arrays"),
        ({"fc": FC, "deep": {"inner": Foreign()}}, r"'inner' holds a test_foreign_files\.Foreign, which loading of"),
        ({"fc": FC, "head": FC, "again": [FC, ACTS[1]]}, "'again' holds numpy arrays"),
        (defaultdict(list, {"fc": FC}), "it holds a collections.defaultdict|'fc' holds|holds a"),
        ({"fc": [FC, FC]}, r"step-7\.pt: 'fc' is a list; expected tensors, .*; torch.stack it"),
        ({"deep": {"note": "text"}}, "'deep/note' is a str; expected tensors, numbers or dicts of them; leave it out"),
        ({"fc": None}, "'fc' is a NoneType"),
        ({"fc": {1, 2}}, "'fc' is a set"),
        ({(1, 2): FC}, r"'\(1, 2\)' is a key of type tuple, not text"),
        ({0: FC, 1: FC}, "'0' has a number for a name"),
        ({"fc": {0: FC}}, "'fc/0' has a number for a name"),
        ({"loss": 0.5, 0: {"fc": FC}}, "'loss' stands beside the steps"),
        ({"fc": torch.ones(2, device="meta")}, "'fc' is a tensor that is without data"),
        ([FC, "x"], "its content is a list"),
        (ITSELF, "'me/me/me.*' lies more than 20 dicts deep; does one hold itself"),
        (
            {"fc": torch.sparse_coo_tensor(size=(10**9, 10**6), check_invariants=True)},
            r"'fc' of shape .1000000000, 1000000. cannot be made dense",
        ),
        ({-1: {"fc": FC}}, r"step-7\.pt: a step must be a whole number from 0 to 2\*\*62, got -1"),
        ({"fc": FC, "mask": FC > 0}, "'mask' hides positions"),
        ({"fc": FC, "x": FC, "inputs": FC}, "has both 'inputs' and 'x'"),
        ({"a": {"b": FC}, "a/b": FC}, "has 'a/b' twice"),
        ({"steps": 3, 5: {"fc": FC, "step": 4}}, "step 5 states its step twice|beside the steps"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, content, message, legacy):
    torch.save(content, tmp_path / "step-7.pt", _use_new_zipfile_serialization=not legacy)
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(ValueError, match=message) as caught:
        importers.from_files(tmp_path / "run", [tmp_path / "step-7.pt"], labels=tmp_path / "y.npy")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_sparse_indices_that_point_elsewhere(tmp_path):
    with torch.sparse.check_sparse_tensor_invariants(False):
        wild = torch.sparse_coo_tensor(torch.tensor([[10**9], [0]]), torch.ones(1), (N, 2))
        torch.save({"fc": wild}, tmp_path / "step-7.pt")
    with pytest.raises(ValueError, match=r"step-7\.pt cannot be read as plain arrays"):
        importers.read_arrays(tmp_path / "step-7.pt")


@pytest.mark.parametrize("name", ["broken.npz", "broken.pt", "broken.npy"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02}\x1b[31mred" + bytes(100))
    with pytest.raises(ValueError, match=f"{name} cannot be read as plain arrays: ") as caught:
        importers.read_arrays(tmp_path / name)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_in_an_archive_are_named(tmp_path):
    np.savez(tmp_path / "step-1.npz", fc=ACTS[1], names=np.array([{}, 3], dtype=object))
    with pytest.raises(ValueError, match=r"step-1\.npz cannot be read as plain arrays: 'names' is an array of objects"):
        importers.read_arrays(tmp_path / "step-1.npz")
    np.savez(tmp_path / "step-1.npz", fc=ACTS[1], labels=Y, note="text")
    with pytest.raises(ValueError, match=r"step-1\.npz: 'note' is neither an array nor a number"):
        importers.from_files(tmp_path / "run", [tmp_path / "step-1.npz"])


# Everything is checked before the first byte


def changed(activations=None, **options):
    return lambda: ((activations or {1: {"fc": ACTS[1]}, 2: {"fc": ACTS[2]}}), options)


REFUSED = {
    "dtype changes": (changed({1: {"fc": ACTS[1]}, 2: {"fc": ACTS[2].astype(float)}}), "float32 at step 1 and "),
    "shape changes": (changed({1: {"fc": ACTS[1]}, 2: {"fc": ACTS[2][:, :1]}}), r"step 2 must have shape \(40, 2\)"),
    "unknown role": (changed(roles={"fc": "hidden"}), "layer 'fc' must be one of activation, .* got 'hidden'"),
    "role of no layer": (changed(roles={"fc1": "output"}), "roles: there is no layer 'fc1'; closest: fc"),
    "metric of no step": (changed(metrics={5: {"loss": 1.0}}), "no activations at step 5; steps are 1, 2"),
    "metric of half a step": (changed(metrics={1.5: {"loss": 1.0}}), "metrics: steps must be integers from 0, got 1.5"),
    "metric that is none": (changed(metrics={2: {"loss": None}}), "metric 'loss' at step 2 must be one number"),
    "metric that is a list": (changed(metrics={1: {"loss": [1.0]}}), "must be one number"),
    "metric that is text": (changed(metrics={1: {"loss": "0.5"}}), "must be one number"),
    "metrics by name": (changed(metrics={1: 0.5}), "metrics: step 1 must map names to values, got float"),
    "metric without a name": (changed(metrics={1: {"": 0.5}}), "names at step 1 must be text"),
    "step that is no number": (changed({"1": {"fc": ACTS[1]}}), "steps must be integers from 0, got '1'"),
    "step that is not whole": (changed({0.5: {"fc": ACTS[1]}}), "steps must be integers from 0, got 0.5"),
    "steps of several kinds": (changed({1: {"fc": ACTS[1]}, "last": {"fc": ACTS[1]}}), "got 'last'"),
    "step twice": (changed({1: {"fc": ACTS[1]}, torch.tensor(1): {"fc": ACTS[1]}}), "activations: step 1 comes twice"),
    "too large a step": (changed({2**63: {"fc": ACTS[1]}}), "steps must be integers from 0"),
    "an array for a step": (changed({1: ACTS[1]}), "step 1 must map names to values, got ndarray"),
    "a layer without a name": (changed({1: {"": ACTS[1]}}), "names at step 1 must be text"),
    "a layer named by a number": (changed({1: {3: ACTS[1]}}), "names at step 1 must be text, got 3"),
    "no layers": (changed({1: {}}), "step 1 has no layers"),
    "layer of text": (changed({1: {"fc": np.array(["a"] * N)}}), "must hold real numbers, got <U1"),
    "long floats": (changed({1: {"fc": ACTS[1].astype(np.longdouble)}}), "at most 64 bits, got float128"),
    "masked layer": (changed({1: {"fc": np.ma.masked_less(ACTS[1], 1)}}), "layer 'fc' have 40 masked entries"),
    "sparse layer": (changed({1: {"fc": FC.to_sparse()}}), "'fc' must be a dense tensor"),
    "unequal parts": (changed(parts=["train"] * 3), "parts has 3 names, there are 40 labels"),
    "parts as one text": (changed(parts="train" * 8), "parts has one text"),
    "inputs of text": (changed(inputs=["a"] * N), "inputs must hold real numbers"),
    "inputs of another length": (changed(inputs=np.ones((3, 2))), "inputs has 3 rows, there are 40 labels"),
    "ids twice": (changed(sample_ids=[1] * N), "sample ids must be unique"),
    "ids beyond int64": (changed(sample_ids=np.arange(N, dtype=np.uint64) + np.uint64(2**63)), r"below 2\*\*63"),
    "a class without a name": (changed(label_names=["cat"]), "label 1 has no name: label_names has 1 entries"),
    "one sample too large": (changed({1: {"fc": np.zeros((N, 2**26 + 1), np.float32)}}), "one sample of step 1 has"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_import_leaves_nothing_behind(tmp_path, case):
    make, message = REFUSED[case]
    activations, options = make()
    with pytest.raises((ValueError, TypeError), match=message):
        infoplane.from_arrays(tmp_path / "some" / "run", activations, Y, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_import_of_files_can_be_corrected(tmp_path):
    files = [saved(tmp_path, s, fc=ACTS[s].astype(kind), labels=Y) for s, kind in ((1, "f4"), (2, "f8"))]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"layer 'fc' is torch\.float32 at step 1 and torch\.float64 at step 2"):
        importers.from_files(tmp_path / "run", files)
    assert sorted(tmp_path.rglob("*")) == before
    saved(tmp_path, 2, fc=ACTS[2], labels=Y)
    assert importers.from_files(tmp_path / "run", files).steps() == [1, 2]


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    file = saved(tmp_path, 1, fc=ACTS[1], labels=Y)
    with pytest.raises(StoreError, match=r"is not empty, it holds 'step-1\.npz'"):
        importers.from_files(tmp_path, [file])
    assert list(tmp_path.iterdir()) == [file]
    (tmp_path / "empty").mkdir()
    assert importers.from_files(tmp_path / "empty", [file]).steps() == [1]


def test_a_layer_of_no_units_is_left_out_aloud(tmp_path):
    acts = {1: {"none": np.zeros((N, 0), np.float32), "fc": ACTS[1]}}
    with pytest.warns(UserWarning, match=r"layer 'none' has no units, shape \(40, 0\); it is left out") as caught:
        store = infoplane.from_arrays(tmp_path / "run", acts, Y)
    assert caught[0].filename == __file__
    assert [la.key for la in store.layers] == ["fc"]
    with pytest.raises(ValueError, match="no layer has units: 'none'"):
        infoplane.from_arrays(tmp_path / "other", {1: {"none": np.zeros((N, 0))}}, Y)


# Whole numbers


def test_whole_numbers_arrive_exact_and_what_float64_mixes_up_is_skipped_with_its_reason(tmp_path):
    layers = {
        "far": 2**60 + 3 * np.arange(N)[:, None],
        "near": np.arange(N, dtype=np.uint64)[:, None],
        "beyond": np.arange(N, dtype=np.uint64)[:, None] + np.uint64(2**63),
        "short": np.arange(N, dtype=np.uint16)[:, None],
        "tiny": torch.arange(N)[:, None].to(torch.float8_e5m2),
    }
    store = infoplane.from_arrays(tmp_path / "run", {1: layers}, Y, inputs=2**60 + np.arange(N)[:, None])
    for name in ("far", "near", "beyond", "short"):
        np.testing.assert_array_equal(store.read(name, [1])[0], layers[name])
    table = infoplane.analyze(store, ["binning:width=1", "hsic"], progress=False)
    found = {r.layer: r.value for r in table if r.quantity == "I(X;T)"}
    assert set(found) == {"far", "near", "beyond", "short", "tiny"}
    assert found["far"] == found["near"] == found["beyond"] == found["short"] == math.log2(N)
    reasons = [(entry["layer"], entry["estimator"]) for entry in _skipped(table)]
    assert {("far", "hsic"), ("beyond", "hsic"), ("near", "hsic")} <= set(reasons)  # the last for its inputs


def _skipped(table):
    return [entry for run in table.meta["runs"].values() for entry in run.get("skipped", [])]


# Reasons that name a remedy


def test_a_refusal_of_numpys_does_not_advise_to_unpickle(tmp_path):
    objects = np.array(["a", 1, None] * 10, object)
    np.savez(tmp_path / "step-1.npz", fc=ACTS[1], labels=objects)
    np.save(tmp_path / "y.npy", objects, allow_pickle=True)
    np.ma.masked_array(Y, Y > 0).dump(tmp_path / "masked.npy")
    (tmp_path / "step-2.npz").write_bytes(b"no archive")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name, reason in {
        "step-1.npz": "'labels' is an array of objects, which only unpickling reads; save numbers, as a.astype",
        "y.npy": "it is an array of objects",
        "masked.npy": "it is no array that numpy.save wrote",
        "step-2.npz": "it is no zip archive",
        "empty.npy": "it is no array that numpy.save wrote",
        "empty.pt": "the file ends too early",
    }.items():
        with pytest.raises(ValueError, match=f"{name} cannot be read as plain arrays: {reason}") as refusal:
            importers.read_arrays(tmp_path / name)
        assert "allow_pickle" not in str(refusal.value)


def test_a_torch_file_that_was_cut_says_so_in_one_sentence(tmp_path):
    torch.save({"fc": torch.from_numpy(ACTS[1])}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"failed finding central directory$"):
        importers.read_arrays(tmp_path / "cut.pt")


@pytest.mark.parametrize(("name", "values", "shape"), [("labels", Y, "(40,)"), ("inputs", INPUTS, "(40, ...)")])
def test_labels_and_inputs_once_for_each_step_are_named_as_such(tmp_path, name, values, shape):
    rows = {"labels": Y, name: np.stack([values, values])}
    file = tmp_path / "all.npz"
    np.savez(file, fc=np.stack([ACTS[1], ACTS[2]]), steps=[1, 2], **rows)
    with pytest.raises(ValueError, match=f"all.npz: {name} of shape .* come once for each step") as refusal:
        importers.from_files(tmp_path / "run", [file])
    assert shape in str(refusal.value)
    assert not (tmp_path / "run").exists()
    # As many steps as samples tell nothing: inputs (N, N) are those of the samples.
    square = {"fc": np.zeros((3, 3, 2)), "steps": [1, 2, 3], "labels": np.arange(3), "inputs": np.eye(3)}
    np.savez(file, **square)
    assert importers.from_files(tmp_path / "run", [file]).steps() == [1, 2, 3]


def test_layers_of_npy_files_in_one_folder_and_a_file_given_twice(tmp_path):
    np.save(tmp_path / "y.npy", Y)
    files = [tmp_path / f"fc{i}_step{s}.npy" for i in (1, 2) for s in (1, 2)]
    for file in files:
        np.save(file, ACTS[1])
    with pytest.raises(ValueError, match="where they are two layers, give each a folder of its name: LAYER/step-0100"):
        importers.from_files(tmp_path / "run", files, labels=tmp_path / "y.npy")
    one = saved(tmp_path, 1, fc=ACTS[1], labels=Y)
    with pytest.raises(ValueError, match="both hold 'fc' of step 1; name the file once"):
        importers.from_files(tmp_path / "run", [one, one])


def test_a_column_of_labels_says_what_a_row_of_them_says(tmp_path):
    files = [saved(tmp_path, 1, fc=ACTS[1], labels=Y), saved(tmp_path, 2, fc=ACTS[2], labels=Y[:, None])]
    np.testing.assert_array_equal(importers.from_files(tmp_path / "run", files).probe.labels, Y)
    np.savez(files[1], fc=ACTS[2], labels=1 - Y[:, None])
    with pytest.raises(ValueError, match="differ in their labels, first at row 0"):
        importers.from_files(tmp_path / "other", files)


@pytest.mark.parametrize("names", [("epoch_1/fc", "epoch_2/fc"), ("fc.step10", "fc.step20"), ("iter-1_a", "iter-2_a")])
def test_layers_that_read_like_one_at_two_steps_are_warned_of(tmp_path, names):
    file = saved(tmp_path, 7, labels=Y, **dict.fromkeys(names, ACTS[1]))
    with pytest.warns(
        UserWarning, match=f"step-7.npz: {names[0]!r} and {names[1]!r} are taken as two layers at step 7"
    ):
        store = importers.from_files(tmp_path / "run", [file])
    assert [layer.key for layer in store.layers] == list(names)


def test_numbers_of_layers_are_no_steps(tmp_path):
    file = saved(tmp_path, 7, labels=Y, fc1=ACTS[1], fc2=ACTS[2], **{"blocks.0.mlp": ACTS[1], "blocks.1.mlp": ACTS[1]})
    assert len(importers.from_files(tmp_path / "run", [file]).layers) == 4
