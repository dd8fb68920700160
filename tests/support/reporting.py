"""What does an app under test tell its test? It notes calls, waits at a gate and stamps its answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CALLS = os.open(os.environ["TEST_CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def note(what: str) -> None:
    """Append one line, whole, for the test to count across processes."""
    os.write(CALLS, f"{what} {os.getpid()} {time.monotonic_ns()}\n".encode())


def count(what: str) -> int:
    """Return how often this was noted, by whatever process."""
    with open(os.environ["TEST_CALLS"]) as calls:
        return sum(line.startswith(f"{what} ") for line in calls)


def wait_at_gate(gate: str | None) -> None:
    """Wait until that file exists."""
    if gate is not None:
        note("waiting")
        end = time.monotonic() + 240
        while not os.path.exists(gate) and time.monotonic() < end:
            time.sleep(0.005)


def queued() -> float:
    """How many seconds the threads of this process have stood in line for a processor, as the kernel counts it."""
    try:
        lines = [task.joinpath("schedstat").read_text() for task in Path("/proc/self/task").iterdir()]
    except OSError:  # a thread that has just ended, or a kernel that does not count
        return 0.0
    return sum(int(line.split()[1]) for line in lines) / 1e9


class Measured:
    """Says in each answer who gave it, when, and how long the app itself took.

    ``X-Linger`` keeps the worker for so long after the app has answered, so that the requests sent
    together with this one go to the other workers.
    """

    def __init__(self, wsgi_app: Callable[..., Iterable[bytes]]) -> None:
        self._wsgi_app = wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        queued_before = queued()
        begin = time.monotonic_ns()
        kept: list[Any] = []

        def keep(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            kept[:] = [status, headers]

        answer = self._wsgi_app(environ, keep)
        try:
            body = b"".join(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()
        end = time.monotonic_ns()
        headers = [("X-Pid", f"{os.getpid()}"), ("X-Begin", f"{begin}"), ("X-End", f"{end}")]
        headers.append(("X-App-Time", f"{(end - begin) / 1e9:.6f}"))
        headers.append(("X-Queued", f"{max(0.0, queued() - queued_before):.6f}"))
        time.sleep(float(environ.get("HTTP_X_LINGER", "0")))
        start_response(kept[0], [*kept[1], *headers])
        return [body]
