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


def interrupt(run: subprocess.Popen[bytes]) -> None:
    os.killpg(run.pid, signal.SIGINT)


def terminate(run: subprocess.Popen[bytes]) -> None:
    run.terminate()


def kill(run: subprocess.Popen[bytes]) -> None:
    run.kill()


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("end", [interrupt, terminate, kill])
def test_an_ended_run_leaves_no_server(
    tmp_path: Path, end: Callable[[subprocess.Popen[bytes]], None], workers: tuple[str, ...]
) -> None:
    ready, sign = tmp_path / "ready", f"TEST_RUN_SIGN={tmp_path}"
    file = tmp_path / "test_waits.py"
    file.write_text(A_TEST.format(ready=str(ready)))
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", *workers]
    command += ["--basetemp", str(tmp_path / "inner"), f"--rootdir={tmp_path}", str(file)]
    env = os.environ | dict([sign.split("=")]) | {"PYTHONPATH": str(CHECKOUT)}
    # Of all that the run starts, only its watchdogs have no mark; they have this sign, too.
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=-3, stderr=-3, start_new_session=True) as run:
        try:
            until(ready.exists, "a server in the run")
            assert len(processes(sign)) >= 5, "too few processes to show anything"
            end(run)
            ended = time.monotonic()
            until(lambda: not processes(sign), lambda: f"the end of {processes(sign)}")
            print(f"\nnothing is left {time.monotonic() - ended:.2f} s after the signal")
        finally:
            run.kill()


def processes(sign: str) -> dict[int, str]:
    """Return the command lines of all processes with that variable in their environment."""
    found = {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if sign.encode() in environ.read_bytes().split(b"\0"):
                found[int(environ.parent.name)] = environ.with_name("cmdline").read_text().replace("\0", " ")
        except OSError:
            pass
    return found


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
