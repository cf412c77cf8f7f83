"""Parts, roles, metrics and names of classes of an import, as arguments, as files and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import infoplane
from infoplane import importers
from infoplane.cli import main

N = 12
Y = np.arange(N) % 3
FC = np.random.default_rng(0).normal(size=(N, 2))
PARTS = ["train"] * 8 + ["test"] * 4


@pytest.fixture
def files(tmp_path):
    for step in (1, 2):
        np.savez(tmp_path / f"step-{step}.npz", **{"fc1": FC, "fc2": FC, "head": FC, "labels": Y})
    return [tmp_path / "step-1.npz", tmp_path / "step-2.npz"]


def call(*words):
    outcome = CliRunner().invoke(main, ["import", *map(str, words)])
    return outcome.exit_code, outcome.output


def test_every_option_of_the_command(tmp_path, files):
    (tmp_path / "parts.txt").write_text("\n".join(PARTS) + "\n")
    (tmp_path / "log.csv").write_text("\ufeffstep, loss,accuracy\n1,0.5,\n2,0.25,0.75\n")
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    words = [*files, "--parts", tmp_path / "parts.txt", "--metrics", tmp_path / "log.csv", "--role", "fc*=activation",
             "--role", "fc2=input", "--role", "head=output", "--chain"]  # fmt: skip
    for number, names in enumerate(["cat,dog,owl", tmp_path / "names.txt"]):
        run = tmp_path / f"run{number}"
        code, text = call(*words, "--label-names", names, "-o", run)
        assert code == 0, text
        store = infoplane.open_run(run)
        assert [layer.role for layer in store.layers] == ["activation", "input", "output"]
        assert store.probe.part_names == ("train", "test")
        assert store.probe.part.tolist() == [0] * 8 + [1] * 4
        assert store.probe.label_names == ("cat", "dog", "owl")
        numbers = {(step, name): value for step, _, name, _, value in store.metrics()}
        assert numbers == {(1, "loss"): 0.5, (2, "loss"): 0.25, (2, "accuracy"): 0.75}
        assert store.settings["chain"]


@pytest.mark.parametrize(
    "values", [np.array(PARTS), np.array([0.0] * 8 + [1.0] * 4)[:, None], np.array([0] * 8 + [1] * 4)]
)
def test_parts_as_an_array(tmp_path, files, values):
    np.save(tmp_path / "parts.npy", values)
    store = importers.from_files(tmp_path / "run", files, parts=tmp_path / "parts.npy")
    assert store.probe.part.tolist() == [0] * 8 + [1] * 4
    assert store.probe.part_names in (("train", "test"), ("0", "1"))


def test_metrics_as_json_and_steps_without_activations(tmp_path, files):
    (tmp_path / "log.json").write_text(json.dumps({"1": {"loss": 0.5}, "2": {"loss": 0.25}, "3": {"loss": 0.1}}))
    with pytest.warns(UserWarning, match="log.json: 1 of 3 steps have no activations and are left out") as caught:
        store = importers.from_files(tmp_path / "run", files, metrics=str(tmp_path / "log.json"))
    assert caught[0].filename == __file__
    assert [v for *_, v in store.metrics()] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "loss\n1\n", r"log.csv should begin with a line of names, .* and step among them; got \['loss'\]"),
        ("log.csv", "", "got .."),
        ("log.csv", "step,loss,loss\n1,2,3\n", "each once"),
        ("log.csv", "step,loss\n1.5,2\n", r"log.csv, line 2: a step must be a whole number from 0, got '1.5'"),
        ("log.csv", "step,loss\n1,2\n1,3\n", "log.csv, line 3: step 1 comes twice"),
        ("log.csv", "step,loss\n1,abc\n", "log.csv, line 2: 'loss' must be a number, got 'abc'"),
        ("log.csv", "step,loss\n1,2,3\n", "log.csv, line 2: expected 2 cells, got 3"),
        ("log.json", "[1]", "log.json: a JSON object expected, got list"),
        ("log.json", '{"1": 2}', "log.json: expected {step: {name: number}}, got 2 for '1'"),
        ("log.json", '{"a": {"loss": 2}}', "log.json: a step must be a whole number from 0, got 'a'"),
        ("log.json", '{"1": {"loss": [2]}}', r"log.json: 'loss' must be a number, got \[2\]"),
        ("log.json", '{"1": {"loss": NaN}}', "not valid JSON"),
    ],
)
def test_metrics_that_cannot_be_read_are_one_line(tmp_path, files, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        importers.from_files(tmp_path / "run", files, metrics=tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_other_options_that_are_wrong_are_one_line(tmp_path, files):
    (tmp_path / "parts.txt").write_text("train\n")
    np.savez(tmp_path / "two.npz", a=Y, b=Y)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    out = ["-o", tmp_path / "run"]
    for words, message in (
        (["--parts", tmp_path / "parts.txt"], "parts has 1 names, there are 12 labels"),
        (["--parts", tmp_path / "two.npz"], "two.npz should hold one array with one name or number for each row"),
        (["--parts", tmp_path / "bytes.txt"], "bytes.txt is no text in UTF-8"),
        (["--role", "fc1"], "expected LAYER=ROLE, as in 'fc*=activation', got 'fc1'"),
        (["--role", "conv*=activation"], "roles: there is no layer 'conv*'; closest: "),
        (["--role", "fc*=hidden"], "roles: layer 'fc*' must be one of activation, "),
        (["--label-names", "cat"], "label 2 has no name: label_names has 1 entries"),
    ):
        code, text = call(*files, *words, *out)
        assert (code, message in text) == (2, True), text
        assert not (tmp_path / "run").exists()
