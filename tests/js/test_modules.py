"""The editor's pure modules, tested by Node's own runner in the *.test.mjs files beside this one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.mjs")), ids=lambda file: file.name)
def test_module(file):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; it is only needed to test JavaScript outside of the browser")
    done = subprocess.run([node, "--test", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
