"""Measure the cost of a poll: the status of a list compared with a view of constant bytes, with one worker each.

    python -m tests.benchmarks.status

The ratio is computed within a round, in which both get requests one after the other. The median is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import urllib.request
from pathlib import Path

from .heart import CLASSES, build, cpu_of, environment, server
from .load import run

PATH = "/api/cache/stats/files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_300)
    parser.add_argument("--requests", type=int, default=3000, help="requests to each in each round")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:  # the server's only worker uses one core, and this process another
        os.sched_setaffinity(0, set(cores[1:]))
    core = cores[0] if len(cores) > 1 else None
    print("| one worker | requests/s | of bare | p99 | CPU/request | of bare |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="warmcache-benchmark-") as folder:
        build(asked.items, Path(folder))
        for name, options in CLASSES.items():
            with server(environment(asked.items, Path(folder)), options, 1, core) as ours:
                size = len(urllib.request.urlopen(f"http://127.0.0.1:{ours[0]}{PATH}").read())
                with server(os.environ | {"BENCHMARK_BARE_BYTES": str(size)}, options, 1, core) as bare:
                    compare(name, ours, bare, asked)


def compare(name: str, ours: tuple[int, int], bare: tuple[int, int], asked: argparse.Namespace) -> None:
    rows: dict[tuple[int, int], list[tuple[float, float, float]]] = {bare: [], ours: []}
    for (port, _), _ in rows.items():
        run(port, [PATH], asked.requests)  # warms the interpreter
    for _ in range(asked.rounds):
        for (port, master), row in rows.items():
            cpu = cpu_of(master)
            rate, latencies = run(port, [PATH], asked.requests)
            row.append((rate, latencies[len(latencies) * 99 // 100], (cpu_of(master) - cpu) / asked.requests))
    for title, one in (("bare view", bare), ("status", ours)):
        rate, p99, cpu = (statistics.median(values) for values in zip(*rows[one], strict=True))
        ratio, cpu_ratio = (
            statistics.median(mine[at] / base[at] for mine, base in zip(rows[one], rows[bare], strict=True))
            for at in (0, 2)
        )
        print(
            f"| {name}, {title} | {rate:.0f} | {ratio:.2f} | {p99 * 1e3:.1f} ms | {cpu * 1e6:.0f} µs "
            f"| {cpu_ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
