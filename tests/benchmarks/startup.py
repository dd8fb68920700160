"""Measure how soon a worker serves if 62 of its 69 blueprints import slowly: gunicorn, 4 workers, --timeout 10.

    python -m tests.benchmarks.startup [--rounds 3] [--starts 10] [--python PYTHON] [--json]

The app of tests/startup_app runs in three modes: with only the 7 blueprints that login needs; with the 62 others
deferred and a one-time task of 30 s; and without flask-warmcache, importing all blueprints and doing that work at
start. PYTHON may belong to another environment, with another version of gunicorn.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.startup_app.parts import LATE, write
from tests.support.answers import ask
from tests.support.ports import free_port
from tests.support.processes import CHECKOUT, environment
from tests.support.servers import OUR_CONF, ServerProcess, gunicorn_command, running

from .load import head, note, row

WORKERS, TIMEOUT, THREADS = 4, 10, 4
TASK_SECONDS = 30.0
MODES = ("critical", "deferred", "eager")
DEADLINE = 120.0
KILLED = re.compile(r"WORKER TIMEOUT \(pid:(\d+)\)|Worker \(pid:(\d+)\) was sent SIG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="starts of each app")
    parser.add_argument(
        "--starts", type=int, default=10, help="more starts of the first two, only until they answer"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the servers")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warmcache-startup-") as folder:
        parts = Path(folder, "parts")
        write(parts)
        compile_all(parts, arguments.python)
        runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
        starts: dict[str, list[float | None]] = {"critical": [], "deferred": []}
        for turn in range(arguments.starts):
            for mode in starts if turn % 2 == 0 else reversed(starts):
                starts[mode].append(
                    first_answer(mode, parts, Path(folder, f"{mode}-start-{turn}"), arguments.python)
                )
        for turn in range(arguments.rounds):
            # Alternate the order, so that other load on the machine affects all modes alike.
            for mode in MODES if turn % 2 == 0 else reversed(MODES):
                note(f"round {turn + 1}: {mode}")
                runs[mode].append(measure(mode, parts, Path(folder, f"{mode}-{turn}"), arguments.python))
    figures = {mode: summary(found) for mode, found in runs.items()}
    for mode, found in runs.items():
        starts.setdefault(mode, []).extend(run["first 200"] for run in found)
    for mode in MODES:  # compare each start with the one beside it, because the machine's speed changes
        pairs = list(zip(starts[mode], starts["critical"][-len(starts[mode]) :], strict=True))
        figures[mode]["first 200 of each"] = [first and round(first, 3) for first, _ in pairs]
        figures[mode]["times of each"] = [first and base and round(first / base, 2) for first, base in pairs]
        figures[mode]["first 200"] = middle([first for first, _ in pairs])
        figures[mode]["times"] = middle(figures[mode]["times of each"])
    print(json.dumps(figures, indent=2)) if arguments.json else show(figures, version_of(arguments.python))


def version_of(python: str) -> str:
    """Return the version of gunicorn in that environment."""
    command = [python, "-c", "import gunicorn; print(gunicorn.__version__)"]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()


def compile_all(parts: Path, python: str = sys.executable) -> None:
    """Compile all modules, as an installation does, so that the first start need not."""
    subprocess.run([python, "-m", "compileall", "-q", parts, CHECKOUT / "flask_warmcache"], check=True)


@contextmanager
def server(
    mode: str, parts: Path, folder: Path, python: str, task_seconds: float = TASK_SECONDS
) -> Iterator[tuple[int, psutil.Process, Path]]:
    folder.mkdir()
    port = free_port()
    conf = () if mode == "eager" else OUR_CONF
    options = ["--timeout", str(TIMEOUT), "--worker-class", "gthread", "--threads", str(THREADS)]
    command = gunicorn_command(
        "tests.startup_app.app:app", port, WORKERS, *conf, *options, python=python, control_socket=True
    )
    env = environment(
        STARTUP_MODE=mode,
        STARTUP_TASK_SECONDS=task_seconds,
        STARTUP_CACHE=folder / "cache",
        STARTUP_RUNS=folder / "runs",
        PYTHONPATH=f"{CHECKOUT}{os.pathsep}{parts}",
    )
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    log = folder / "log"
    with running(ServerProcess(command, port, log, env, CHECKOUT)) as process:
        yield port, psutil.Process(process.process.pid), log


def get(port: int, path: str) -> tuple[int, str, bytes]:
    """Return status, worker and body of one answer; status 0 when there is none."""
    try:
        answer = ask(port, path, timeout=15)
    except (OSError, http.client.HTTPException):
        return 0, "", b""
    return answer.status, answer.headers.get("X-Pid", ""), answer.body


def wait_for(condition: Callable[[], bool], began: float) -> float | None:
    """Return the seconds from ``began`` until the condition holds, or None after the deadline."""
    while time.monotonic() < began + DEADLINE:
        if condition():
            return time.monotonic() - began
        time.sleep(0.01)
    return None


def first_answer(mode: str, parts: Path, folder: Path, python: str) -> float | None:
    """Return the seconds from the command to the first 200 of /login."""
    began = time.monotonic()
    with server(mode, parts, folder, python) as (port, _, _):
        return wait_for(lambda: get(port, "/login/")[0] == 200, began)


def measure(
    mode: str, parts: Path, folder: Path, python: str = sys.executable, task_seconds: float = TASK_SECONDS
) -> dict[str, Any]:
    """Measure one start, from the command until every worker has loaded everything."""
    began = time.monotonic()
    with server(mode, parts, folder, python, task_seconds) as (port, master, log):
        first = wait_for(lambda: get(port, "/login/")[0] == 200, began)
        found: dict[str, Any] = {"first 200": first, "log": ""}
        if first is not None:
            logins: list[float] = []
            states: dict[str, bool] = {}

            def all_loaded() -> bool:
                asked = time.monotonic()
                status, pid, _ = get(port, "/login/")
                logins.append(time.monotonic() - asked if status == 200 else DEADLINE)
                if mode == "deferred":
                    if "task done" not in found and task_is_done(port):
                        found["task done"] = time.monotonic() - began
                    _, _, body = get(port, "/api/cache/stats/blueprints")
                    status, pid, _ = get(port, "/login/")
                    state = json.loads(body or b"{}")
                    # This is the state of any one worker. ask_all() requests every part of each worker.
                    return bool(state) and state["loaded"] == state["total"] and len(logins) > 100
                states[pid] = True
                return len(states) == WORKERS and len(logins) > 100

            found["all loaded"] = wait_for(all_loaded, began)
            found["parts"], found["asked again"] = ask_all(port, began) if mode != "critical" else ({}, 0)
            if mode == "deferred" and "task done" not in found:
                found["task done"] = wait_for(lambda: task_is_done(port), began)
            found["login p50"], found["login max"] = statistics.median(logins), max(logins)
            workers = master.children()
            found["uss"] = [worker.memory_full_info().uss / 1e6 for worker in workers]
            found["pss"] = [worker.memory_full_info().pss / 1e6 for worker in workers]
        runs = folder / "runs"
        found["task runs"] = len(runs.read_text().splitlines()) if runs.exists() else 0
        found["killed"] = len({match[1] or match[2] for match in KILLED.finditer(log.read_text())})
        found["booted"] = log.read_text().count("Booting worker")
    return found


def task_is_done(port: int) -> bool:
    status, _, body = get(port, "/api/cache/stats/tasks")
    return status == 200 and json.loads(body)["fetch-models"]["state"] == "done"


def ask_all(port: int, began: float) -> tuple[dict[str, int], int]:
    """Return how many workers answered for each late blueprint, and how often one was not loaded yet."""
    answered: dict[str, set[str]] = {name: set() for name in LATE}
    again = 0
    while time.monotonic() < began + DEADLINE:
        missing = [name for name, pids in answered.items() if len(pids) < WORKERS]
        if not missing:
            break
        for name in missing:
            status, pid, body = get(port, f"/{name}/")
            if status == 200 and body == name.encode():
                answered[name].add(pid)
            elif status == 503:
                again += 1
            else:
                raise AssertionError(f"/{name}/ answered {status} {body[:200]!r}")
    return {name: len(pids) for name, pids in answered.items()}, again


def middle(values: list[float | None]) -> float | None:
    """Return the median, or None if a value is missing."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known and len(known) == len(values) else None


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the rounds, and the sums of unwanted events."""
    return {
        "all loaded": middle([run.get("all loaded") for run in runs]),
        "login p50": middle([run.get("login p50") for run in runs]),
        "login max": middle([run.get("login max") for run in runs]),
        "blueprints that answered in every worker": min(
            sum(count == WORKERS for count in run.get("parts", {}).values()) for run in runs
        ),
        "asked again": sum(run.get("asked again", 0) for run in runs),
        "task done": middle([run.get("task done") for run in runs]),
        "task runs": [run["task runs"] for run in runs],
        "killed": sum(run["killed"] for run in runs),
        "booted": sum(run["booted"] for run in runs),
        "uss": round(statistics.mean([size for run in runs for size in run.get("uss", [0])]), 1),
        "pss": round(statistics.mean([size for run in runs for size in run.get("pss", [0])]), 1),
    }


def show(figures: dict[str, dict[str, Any]], version: str) -> None:
    """Print the table of docs/figures.md."""
    titles = {
        "critical": "only the 7 that login needs",
        "deferred": "and 62 deferred; the work a one-time task",
        "eager": "all 69, and the work, at start, without flask-warmcache",
    }
    print(f"gunicorn {version}, {WORKERS} workers, --timeout {TIMEOUT}, {os.cpu_count()} cores")
    times = ("first 200 of /login", "all loaded", "/login p50, max", "the work done")
    head("blueprints", *times, "workers killed", "USS, PSS each")
    for mode, title in titles.items():
        found = figures[mode]
        first = f"over {DEADLINE:.0f} s" if found["first 200"] is None else f"{found['first 200']:.2f} s"
        if found["times"] is not None and mode != "critical":
            first += f" ({found['times']:.2f} times)"
        loaded = "" if found["all loaded"] is None else f"{found['all loaded']:.1f} s"
        login = ""
        if found["login p50"] is not None:
            login = f"{found['login p50'] * 1e3:.0f} ms, {found['login max'] * 1e3:.0f} ms"
        done = ", ".join(f"{runs} times" for runs in found["task runs"] if runs)
        if found["task done"] is not None:
            done += f", after {found['task done']:.1f} s"
        memory = f"{found['uss']:.0f} MB, {found['pss']:.0f} MB"
        row(title, first, loaded, login, done, found["killed"], memory)
    print(
        f"\nDeferred: {figures['deferred']['blueprints that answered in every worker']} of {len(LATE)} blueprints "
        "answered in every worker in the end."
    )


if __name__ == "__main__":
    main()
