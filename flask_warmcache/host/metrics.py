"""The metrics that a rebuilding child counts with prometheus_client in its multiprocess mode."""

from __future__ import annotations

import atexit
import os
import zlib
from importlib import import_module
from typing import Any

VARIABLES = {"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"}


def share_files(name: str, cache: str) -> None:
    """Have prometheus_client write to files that are named after the list and its cache folder.

    Files are usually named after a process and stay after its end, so each child would leave some, and each scrape
    reads them all.  A list has one child at a time, which continues the counters of the one before.
    """
    if not VARIABLES & os.environ.keys():
        return
    try:
        values: Any = import_module("prometheus_client.values")
        multiprocess: Any = import_module("prometheus_client.multiprocess")
    except ImportError:  # something else uses the variable
        return
    # An underscore would separate the parts of a file's name.
    identity = f"warmcache-{zlib.crc32(os.fsencode(cache)):08x}-{name.replace('_', '.')}"
    child = os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: identity if os.getpid() == child else os.getpid())
    # Gauges of live processes, of this one and of a predecessor that was killed, must not be counted any more.
    multiprocess.mark_process_dead(identity)
    atexit.register(multiprocess.mark_process_dead, identity)
