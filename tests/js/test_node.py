"""The poller's unit tests run in Node; here pytest runs them, and weighs the script."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "static" / "warmcache.js"

# As shipped, with comments. The nearest peer, swr, is 6.4 kB gzipped after minifying, without React.
MOST_BYTES = 32 * 1024
MOST_BYTES_GZIPPED = 9000


def test_the_node_tests_pass() -> None:
    node = shutil.which("node")
    if node is None:
        message = "Node is not installed; it runs the poller's unit tests (Debian: apt-get install nodejs)."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    # Files, not the folder: Node 22 takes a folder for a module.
    files = sorted(str(path) for path in HERE.glob("*.test.cjs"))
    run = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, f"node --test failed:\n{run.stdout}\n{run.stderr}"


def test_the_script_is_small() -> None:
    source = SCRIPT.read_bytes()
    assert len(source) <= MOST_BYTES
    assert len(gzip.compress(source, 9)) <= MOST_BYTES_GZIPPED


def test_the_script_needs_no_lenient_policy() -> None:
    source = SCRIPT.read_text()
    # insertAdjacentHTML and friends would let a list's data become markup; unload blocks the bfcache.
    for word in (".innerHTML", ".outerHTML", "insertAdjacentHTML", "eval(", "DOMParser(", '"unload"'):
        assert word not in source, word
