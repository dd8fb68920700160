"""Measure reading in one run: pages compared with a bare view, opening, publishing and memory.

Because machines are noisy, ratios are computed within a round, in which every candidate gets requests for a tenth
of a second, in a random order. The printed ratio is the median. The server's only worker uses one core, and the
load generator another.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from flask import Flask

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Declaration
from flask_warmcache.query.page_cache import PageCache
from flask_warmcache.query.pager import Pager
from flask_warmcache.query.parse import NO_DEFAULTS
from flask_warmcache.settings import Settings
from flask_warmcache.status.condition import ListStatus
from flask_warmcache.store.files import FileStore
from flask_warmcache.store.format import PREAMBLE_LENGTH
from flask_warmcache.store.search import search
from flask_warmcache.store.snapshot import Snapshot
from flask_warmcache.store.writer import Draft
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT
from tests.support.servers import ServerProcess, gunicorn_command, running

from .load import CLASSES, head, note, on_other_cores, percentile, pinned, row, run

Served = tuple[int, int]  # the port and the master's pid

LIST = "files"
# Requests before the measured ones. The first thousands after a publication also pay for mapping the pages they
# touch: 8 µs each at a million items.
WARMING = 10_000
# The filters and sorts of tests/benchmarks/app.py.
FILTERS = ("all", "marked", "unmarked", "duplicates")
SORTS = ("", "name", "-name", "date", "-date", "size", "-size")
_app = Flask(__name__)
WarmCache(_app)
RULES = [rule.rule for rule in _app.url_map.iter_rules() if rule.endpoint != "static"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_300, 1_000_000])
    parser.add_argument("--requests", type=int, default=500, help="requests to each candidate in each round")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    arguments = parser.parse_args()
    random.seed(1)
    # Compile the modules, as an installation does: loading them takes less memory than loading sources.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir("flask_warmcache", quiet=1)
    figures: dict[str, Any] = {"python": sys.version.split()[0], "items": {}, "classes": {}}
    figures["init_app seconds"] = best(initialise, 50)
    figures["seconds of its rules"] = best(add_rules, 50)
    with tempfile.TemporaryDirectory(prefix="warmcache-benchmark-") as folder:
        folders = {items: Path(folder) / str(items) for items in arguments.items}
        for items, place in folders.items():
            note(f"building {items} items")
            figures["items"][items] = {"build seconds": build(items, place)}
            figures["items"][items] |= in_process(items, place)
        size = round(statistics.mean(page_bytes(items, place) for items, place in folders.items()))
        figures["page bytes"] = size
        for name, options in CLASSES.items():
            note(f"{name}: requests per second")
            figures["classes"][name] = side_by_side(folders, options, size, arguments)
        note("memory of four workers")
        figures["memory"] = memory(folders, size)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures, size)


# Building and measuring in this process


def environment(items: int, place: Path) -> dict[str, str]:
    # Every snapshot is newer than a server that "started" in 1970, so the server does not rebuild.
    return os.environ | {
        "BENCHMARK_ITEMS": str(items),
        "BENCHMARK_DIR": str(place),
        "WARMCACHE_SERVER_STARTED": "1",
    }


def build(items: int, place: Path) -> float:
    command = [sys.executable, "-m", "flask", "--app", "tests.benchmarks.app", "warmcache", "rebuild", LIST]
    began = time.perf_counter()
    subprocess.run(command, env=environment(items, place), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def pager_of(place: Path, cache_bytes: int) -> tuple[Pager, ListStatus]:
    declaration = Declaration(
        name=LIST,
        kind="list",
        key="path",
        unit="file",
        ttl=86400,
        filters={name: bool for name in FILTERS[1:]},
        sorts={name: id for name in ("name", "date", "size")},
        search=("name", "relative_path"),
        counts=("unmarked",),
    )
    status = ListStatus(declaration, FileStore(place), 86400, None, 1)
    return Pager(status, Settings(page_cache_bytes=cache_bytes), PageCache(cache_bytes)), status


def best(call: Callable[[], object], times: int) -> float:
    """Return the median duration of so many calls in seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def initialise() -> None:
    WarmCache().init_app(Flask(__name__))


def add_rules() -> None:
    """Add as many rules as ``init_app`` does, to a bare app."""
    app = Flask(__name__)
    for number, rule in enumerate(RULES):
        app.add_url_rule(rule, f"view {number}", str)


def in_process(items: int, place: Path) -> dict[str, float]:
    pager, status = pager_of(place, 0)
    condition = status.condition()
    queries = iter([query(items).encode() for _ in range(14_000)])
    # The first pages after a publication also pay for mapping: 15 µs each at a million items.
    best(lambda: pager.body(condition, next(queries), NO_DEFAULTS), 10_000)
    page = best(lambda: pager.body(condition, next(queries), NO_DEFAULTS), 4000)
    opening = best(lambda: Snapshot(place, LIST), 200)
    words = iter([f"issue {number:07}"[:12] for number in random.sample(range(items), 50)])
    searching = best(lambda: pager.body(condition, f"search={next(words)}".encode(), NO_DEFAULTS), 50)
    snapshot = Snapshot(place, LIST)
    budget = best(lambda: search(snapshot, "issue", 60), 5) / 10  # every item matches
    return {
        "page seconds": page,
        "opening seconds": opening,
        "publishing seconds": publishing(place),
        "search seconds": searching,
        "times its budget": best(lambda: search(snapshot, "issue", budget), 20) / budget,
        "index bytes": (place / f"{LIST}.index").stat().st_size,
        "data bytes": next(place.glob(f"{LIST}.*.data")).stat().st_size,
    }


def publishing(place: Path) -> float:
    """Write the same index in a copy of the folder, with all that a publication does under its lock."""
    snapshot = Snapshot(place, LIST)
    raw = (place / f"{LIST}.index").read_bytes()
    base = PREAMBLE_LENGTH + int(raw[:PREAMBLE_LENGTH].split()[2])
    sections = {
        name: raw[base + offset : base + offset + length]
        for name, (offset, length, _) in snapshot.header["sections"].items()
    }
    copy = place.with_name(f"{place.name}-publishing")
    copy.mkdir(mode=0o700)
    store = FileStore(copy)

    def publish() -> None:
        with store.publishing(LIST):
            store.published_generation(LIST)
            Draft(copy, LIST, snapshot.header, sections, sync=True).publish()

    took = best(publish, 15)
    shutil.rmtree(copy)
    return took


# Servers


def query(items: int) -> str:
    """Return the query of a random page with 50 items of a random view."""
    filter_name, sort = random.choice(FILTERS), random.choice(SORTS)
    share = {"all": 1.0, "marked": 0.8, "unmarked": 0.2, "duplicates": 0.01}[filter_name]
    page = random.randint(1, max(1, int(items * share / 50)))
    return f"page={page}&per_page=50&filter={filter_name}&sort={sort}"


def page_bytes(items: int, place: Path) -> float:
    pager, status = pager_of(place, 0)
    condition = status.condition()
    return statistics.mean(len(pager.body(condition, query(items).encode(), NO_DEFAULTS)[0]) for _ in range(300))


@contextmanager
def server(env: dict[str, str], options: list[str], workers: int, core: int | None) -> Iterator[Served]:
    """Run gunicorn on a free port."""
    port = free_port()
    options = ["--log-level", "warning", "--config", os.devnull, *options]
    command = gunicorn_command("tests.benchmarks.app:app", port, workers, *options)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with running(ServerProcess([*pinned(core), *command], port, log, env, CHECKOUT)) as process:
            run(port, ["/api/files"], 4 * workers)
            yield port, process.process.pid


def workers_of(master: int) -> list[psutil.Process]:
    return psutil.Process(master).children()


def cpu_of(master: int) -> float:
    return sum(sum(worker.cpu_times()[:2]) for worker in workers_of(master))


def side_by_side(
    folders: dict[int, Path], options: list[str], size: int, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Compare a bare view, with and without our headers, with random pages and one page of each list."""
    with ExitStack() as stack:
        core = stack.enter_context(on_other_cores())

        def start(env: dict[str, str]) -> Served:
            return stack.enter_context(server(env, options, 1, core))

        bare = os.environ | {"BENCHMARK_BARE_BYTES": str(size)}
        # The bare view gets the same URLs, because a longer URL costs the server time, too.
        first = next(iter(folders))
        asked = [f"/api/files?{query(first)}" for _ in range(WARMING)]
        candidates: dict[str, tuple[Served, list[str]]] = {
            "bare view": (start(bare), asked),
            "bare view that sends our headers": (start(bare | {"BENCHMARK_BARE_HEADERS": "1"}), asked),
        }
        for items, place in folders.items():
            ours = start(environment(items, place))
            pages = [f"/api/files?{query(items)}" for _ in range(arguments.rounds * arguments.requests)]
            candidates[f"{items} items, random pages"] = (ours, pages)
            candidates[f"{items} items, one page"] = (ours, [f"/api/files?{query(items)}"])
        return compare(candidates, arguments.rounds, arguments.requests)


def compare(
    candidates: dict[str, tuple[Served, list[str]]], rounds: int, requests: int
) -> dict[str, dict[str, float]]:
    """Measure every candidate in turn, round after round, against the bare view of the same round."""
    rows: dict[str, dict[str, list[float]]] = {}
    cpu = dict.fromkeys(candidates, 0.0)
    for name, ((port, _), paths) in candidates.items():
        run(port, paths, WARMING)
        rows[name] = {"rate": [], "p50": [], "p99": [], "ratio": []}
    for nth in range(rounds):
        for name in random.sample(list(candidates), len(candidates)):
            (port, master), paths = candidates[name]
            begin = nth * requests % len(paths)
            before = cpu_of(master)
            rate, latencies = run(port, paths[begin:] + paths[:begin], requests)
            cpu[name] += cpu_of(master) - before
            rows[name]["rate"].append(rate)
            rows[name]["p50"].append(percentile(latencies, 50))
            rows[name]["p99"].append(percentile(latencies, 99))
        for found in rows.values():
            found["ratio"].append(found["rate"][-1] / rows["bare view"]["rate"][-1])
    # CPU time is counted in steps of 10 ms, which is too coarse for one round.
    return {
        name: {key: statistics.median(values) for key, values in found.items()}
        | {"cpu": cpu[name] / (rounds * requests), "cpu ratio": cpu[name] / cpu["bare view"]}
        for name, found in rows.items()
    }


def memory(folders: dict[int, Path], size: int) -> dict[str, float]:
    """Return the mean private memory (USS) of four workers that have served pages, in bytes."""
    figures: dict[str, float] = {}
    bare_env = os.environ | {"BENCHMARK_BARE_BYTES": str(size)}
    for name, env, paths in [
        ("bare view", bare_env, ["/api/files"]),
        *(
            (f"{items} items", environment(items, place), [f"/api/files?{query(items)}" for _ in range(WARMING)])
            for items, place in folders.items()
        ),
    ]:
        with server(env, CLASSES["gthread"], 4, None) as (port, master):
            for _ in range(8):  # several runs with new connections, so that every worker gets requests
                run(port, paths, WARMING)
            figures[name] = statistics.mean(worker.memory_full_info().uss for worker in workers_of(master))
    return figures


# The tables


def show(figures: dict[str, Any], size: int) -> None:
    print(f"\nPython {figures['python']}, pages of 50 items, {size} bytes each")
    ratio = figures["init_app seconds"] / figures["seconds of its rules"]
    print(
        f"`init_app` takes {figures['init_app seconds'] * 1e3:.1f} ms, {ratio:.1f} times as long as a bare app "
        "needs for as many rules."
    )
    head("list", "build", "page", "search", "open", "publish", "index", "data")
    for items, found in figures["items"].items():
        row(
            f"{items} items",
            f"{found['build seconds']:.1f} s",
            f"{found['page seconds'] * 1e6:.0f} µs",
            f"{found['search seconds'] * 1e3:.1f} ms",
            f"{found['opening seconds'] * 1e3:.2f} ms",
            f"{found['publishing seconds'] * 1e3:.1f} ms",
            f"{found['index bytes'] / 1e6:.1f} MB",
            f"{found['data bytes'] / 1e6:.1f} MB",
        )
    times = max(found["times its budget"] for found in figures["items"].values())
    print(f"\nA search that needs ten times its budget is ended after {times:.1f} times of it.")
    for name, rows in figures["classes"].items():
        show_compared(name, rows)
    head("private memory of a worker (USS), four workers", "MB", "above bare")
    bare = figures["memory"]["bare view"]
    for name, uss in figures["memory"].items():
        row(name, f"{uss / 1e6:.1f}", f"{(uss - bare) / 1e6:+.1f}")


def show_compared(name: str, rows: dict[str, dict[str, float]]) -> None:
    """Print what ``compare`` found with one class of workers."""
    head(f"{name}, one worker", "requests/s", "of bare", "p50", "p99", "CPU/request", "of bare")
    for candidate, found in rows.items():
        rate, ratio = f"{found['rate']:.0f}", f"{found['ratio']:.2f}"
        p50, p99 = f"{found['p50'] * 1e3:.2f} ms", f"{found['p99'] * 1e3:.2f} ms"
        row(candidate, rate, ratio, p50, p99, f"{found['cpu'] * 1e6:.0f} µs", f"{found['cpu ratio']:.2f}")


if __name__ == "__main__":
    main()
