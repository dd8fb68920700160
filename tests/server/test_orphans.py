"""A test run that is interrupted or killed leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import orphans
from tests.support.processes import CHECKOUT
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(not orphans.HAS_PROC, reason="processes are found by /proc")

A_TEST = """
import signal
from pathlib import Path
from tests.support.servers import OUR_CONF, gunicorn_server
from tests.support.places import Place

def test_waits(tmp_path):
    place = Place(tmp_path, runner="process").with_gate()
    with gunicorn_server(place, *OUR_CONF, workers=2) as server:
        place.builder_at_gate()
        Path({ready!r}).touch()
        signal.pause()
"""


ENDS: dict[str, Callable[[subprocess.Popen[bytes]], None]] = {
    "interrupt": lambda run: os.killpg(run.pid, signal.SIGINT),
    "terminate": lambda run: run.terminate(),
    "kill": lambda run: run.kill(),
}


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("end", ENDS)
def test_an_ended_run_leaves_no_server(tmp_path: Path, end: str, workers: tuple[str, ...]) -> None:
    ready = tmp_path / "ready"
    file = tmp_path / "test_waits.py"
    file.write_text(A_TEST.format(ready=str(ready)))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", *workers]
    command += ["--basetemp", str(tmp_path / "inner"), f"--rootdir={tmp_path}", str(file)]
    # All that the run starts inherits this, even its watchdogs, which have no mark.
    env = os.environ | {"TEST_OUTER": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}

    def left() -> list[int]:
        return orphans.marked(str(tmp_path), "TEST_OUTER")

    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=-3, stderr=-3, start_new_session=True) as run:
        try:
            until(ready.exists, "a server in the run")
            assert len(left()) >= 5, "too few processes to show anything"
            ENDS[end](run)
            ended = time.monotonic()
            until(lambda: not left(), lambda: f"the end of {left()}")
            print(f"\nnothing is left {time.monotonic() - ended:.2f} s after the signal")
        finally:
            run.kill()


def test_a_shell_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """As tests/run is one."""
    script = f'"$2" "$3" "$1" $$; export {orphans.MARK}=$1; sleep 600 & touch ready; wait'
    mark = f"{os.getpid()}-{time.time_ns()}"
    command = ["bash", "-c", script, "bash", mark, sys.executable, orphans.__file__]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as shell:
        try:
            until((tmp_path / "ready").exists, "the shell's child")
            assert len(orphans.marked(mark)) == 1
        finally:
            shell.kill()
    until(lambda: not orphans.marked(mark), lambda: f"the end of {orphans.marked(mark)}")
