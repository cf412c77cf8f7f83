"""Copies off a device that go on while training does: who waits for what, and when a buffer is free again.

Streams and events stand for CUDA's on the CPU: a copy on the side stream happens when the test lets that stream run.
"""

import contextlib
import gc
import threading

import numpy as np
import pytest
import torch
from recording import Collect
from torch import nn
from torch.overrides import TorchFunctionMode

import infoplane
from infoplane.core.records import Snapshot
from infoplane.hooks import CollectionRecorder, Recorder, every
from infoplane.hooks._out import host as _host
from infoplane.hooks._out.host import AT_ONCE, Copies, HostMemory, Pool

CPU = torch.device("cpu")
X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


class Stream:
    def __init__(self, fake, name):
        self.fake, self.name, self.queued = fake, name, []

    def wait_stream(self, other):
        self.fake.log.append(f"{self.name} waits for {other.name}")


class Event:
    def __init__(self, fake):
        self.fake, self.done, self.error = fake, threading.Event(), None

    def record(self, stream):
        self.fake.log.append(f"event on {stream.name}")
        self.fake.events.append(self)
        stream.queued.append(self.done.set)

    def query(self):
        return self.done.is_set()  # as CUDA's, it does not wait

    def synchronize(self):
        self.fake.waited_in.append(threading.current_thread())
        assert self.done.wait(30), "nobody lets the side stream run"
        if self.error is not None:
            raise self.error


class FakeCuda(TorchFunctionMode):
    """Stands for torch.cuda. Copies under `stream(side)` are put off until `run`."""

    def __init__(self):
        super().__init__()
        self.log, self.events, self.waited_in = [], [], []
        self.compute, self.side, self.active = Stream(self, "compute"), Stream(self, "side"), None

    def Stream(self, device):
        return self.side

    def Event(self, blocking):
        assert blocking
        return Event(self)

    def current_stream(self, device):
        return self.compute

    @contextlib.contextmanager
    def stream(self, stream):
        self.active = stream
        yield
        self.active = None

    def run(self):
        while self.side.queued:
            self.side.queued.pop(0)()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.copy_ and self.active is not None:
            assert kwargs == {"non_blocking": True}
            self.log.append(f"copy on {self.active.name}")
            target, source = args
            target.fill_(-99.0)
            self.active.queued.append(lambda: target.data.copy_(source))
            return target
        return function(*args, **kwargs)


@pytest.fixture
def fake(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(_host, "cuda", cuda)
    used = lambda tensor, stream: cuda.log.append(f"source used on {stream.name}")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "record_stream", used)
    with cuda:
        yield cuda


class DeviceMemory(HostMemory):
    """Goes the way of a CUDA device, ordinary memory being the device's."""

    def __init__(self):
        super().__init__(CPU)
        self._copies = Copies(CPU)

    def allocator(self, *, on_device):
        return lambda shape, dtype: torch.empty(shape, dtype=dtype)

    def _is_here(self, values):
        return False


def values(number, n=6):
    return {"a": torch.full((n, 2), float(number))}


def test_the_order_of_calls(fake):
    arrays, pending = DeviceMemory().arrays(values(1) | {"b": values(2)["a"]})
    assert fake.log == [
        "side waits for compute",
        "copy on side",
        "source used on side",
        "copy on side",
        "source used on side",
        "event on side",
    ]
    assert fake.waited_in == []
    assert (arrays["a"] == -99).all()
    fake.run()
    pending()
    assert (arrays["a"] == 1).all()
    assert (arrays["b"] == 2).all()


def test_no_buffer_is_reused_before_its_copy_is_done(fake):
    memory = DeviceMemory()
    addresses = []
    for k in range(AT_ONCE):
        arrays, pending = memory.arrays(values(k))
        addresses.append(arrays["a"].ctypes.data)
        del arrays, pending  # a sink that dropped them unread
        gc.collect()
    assert len(set(addresses)) == AT_ONCE
    fake.run()
    again, _ = memory.arrays(values(7))
    assert again["a"].ctypes.data in addresses


def test_a_third_snapshot_waits_for_the_first(fake):
    memory = DeviceMemory()
    kept = [memory.arrays(values(k)) for k in range(AT_ONCE)]
    assert fake.waited_in == []
    later = threading.Timer(0.1, fake.run)
    later.start()
    kept.append(memory.arrays(values(AT_ONCE)))
    later.join()
    assert len(fake.waited_in) == 1
    assert (kept[0][0]["a"] == 0).all()


def test_page_locked_memory_is_bounded(monkeypatch):
    asked = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory, **kw: asked.append(pin_memory) or empty(shape))
    pool = Pool(pinned_bytes=100)
    for _ in range(4):
        pool.take((10,), torch.float32)
    pool.take((5,), torch.float32)
    assert asked == [True, True, False, False, True]


def test_what_exceeds_the_device_is_captured_on_the_host(monkeypatch):
    monkeypatch.setattr(_host, "cuda", FakeCuda())
    monkeypatch.setattr(_host, "DEVICE_BYTES", 100)
    memory = HostMemory(torch.device("meta"))
    memory._copies = Copies(CPU)
    allocate = memory.allocator(on_device=False)
    shapes = [(10,), (30,), (15,), (1,)]
    assert [allocate(s, torch.float32).device.type for s in shapes] == ["meta", "cpu", "meta", "cpu"]
    everything = memory.allocator(on_device=True)
    assert {everything(s, torch.float32).device.type for s in shapes} == {"meta"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


def test_the_writer_waits_and_training_goes_on(fake, tmp_path):
    model, expected = network(), {}
    with Recorder(model, (X, Y), tmp_path / "a", schedule=every(1), quiet=True, initial=False) as recorder:
        recorder._session._host = DeviceMemory()
        for step in range(1, 5):
            expected[step] = model(X).detach().clone()
            recorder.snapshot(step)
            with torch.no_grad():
                model[0].weight += 0.5
            if step >= AT_ONCE:
                fake.run()
        fake.run()
    main = threading.main_thread()
    assert len([t for t in fake.waited_in if t is not main]) == 4
    store = infoplane.open_run(tmp_path / "a")
    assert store.steps() == [1, 2, 3, 4]
    for step, values in expected.items():
        np.testing.assert_array_equal(store.read("2", [step])[0], values.numpy())


def test_a_failed_copy_stops_the_recording_and_is_told(fake, tmp_path):
    recorder = Recorder(network(), (X, Y), tmp_path / "a", schedule=every(1), quiet=True, initial=False).start()
    recorder._session._host = DeviceMemory()
    recorder.snapshot(1)
    fake.run()
    recorder.snapshot(2)
    fake.events[1].error = RuntimeError("CUDA error: device-side assert triggered")
    fake.run()
    for call in (recorder.flush, recorder.close):
        with pytest.raises(infoplane.StoreError, match="has stopped: RuntimeError: CUDA error: device-side assert"):
            call()
    assert infoplane.open_run(tmp_path / "a").steps() == [1]


def test_plain_sinks_are_called_when_the_arrays_are_there(fake):
    seen = []
    members = torch.func.stack_module_state([network(), network()])
    rec = CollectionRecorder(
        network(),
        (X, Y),
        state=members,
        keep_activations=False,
        initial=False,
        schedule=every(1),
        member_sinks=lambda i: [lambda s: seen.append(s.arrays["2"].copy())],
    )
    with rec:
        rec._session._host = DeviceMemory()
        later = threading.Timer(0.1, fake.run)
        later.start()
        rec.snapshot(1)
        later.join()
    expected = network()(X).detach().numpy()
    for found in seen:
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(seen) == 2


@pytest.mark.cpu_branch
def test_a_snapshot_without_copies_waits_for_nothing():
    snapshot = Snapshot(step=1, epoch=1.0, time=0.0, layers=(), arrays={})
    snapshot.wait()
    memory = HostMemory(CPU)
    _, pending = memory.arrays({"a": memory.allocator(on_device=False)((3,), torch.float32)})
    assert pending is None


@pytest.mark.gpu
@pytest.mark.parametrize("device_bytes", [1 << 30, 0])
def test_on_a_gpu_captured_is_computed_while_training_goes_on(tmp_path, monkeypatch, device_bytes):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(_host, "DEVICE_BYTES", device_bytes)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(inplace=True), nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Linear(512, 4)
    ).cuda()
    x, y = torch.randn(4096, 64), torch.arange(4096) % 4
    on_device, labels = x.cuda(), y.cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    expected, kept = {}, Collect()
    with Recorder(
        model, (x, y), tmp_path / "a", schedule=every(1), quiet=True, probe_batch_size=4096, initial=False
    ) as recorder:
        for step in range(1, 41):
            with torch.no_grad():
                expected[step] = [model[:k](on_device).clone() for k in (2, 4, 5)]
            recorder.snapshot(step)
            for _ in range(3):  # overwrites the memory of the pass as soon as it is free
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(on_device), labels).backward()
                optimizer.step()
    store = infoplane.open_run(tmp_path / "a")
    assert store.problems == ()
    assert store.steps() == list(expected)
    for step, tensors in expected.items():
        for key, tensor in zip(("1", "3", "4"), tensors, strict=True):
            assert np.array_equal(store.read(key, [step])[0], tensor.cpu().numpy()), (step, key)

    with Recorder(
        model, (x, y), sinks=[kept], keep_activations=False, schedule=every(1), initial=False, layers=nn.ReLU
    ) as recorder:
        for step in range(1, 7):
            recorder.snapshot(step)
    addresses = [s.arrays["1"].ctypes.data for s in kept.snapshots]
    assert len(set(addresses)) == len(addresses)  # all are held, so none may be used twice
