"""A model with everything that a snapshot changes and has to put back, and what it is like now."""

import json
import os
import pickle
import random
import signal
import sys
import tempfile
import threading
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


def interrupt_at_random(count, seed):
    """Ctrl-C at random moments of `snapshot`, into a store: how often what was left behind."""
    left: dict[str, int] = {}
    stopped = 0
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        model, recorder = network_recorder(run=Path(directory) / "run", keep_activations=True, sinks=[])
        recorder.start()
        began = time.perf_counter()
        for step in range(1, 6):
            recorder.snapshot(step)
        typical = (time.perf_counter() - began) / 5
        step = 5
        for _ in range(count):
            before = found(model)
            step += 1
            delay = draw.uniform(0, 1.2 * typical)
            sender = threading.Thread(target=_send, args=(delay,))
            try:
                sender.start()
                recorder.snapshot(step)
                sender.join()
                for _ in range(100):  # Python acts on it between two of these
                    time.sleep(0.01)
            except KeyboardInterrupt:
                stopped += 1
            sender.join()
            after = found(model)
            for name in before:
                if after[name] != before[name]:
                    left[name] = left.get(name, 0) + 1
        recorder.close()
        store = open_run(Path(directory) / "run")
        return {"stopped": stopped, "left": left, "problems": len(store.verify()), "steps": len(store.steps())}


def _send(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(interrupt_at_random(int(sys.argv[1]), int(sys.argv[2]))))
