"""Measure the cost of a poll: the status of a list compared with a view of constant bytes, with one worker each.

    python -m tests.benchmarks.status

The ratio is computed within a round, in which both get requests one after the other. The median is printed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import urllib.request
from pathlib import Path

from .heart import build, compare, environment, server, show_compared
from .load import CLASSES, on_other_cores

PATH = "/api/cache/stats/files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_300)
    parser.add_argument("--requests", type=int, default=3000, help="requests to each in each round")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warmcache-benchmark-") as folder, on_other_cores() as core:
        build(asked.items, Path(folder))
        for name, options in CLASSES.items():
            with server(environment(asked.items, Path(folder)), options, 1, core) as ours:
                size = len(urllib.request.urlopen(f"http://127.0.0.1:{ours[0]}{PATH}").read())
                with server(os.environ | {"BENCHMARK_BARE_BYTES": str(size)}, options, 1, core) as bare:
                    candidates = {"bare view": (bare, [PATH]), "status": (ours, [PATH])}
                    show_compared(name, compare(candidates, asked.rounds, asked.requests))


if __name__ == "__main__":
    main()
