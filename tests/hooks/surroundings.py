"""A model with everything that a snapshot changes and has to put back, and what it is like now."""

import json
import pickle
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from infoplane import open_run
from infoplane.hooks import CollectionRecorder, NoiseInjection, Recorder, every

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 2
PARTS = {"train": (X[:16], Y[:16]), "test": (X[16:], Y[16:])}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        with torch.autocast("cpu", torch.bfloat16):
            return torch.relu(self.drop(self.norm(self.fc(x)))).float()


def network():
    """Nested, in training mode but for one frozen module, with dropout, batch statistics and a counter."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Sequential(Block(), nn.Tanh()), nn.Linear(4, 2))
    model[1][0].norm.training = False
    return model


def found(model):
    """All that has to be as before, in comparable form."""
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._forward_pre_hooks_with_kwargs))
        for m in model.modules()
    ]
    noise = [h.measuring for m in model.modules() for h in m._forward_hooks.values() if hasattr(h, "measuring")]
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": hooks,
        "noise": noise,
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "tensors": [(id(t), t.tolist()) for t in (*model.parameters(), *model.buffers())],
        "random": (torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), random.getstate()),  # noqa: NPY002
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
            depth,
        ),
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "stance": None if dynamo is None else dynamo._stance.stance,
        "stacks": (
            torch._C._len_torch_function_stack(),
            torch._C._len_torch_dispatch_stack(),
            torch._C._functorch.get_dynamic_layer_stack_depth(),
        ),
        "ctrl-c": signal.getsignal(signal.SIGINT),
    }


def network_recorder(**options):
    """A recorder of noise, functions and several parts, and the model in it."""
    model = network()
    NoiseInjection(model, "1.1", std=0.1)
    options = {"keep_activations": False, "sinks": [lambda snapshot: None], **options}
    return model, Recorder(
        model, PARTS, quiet=True, schedule=every(1), functional=True, probe_batch_size=8, weight_norms=True, **options
    )


def collection_recorder(**options):
    """The same for three members under vmap."""
    members = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(3)]
    state = torch.func.stack_module_state(members)
    options = {"keep_activations": False, "member_sinks": lambda i: [lambda snapshot: None], **options}
    recorder = CollectionRecorder(
        members[0], (X, Y), state=state, quiet=True, schedule=every(1), weight_norms=True, **options
    )
    return members[0], recorder


def interrupt_at_random(count, seed, kind="network"):
    """Ctrl-C at random moments of `snapshot`, into a store: how often what was left behind.

    A timer of the process is as exact as a key: nearly every signal falls into the snapshot. (A thread that sends it
    would wait until the interpreter lets it run.)
    """
    left: dict[str, int] = {}
    stopped = within = 0
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        if kind == "network":
            model, recorder = network_recorder(run=run, keep_activations=True, sinks=[])
        else:
            model, recorder = collection_recorder(
                runs=str(run / "{member}"), keep_activations=True, member_sinks=lambda i: []
            )
        recorder.start()
        typical = _seconds_of_a_snapshot(recorder, model)
        step = SETTLING
        signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
        for _ in range(count):
            before = found(model)
            step += 1
            over = False
            caught = None
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, typical))
                recorder.snapshot(step)
                over = True
                for _ in range(100):  # Python acts on it between two of these
                    time.sleep(0.01)
            except KeyboardInterrupt as error:
                caught = error
            stopped += caught is not None
            within += caught is not None and not over
            after = [found(model)]
            caught = None  # its frames are freed, and with them what stood in them
            after.append(found(model))
            for name in before:
                if any(then[name] != before[name] for then in after):
                    left[name] = left.get(name, 0) + 1
        recorder.close()
        stores = [open_run(d) for d in ([run] if kind == "network" else sorted(run.iterdir()))]
        return {
            "stopped": stopped,
            "within": within,
            "left": left,
            "problems": sum(len(store.verify()) for store in stores),
            "steps": min(len(store.steps()) for store in stores),
        }


SETTLING = 30


def _seconds_of_a_snapshot(recorder, model):
    times = []
    for step in range(1, SETTLING + 1):
        found(model)  # as between those that are interrupted
        began = time.perf_counter()
        recorder.snapshot(step)
        times.append(time.perf_counter() - began)
    return sorted(times)[SETTLING // 2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(interrupt_at_random(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
