"""Measure the cost of rebuilds: latency during one by runner, a rebuild of few changes, a write, and memory.

Latencies are measured with one worker, because with two the kernel gives nearly every connection to the idle one.
The load is open loop: requests are due at fixed times, whether or not earlier ones are answered, and a latency
starts when its request is due. The same run also measures the idle server, and the server beside a "stranger": an
unrelated process that computes at the nice value of a rebuilding child, which increases latency, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask_warmcache.host.child_priority import NICE
from tests.support.answers import ask
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT
from tests.support.servers import OUR_CONF, ServerProcess, gunicorn_command, running
from tests.support.waiting import until

from .load import CLASSES, head, note, on_other_cores, percentile, pinned, row

RUNNERS = ("thread", "auto", "process")
DEADLINE = 120.0
SLICE = 2.0  # seconds without a rebuild before each
# By requests per second. The p99 of a hundred requests is the worst of them, so a low rate needs more rebuilds.
REBUILDS = {20: 8, 100: 2}
STRANGER = "while True: sorted('one step of very many'.split() * 8)"
Sample = tuple[float, float]  # the time when a request was due, and the seconds until its answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds of eight rebuilds at 20 requests/s and two at 100/s"
    )
    parser.add_argument("--items", type=int, default=1_000_000, help="items of the list with few changes")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures: dict[str, Any] = {"latency": [], "politeness": politeness(3 * arguments.rounds)}
    for one_core in (False, True):
        for name, options in CLASSES.items():
            for rate in REBUILDS:
                note(f"latency: {name}, {rate} requests/s{', one core' if one_core else ''}")
                figures["latency"] += latencies(name, options, rate, one_core, arguments.rounds)
    for items in (10_300, arguments.items):
        note(f"few changes: {items} items")
        figures[f"changes {items}"] = few_changes(items)
    print(json.dumps(figures, indent=2)) if arguments.json else show(figures)


# A server, and requests at fixed times


class Server:
    """A gunicorn server with one worker that runs tests/benchmarks/busy.py."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder

    def get(self, path: str) -> dict[str, Any]:
        answered: dict[str, Any] = ask(self.port, path).json
        return answered

    def stats(self) -> dict[str, Any]:
        return self.get("/api/cache/stats/work")

    def wait_until_fresh(self) -> None:
        def is_fresh() -> bool:
            stats = self.stats()
            return stats["state"] == "fresh" and not stats["rebuild_in_progress"]

        until(is_fresh, lambda: f"a fresh list: {self.stats()}", DEADLINE)

    def builder(self) -> int:
        """Return the pid in the builder's report."""
        pid: int = json.loads((self.folder / "cache" / "work.progress").read_text())["pid"]
        return pid


@contextmanager
def server(runner: str, options: list[str], core: int | None, **env: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="warmcache-benchmark-") as folder:
        Path(folder, "round").write_text("1")
        port = free_port()
        options = ["--log-level", "warning", *OUR_CONF, *options]
        command = gunicorn_command("tests.benchmarks.busy:app", port, 1, *options)
        env = {**os.environ, **env, "BENCHMARK_DIR": folder, "BENCHMARK_RUNNER": runner}
        log = Path(folder, "log")
        with running(ServerProcess([*pinned(core), *command], port, log, env, CHECKOUT)):
            served = Server(port, Path(folder))
            served.wait_until_fresh()
            yield served


def open_loop(port: int, rate: int, goes_on: Callable[[], bool]) -> list[Sample]:
    """Send so many requests a second while ``goes_on()`` is true, then wait for the last answers."""
    samples: list[Sample] = []
    request = b"GET /api/work HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with selectors.DefaultSelector() as selector:
        due = time.perf_counter()
        asking = True
        while asking or selector.get_map():
            now = time.perf_counter()
            if asking and now >= due:
                client = socket.create_connection(("127.0.0.1", port))
                client.sendall(request)
                selector.register(client, selectors.EVENT_READ, due)
                due += 1 / rate
                asking = goes_on()
                continue
            for key, _ in selector.select(max(0.0, due - now) if asking else 1.0):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if not sock.recv(1 << 18):
                    samples.append((key.data, time.perf_counter() - key.data))
                    selector.unregister(sock)
                    sock.close()
    return samples


@dataclass
class Beside:
    """The measurements during the rebuilds of one runner."""

    samples: list[Sample] = field(default_factory=list)
    handed_over: list[Sample] = field(default_factory=list)  # those of the samples after the hand-over
    took: list[float] = field(default_factory=list)


def latencies(name: str, options: list[str], rate: int, one_core: bool, rounds: int) -> list[dict[str, Any]]:
    """Measure latencies of an idle server, beside a stranger, and during a rebuild in each runner."""
    idle: list[Sample] = []
    strange: list[Sample] = []
    beside: dict[str, Beside] = {runner: Beside() for runner in RUNNERS}
    with ExitStack() as stack:
        core = stack.enter_context(on_other_cores()) if one_core else None
        servers = {runner: stack.enter_context(server(runner, options, core)) for runner in RUNNERS}
        for _ in range(rounds * REBUILDS[rate]):
            for runner in random.sample(RUNNERS, len(RUNNERS)):
                running = servers[runner]
                # Without a rebuild the runner makes no difference, so these samples are counted together.
                idle += open_loop(running.port, rate, for_a_while())
                with stranger(core):
                    strange += open_loop(running.port, rate, for_a_while())
                samples, duration, moved_at = beside_a_rebuild(running, rate)
                beside[runner].samples += samples
                beside[runner].took.append(duration)
                beside[runner].handed_over += [sample for sample in samples if sample[0] >= moved_at]
    rows = []
    for runner, found in beside.items():
        figures = {"class": name, "rate": rate, "one core": one_core, "runner": runner}
        figures |= {"idle": spread(idle), "stranger": spread(strange), "busy": spread(found.samples)}
        rows.append({**figures, "build": statistics.median(found.took)})
        if runner == "auto" and found.handed_over:
            rows[-1]["from its hand-over on"] = spread(found.handed_over)
    return rows


def for_a_while() -> Callable[[], bool]:
    until = time.perf_counter() + SLICE
    return lambda: time.perf_counter() < until


@contextmanager
def stranger(core: int | None) -> Iterator[None]:
    process = subprocess.Popen([*pinned(core), "nice", "-n", str(NICE), sys.executable, "-c", STRANGER])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def beside_a_rebuild(running: Server, rate: int) -> tuple[list[Sample], float, float]:
    """Return the samples, the duration of the rebuild, and the time when another process took over."""
    before = running.builder()
    generation = running.stats()["generation"]
    running.get("/again")
    began = time.perf_counter()
    moved_at = [float("inf")]
    published = running.folder / "cache" / "work.index"
    stamp = published.stat().st_ino

    def goes_on() -> bool:
        if moved_at[0] == float("inf") and running.builder() != before:
            moved_at[0] = time.perf_counter()
        return published.stat().st_ino == stamp and time.perf_counter() < began + DEADLINE

    samples = open_loop(running.port, rate, goes_on)
    took = time.perf_counter() - began
    running.wait_until_fresh()
    assert running.stats()["generation"] != generation
    return samples, took, moved_at[0]


def spread(samples: list[Sample]) -> dict[str, float]:
    ordered = sorted(latency for _, latency in samples)
    shares = {f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 99)}
    return {"requests": len(ordered), **shares, "max": ordered[-1]}


def politeness(rounds: int) -> dict[str, float]:
    """Measure the same rebuild in the thread, with and without pauses for requests."""
    took: dict[str, list[float]] = {"polite": [], "impolite": []}
    for _ in range(rounds):
        for name, env in (("polite", {}), ("impolite", {"BENCHMARK_IMPOLITE": "1"})):
            with server("thread", CLASSES["gthread"], None, **env) as running:
                took[name].append(running.stats()["last_duration_seconds"])
    return {name: statistics.median(values) for name, values in took.items()}


# Few changes, and writes


def few_changes(items: int) -> dict[str, Any]:
    """Measure a first build with 50 µs of enriching an item, a rebuild of ten changes, and writes of one item."""
    with tempfile.TemporaryDirectory(prefix="warmcache-benchmark-") as folder:
        figures = {}
        for step in ("first", "changed", "refresh"):
            command = [sys.executable, "-m", "tests.benchmarks.rebuilds", "--step", step, str(items), folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures[step] = json.loads(done.stdout)
        return figures


def step(which: str, items: int, folder: str) -> dict[str, Any]:
    """Measure one of these steps in this process, whose memory it alone uses."""
    # Disable the keeper, which would rebuild the list because it is older than this process.
    os.environ |= {
        "BENCHMARK_ITEMS": str(items),
        "BENCHMARK_DIR": folder + "/cache",
        "FLASK_WARMCACHE_ENABLED": "false",
    }
    from . import app as measured

    calls = 0

    def slowly(item: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        until = time.perf_counter() + 50e-6
        while time.perf_counter() < until:
            pass
        return measured.read_tags(item)

    def changed() -> Iterator[dict[str, Any]]:
        for number, item in enumerate(measured.scan()):
            yield item | {"size": item["size"] + 1} if number % (items // 10) == 7 else item

    files = measured.files
    files.enrich(slowly)
    files.lookup(lambda path: {"path": path, "size": calls, "modified": 1, "processed": True, "duplicate": False})
    if which == "changed":
        files.source(changed)
    app = measured.app
    with app.app_context():
        if which == "refresh":
            files.get()
            calls, took = 0, []
            for item in files.get()[:: max(1, items // 20)]:
                began = time.perf_counter()
                assert files.refresh(item["path"])
                took.append(time.perf_counter() - began)
            return {"median seconds": statistics.median(took), "longest seconds": max(took)}
        began = time.perf_counter()
        outcome = files.rebuild_now()
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "enriched": outcome.enriched, "calls": calls, "peak bytes": peak}


# The tables


def show(figures: dict[str, Any]) -> None:
    columns = ("idle p50 / p99", "beside a stranger", "of idle", "beside a rebuild", "of idle", "build")
    head("one worker", "requests/s", "runner", *columns)
    for found in figures["latency"]:
        where = f"{found['class']}{', one core' if found['one core'] else ''}"
        idle, strange = found["idle"], found["stranger"]
        for what, busy in (("", found["busy"]), (" from its hand-over on", found.get("from its hand-over on"))):
            if busy is not None:
                of_idle = [f"{spread['p99'] / idle['p99']:.1f}" for spread in (strange, busy)]
                beside = [milliseconds(strange), of_idle[0], milliseconds(busy), of_idle[1]]
                runner, build = f"{found['runner']}{what}", f"{found['build']:.1f} s"
                row(where, found["rate"], runner, milliseconds(idle), *beside, build)
    polite = figures["politeness"]
    slower = polite["polite"] / polite["impolite"] - 1
    print(f"\nA rebuild in the thread takes {slower:+.0%} longer for its politeness ({polite['polite']:.1f} s).")
    head("list", "first build, 50 µs an item", "ten changed", "of it", "refresh", "builder's memory, first / ten")
    for name, found in figures.items():
        if name.startswith("changes "):
            first, changed = found["first"], found["changed"]
            row(
                f"{name.removeprefix('changes ')} items",
                f"{first['seconds']:.1f} s",
                f"{changed['seconds']:.2f} s ({changed['calls']} enriched)",
                f"1/{first['seconds'] / changed['seconds']:.0f}",
                f"{found['refresh']['median seconds'] * 1e3:.1f} ms",
                f"{first['peak bytes'] / 1e6:.0f} / {changed['peak bytes'] / 1e6:.0f} MB",
            )


def milliseconds(spread: dict[str, float]) -> str:
    return f"{spread['p50'] * 1e3:.1f} / {spread['p99'] * 1e3:.1f} ms"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(step(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    else:
        main()
