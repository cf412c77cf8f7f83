"""Interrupts, exits, broken devices and full memory are never caught, not even where another exception covers them."""

import warnings

import pytest
import torch
from recording import Collect
from switching import PROBE, switched
from torch import nn

from infoplane.hooks import Recorder, every
from infoplane.hooks._problems import Failed, ending, outcome


class Wrapped(Exception):
    pass


def covering(inner, how):
    try:
        raise inner
    except BaseException as error:
        if how == "from":
            return chained(Wrapped("outer"), error)
        outer = Wrapped("outer")
        outer.__context__ = error
        return outer


def chained(outer, cause):
    outer.__cause__ = cause
    return outer


NEVER = [
    lambda: KeyboardInterrupt(),
    lambda: SystemExit(3),
    lambda: GeneratorExit(),
    lambda: MemoryError(),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
    lambda: RuntimeError("CUDA error: device-side assert triggered"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    lambda: RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled cuda error"),
    lambda: covering(MemoryError(), "from"),
    lambda: covering(KeyboardInterrupt(), "context"),
    lambda: ExceptionGroup("several", [ValueError(), MemoryError()]),
]


class TestWhatIsNeverCaught:
    @pytest.mark.parametrize("make", NEVER, ids=lambda make: f"{type(make()).__name__} {make()}"[:40])
    @pytest.mark.parametrize("where", ["forward", "sink", "reduction", "metric"])
    def test_it_ends_the_snapshot(self, make, where):
        error, on = make(), []

        def fails(value):
            if on:
                raise error
            return value

        class Metric:
            __float__ = fails

        class Model(nn.Linear):
            def forward(self, x):
                return super().forward(fails(x) if where == "forward" else x)

        options = {"reduce": lambda t: fails(t)} if where == "reduction" else {}
        sinks = [Collect(), fails] if where == "sink" else [Collect()]
        rec = Recorder(Model(4, 2), PROBE, sinks=sinks, keep_activations=False, schedule=every(1), **options)
        expected = KeyboardInterrupt if isinstance(error.__context__, KeyboardInterrupt) else type(error)
        with rec:
            on.append(True)
            with pytest.raises(expected):
                rec.snapshot(1, metrics={"loss": Metric()} if where == "metric" else {})
            on.clear()
            rec.snapshot(2)
        assert rec.problems == ()

    @pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch raises RuntimeError")
    def test_errors_of_the_accelerator(self):
        error = torch.AcceleratorError("an illegal memory access was encountered")
        assert ending(error) is error
        assert ending(torch.distributed.DistBackendError("timeout")) is not None

    @pytest.mark.parametrize(
        "error", [ValueError("x"), AssertionError(), RuntimeError("size mismatch"), Wrapped("CUDA")]
    )
    def test_all_else_is(self, error):
        def fails():
            raise error

        assert outcome(fails) == Failed(error)

    def test_a_context_that_was_put_aside_does_not_count(self):
        outer = covering(MemoryError(), "context")
        outer.__suppress_context__ = True
        assert ending(outer) is None

    def test_warnings_as_errors_are_the_users_choice(self):
        model, rec, sink = switched()
        with rec:
            model.use = False
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(UserWarning, match="'expert': was not called"):
                    rec.snapshot(1)
            with pytest.warns(UserWarning, match="metric 'a'"):
                rec.snapshot(2, metrics={"a": None})
        assert sink.steps == [0, 1, 2]
