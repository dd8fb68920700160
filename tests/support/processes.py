"""How does a test run a script or a command in a process of its own? It always ends with the test."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).parents[2]


def environment(**more: object) -> dict[str, str]:
    """Return our environment without a server's settings; with this checkout on the path, and these variables."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("WARMCACHE_")}
    usual.pop("GUNICORN_CMD_ARGS", None)
    return {**usual, "PYTHONPATH": os.fspath(CHECKOUT), **{name: str(value) for name, value in more.items()}}


def python(*arguments: object) -> list[str]:
    """Return the command of a Python in which every warning is an error."""
    return [sys.executable, "-W", "error", *map(str, arguments)]


def run(
    command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with these variables besides the usual ones, and keep what it prints."""
    usual: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120}
    return subprocess.run(command, env={**environment(), **(env or {})}, **usual | options)


def run_python(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return run(python("-c", script, *arguments), **options)


@contextmanager
def started(
    command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the block, with pipes to its input and output; kill it at the end of the block."""
    usual: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**environment(), **(env or {})}, **usual | options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def send_line(process: subprocess.Popen[str], line: object) -> None:
    """Send a line to the process."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# What each line on stdin asks for: a child that calls ``act`` with its words, or to wait for one.
FORKER = """
import json as _json, os as _os, sys as _sys, traceback as _traceback
_ready, _tell = _os.pipe()
for _line in _sys.stdin:
    _what, *_words = _json.loads(_line)
    if _what == "wait":
        print(_os.waitstatus_to_exitcode(_os.waitpid(_words[0], 0)[1]), flush=True)
        continue
    _child = _os.fork()
    if _child == 0:
        try:
            if "prepare" in globals():
                prepare(*_words)
            _os.write(_tell, b"r")
            _os._exit(act(*_words) or 0)
        except BaseException:
            _traceback.print_exc()
            _os._exit(1)
    _os.read(_ready, 1)
    print(_child, flush=True)
"""


class Forker:
    """A process that runs a script once, and then forks children: that takes milliseconds, not an import each.

    The script defines ``act``, which each child calls, and which may return an exit code. If it also defines
    ``prepare``, a child calls that first, and ``fork`` returns afterwards.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _order(self, *words: object) -> int:
        send_line(self._process, json.dumps(words))
        return int(read_line(self._process))

    def fork(self, *words: object) -> int:
        """Start a child that acts with these words, which JSON can carry; return its pid."""
        return self._order("fork", *words)

    def wait(self, pid: int) -> int:
        """Wait for that child's end; return its exit code, or the negative number of the signal that killed it."""
        return self._order("wait", pid)


@contextmanager
def forker(script: str, *arguments: object, **options: Any) -> Iterator[Forker]:
    """Run the script beside the block; kill it and its children at the end of the block."""
    command = python("-c", script + FORKER, *arguments)
    with started(command, start_new_session=True, **options) as process:
        try:
            yield Forker(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def no_descriptors(spare: int = 0) -> Iterator[None]:
    """Let this process open no further file within the block, or only this many."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
