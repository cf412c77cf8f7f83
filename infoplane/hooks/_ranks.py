"""Which process of a distributed job runs the probe, and which part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from infoplane.core.errors import StoreError
from infoplane.core.interrupts import stepwise
from infoplane.hooks._problems import NotCalled, PeerError, ending, is_broken, say

Share = Literal["first", "rows", "all"]


T = TypeVar("T")


@dataclass(frozen=True)
class _Report:
    """The message of one rank to the others: its failure, whether it must end there, and what it misses by name."""

    failed: str
    ends: bool
    missing: dict[str, tuple[str, bool]]


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that record together.

    `share` is "first": rank 0 alone runs the probe; "rows": every rank runs and writes its own rows; "all":
    every rank runs everything, because a forward pass of a sharded model is a collective, and rank 0 writes.
    """

    rank: int
    world_size: int
    share: Share

    @property
    def takes_part(self) -> bool:
        """Whether this process runs the probe."""
        return self.share != "first" or self.rank == 0

    @property
    def writes(self) -> bool:
        """Whether this process hands snapshots to sinks."""
        return self.share == "rows" or self.rank == 0

    def together(
        self, work: Callable[[], T], lost: Callable[[T], Mapping[str, Exception]] = lambda value: {}
    ) -> tuple[T, dict[str, Exception]]:
        """Do the work that every rank does; return its value here, and what `lost` names, with an error, on any rank.

        Raises
        ------
        PeerError
            If another rank failed; what fails here is raised as it is, when the others know.
        """
        try:
            value = work()
            missing = lost(value)
        except PeerError:
            raise  # all ranks know of it
        except Exception as error:
            if not is_broken(error):
                self._exchange(_Report(say(error), ending(error) is not None, {}))
            raise
        return value, self._merged(missing)

    def enter_pass(self, model: nn.Module) -> None:
        """Meet the other ranks ahead of a pass; raises PeerError on all of them where one has failed."""
        self._merged({})
        if self.share == "rows":
            _share_buffers(model)

    def _merged(self, missing: Mapping[str, Exception]) -> dict[str, Exception]:
        """Tell the other ranks what is missing here; return what is missing on any. PeerError where one has failed."""
        told = {name: (say(error), isinstance(error, NotCalled)) for name, error in missing.items()}
        reports = self._exchange(_Report("", False, told))
        failed = {rank: report for rank, report in enumerate(reports) if report.failed}
        for rank, report in failed.items():  # the first of them is raised
            ends = any(other.ends for other in failed.values())
            raise PeerError(f"rank {rank} of {self.world_size}: {report.failed}", ends=ends)
        merged: dict[str, Exception] = dict(missing) if not reports else {}
        for rank, report in enumerate(reports):
            for name, (text, only_not_called) in report.missing.items():
                # In the same words on every rank, so that it is one problem of the run.
                there = f"on rank {rank}: {text}"
                merged.setdefault(name, NotCalled(there, f"{name} {there}") if only_not_called else PeerError(there))
        return merged

    @stepwise
    def _exchange(self, report: _Report) -> list[_Report]:
        """The reports of all ranks that run the probe together, in their order."""
        if self.share == "first":
            return []
        reports: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(reports, report)
        return reports

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank that runs the probe."""
        if self.share == "first":
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def from_first(self, work: Callable[[], Any]) -> Any:
        """Do the work on rank 0 alone; every rank that runs the probe gets its result, or raises its error."""
        told: Any = None
        if self.rank == 0:
            try:
                told = work()
            except (OSError, ValueError, StoreError) as error:
                if self.share == "first":
                    raise  # nobody waits to be told
                told = error
        told = self.broadcast(told)
        if isinstance(told, Exception):
            raise told
        return told


def find_ranks(model: nn.Module, *, shard_probe: bool) -> Ranks:
    """Read the default process group, if there is one.

    Raises
    ------
    ValueError
        If `shard_probe` is asked for a model whose forward pass needs all ranks.
    """
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not grouped or torch.distributed.get_world_size() == 1:
        return Ranks(0, 1, "first")
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if is_sharded(model):
        if shard_probe:
            raise ValueError(
                "shard_probe needs a whole model on every rank; with sharded parameters every rank runs the whole probe"
            )
        return Ranks(rank, world_size, "all")
    return Ranks(rank, world_size, "rows" if shard_probe else "first")


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters are spread over ranks, as by FSDP and tensor parallelism."""
    wrapped = any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules())
    return wrapped or any(hasattr(p, "full_tensor") for p in model.parameters())


@stepwise
def _share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0: batch statistics differ between the ranks of DDP."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)
