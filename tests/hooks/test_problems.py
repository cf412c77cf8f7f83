"""A snapshot ends no training that its user wanted to go on: what is missing is missing by name, and listed."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from recording import Collect, keys, recorder
from switching import ALL, PROBE, Switched, X, switched
from torch import nn
from torch.func import stack_module_state

import infoplane
from infoplane import open_run
from infoplane.cli import main
from infoplane.hooks import CollectionRecorder, GradientMoments, Recorder, every


class TestALayerNotCalledAtOneStep:
    def test_an_unused_expert(self):
        model, rec, sink = switched()
        with rec:
            model.use = False
            with pytest.warns(UserWarning, match="at step 1: layer 'expert': was not called; training goes"):
                assert rec.snapshot(1, metrics={"loss": 0.5}) is True
            model.use = True
            rec.snapshot(2)
        assert [keys(s) for s in sink.snapshots] == [ALL, ["fc", "act#0", "act#1", "out"], ALL]
        assert sink.snapshots[1].metrics == {"loss": 0.5}
        np.testing.assert_array_equal(
            sink.snapshots[1].arrays["out"], model.out(torch.tanh(torch.tanh(model.fc(X)))).detach()
        )
        (problem,) = rec.problems
        assert (problem.what, problem.steps, problem.note) == ("layer 'expert': was not called", (1,), True)
        assert [la.key for la in rec.layers] == ALL

    @pytest.mark.parametrize(("times", "said"), [(1, "was called 1 times instead of 2"), (3, "called 3 times instead")])
    def test_another_number_of_calls_withdraws_all_calls_of_the_module(self, times, said):
        """Which call is which cannot be told then."""
        model, rec, sink = switched()
        with rec:
            model.acts = times
            with pytest.warns(UserWarning, match=said):
                rec.snapshot(1)
        assert keys(sink.snapshots[1]) == ["fc", "expert", "out"]
        assert [p.what.split(":")[0] for p in rec.problems] == ["layer 'act#0'", "layer 'act#1'"]

    def test_in_one_chunk_only(self):
        class Early(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc, self.deep, self.at = nn.Linear(4, 4), nn.Linear(4, 4), 1e9

            def forward(self, x):
                x = self.fc(x)
                return self.deep(x) if float(x.abs().max()) < self.at else x

        model = Early()
        rec, sink = recorder(model, PROBE, schedule=every(1), probe_batch_size=8)
        with rec:
            with torch.no_grad():
                model.at = float(model.fc(X).abs().amax())  # one chunk holds it
            with pytest.warns(UserWarning, match="'deep': was not called"):
                rec.snapshot(1)
        assert keys(sink.snapshots[1]) == ["fc"]

    def test_a_function_and_a_module_that_is_gone(self):
        class Functional(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc, self.out, self.on = nn.Linear(4, 4), nn.Linear(4, 2), True

            def forward(self, x):
                x = self.fc(x)
                x = torch.relu(x) if self.on else x
                return self.out(x) if hasattr(self, "out") else x

        model = Functional()
        rec, sink = recorder(model, PROBE, schedule=every(1), functional=True)
        with rec:
            model.on = False
            del model.out
            with pytest.warns(UserWarning, match="not recorded") as said:
                rec.snapshot(1)
        assert keys(sink.snapshots[0]) == ["fc", "::relu", "out"]
        assert keys(sink.snapshots[1]) == ["fc"]
        assert sorted(p.what for p in rec.problems) == [
            "layer '::relu': was not called",
            "layer 'out': ValueError: recorded layer 'out' is no longer part of Functional",
        ]
        assert len(said) == 2

    def test_under_vmap(self):
        members = [Switched() for _ in range(3)]
        sinks = [Collect() for _ in range(3)]
        rec = CollectionRecorder(
            members[0],
            PROBE,
            state=stack_module_state(members),
            member_sinks=lambda i: [sinks[i]],
            keep_activations=False,
            schedule=every(1),
            calls="all",
        )
        with rec:
            members[0].use = False
            with pytest.warns(UserWarning, match="'expert': was not called"):
                rec.snapshot(1)
        assert [keys(s.snapshots[1]) for s in sinks] == [["fc", "act#0", "act#1", "out"]] * 3
        expected = members[2].fc(X).detach()
        np.testing.assert_allclose(sinks[2].snapshots[1].arrays["fc"], expected, atol=1e-6)

    def test_estimates_as_it_goes_leave_the_layer_out(self, tmp_path):
        sink = infoplane.live("kde")
        model = Switched()
        options = {"sinks": [sink], "keep_activations": False, "schedule": every(1), "calls": "all"}
        with Recorder(model, PROBE, tmp_path / "a", **options) as rec:
            model.use = False
            with pytest.warns(UserWarning, match="'expert': was not called"):
                rec.snapshot(1)
        assert [p.what for p in rec.problems] == ["layer 'expert': was not called"]
        assert {r.layer for r in sink.table if r.step == 1 and r.quantity == "I(X;T)"} == {*ALL} - {"expert"}


class TestValues:
    def test_float16_overflow(self):
        model, rec, sink = switched(dtype=torch.float16)
        with rec:
            model.scale = 1e7
            with pytest.warns(UserWarning, match=r"layer 'fc': ValueError: layer 'fc' reaches .* beyond float16"):
                rec.snapshot(1)
        assert keys(sink.snapshots[1]) == ["act#0", "act#1", "expert", "out"]
        assert rec.problems[0].note is False

    def test_a_reduction_that_raises(self):
        def picky(t):
            if t.abs().max() > 1e6:
                raise ArithmeticError("too large for me")
            return t

        model, rec, sink = switched(reduce={"fc": picky})
        with rec:
            model.scale = 1e7
            with pytest.warns(UserWarning, match="layer 'fc': ArithmeticError: too large for me"):
                rec.snapshot(1)
        assert keys(sink.snapshots[1]) == ["act#0", "act#1", "expert", "out"]

    def test_nonfinite_stays_the_users_word(self):
        model, rec, sink = switched(nonfinite="raise")
        with rec:
            model.scale = float("nan")
            with pytest.raises(ValueError, match="layer 'fc' has 160 NaN or infinite values at step 1"):
                rec.snapshot(1)
            model.scale = 1.0
            rec.snapshot(2)
        assert sink.steps == [0, 2]


class TestMetrics:
    @pytest.mark.parametrize("bad", [None, [0.1, 0.2], "low", torch.zeros(2), {}])
    def test_one_that_is_no_number(self, bad):
        _, rec, sink = switched()
        with (
            rec,
            pytest.warns(UserWarning, match="step 1: metric 'loss': TypeError: metric 'loss' must be"),
        ):
            rec.snapshot(1, metrics={"loss": bad, "accuracy": np.float32(0.5), "tensor": torch.tensor([[2.0]])})
        assert sink.snapshots[1].metrics == {"accuracy": 0.5, "tensor": 2.0}
        assert keys(sink.snapshots[1]) == ALL
        assert rec.problems[0].steps == (1,)

    def test_names_epochs_and_what_is_no_mapping(self):
        _, rec, sink = switched()
        calls = [{"metrics": {3: 1.0, "a": 1.0}, "epoch": "first"}, {"metrics": 0.3}]
        with rec, pytest.warns(UserWarning, match="not recorded") as said:
            _ = [rec.snapshot(step, **call) for step, call in enumerate(calls, 1)]
        assert [s.metrics for s in sink.snapshots[1:]] == [{"a": 1.0}, {}]
        assert [s.epoch for s in sink.snapshots[1:]] == [1.0, 2.0]
        assert len(said) == 3
        for bad in ([0.1], 0.3, 0.0, [("loss", 0.1)]):
            _, rec, _ = switched(on_error="raise")
            with rec, pytest.raises(TypeError, match=r"metrics must map names to numbers, as \{'loss': 0.3\}, got "):
                rec.snapshot(1, metrics=bad)

    def test_of_a_collection(self):
        members = [nn.Linear(4, 2) for _ in range(3)]
        sinks = [Collect() for _ in range(3)]
        rec = CollectionRecorder(
            members[0],
            PROBE,
            state=stack_module_state(members),
            member_sinks=lambda i: [sinks[i]],
            keep_activations=False,
            schedule=every(1),
        )
        with rec:
            with pytest.warns(UserWarning, match=r"metric 'loss' must be one number or 3 of them, got shape \(2,\)"):
                rec.snapshot(1, metrics={"loss": [1, 2], "fit": [1, 2, 3]})
            with pytest.warns(UserWarning, match="the state has 2 members, not 3"):
                assert rec.snapshot(2, state=stack_module_state(members[:2])) is False
        assert [s.snapshots[1].metrics for s in sinks] == [{"fit": 1.0}, {"fit": 2.0}, {"fit": 3.0}]
        assert sinks[0].steps == [0, 1]

    def test_gradient_moments_that_fail(self, monkeypatch):
        model = Switched()
        with GradientMoments(model) as moments:
            rec, sink = recorder(model, PROBE, schedule=every(1), calls="all", gradients=moments)
            with rec:
                monkeypatch.setattr(moments, "take", lambda: {}["gone"])
                with pytest.warns(UserWarning, match="gradient moments: KeyError: 'gone'"):
                    rec.snapshot(1)
        assert ("fc", "weight_norm") in sink.snapshots[1].layer_metrics


class TestSteps:
    @pytest.mark.parametrize(
        "step",
        [
            3,
            np.int64(3),
            np.uint8(3),
            torch.tensor(3),
            torch.tensor([3]),
            np.array([3]),
            3.0,
            np.float32(3),
            torch.tensor(3.0),
        ],
    )
    def test_whole_numbers(self, step):
        _, rec, sink = switched()
        with rec:
            assert rec.due(step)
            assert rec.snapshot(step)
        assert sink.steps == [0, 3]
        assert sink.snapshots[1].epoch == 3.0

    @pytest.mark.parametrize(
        "step", [2.5, float("nan"), float("inf"), "3", None, True, torch.tensor([1, 2]), -1, np.zeros(0)]
    )
    def test_what_is_none_is_not_recorded(self, step):
        _, rec, sink = switched()
        with rec:
            rec.snapshot(1)
            assert rec.due(step) is False
            with pytest.warns(UserWarning, match="not recorded: a call of snapshot: "):
                assert rec.snapshot(step) is False
            rec.snapshot(4)
        assert sink.steps == [0, 1, 4]
        assert len(rec.problems) == 1

    def test_a_counter_that_restarts(self):
        """A second training in the same block: its first steps have been recorded already."""
        _, rec, sink = switched()
        with rec:
            for step in range(1, 4):
                rec.snapshot(step)
            with pytest.warns(UserWarning, match="step 1 comes after step 3; .* resume=True") as said:
                taken = [rec.snapshot(step) for step in range(1, 6)]
        assert taken == [False, False, False, True, True]
        assert sink.steps == [0, 1, 2, 3, 4, 5]
        assert len(said) == 1
        assert rec.problems[0].what.endswith(", 3 times")


class TestSinks:
    def test_one_that_raises_does_not_keep_it_from_the_others(self):
        class Fails(Collect):
            def __call__(self, snapshot):
                super().__call__(snapshot)
                if snapshot.step % 2:
                    raise OSError("the server is away")

        fails, good = Fails(), Collect()
        rec = Recorder(Switched(), PROBE, sinks=[fails, good], keep_activations=False, schedule=every(1), calls="all")
        with rec, pytest.warns(UserWarning, match="sink .*Fails of this snapshot: OSError: the server is away"):
            _ = [rec.snapshot(step) for step in range(1, 5)]
        assert fails.steps == good.steps == [0, 1, 2, 3, 4]
        assert rec.problems[0].steps == (1, 3)

    def test_a_store_that_has_stopped(self, tmp_path):
        good = Collect()
        rec = Recorder(Switched(), PROBE, tmp_path / "a", sinks=[good], schedule=every(1), calls="all", quiet=True)
        with rec:
            rec.snapshot(1)
            rec.flush()
            rec._session.destinations[0].writer._worker.failure = ZeroDivisionError("a fault")
            with pytest.warns(UserWarning, match="sink StoreWriter .*recording into .* has stopped"):
                rec.snapshot(2)
            rec._session.destinations[0].writer._worker.failure = None
        assert good.steps == [0, 1, 2]

    @pytest.mark.parametrize("layout", ["one", "flushed", "members"])
    def test_steps_that_the_disk_did_not_take_are_listed(self, tmp_path, monkeypatch, layout):
        def full(*args):
            raise OSError(28, "No space left on device")

        if layout == "members":
            members = [nn.Linear(4, 2) for _ in range(2)]
            state = stack_module_state(members)
            rec = CollectionRecorder(
                members[0], PROBE, str(tmp_path / "{member}"), state=state, schedule=every(1), quiet=True
            )
        else:
            rec = Recorder(Switched(), PROBE, tmp_path / "a", schedule=every(1), calls="all", quiet=True)

        def record():
            with monkeypatch.context() as disk:
                disk.setattr("os.fsync", full)
                rec.snapshot(1)
                rec.snapshot(2)
                rec.flush()
                assert [p.steps for p in rec.problems] == [(1, 2)] * (2 if layout == "members" else 1)
            if layout == "flushed":
                rec.snapshot(3)
                rec.flush()
            rec.close()

        rec.start()
        rec.flush()
        with pytest.warns(RuntimeWarning, match="could not be written") as said:
            record()
        assert {w.filename for w in said} == {__file__}
        assert all("not written while recording: OSError" in p.what for p in rec.problems)
        if rec.run is not None:
            result = CliRunner().invoke(main, ["verify", str(rec.run)])
            assert result.exit_code == 1
            assert "(steps 1-2)" in result.output

    def test_the_writer_has_the_same_policy(self, tmp_path):
        for options, expected in (
            ({}, "warn"),
            ({"on_error": "raise"}, "raise"),
            ({"writer": {"on_error": "raise"}}, "raise"),
        ):
            with Recorder(
                Switched(), PROBE, tmp_path / str(options)[:9], calls="all", quiet=True, resume=True, **options
            ) as rec:
                assert rec._session.destinations[0].writer.on_error == expected
        with pytest.raises(ValueError, match="on_error must be 'warn' or 'raise', got 'ignore'"):
            Recorder(Switched(), PROBE, tmp_path / "b", on_error="ignore")


class TestAWholeStep:
    def test_an_assertion_inside_forward(self):
        model, rec, sink = switched()
        model.train()
        with rec:
            model.fail = AssertionError("labels out of range")
            with pytest.warns(UserWarning, match="at step 1: a whole snapshot: AssertionError: labels out of range"):
                assert rec.snapshot(1) is False
            assert model.training
            assert torch.is_grad_enabled()
            model.fail = None
            assert rec.snapshot(2) is True
        assert sink.steps == [0, 2]
        assert rec.problems[0].steps == (1,)

    def test_the_last_one_on_leaving(self):
        model = Switched()
        rec, sink = recorder(model, PROBE, schedule=every(10), calls="all")
        rec.start()
        rec.snapshot(3)
        model.fail = AssertionError()
        with pytest.warns(UserWarning, match="a whole snapshot: AssertionError"):
            rec.close()
        assert sink.steps == [0]
        assert sink.closed == 1

    @pytest.mark.parametrize("options", [{"initial": True}, {"initial": False}])
    def test_the_first_one_raises(self, options):
        model, rec, _ = switched(**options)

        def first():
            with rec:
                model.fail = AssertionError("from the start")
                rec.snapshot(1)

        if options["initial"]:
            with pytest.warns(UserWarning, match="from the start"):
                first()
        else:
            with pytest.raises(AssertionError, match="from the start"):
                first()

    @pytest.mark.parametrize("call", [{"step": 1.5}, {"step": 1, "metrics": {"loss": None}}])
    def test_so_does_what_comes_before_it(self, call):
        _, rec, _ = switched(initial=False)
        with rec, pytest.raises(TypeError, match="got"):
            rec.snapshot(**call)

    def test_and_the_first_of_a_run_that_goes_on(self, tmp_path):
        def run(**options):
            return Recorder(Switched(), PROBE, tmp_path / "a", schedule=every(1), calls="all", quiet=True, **options)

        with run() as rec:
            rec.snapshot(1)
        with run(resume=True) as rec:
            rec._session.model.use = False
            with pytest.raises(RuntimeError, match=r"1 recorded layers .*: expert \(0 instead of 1\)"):
                rec.snapshot(2)

    def test_raise_raises_each(self):
        model, rec, sink = switched(on_error="raise")
        with rec:
            model.fail = AssertionError("no")
            with pytest.raises(AssertionError, match="no"):
                rec.snapshot(1)
            model.fail, model.use = None, False
            with pytest.raises(RuntimeError, match=r"expert \(0 instead of 1\); the forward pass must"):
                rec.snapshot(2)
            model.use = True
            with pytest.raises(TypeError, match="metric 'loss' must be one number, got None"):
                rec.snapshot(3, metrics={"loss": None})
            rec.snapshot(4)
        assert sink.steps == [0, 4]
        assert rec.problems == ()


def test_a_kind_that_keeps_coming_is_said_again_at_its_10th_and_100th_time():
    model, rec, _ = switched()
    with rec:
        model.use = False
        with pytest.warns(UserWarning, match="'expert': was not called") as said:
            _ = [rec.snapshot(step) for step in range(1, 151)]
        assert [str(w.message).partition(":")[0] for w in said] == [
            "not recorded at step 1",
            "not recorded at step 10 (for the 10th time)",
            "not recorded at step 100 (for the 100th time)",
        ]
        with pytest.warns(UserWarning, match="metric 'loss'"):  # another kind
            rec.snapshot(151, metrics={"loss": None})
    assert rec.problems[0].steps == tuple(range(1, 152))


class TestWhereItIsListed:
    def record(self, path, *, metric=0.5, step=1, **options):
        model = Switched()
        with Recorder(model, PROBE, path, schedule=every(1), calls="all", quiet=True, **options) as rec:
            if options.get("resume"):
                rec.snapshot(step)
                return rec
            rec.snapshot(1)
            model.use = False
            with pytest.warns(UserWarning, match="not recorded at step 2"):
                rec.snapshot(2, metrics={"loss": metric})
            model.use = True
            rec.snapshot(3)
        return rec

    def test_what_the_model_did_not_call_is_a_note(self, tmp_path, capfd):
        rec = self.record(tmp_path / "a")
        store = open_run(tmp_path / "a")
        assert store.steps("expert") == [0, 1, 3]
        assert store.steps("out") == [0, 1, 2, 3]
        (session,) = store.sessions
        assert session["notes"]["problems"] == [{"what": "layer 'expert': was not called", "steps": [2], "note": True}]
        (problem,) = store.verify()
        assert (problem.what, problem.steps, problem.note) == (rec.problems[0].what, (2,), True)
        for options in ([], ["--untrusted"]):
            done = CliRunner().invoke(main, ["verify", str(tmp_path / "a"), *options])
            assert done.exit_code == 0
            said = done.output or capfd.readouterr().out  # a child writes to the terminal itself
            assert said.splitlines() == [
                "note: session 1: layer 'expert': was not called (step 2)",
                f"{tmp_path / 'a'}: clean",
            ]

    def test_all_else_is_a_finding(self, tmp_path):
        self.record(tmp_path / "a", metric=None)
        done = CliRunner().invoke(main, ["verify", str(tmp_path / "a")])
        assert done.exit_code == 1
        assert "session 1: metric 'loss': TypeError: metric 'loss' must be one number, got None (step 2)" in done.output
        assert done.output.endswith("1 problems\n")

    def test_a_step_that_a_later_session_records_again(self, tmp_path):
        self.record(tmp_path / "a", metric=None)
        self.record(tmp_path / "a", resume=True, step=2)
        assert open_run(tmp_path / "a").verify() == []

    def test_it_is_saved_as_it_comes(self, tmp_path):
        model = Switched()
        with Recorder(model, PROBE, tmp_path / "a", schedule=every(1), calls="all", quiet=True) as rec:
            model.fail = AssertionError("no")
            with pytest.warns(UserWarning, match="AssertionError"):
                rec.snapshot(1)
            assert open_run(tmp_path / "a").sessions[0]["notes"]["problems"][0]["steps"] == [1]
            rec.snapshot(2)
            rec.flush()
            assert open_run(tmp_path / "a").sessions[0]["notes"]["problems"][0]["steps"] == [1, 2]

    @pytest.mark.parametrize(
        "bad", [3, [1], [{"what": 3, "steps": [], "note": True}], [{"what": "a", "steps": [-1], "note": False}]]
    )
    def test_a_stranger_may_have_written_it(self, tmp_path, bad):
        with Recorder(Switched(), PROBE, tmp_path / "a", schedule=every(1), calls="all", quiet=True) as rec:
            rec._session.destinations[0].call_sinks("annotate", problems=bad)
        (problem,) = open_run(tmp_path / "a").verify()
        assert "sessions/0001" in problem.file
        assert "field '" in problem.what


def test_warnings_name_the_line_that_called():
    model, rec, _ = switched()
    bad = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with rec:
        model.use = False
        with pytest.warns(UserWarning, match="'expert': was not called") as said:
            rec.snapshot(1)
    with pytest.warns(UserWarning, match="normalises by the statistics") as also:
        recorder(bad, PROBE)[0].start().close()
    assert {w.filename for w in (*said, *also)} == {__file__}


def test_many_different_problems_are_bounded():
    _, rec, _ = switched()
    names = [f"loss {i} {'x' * i}" for i in range(1100)]
    with rec, pytest.warns(UserWarning, match="not recorded"):
        _ = [rec.snapshot(step, metrics={name: None}) for step, name in enumerate(names, 1)]
    assert len(rec.problems) <= 1001
    assert len(json.dumps([p.what for p in rec.problems])) < 1_000_000
