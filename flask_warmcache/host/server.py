"""The server that this process belongs to: gunicorn's worker, and when the server started."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..settings import SERVER_STARTED as SERVER_STARTED

# Without the access log, and without capture_output: a child has inherited the worker's stdout and stderr.
LOGGING = (
    "logger_class", "errorlog", "loglevel", "logconfig", "logconfig_dict", "logconfig_json",
    "syslog", "syslog_addr", "syslog_prefix", "syslog_facility",
)  # fmt: skip
_noted_worker: Any = None


def note_worker(worker: Any) -> None:
    """Remember gunicorn's worker, which its own hook hands to us."""
    global _noted_worker
    _noted_worker = worker


def gunicorn_worker() -> Any:
    """Return the gunicorn worker object of this process, or None if it is unknown.

    Without our configuration it is found on the stack of the main thread, except under gevent: there it waits in a
    greenlet.
    """
    if _noted_worker is not None:
        return _noted_worker
    base = sys.modules.get("gunicorn.workers.base")
    if base is None:
        return None
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        # By type, because isinstance() would evaluate a proxy of the app, which may raise outside a request.
        if issubclass(type(frame.f_locals.get("self")), base.Worker):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def logging_settings() -> dict[str, Any]:
    """Return gunicorn's settings for logging in this worker, without those that JSON cannot express."""
    settings, found = getattr(getattr(gunicorn_worker(), "cfg", None), "settings", {}), {}
    for name in LOGGING:
        if name in settings:
            with suppress(TypeError, ValueError):
                found[name] = json.loads(json.dumps(settings[name].get()))
    return found


def server_started(process_started: int) -> int:
    """Return when the server that this process belongs to started, in nanoseconds since the epoch.

    Replacing a worker does not count as a start: it must not make lists stale.

    :param process_started: the answer where there is no server.
    """
    noted = os.environ.get(SERVER_STARTED, "")
    if noted.isdigit():
        return int(noted)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        try:
            # The start is field 22 of stat, in clock ticks since boot.  Fields are counted after the parenthesis
            # that closes the command, because that may contain spaces, and bytes that are no text.
            ticks = int(Path(f"/proc/{os.getppid()}/stat").read_bytes().rpartition(b")")[2].split()[19])
            seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
            return time.time_ns() - int(seconds * 1e9)
        except (OSError, ValueError, IndexError, AttributeError):
            return 0
    return process_started
