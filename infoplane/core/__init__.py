"""Value types shared by every layer of the package. Needs numpy only."""

from infoplane.core.errors import StoreError
from infoplane.core.records import Layer, Noise, Probe, Sink, Snapshot

__all__ = ["Layer", "Noise", "Probe", "Sink", "Snapshot", "StoreError"]
