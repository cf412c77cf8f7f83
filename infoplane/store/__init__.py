"""The activation store: a run on disk, written while training and read afterwards.

`docs/format.md` describes the files. Only this package opens them.

A snapshot has four forms on its way from a hook to the disk:

1. the buffers that the hooks fill, one for each captured layer, while the probe set runs;
2. `infoplane.core.Snapshot`: those buffers with the step, the layers and the metrics, as a sink gets it;
3. a frame: checked when it is handed over, then contiguous, with the digest of every array, waiting for its shard;
4. the bytes of the shard in order: the index of all its frames, and views of their arrays, never copied.
"""

from infoplane.store._shard import inputs_digest, probe_digest
from infoplane.store.foreign import FOREIGN, read_foreign, unpack
from infoplane.store.layout import FORMAT_VERSION
from infoplane.store.reader import ActivationStore, Problem, open_run, source_digest
from infoplane.store.summary import RunSummary, summarize
from infoplane.store.untrusted import UntrustedReader, is_foreign, limits_for, summarize_untrusted, verify_untrusted
from infoplane.store.writer import StoreWriter, check_run

__all__ = [
    "FOREIGN",
    "FORMAT_VERSION",
    "ActivationStore",
    "Problem",
    "RunSummary",
    "StoreWriter",
    "UntrustedReader",
    "check_run",
    "inputs_digest",
    "is_foreign",
    "limits_for",
    "open_run",
    "probe_digest",
    "read_foreign",
    "source_digest",
    "summarize",
    "summarize_untrusted",
    "unpack",
    "verify_untrusted",
]
