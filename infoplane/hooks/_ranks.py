"""Which process of a distributed job runs the probe, and which part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from torch import distributed, nn

from infoplane.core.errors import StoreError
from infoplane.core.interrupts import stepwise
from infoplane.hooks._problems import NotCalled, PeerError, ending, is_broken, say

Share = Literal["first", "rows", "all"]
"""What each rank runs of the probe: see `Ranks`."""

T = TypeVar("T")


class _Report(NamedTuple):
    """The message of one rank to the others.

    `failure` is its error in words ("" if it could do its work), `must_end` whether the recording has to end with it.
    `missing` maps each name (a layer) to the reason in words, and to whether the layer was just not called.
    """

    failure: str
    must_end: bool
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
        self, work: Callable[[], T], missing_from: Callable[[T], Mapping[str, Exception]] = lambda value: {}
    ) -> tuple[T, dict[str, Exception]]:
        """Do work that every rank does at the same time, and agree with the others on what is missing.

        Returns (what `work()` returned on this rank, name -> error of all that is missing on any rank).
        `missing_from(value)` gives what is missing on this rank, such as a layer, as name -> error.

        Raises
        ------
        PeerError
            If `work()` failed on another rank. A failure on this rank is raised as it is, after the others were told.
        """
        try:
            value = work()
            missing = missing_from(value)
        except Exception as error:
            # Tell the others, unless they know (they raise the same PeerError) or the connection is broken.
            if not isinstance(error, PeerError) and not is_broken(error):
                self._exchange(_Report(say(error), ending(error) is not None, {}))
            raise
        return value, self._missing_anywhere(missing)

    def enter_pass(self, model: nn.Module) -> None:
        """Wait for the other ranks before a pass over the probe; PeerError where one has failed.

        Where each rank runs its own rows, also take over the model's buffers from rank 0.
        """
        self._missing_anywhere({})
        if self.share == "rows":
            _share_buffers(model)

    def _missing_anywhere(self, missing: Mapping[str, Exception]) -> dict[str, Exception]:
        """Tell the other ranks what is missing here; return what any rank misses, or raise PeerError if one failed."""
        in_words = {name: (say(error), isinstance(error, NotCalled)) for name, error in missing.items()}
        reports = self._exchange(_Report("", False, in_words))
        failed = [rank for rank, report in enumerate(reports) if report.failure]
        if failed:
            must_end = any(reports[rank].must_end for rank in failed)
            raise PeerError(f"rank {failed[0]} of {self.world_size}: {reports[failed[0]].failure}", ends=must_end)
        # No reports: this rank runs the probe alone, and its own errors are all there are.
        merged: dict[str, Exception] = dict(missing) if not reports else {}
        for rank, report in enumerate(reports):
            for name, (text, only_not_called) in report.missing.items():
                # In the same words on every rank, so that it is one problem of the run.
                where = f"on rank {rank}: {text}"
                merged.setdefault(name, NotCalled(where, f"{name} {where}") if only_not_called else PeerError(where))
        return merged

    @stepwise
    def _exchange(self, report: _Report) -> list[_Report]:
        """Send this rank's report to all; return the reports of all ranks by rank, none where rank 0 works alone."""
        if self.share == "first":
            return []
        reports: list[Any] = [None] * self.world_size
        distributed.all_gather_object(reports, report)
        return reports

    def from_first(self, work: Callable[[], Any]) -> Any:
        """Do the work on rank 0 alone; return its result, or raise its error, on every rank that runs the probe."""
        if self.share == "first":
            return work()  # only rank 0 comes here
        result: list[Any] = [None]  # a list, since that is what torch sends
        if self.rank == 0:
            try:
                result = [work()]
            except (OSError, ValueError, StoreError) as error:
                result = [error]  # the others wait for it, and raise it as well
        distributed.broadcast_object_list(result, src=0)
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]


def find_ranks(model: nn.Module, *, shard_probe: bool) -> Ranks:
    """Return this process's place in the default process group; rank 0 of 1 where there is none.

    Raises
    ------
    ValueError
        If `shard_probe` is asked for a model whose forward pass needs all ranks.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return Ranks(0, 1, "first")
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if is_sharded(model):
        if shard_probe:
            raise ValueError(
                "shard_probe needs a whole model on every rank; with sharded parameters every rank runs the whole probe"
            )
        return Ranks(rank, world_size, "all")
    return Ranks(rank, world_size, "rows" if shard_probe else "first")


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters are spread over ranks, as by FSDP and tensor parallelism."""
    in_fsdp = any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules())
    return in_fsdp or any(hasattr(p, "full_tensor") for p in model.parameters())  # only DTensors have `full_tensor`


@stepwise
def _share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0: batch statistics differ between the ranks of DDP."""
    for buffer in model.buffers():
        distributed.broadcast(buffer, src=0)
