"""``flask warmcache``: what it prints and how it exits."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flask_warmcache import WarmCache, WarmList
from flask_warmcache.store.files import FileStore
from tests.support.apps import Shop, make_app
from tests.support.processes import python, read_line, run, send_line, started
from tests.support.waiting import until


class Shell(Shop):
    """An app with a list and a value, and its commands."""

    NAMES = ("a", "b")
    OPTIONS = {"unit": "file"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder / "cache"
        self.warmcache.value("dashboard")(dict)

    def run(self, *arguments: str) -> Result:
        return self.app.test_cli_runner().invoke(args=["warmcache", *arguments])


@pytest.fixture
def shop(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from flask_warmcache.store.files import FileStore
store = FileStore(Path(sys.argv[1]))
lock = store.try_lock("files")
store.write_progress("files", {"phase": "enrich", "done": 1, "total": 4, "started": time.time(), "failures": 0})
print("ready", flush=True)
for line in sys.stdin:
    ended = {"phase": line.strip(), "started": time.time()}
    store.write_progress("files", {**ended, "error": "ValueError", "failures": 1})
    lock.close()
"""


@pytest.fixture
def other(shop: Shell) -> Iterator[subprocess.Popen[str]]:
    """Start another process, in the middle of a rebuild, which ends in the phase that is sent to it."""
    with started(python("-c", HOLD, shop.folder)) as process:
        assert read_line(process) == "ready"
        yield process


def test_status_exits_with_1_until_all_lists_are_warm(shop: Shell) -> None:
    result = shop.run("status")
    lines = result.output.splitlines()
    assert lines[0].split() == ["LIST", "STATE", "ITEMS", "AGE", "LAST", "BUILD", "NOTE"]
    assert [line.split()[:2] for line in lines[1:]] == [["files", "cold"], ["dashboard", "cold"]]
    assert result.exit_code == 1
    assert not shop.folder.exists()
    shop.rebuild()
    assert shop.run("status").exit_code == 1
    shop.rebuild("dashboard")
    result = shop.run("status")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["files", "fresh", "2"], ["dashboard", "fresh", "1"]]


def test_status_shows_failures_and_progress(shop: Shell, other: subprocess.Popen[str]) -> None:
    result = shop.run("status")
    assert "rebuilding: enrich, 1 of 4" in result.output
    send_line(other, "failed")
    until(lambda: "last error: ValueError" in shop.run("status").output)
    assert shop.run("status").exit_code == 1


def test_status_as_json_equals_stats(shop: Shell) -> None:
    shop.rebuild()
    result = shop.run("status", "--json")
    printed = json.loads(result.output)
    answered = shop.app.test_client().get("/api/cache/stats").get_json()
    assert set(printed) == {"files", "dashboard"}
    for section in (printed["files"], answered["files"]):
        section.pop("age_seconds")
    assert printed["files"] == answered["files"]


def test_status_without_lists_prints_only_header(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    WarmCache(app)
    result = app.test_cli_runner().invoke(args=["warmcache", "status"])
    assert (result.exit_code, len(result.output.splitlines())) == (0, 1)


def test_rebuild_prints_only_its_outcome_without_terminal(shop: Shell) -> None:
    result = shop.run("rebuild", "files")
    assert (result.exit_code, result.stderr, len(result.stdout.splitlines())) == (0, "", 1)
    assert "files: 2 items, 2 enriched, 0 reused, 0 failed, in " in result.stdout
    again = shop.run("rebuild", "files")
    assert "2 items, 0 enriched, 2 reused" in again.output
    everything = shop.run("rebuild", "files", "--all")
    assert "2 items, 2 enriched, 0 reused" in everything.output


def test_rebuild_as_json_prints_only_outcome(shop: Shell) -> None:
    result = shop.run("rebuild", "files", "--json")
    printed = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    generation = shop.app.test_client().get("/api/cache/stats/files").get_json()["generation"]
    assert 0 <= printed.pop("duration") < 60
    assert printed == {
        "name": "files",
        "generation": generation,
        "count": 2,
        "reused": 0,
        "enriched": 2,
        "failed": 0,
        "dropped": 0,
    }
    shop.error = ValueError("broken")
    failed = shop.run("rebuild", "files", "--json")
    why = "The rebuild of 'files' failed: ValueError: broken"
    assert (failed.exit_code, json.loads(failed.stdout)) == (1, {"name": "files", "error": why})
    assert failed.stderr == f"{why}\n"


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(5), KeyboardInterrupt()], ids=repr)
def test_failed_rebuild_exits_with_1(shop: Shell, error: BaseException) -> None:
    shop.error = error
    result = shop.run("rebuild", "files")
    assert result.exit_code == 1
    assert f"The rebuild of 'files' failed: {type(error).__name__}" in result.output


def test_commands_exit_with_3_while_another_process_rebuilds(shop: Shell, other: subprocess.Popen[str]) -> None:
    result = shop.run("rebuild", "files")
    assert result.exit_code == 3
    assert "is being rebuilt already. Use --wait to follow it." in result.output
    error = json.loads(shop.run("rebuild", "files", "--json").stdout)["error"]
    assert error.endswith("is being rebuilt already. Use --wait to follow it.")
    result = shop.run("clear", "files")
    assert (result.exit_code, "being rebuilt; try again" in result.output) == (3, True)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every check whether a list is locked."""
    monkeypatch.setattr("flask_warmcache.cli.rebuild.POLL", 0.001)
    asked: list[str] = []
    is_locked = FileStore.is_locked

    def noted(self: FileStore, name: str) -> bool:
        asked.append(name)
        return is_locked(self, name)

    monkeypatch.setattr(FileStore, "is_locked", noted)
    return asked


@pytest.mark.parametrize("end", ["finished", "failed", "killed"])
def test_wait_follows_other_rebuild_to_its_end(
    shop: Shell, other: subprocess.Popen[str], probes: list[str], end: str
) -> None:
    built = Shell(shop.folder.parent / "other")
    built.rebuild()
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(shop.run("rebuild", "files", "--wait", "--json")))
    thread.start()
    until(lambda: len(probes) > 20)
    assert results == []
    if end == "killed":
        other.send_signal(signal.SIGKILL)
    else:
        if end == "finished":  # publish as the other would
            for path in (*built.folder.glob("*.data"), built.folder / "files.index"):
                path.rename(shop.folder / path.name)
        send_line(other, end)
    thread.join(120)
    assert results and results[0].exit_code == (0 if end == "finished" else 1), results
    assert (json.loads(results[0].stdout or "{}").get("count") == 2) == (end == "finished")
    assert ("failed; the log of the process that ran it says why" in results[0].output) == (end != "finished")


def test_wait_for_other_rebuild_is_followed_by_own_one_of_all_items(
    shop: Shell, other: subprocess.Popen[str], probes: list[str]
) -> None:
    results: list[Result] = []
    command = ("rebuild", "files", "--all", "--wait", "--json")
    thread = threading.Thread(target=lambda: results.append(shop.run(*command)))
    thread.start()
    until(lambda: len(probes) > 20)
    send_line(other, "failed")
    thread.join(120)
    assert results and results[0].exit_code == 0, results
    assert (json.loads(results[0].stdout)["enriched"], shop.builds) == (2, 1)


@pytest.mark.parametrize(
    ("command", "printed", "state"), [("invalidate", "invalidated", "stale"), ("clear", "cleared", "cold")]
)
def test_command_changes_state(shop: Shell, command: str, printed: str, state: str) -> None:
    shop.rebuild()
    for _ in range(2):
        result = shop.run(command, "files")
        assert (result.exit_code, result.output) == (0, f"files is {printed}.\n")
        assert shop.client.get("/api/cache/stats/files").get_json()["state"] == state
        assert (list(shop.folder.glob("*.data")) == []) == (state == "cold")


@pytest.mark.parametrize("command", ["invalidate", "clear"])
def test_unusable_folder_exits_with_1_and_names_setting(shop: Shell, command: str) -> None:
    shop.folder.write_text("")
    result = shop.run(command, "files")
    assert result.exit_code == 1
    assert "Set WARMCACHE_DIR" in result.output


@pytest.mark.parametrize(
    "command", [["rebuild"], ["invalidate"], ["clear"], ["refresh", "--int", "1"], ["discard", "a"]], ids=str
)
def test_unknown_list_exits_with_2_and_names_declared_ones(shop: Shell, command: list[str]) -> None:
    result = shop.run(command[0], "none", *command[1:])
    assert result.exit_code == 2
    assert "No warm list named 'none'. Declared: files, dashboard." in result.output


@pytest.mark.usefixtures("live")
def test_commands_start_no_keeper(shop: Shell) -> None:
    def enrich(item: dict[str, Any]) -> dict[str, Any]:
        shop.warmcache["dashboard"].get()  # a list that is read by a rebuild starts none either
        return item

    shop.warmcache["files"].enrich(enrich)
    for command in (["status"], ["rebuild", "files"], ["invalidate", "files"], ["clear", "files"]):
        shop.run(*command)
    assert "warmcache-keeper" not in [thread.name for thread in threading.enumerate()]


def test_rebuild_from_shell_shows_bar_on_terminal(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import time\n"
        "from flask import Flask\n"
        "from flask_warmcache import WarmCache\n"
        "app = Flask(__name__)\n"
        f"app.config['WARMCACHE_DIR'] = {str(tmp_path / 'cache')!r}\n"
        "warmcache = WarmCache(app)\n"
        "items = [{'path': str(number)} for number in range(40)]\n"
        "files = warmcache.warm_list('files', key='path', source=lambda: time.sleep(1.2) or items)\n"
        "files.enrich(lambda item: time.sleep(0.02) or item)\n"
    )
    master, terminal = pty.openpty()
    command = python("-m", "flask", "--app", "shop", "warmcache", "rebuild", "files")
    done = run(command, cwd=tmp_path, stderr=terminal)
    os.close(terminal)
    with open(master, "rb", closefd=True) as shown:
        lines = shown.read1(100_000).decode().split("\r\x1b[?25l")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stdout.startswith("files: 40 items, 40 enriched")
    assert any(line.startswith("files: source, 1 s ") for line in lines), lines
    assert any(re.fullmatch(r"files: enrich, [\d.]+/s, \d s left  \[#*-+\]  \d+/40 *", line) for line in lines), (
        lines
    )


# refresh and discard


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[object, ...]]]:
    """Record the calls of the lists' methods: which method, which list, which keys."""
    calls: list[tuple[str, str, tuple[object, ...]]] = []

    def method_of(what: str) -> Any:
        def method(listed: WarmList, *keys: object) -> bool:
            calls.append((what, listed.name, keys))
            if "broken" in keys:
                raise ValueError("no lookup")
            return "late" not in keys

        return method

    for what in ("refresh", "discard"):
        monkeypatch.setattr(WarmList, what, method_of(what), raising=False)
    return calls


@pytest.mark.parametrize("command", ["refresh", "discard"])
@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["a"], ("a",)),
        (["a", "5", "ä b"], ("a", "5", "ä b")),
        (["5", "7", "--int"], (5, 7)),
        (["--int", "--", "-5"], (-5,)),
    ],
    ids=str,
)
def test_change_calls_method_of_list(
    shop: Shell,
    changes: list[tuple[str, str, tuple[object, ...]]],
    command: str,
    arguments: list[str],
    keys: tuple[object, ...],
) -> None:
    result = shop.run(command, "files", *arguments)
    assert changes == [(command, "files", keys)]
    plural = "key" if len(keys) == 1 else "keys"
    assert (result.exit_code, result.stdout) == (0, f"files: {len(keys)} {plural} {command.rstrip('e')}ed.\n")


@pytest.mark.parametrize("command", ["refresh", "discard"])
@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["files", "late"], 3, "files cannot be written now; it is invalidated"),
        (["files", "broken"], 1, "files is unchanged: ValueError: no lookup"),
        (["files", "--int", "x"], 2, "With --int each KEY is a whole number: invalid literal"),
        (["files"], 2, "Missing argument 'KEY...'"),
        (["dashboard", "a"], 2, "'dashboard' has no items with a key"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("changes")
def test_failed_change_prints_reason(
    shop: Shell, command: str, arguments: list[str], code: int, reason: str
) -> None:
    result = shop.run(command, *arguments)
    assert (result.exit_code, reason in result.stderr) == (code, True), result.output
