"""Puts `tests/` on the import path, so that every test can say `from truths import ...`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Tests are small: more threads cost more than they give on a shared machine."""
    import torch

    torch.set_num_threads(1)
