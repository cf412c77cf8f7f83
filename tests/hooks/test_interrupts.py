"""Ctrl-C at any moment of a snapshot leaves the model and its surroundings as they were."""

import json
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from recording import Collect
from surroundings import X, Y, collection_recorder, found, network, network_recorder
from torch import nn

import infoplane
from infoplane.core import interrupts
from infoplane.hooks import Recorder, every

PACKAGE = str(Path(infoplane.__file__).parent)
AWAY = "_give_back"  # runs when an array is freed, and no exception can leave it


# A collection is tried in the longer run: it goes through the same lines, and some of its own.
MAKERS = [network_recorder, pytest.param(collection_recorder, marks=pytest.mark.slow)]


def is_within(frame, name):
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


class Interrupt:
    """Raises at the n-th line of the package that is run, or at the first time that one certain line is."""

    def __init__(self, error, *, count=None, place=None):
        self.error, self.count, self.place = error, count, place
        self.places = []

    def __call__(self, frame, event, argument):
        inside = frame.f_code.co_filename.startswith(PACKAGE) and not is_within(frame, AWAY)
        return self.line if inside else None

    def line(self, frame, event, argument):
        if event != "line":
            return self.line
        place = frame.f_code.co_filename, frame.f_lineno
        self.places.append(place)
        if len(self.places) - 1 == self.count or place == self.place:
            sys.settrace(None)
            raise self.error
        return self.line

    def during(self, function, *arguments):
        previous = sys.gettrace()
        sys.settrace(self)
        try:
            function(*arguments)
        except type(self.error) as error:
            if error is not self.error:
                raise
            return True
        finally:
            sys.settrace(previous)
        return False


def interrupted_everywhere(model, recorder, places=None):
    """A snapshot for each place, interrupted there; what was not put back, by place."""
    wrong = {}
    with recorder:
        recorder.snapshot(1)
        watched = Interrupt(KeyboardInterrupt())
        assert not watched.during(recorder.snapshot, 2)
        chosen = list(dict.fromkeys(watched.places)) if places is None else range(len(watched.places))[::places]
        step = 2
        for at in chosen:
            before = found(model)
            step += 1
            options = {"place": at} if places is None else {"count": at}
            Interrupt(KeyboardInterrupt(), **options).during(recorder.snapshot, step)
            after = found(model)
            changed = [name for name in before if before[name] != after[name]]
            if changed:
                wrong[at] = changed
        recorder.snapshot(step + 1)
    return len(chosen), wrong


@pytest.mark.parametrize("make", MAKERS)
def test_at_every_line_of_the_package(make):
    """Once at each line: set-up, hooks, the pass, sinks, and putting back."""
    model, recorder = make()
    count, wrong = interrupted_everywhere(model, recorder)
    assert count > 150
    assert wrong == {}


@pytest.mark.full
@pytest.mark.parametrize("make", [network_recorder, collection_recorder])
def test_at_every_line_each_time_that_it_runs(make):
    model, recorder = make()
    count, wrong = interrupted_everywhere(model, recorder, places=1)
    assert count > 500
    assert wrong == {}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "every_nth",
    [
        40,
        pytest.param(12, marks=pytest.mark.slow),
        pytest.param(1, marks=[pytest.mark.full, pytest.mark.timeout(1800)]),
    ],
)
def test_while_the_recording_starts_and_ends(make, every_nth):
    """The passes that find the layers, step 0, and the last step on leaving."""

    def whole(recorder):
        with recorder:
            recorder.schedule = every(100)
            recorder.snapshot(1)

    watched = Interrupt(KeyboardInterrupt())
    model, recorder = make()
    assert not watched.during(whole, recorder)
    wrong = {}
    for place in list(dict.fromkeys(watched.places))[::every_nth]:
        model, recorder = make()
        before = found(model)
        Interrupt(KeyboardInterrupt(), place=place).during(whole, recorder)
        after = found(model)
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            wrong[place] = changed
    assert len(watched.places) > 1000
    assert wrong == {}


def test_any_exception_that_a_signal_handler_raises():
    """A time limit in the job is no other thing than Ctrl-C."""
    model, recorder = network_recorder(on_error="raise")
    with recorder:
        watched = Interrupt(TimeoutError())
        watched.during(recorder.snapshot, 1)
        for step, at in enumerate(range(0, len(watched.places), 60), start=2):
            before = found(model)
            Interrupt(TimeoutError(), count=at).during(recorder.snapshot, step)
            assert found(model) == before


def at_random(kind, count, seed):
    script = Path(__file__).parent / "surroundings.py"
    done = subprocess.run(
        [sys.executable, str(script), str(count), str(seed), kind],
        capture_output=True,
        text=True,
        check=True,
        timeout=100 + count,  # a lock that stays taken
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "count", "seed"),
    [
        ("network", 150, 0),
        pytest.param("collection", 100, 0, marks=pytest.mark.slow),
        *(
            pytest.param(kind, 2000, seed, marks=[pytest.mark.full, pytest.mark.timeout(3600)])
            for kind in ("network", "collection")
            for seed in (1, 2)
        ),
    ],
)
def test_signals_at_random_moments(kind, count, seed):
    """None leaves anything behind or is lost, and the run that was recorded around them is whole."""
    result = at_random(kind, count, seed)
    print(f"Ctrl-C, {kind}, seed {seed}: {result['within']} of {count} within snapshot; left behind {result['left']}")
    assert result["left"] == {}
    assert result["stopped"] == count
    assert result["within"] > count / 4  # nearly all where nothing else runs beside it
    assert result["problems"] == 0
    assert result["steps"] > 30


def press():
    signal.raise_signal(signal.SIGINT)


class Interrupted(nn.Module):
    """Gets Ctrl-C in its forward pass, between two layers and in a region that torch has to leave."""

    def __init__(self, pressed=press):
        super().__init__()
        self.first, self.last, self.on, self.pressed, self.seen = nn.Linear(4, 4), nn.Linear(4, 2), False, pressed, []
        self.last.register_forward_pre_hook(lambda *_: self.seen.append("last"))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.first(x)
            if self.on:
                self.seen.clear()
                self.pressed()
                self.seen.append("pressed")
            return self.last(x).float()


def stopped(pressed, **options):
    """What a snapshot came to in whose forward pass `pressed` was called, and what the model's surroundings came to."""
    model, sink = Interrupted(pressed), Collect()
    with Recorder(model, (X, Y), keep_activations=False, sinks=[sink], schedule=every(1), **options) as recorder:
        before = found(model)
        model.on = True
        with pytest.raises(KeyboardInterrupt) as raised:
            recorder.snapshot(1)
        assert found(model) == before
        seen = list(model.seen)
        model.on = False
        recorder.snapshot(2)
    assert sink.steps == [0, 2]
    return seen, raised.value


@pytest.mark.parametrize("options", [{}, {"functional": True}, {"probe_batch_size": 8}])
def test_a_long_pass_is_stopped_at_the_next_module(options):
    seen, error = stopped(press, **options)
    assert seen == ["pressed"]
    assert error.__context__ is None


def test_the_next_module_does_not_run():
    ran = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2))
    model[1].register_forward_hook(lambda *_: press() if armed else None)
    model[2].register_forward_hook(lambda *_: ran.append("after"))
    armed = False
    with Recorder(model, (X, Y), keep_activations=False, sinks=[Collect()], schedule=every(1)) as recorder:
        ran.clear()
        armed = True
        with pytest.raises(KeyboardInterrupt):
            recorder.snapshot(1)
    assert ran == []


def test_where_no_module_follows_at_the_next_chunk():
    chunks = []

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 2))
            self.on = False

        def forward(self, x):
            chunks.append(len(x))
            if self.on:
                press()
            return x @ self.weight

    model = Alone()
    with Recorder(
        model, (X, Y), keep_activations=False, sinks=[Collect()], schedule=every(1), probe_batch_size=8
    ) as recorder:
        chunks.clear()
        model.on = True
        with pytest.raises(KeyboardInterrupt):
            recorder.snapshot(1)
    assert chunks == [8]


def test_pressed_again_it_acts_at_once(monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN_SECONDS", 0.01)

    def twice():
        press()
        time.sleep(0.02)
        press()

    seen, _ = stopped(twice)
    assert seen == []


def test_a_signal_that_is_passed_on_is_the_same_press():
    """From the terminal and from the launcher, or of a key that repeats."""

    def thrice():
        press()
        press()
        press()

    seen, error = stopped(thrice)
    assert seen[0] == "pressed"
    assert error.__context__ is None


class Freed:
    """Gets Ctrl-C where an exception would be lost."""

    def __del__(self):
        press()


@pytest.mark.parametrize("way", ["__del__", "finalizer"])
@pytest.mark.parametrize("place", ["forward", "sink"])
def test_while_an_object_is_freed_it_is_not_lost(way, place):
    def free():
        if way == "__del__":
            Freed()
        else:
            weakref.finalize(Collect(), press)

    if place == "forward":
        seen, _ = stopped(free)
        assert seen[0] == "pressed"
    else:
        sink = Collect()
        sinks = [lambda snapshot: free() if snapshot.step else None, sink]
        with (
            Recorder(network(), (X, Y), keep_activations=False, sinks=sinks, schedule=every(1)) as recorder,
            pytest.raises(KeyboardInterrupt),
        ):
            recorder.snapshot(1)


def test_a_sink_is_left_at_once_and_right_after_what_waits_in_it():
    """A sink that calls another recorder: there the signal waits, and acts before the sink goes on."""
    reached = []
    model, inner_model = network(), network()
    inner_sink = Collect()
    with Recorder(inner_model, (X, Y), keep_activations=False, sinks=[inner_sink], schedule=every(1)) as inner:
        inner_model.register_forward_hook(lambda *_: press() if reached else None)

        def sink(snapshot):
            if snapshot.step:
                reached.append("within")
                inner.snapshot(snapshot.step)
                reached.append("after")

        with Recorder(model, (X, Y), keep_activations=False, sinks=[sink], schedule=every(1)) as recorder:
            with pytest.raises(KeyboardInterrupt):
                recorder.snapshot(1)
            assert reached == ["within"]
            reached.clear()


def test_what_comes_while_the_model_is_put_back_waits_until_that_is_done(monkeypatch):
    """However often: a key that is held down."""
    import infoplane.hooks._pass.state as state

    model, recorder = network_recorder()
    keep = state.keep_attribute
    reached = []

    def keep_attribute(owners, name):
        restore = keep(owners, name)
        if name != "training":
            return restore

        def pressed():
            signal.raise_signal(signal.SIGINT)
            restore()
            reached.append(True)

        return pressed

    with recorder:
        before = found(model)
        monkeypatch.setattr(state, "keep_attribute", keep_attribute)
        with pytest.raises(KeyboardInterrupt):
            recorder.snapshot(1)
        assert reached == [True]
        assert found(model) == before


def test_a_handler_of_the_users_own_is_called_and_stays():
    seen = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        handler = signal.getsignal(signal.SIGINT)
        model, sink = Interrupted(), Collect()
        with Recorder(model, (X, Y), keep_activations=False, sinks=[sink], schedule=every(1)) as recorder:
            model.on = True
            recorder.snapshot(1)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, previous)
    assert seen == [signal.SIGINT]
    assert sink.steps == [0, 1]


class AsBlock:
    """The end of a `with` block of a recorder that was started by hand."""

    def __init__(self, recorder):
        self.recorder = recorder

    def __enter__(self):
        return self.recorder

    def __exit__(self, *exception):
        return self.recorder.__exit__(*exception)


class TestTheUsersOwnException:
    """It leaves the block, whatever happens on closing."""

    class FailsToClose(Collect):
        def __init__(self, text="the disk is gone"):
            super().__init__()
            self.text = text

        def close(self):
            super().close()
            raise OSError(self.text)

    def test_survives_sinks_that_fail_to_close(self):
        cause = KeyError("the cause")
        one, two, good = self.FailsToClose("first"), self.FailsToClose("second"), Collect()
        with (
            pytest.raises(ValueError, match="the user's own") as raised,
            Recorder(network(), (X, Y), keep_activations=False, sinks=[good, one, two]),
        ):
            raise ValueError("the user's own") from cause
        assert raised.value.__cause__ is cause
        assert raised.value.__notes__ == [
            "closing the recording failed, too: OSError: second",
            "closing the recording failed, too: OSError: first",
        ]
        assert (good.closed, one.closed, two.closed) == (1, 1, 1)

    def test_survives_a_store_that_fails_to_close(self, tmp_path, monkeypatch):
        from infoplane.store import StoreWriter

        def fails(self):
            raise OSError("no space")

        recorder = Recorder(network(), (X, Y), tmp_path / "run", quiet=True).start()
        writer = recorder._session.destinations[0].writer
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "close", fails)
            with pytest.raises(ZeroDivisionError) as raised, AsBlock(recorder):
                raise ZeroDivisionError
        writer.close()
        assert "OSError: no space" in raised.value.__notes__[0]

    def test_without_one_the_failure_is_raised(self):
        with (
            pytest.raises(OSError, match="the disk is gone"),
            Recorder(network(), (X, Y), keep_activations=False, sinks=[self.FailsToClose()]),
        ):
            pass

    def test_closing_by_hand_keeps_it_as_context(self):
        recorder = Recorder(network(), (X, Y), keep_activations=False, sinks=[self.FailsToClose()]).start()
        user = RuntimeError("mine")

        def by_hand():
            try:
                raise user
            finally:
                recorder.close(take_last=False)

        with pytest.raises(OSError, match="disk") as raised:
            by_hand()
        assert raised.value.__context__ is user

    def test_ctrl_c_while_one_sink_closes_closes_the_others(self):
        class Slow(Collect):
            def close(self):
                raise KeyboardInterrupt

        first = Collect()
        with (
            pytest.raises(KeyboardInterrupt),
            Recorder(network(), (X, Y), keep_activations=False, sinks=[first, Slow()]),
        ):
            pass
        assert first.closed == 1


def test_a_failing_start_says_why(monkeypatch):
    sink = TestTheUsersOwnException.FailsToClose()
    sink.begin = lambda **facts: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size") as raised:
        Recorder(network(), (X, Y), keep_activations=False, sinks=[sink]).start()
    assert "the disk is gone" in raised.value.__notes__[0]
