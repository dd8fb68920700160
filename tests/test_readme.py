"""The README's claims that a test can check: its example runs, its settings are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from flask_warmcache.settings import PREFIX, Settings

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()

DRIVER = """
client = app.test_client()
cold = client.get("/api/files").json
assert cold["cache_rebuilding"] is True, cold
import time
deadline = time.monotonic() + 20
while (answer := client.get("/api/files?sort=-name&filter=large&search=a").json)["cache_rebuilding"]:
    assert time.monotonic() < deadline, answer
    time.sleep(0.05)
print(sorted(answer))
"""


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    (tmp_path / "a big file").write_bytes(bytes(1_000_001))
    settings = {"WARMCACHE_DIR": str(tmp_path / "cache")}
    script = example[1].replace("WarmCache(app)", f"WarmCache(app, dir={settings['WARMCACHE_DIR']!r})") + DRIVER
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    names = ["cache_rebuilding", "files", "large_count", "page", "per_page", "total_files", "total_pages"]
    assert done.stdout.strip() == str(names)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    told = dict(re.findall(r"^\| `(WARMCACHE_\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    assert told == {PREFIX + field.name.upper(): repr(field.default) for field in fields(Settings)}


def test_every_file_that_is_linked_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (CHECKOUT / target).exists(), target
    for command in re.findall(r"^(\./\S+)", README, re.MULTILINE):
        assert os.access(CHECKOUT / command, os.X_OK), command
