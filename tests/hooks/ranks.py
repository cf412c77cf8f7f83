"""Real process groups for tests of distributed recording: a function on every rank, its results back."""

import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from processes import fork_server


def _worker(rank, function, world_size, directory, arguments):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{directory}/init", rank=rank, world_size=world_size)
    try:
        torch.save(function(rank, *arguments), Path(directory) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
        sys.stdout.flush()


def on_ranks(function, world_size, *arguments):
    """What `function(rank, *arguments)` returned on each rank of a gloo group."""
    with tempfile.TemporaryDirectory() as directory:
        fork_server()
        mp.start_processes(
            _worker, (function, world_size, directory, arguments), nprocs=world_size, start_method="forkserver"
        )
        return [torch.load(Path(directory) / f"{r}.pt", weights_only=False) for r in range(world_size)]
