"""Which process of a distributed job runs the probe, and which part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from infoplane.hooks._interrupts import interruptible

Share = Literal["first", "rows", "all"]


@dataclass(frozen=True)
class Ranks:
    """This process's place.

    `share` is "first": rank 0 alone runs the probe; "rows": every rank runs and writes its own rows; "all":
    every rank runs everything, because a forward pass of a sharded model is a collective, and rank 0 writes.
    """

    rank: int
    world_size: int
    share: Share

    @property
    def takes_part(self) -> bool:
        return self.share != "first" or self.rank == 0

    @property
    def writes(self) -> bool:
        return self.share == "rows" or self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def find_ranks(model: nn.Module, *, shard_probe: bool) -> Ranks:
    """Read the default process group, if there is one.

    Raises
    ------
    ValueError
        If `shard_probe` is asked for a model whose forward pass needs all ranks.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Ranks(0, 1, "first")
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if world_size == 1:
        return Ranks(0, 1, "first")
    if is_sharded(model):
        if shard_probe:
            raise ValueError(
                "shard_probe needs a whole model on every rank; with sharded parameters every rank runs the whole probe"
            )
        return Ranks(rank, world_size, "all")
    return Ranks(rank, world_size, "rows" if shard_probe else "first")


def is_sharded(model: nn.Module) -> bool:
    """Parameters that are spread over ranks: FSDP, tensor parallelism."""
    return any(hasattr(p, "full_tensor") for p in model.parameters()) or any(
        type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()
    )


@interruptible
def share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0: batch statistics differ between the ranks of DDP."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)
