"""How soon a server reacts: to requests beside its first build, to the kill of a builder, and to a stop.

    python -m tests.benchmarks.reactions [--rounds 5]

Each figure is a ratio to something usual in the same round, and their median is printed. A request is compared
with one for a plain view of the same app, what follows a kill with what follows an invalidation, and a stop in a
build with a stop without one.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.places import Place
from tests.support.servers import Server, gunicorn_server
from tests.support.waiting import until

ASKED = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| what | usual | then | ratio |\n|---|---|---|---|")
    for name, measure in MEASURES.items():
        pairs = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="warmcache-benchmark-") as folder:
                pairs.append(measure(Path(folder)))
        usual, then = (statistics.median(values) * 1e3 for values in zip(*pairs, strict=True))
        ratio = statistics.median(then / usual for usual, then in pairs)
        print(f"| {name} | {usual:.1f} ms | {then:.1f} ms | {ratio:.1f} |", flush=True)


def beside_a_first_build(folder: Path) -> tuple[float, float]:
    """Seconds inside the app of the slowest but one in a hundred requests, without other processes' turns."""
    place = Place(folder, items=1000).with_gate()
    with gunicorn_server(place, workers=2) as server:
        server.get()
        place.builder_at_gate()
        plain, listed = (
            sorted(server.get(path).own_time for _ in range(ASKED)) for path in ("/plain", "/api/files")
        )
    return plain[ASKED * 99 // 100], listed[ASKED * 99 // 100]


def after_a_kill(folder: Path) -> tuple[float, float]:
    """Seconds from an invalidation to the build that it causes, and from that one's kill to the next build."""
    place = Place(folder, runner="thread")
    return around_a_kill(place, 4, lambda server: place.until_built(3).at)


def shown_failure_of_a_child(folder: Path) -> tuple[float, float]:
    """Seconds from an invalidation to the build that it causes, and from a child's kill to its shown failure."""

    def shown(server: Server) -> float:
        until(lambda: server.get().state == "failed", "the failure")
        return time.monotonic()

    return around_a_kill(Place(folder, runner="process", retry_min=60), 1, shown)


def around_a_kill(place: Place, workers: int, noticed: Callable[[Server], float]) -> tuple[float, float]:
    """Seconds from an invalidation to its build, and from the kill of that build's process until it is noticed."""
    place.with_gate().gate.touch()
    with gunicorn_server(place, workers=workers) as server:
        server.warm_up()
        server.next_of_each_worker()
        place.gate.unlink()
        invalidated = server.get("/invalidate", "POST").end
        began = place.until_built(2).at
        builder = place.builder_at_gate(2).pid
        killed = time.monotonic()
        os.kill(builder, signal.SIGKILL)
        return began - invalidated, noticed(server) - killed


def stop_in_a_build(folder: Path) -> tuple[float, float]:
    """Seconds that a server takes to stop."""
    place = Place(folder).with_gate()
    with gunicorn_server(place, workers=2) as server:
        server.get("/plain")
        usual = server.stop()
    with gunicorn_server(place, workers=2) as server:
        server.get()
        place.builder_at_gate()
        return usual, server.stop()


MEASURES: dict[str, Callable[[Path], tuple[float, float]]] = {
    "p99 of requests: a plain view, the list beside its first build": beside_a_first_build,
    "the next build: after an invalidation, after its builder's kill": after_a_kill,
    "a child: its start after an invalidation, its shown failure after a kill": shown_failure_of_a_child,
    "a stop: without a build, within one": stop_in_a_build,
}


if __name__ == "__main__":
    main()
