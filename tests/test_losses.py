"""What a run has lost is said where its numbers are read: on the screen, in captions and reports, by exit code 3."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_cases import Spread, activations, layer_of, make_run, probe
from click.testing import CliRunner, Result

from infoplane import Recorder, analyze, cli, plots
from infoplane.core import Snapshot, files
from infoplane.report import doubts, report_html
from infoplane.results import ResultTable
from infoplane.results.losses import Loss, loss_words, losses, read_losses
from infoplane.store import StoreWriter, open_run


def call(*words: object, code: int) -> Result:
    result = CliRunner().invoke(cli.main, ["-q", *map(str, words)])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def shard(run: Path, step: int) -> Path:
    return next((run / "shards").glob(f"{step:08d}-*"))


def missing(path: Path) -> Path:
    run = make_run(path, seal_bytes=1)
    shard(run, 2).unlink()
    return run


def cut_short(path: Path) -> Path:
    run = make_run(path, seal_bytes=1)
    shard(run, 2).write_bytes(shard(run, 2).read_bytes()[:-9])
    return run


def altered(path: Path, layer: int = 0, step: int = 2) -> Path:
    """One bit of one layer: found only by who reads it."""
    run = make_run(path, seal_bytes=1) if not path.exists() else path
    data = bytearray(shard(run, step).read_bytes())
    data[bytes(data).index(activations(0, step, layer, (4, 2)[layer]).tobytes()) + 10] ^= 1
    shard(run, step).write_bytes(data)
    return run


def dropped(path: Path) -> Path:
    """The disk was full at step 2."""
    real = files.publish

    def publish(directory, name, pieces, **options):
        if name.startswith("00000002-"):
            raise OSError(28, "No space left on device")
        return real(directory, name, pieces, **options)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(files, "publish", publish)
        return make_run(path, seal_bytes=1)


def half(path: Path) -> Path:
    """A second process was there at step 2 and did not write its rows."""
    run = make_run(path, steps=[0, 1])
    rows, layers = np.arange(30), (layer_of(0, 4), layer_of(1, 2))
    with StoreWriter(run, probe=probe(), settings={"chain": True}, background=False, resume=True, world_size=2) as out:
        arrays = {f"fc{i}": activations(0, 2, i, u)[rows] for i, u in enumerate((4, 2))}
        out(Snapshot(step=2, epoch=1.0, time=2.0, layers=layers, arrays=arrays, rows=rows))
    return make_run(run, steps=[3, 4, 5], resume=True)


CASES = {
    "missing": (missing, "shards/00000002-00000002.s0001.r000.h5: missing, though the manifest lists it (step 2)"),
    "cut short": (cut_short, "bytes expected, got"),
    "altered": (altered, "layer 'fc0': the content does not match its digest (step 2)"),
    "dropped": (dropped, "not written while recording: OSError: [Errno 28] No space left on device (step 2)"),
    "half": (half, "incomplete: rank 1 of 2 missing (step 2)"),
}


USUAL = ("altered", "half")  # one file that is damaged, one step that is incomplete
FIGURES = ("plane", "curves", "heatmap", "null", "dpi", "compression", "plane_grid")


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    ("case", "jobs", "figures"),
    [
        *(pytest.param(case, 1, FIGURES[:1], marks=() if case in USUAL else pytest.mark.slow) for case in CASES),
        ("missing", 1, FIGURES[1:]),
        pytest.param("altered", 2, FIGURES[:1], marks=pytest.mark.slow),
    ],
)
def test_lost_steps_are_said_wherever_their_numbers_are_read(tmp_path, caplog, case, jobs, figures):
    make, what = CASES[case]
    run = make(tmp_path / "run")
    words = call("estimate", run, "-e", "binning:n_bins=8", "-e", "binning:n_bins=4", "-j", jobs, code=3)
    assert "done, but not of all that was recorded" in words.stderr
    said = [record.message for record in caplog.records if what in record.message]
    assert len(said) == 1  # once, not for each estimator and layer
    assert str(run) in said[0]
    assert call("verify", run, code=1).stdout.count("problem") >= 1

    table = ResultTable.read(run)
    assert 2 not in table.select(layer="fc0", estimator="binning").step
    (loss,) = losses(table)
    assert (loss.steps, loss.layer) == ((2,), "fc0" if case == "altered" else "")
    assert what.partition(" (steps")[0] in str(loss)
    assert read_losses([run]) == [loss]

    caption = "missing or damaged: " + ("of layer fc0 step 2" if case == "altered" else "step 2")
    for kind in figures:
        more = ["-l", "fc0"] if kind in ("plane", "curves") else []
        out = tmp_path / f"{kind}.svg"
        drawn = call("plot", run, "-k", kind, *extra(kind), *more, "-o", out, code=3)
        assert f"missing or damaged: {loss}" in drawn.stderr
        assert caption in " ".join(out.read_text().replace("\n", " ").split()), kind
    call("report", run, "-o", tmp_path / "report.html", code=3)
    assert "The numbers are not of the whole recording" in (tmp_path / "report.html").read_text()
    call("export", run, "-o", tmp_path / "all.csv", code=3)
    assert losses(ResultTable.read(tmp_path / "all.csv")) == [loss]
    assert read_losses([tmp_path / "all.csv"]) == [loss]
    call("animate", run, *extra("animate"), "-o", tmp_path / "plane.gif", "--fps", 5, "--dpi", 40, code=3)


def extra(kind: str) -> list[str]:
    return ["-e", "binning:n_bins=8"] if kind != "dpi" else ["-e", "binning"]


def test_groups_of_runs_say_which_has_lost_what(tmp_path):
    runs = [missing(tmp_path / "a"), make_run(tmp_path / "b", seed=1), altered(tmp_path / "c", layer=1, step=4)]
    call("estimate", *runs, "-e", "binning:n_bins=8", code=3)
    drawn = call("compare", *runs, "-o", tmp_path / "c.svg", code=3)
    assert drawn.stderr.count("missing or damaged: run ") == 2
    text = " ".join((tmp_path / "c.svg").read_text().split())
    assert "missing or damaged in run a: step 2" in text
    assert "missing or damaged in run c: of layer fc1 step 4" in text
    call("compare", *runs, "-l", "fc0", "-o", tmp_path / "c.svg", code=3)
    text = (tmp_path / "c.svg").read_text()
    assert "of layer fc1" not in text  # not in this figure
    call("plot", runs[1], "-e", "binning", "-o", tmp_path / "b.png", code=0)
    table = ResultTable.concat([ResultTable.read(run) for run in runs])
    assert [d.text.partition(".")[0] for d in doubts(table) if d.kind == "lost"] == [
        "The numbers are not of the whole recording"
    ] * 2
    assert "layer &#x27;fc1&#x27;" in report_html(table)
    call("info", runs[0], code=3)
    call("info", runs[1], code=0)
    assert json.loads(call("info", runs[0], "--json", code=3).stdout)["lost_steps"] == [2]


def test_only_the_steps_concerned_are_lost_each_with_its_reason(tmp_path, caplog):
    """Two shards change after the run was opened, and a third was damaged before."""
    run = altered(tmp_path / "run", layer=0, step=1)
    store = open_run(run)
    shard(run, 3).unlink()
    shard(run, 4).write_bytes(b"")
    table = analyze(store, [Spread(), Spread(scale=2.0)], progress=False)
    assert set(table.select(layer="fc0", estimator="spread").step) == {0, 2, 5}
    assert set(table.select(layer="fc1", estimator="spread").step) == {0, 1, 2, 5}
    name = "shards/{0:08d}-{0:08d}.s0001.r000.h5".format
    found = {(loss.layer, loss.steps): f"{loss.file}: {loss.what}" for loss in losses(table)}
    assert found["fc0", (1,)] == f"{name(1)}: layer 'fc0': the content does not match its digest"
    for layer in ("fc0", "fc1"):
        assert found[layer, (3,)].startswith(f"{name(3)}: layer {layer!r}: [Errno 2] No such file or directory")
        assert "bytes expected, got 0" in found[layer, (4,)]
    assert len(found) == 5
    reasons = {(s["layer"], tuple(s["steps"])): s["reason"] for s in table.meta["runs"][store.run_id]["skipped"]}
    assert reasons["fc0", (1,)] == f"step 1 can no longer be read: {name(1)}: the content does not match its digest"
    assert reasons["fc1", (3,)].startswith(f"step 3 can no longer be read: {name(3)}: [Errno 2]")
    assert "it can no longer be read" not in caplog.text


def test_a_damaged_run_without_manifest_tells_the_steps_from_the_name(tmp_path):
    run = make_run(tmp_path / "run")  # one shard
    (run / "manifest.jsonl").unlink()
    store = open_run(run)
    next((run / "shards").iterdir()).write_bytes(b"x")
    later = open_run(run)
    assert later.steps() == []
    assert "not an HDF5 file" in later.why("fc0", 3).what
    assert later.why("fc0", 9) is None
    with pytest.raises(ValueError, match=r"nothing could be estimated: steps 0-5 can no longer be read: shards/0"):
        analyze(store, Spread(), progress=False)


def test_what_another_analysis_found_is_kept_until_its_layer_is_read_again(tmp_path):
    run = make_run(tmp_path / "run", seal_bytes=1)
    good = shard(run, 2).read_bytes()
    altered(run, layer=1)
    call("estimate", run, "-e", "binning:n_bins=8", "-l", "fc1", code=3)
    call("estimate", run, "-e", "binning:n_bins=8", "-l", "fc0", code=3)
    (loss,) = read_losses([run])
    assert (loss.layer, loss.steps) == ("fc1", (2,))
    shard(run, 2).write_bytes(good)  # from a copy
    call("estimate", run, "-e", "binning:n_bins=8", "-l", "fc1", code=0)
    assert read_losses([run]) == []
    call("plot", run, "-o", tmp_path / "a.png", code=0)


def test_a_layer_that_was_not_called_and_one_that_an_estimator_refuses_are_said_and_no_failure(tmp_path, caplog):
    layers = layer_of(0, 4), layer_of(1, 2)
    with StoreWriter(tmp_path / "run", probe=probe(), settings={}, background=False) as out:
        for step in range(6):
            here = layers[: 1 if step in (2, 3) else 2]  # an expert that nobody asked
            arrays = {layer.key: activations(0, step, i, (4, 2)[i]) for i, layer in enumerate(here)}
            out(Snapshot(step=step, epoch=0.0, time=0.0, layers=here, arrays=arrays))
    call("estimate", tmp_path / "run", "-e", "binning:n_bins=8", code=0)
    assert "note: layer fc1 was not called, or not asked for, at steps 2-3" in caplog.text
    table = analyze(tmp_path / "run", Spread(refuse_units=2), progress=False)
    assert "spread skipped layer fc1, subset all: spread wants no layers of 2 units" in caplog.text
    assert losses(table) == []
    call("plot", tmp_path / "run", "-e", "binning", "-o", tmp_path / "a.png", code=0)
    call("verify", tmp_path / "run", code=0)


class Switched(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.expert, self.out = (torch.nn.Linear(4, n) for n in (4, 4, 2))
        self.use, self.fail = True, False

    def forward(self, x):
        if self.fail:
            raise ArithmeticError("no such luck")
        x = self.fc(x)
        return self.out(self.expert(x) if self.use else x)


@pytest.mark.parametrize("fail", [False, True])
def test_what_the_recorder_could_not_record_is_said_and_a_step_that_failed_is_missing(tmp_path, caplog, fail):
    model, run = Switched(), tmp_path / "run"
    probe = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    with warnings.catch_warnings(), Recorder(model, probe, run, schedule=1, quiet=True) as recorder:
        warnings.simplefilter("ignore")
        for step in range(1, 5):
            model.use, model.fail = step != 2, fail and step == 3
            recorder.snapshot(step)
    code = 3 if fail else 0
    call("estimate", run, "-e", "binning:n_bins=8", code=code)
    text = caplog.text
    assert text.count("expert") == 1
    assert "note: session 1" in text
    call("plot", run, "-o", tmp_path / "a.svg", code=code)
    assert ("missing or damaged: step 3" in (tmp_path / "a.svg").read_text()) is fail
    assert json.loads(call("info", run, "--json", code=code).stdout)["lost_steps"] == [3] * fail
    assert text.count("no such luck") == fail
    call("verify", run, code=int(fail))


def test_damage_that_costs_no_step_is_said_and_no_failure(tmp_path, caplog):
    run = make_run(tmp_path / "run", seal_bytes=1)
    with (run / "manifest.jsonl").open("ab") as file:
        file.write(b"not a line\n")
    (run / "shards/notes.txt").write_text("mine")
    call("estimate", run, "-e", "binning:n_bins=8", code=0)
    assert "manifest.jsonl: line 7: it does not match its checksum" in caplog.text
    assert "shards/notes.txt: not a shard of this format" in caplog.text
    call("verify", run, code=1)


def test_many_losses_are_a_few_lines(tmp_path, caplog):
    run = make_run(tmp_path / "run", steps=range(40), seal_bytes=1)
    for step in range(0, 40, 2):
        shard(run, step).unlink()
    call("estimate", run, "-e", "binning:n_bins=8", code=3)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 11
    assert lines[-1].endswith("10 more are missing or damaged; `infoplane verify` names all of them")
    drawn = call("plot", run, "-o", tmp_path / "a.svg", code=3).stderr.splitlines()
    assert len(drawn) == 12
    (words,) = loss_words(losses(ResultTable.read(run)))
    assert words == (
        "missing or damaged: steps 0, 2, 4, 6, 8, 10, ... (00000000-00000000.s0001.r000.h5, "
        "00000002-00000002.s0001.r000.h5 and 18 more shards)"
    )


def test_meta_that_anybody_wrote_make_no_other_error():
    for runs in (None, [], {"r": 1}, {"r": {"lost": 1}}, {"r": {"lost": [1, {}, {"steps": "x", "file": 3}]}}):
        found = losses(ResultTable.from_rows([], {"runs": runs}), ["r"])
        assert all(isinstance(loss, Loss) and "\n" not in str(loss) for loss in found)
        assert all(len(words) < 300 for words in loss_words(found))
    many = [Loss(f"run{i}", "shards/\x1b[31mx.h5", "w" * 999, tuple(range(0, 999, 2)), "l" * 999) for i in range(9)]
    words = loss_words(many)
    assert words[-1] == "6 more runs have lost steps"
    assert all("\x1b" not in text and len(text) < 300 for text in words)


def test_the_help_lists_the_exit_codes():
    text = call("--help", code=0).stdout
    assert "3        done, but something that had been recorded is missing or damaged" in text
    for code in ("0 ", "1 ", "2 ", "130, 143"):
        assert f"\n    {code}" in text


def test_an_interrupt_promises_what_it_can_keep(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("infoplane.analysis.analyze_each", stop)
    assert "the same command goes on from there" in call("estimate", run, code=130).stderr
    monkeypatch.setattr("infoplane.plots.figures.draw_file", stop)
    assert call("plot", run, code=130).stderr == "interrupted\n"


def test_a_table_elsewhere_can_be_asked_for_where_it_is_advised(tmp_path, monkeypatch):
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", seed=1)
    out = tmp_path / "all.csv"
    call("estimate", run, other, "-e", "binning:n_bins=8", "--table", out, code=0)
    assert not (run / "results.csv").exists()
    assert set(ResultTable.read(out).run) == {open_run(run).run_id, open_run(other).run_id}
    call("plot", out, "-k", "compare", "-o", tmp_path / "a.png", code=0)

    def refuse(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("infoplane.analysis.index.TableWriter", refuse)
    assert "give --table PATH to keep the results elsewhere" in call("estimate", run, code=2).stderr


def test_captions_are_unchanged_where_nothing_is_lost(tmp_path):
    table = analyze(make_run(tmp_path / "run"), "binning:n_bins=8", progress=False)
    assert losses(table) == []
    assert not any("missing" in words for words in plots.plane_data(table).caption)
