"""The activation store: a run on disk, written while training and read afterwards.

`docs/format.md` describes the files. Only this package opens them.
"""

from infoplane.store._check import check_run
from infoplane.store._shard import inputs_digest, probe_digest
from infoplane.store.layout import FORMAT_VERSION
from infoplane.store.reader import ActivationStore, Problem, open_run, source_digest
from infoplane.store.summary import RunSummary, summarize
from infoplane.store.untrusted import UntrustedReader, is_foreign, limits_for, summarize_untrusted, verify_untrusted
from infoplane.store.writer import StoreWriter

__all__ = [
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
    "source_digest",
    "summarize",
    "summarize_untrusted",
    "verify_untrusted",
]
