"""What a writer would refuse, found before there is a file."""

from __future__ import annotations

from collections.abc import Sequence

from infoplane.core.records import Probe, Snapshot
from infoplane.store._frames import check_snapshot
from infoplane.store._shard import check_probe
from infoplane.store.layout import MAX_FILE_BYTES


def check_run(probe: Probe, snapshots: Sequence[Snapshot]) -> None:
    """Check a whole run that is in memory.

    Raises
    ------
    ValueError, TypeError
        What `StoreWriter` would raise for its probe, or for the first of the snapshots that it would not take.
    """
    check_probe(probe)
    last: int | None = None
    for snapshot in snapshots:
        check_snapshot(snapshot, samples=probe.samples, last_step=last, max_sample_bytes=MAX_FILE_BYTES)
        last = snapshot.step
