"""Help for tests of capture: a sink that keeps everything, and recording in one call."""

import torch
from devices import asked, model_on, moved

from infoplane.hooks import Recorder


class Collect:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.snapshots = []
        self.closed = 0

    def __call__(self, snapshot):
        self.snapshots.append(snapshot)

    def close(self):
        self.closed += 1

    @property
    def steps(self):
        return [s.step for s in self.snapshots]


def recorder(model, probe, **options):
    """A recorder without a store, and the sink it fills."""
    sink = Collect()
    return Recorder(model, probe=probe, keep_activations=False, sinks=[sink], **options), sink


def record(model, x, **options):
    """One snapshot of a model on inputs x, with labels of no meaning."""
    first = next(iter(x.values())) if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
    with model_on(model, asked()):
        rec, sink = recorder(model, moved((x, torch.arange(len(first)) % 2), asked()), **options)
        with rec:
            pass
    return rec, sink.snapshots[0]


def keys(snapshot):
    return [layer.key for layer in snapshot.layers]
