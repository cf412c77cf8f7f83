"""Activations that somebody else saved, made into a run: numpy, safetensors and torch files, or arrays in memory.

Nothing is unpickled (`.npz` and `.npy` without object arrays, `.pt` as weights only), and nothing is written before
everything has been checked.
"""

from infoplane.importers._arrays import from_arrays
from infoplane.importers._files import from_files
from infoplane.importers._read import read_arrays

__all__ = ["from_arrays", "from_files", "read_arrays"]
