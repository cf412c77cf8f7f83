"""A new user's first hour in three workflows, as scripts that fail where something is in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chromium
import pytest

NEEDS = {
    "resnet": ["playwright"],
    "transformer": ["playwright", "transformers"],
    "files": ["playwright", "nbclient", "ipykernel"],
}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on two quiet cores
@pytest.mark.extra
@pytest.mark.browser
@pytest.mark.parametrize("name", NEEDS)
def test_nothing_is_in_the_way(name, tmp_path):
    for module in NEEDS[name]:
        pytest.importorskip(module)
    if chromium.found() is None:
        pytest.skip("no Chromium on the PATH")
    script = Path(__file__).with_name(f"{name}.py")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_script_is_run():
    scripts = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"walk", Path(__file__).stem}
    assert scripts == set(NEEDS)
