"""How does a test run a script or a command in a process of its own? It always ends with the test."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    usual: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
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


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def tell(process: subprocess.Popen[str], line: object) -> None:
    """Send a line to the process."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no further file within the block."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
