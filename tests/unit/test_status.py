"""The condition of a list as a read gets it, which never waits: cold, partial, fresh, stale or failed."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from flask_warmcache.status.condition import ListStatus
from flask_warmcache.status.progress import Progress
from tests.support.shelf import Shelf, declare, files

NOW = time.time


def status_of(shelf: Shelf, ttl: float = 300.0, problem: str | None = None, **declared: Any) -> ListStatus:
    code_started = declared.pop("code_started", 1)
    return ListStatus(declare(shelf.name, **declared), shelf.store, ttl, problem, code_started)


def condition_of(status: ListStatus) -> tuple[str, bool, bool]:
    """Return the state, whether a newer list is being made, and whether it is due."""
    condition = status.condition()
    return condition.state, condition.rebuilding, condition.due


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock that ages are taken from."""
    now = NOW() + seconds
    monkeypatch.setattr(time, "time", lambda: now)


def report(shelf: Shelf, **fields: Any) -> None:
    shelf.store.prepare()
    shelf.store.write_progress(shelf.name, {"phase": "enrich", "started": time.time(), **fields})


@pytest.fixture
def status(shelf: Shelf) -> ListStatus:
    """Return the status of a list that was built just now."""
    shelf.rebuild(files("a"))
    return status_of(shelf)


def test_list_without_snapshot_is_cold_and_due(shelf: Shelf) -> None:
    assert condition_of(status_of(shelf)) == ("cold", True, True)
    assert status_of(shelf).condition().snapshot is None


def test_new_list_is_fresh(status: ListStatus) -> None:
    assert condition_of(status) == ("fresh", False, False)
    assert 0 <= status.condition().age < 60


def test_list_past_its_ttl_is_stale_and_still_served(status: ListStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, 299)
    assert condition_of(status) == ("fresh", False, False)
    later(monkeypatch, 301)
    assert condition_of(status) == ("stale", True, True)
    assert status.condition().snapshot is not None
    assert status.condition().age == pytest.approx(301, abs=2)


def test_clock_set_back_a_little_changes_nothing(status: ListStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, -30)
    assert condition_of(status) == ("fresh", False, False)
    assert status.condition().age == 0


def test_clock_set_back_far_costs_one_rebuild(
    shelf: Shelf, status: ListStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = shelf.snapshot().generation
    later(monkeypatch, -365 * 86400)
    assert condition_of(status) == ("stale", True, True)
    assert status.condition().age == 0
    shelf.rebuild(files("b"))
    assert shelf.snapshot().generation > old
    assert condition_of(status) == ("fresh", False, False)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        pytest.param(lambda shelf: shelf.store.invalidate(shelf.name), "stale", id="invalidated"),
        pytest.param(lambda shelf: shelf.index.unlink(), "stale", id="removed, but in memory"),
        pytest.param(lambda shelf: shelf.store.publish_cold(shelf.name), "cold", id="cleared"),
    ],
)
def test_changed_list_is_due_at_once(shelf: Shelf, status: ListStatus, change: Any, state: str) -> None:
    assert condition_of(status) == ("fresh", False, False)
    change(shelf)
    assert condition_of(status) == (state, True, True)
    assert bool(list(shelf.folder.glob("*.data"))) == (state == "stale")


def test_incomplete_list_is_partial_and_due(status: ListStatus) -> None:
    snapshot = status.reader.current()
    assert snapshot is not None
    snapshot.complete = False
    assert condition_of(status) == ("partial", True, True)


def test_outdated_snapshot_is_stale_and_newer_one_is_not(shelf: Shelf, status: ListStatus) -> None:
    first = shelf.snapshot()
    shelf.store.mark_stale(shelf.name, first)
    assert condition_of(status) == ("stale", True, True)
    shelf.rebuild(files("b"))
    shelf.store.mark_stale(shelf.name, first)  # too late: that snapshot is replaced already
    assert condition_of(status) == ("fresh", False, False)
    shelf.index.unlink()
    shelf.store.mark_stale(shelf.name, first)
    assert not shelf.index.exists()


def test_snapshot_of_another_declaration_is_stale(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    assert condition_of(status_of(shelf, sorts={"name": len})) == ("stale", True, True)


def test_old_and_new_code_do_not_replace_each_other_forever(shelf: Shelf) -> None:
    shelf.rebuild(files("a"), sorts={"name": len}, code_started=9)
    older, newer = status_of(shelf, code_started=5), status_of(shelf, code_started=9, sorts={"name": len})
    assert newer.condition().due is False
    assert older.condition().due is False
    assert older.condition().state == "stale"


def test_rebuild_begun_before_this_server_is_stale_even_if_published_later(shelf: Shelf) -> None:
    def source() -> list[dict[str, Any]]:
        server.append(time.time_ns())  # the new server starts while the old one's child is at work
        return files("a")

    server: list[int] = []
    shelf.rebuild(source, code_started=1)
    status = status_of(shelf, code_started=server[0])
    assert condition_of(status) == ("fresh", False, False), "a command shows it as it is"
    status.staleness.serve()
    assert condition_of(status) == ("stale", True, True)
    shelf.rebuild(files("a"), code_started=1)
    assert condition_of(status) == ("fresh", False, False), "another process began it after this server's start"


def test_snapshot_of_this_server_stays_fresh_if_clock_is_set_back(shelf: Shelf) -> None:
    future = time.time_ns() + 3600 * 10**9
    shelf.rebuild(files("a"), code_started=future)
    status = status_of(shelf, code_started=future)
    status.staleness.serve()
    assert condition_of(status) == ("fresh", False, False)


def test_list_with_problem_is_failed_and_never_due(shelf: Shelf) -> None:
    assert condition_of(status_of(shelf, problem="no source")) == ("failed", False, False)
    shelf.rebuild(files("a"))
    later_status = status_of(shelf, ttl=0.000001, problem="no source")
    assert condition_of(later_status) == ("failed", False, False)
    assert later_status.condition().snapshot is not None


def test_failed_list_is_not_due_during_its_pause(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    status = status_of(shelf)
    report(shelf, phase="failed", error="ValueError", failures=1, next_attempt_at=time.time() + 50)
    status.reread()
    assert condition_of(status) == ("failed", True, False)
    later(monkeypatch, 51)
    assert condition_of(status) == ("failed", True, True)


def test_failed_list_that_is_fresh_is_not_rebuilding(shelf: Shelf, status: ListStatus) -> None:
    report(shelf, phase="failed", error="ValueError", failures=1, next_attempt_at=time.time() + 50)
    status.reread()
    assert condition_of(status) == ("failed", False, False)
    shelf.store.invalidate(shelf.name)
    assert condition_of(status) == ("failed", False, False)


def test_pause_ends_even_if_clock_is_set_back(shelf: Shelf) -> None:
    status = status_of(shelf)
    report(shelf, phase="failed", failures=1, next_attempt_at=time.time() + 10 * 365 * 86400)
    status.reread()
    assert condition_of(status) == ("failed", True, True)


def test_rebuild_in_another_process_is_seen_by_its_lock_and_report(shelf: Shelf, status: ListStatus) -> None:
    lock = shelf.lock()
    report(shelf)
    status.reread()
    assert (status.is_rebuilding, condition_of(status)) == (True, ("fresh", True, False))
    lock.close()
    status.reread()  # the builder was killed, so the report still says "enrich"
    assert (status.is_rebuilding, condition_of(status)) == (False, ("fresh", False, False))


def test_rebuild_that_has_published_no_longer_counts_as_rebuilding(shelf: Shelf) -> None:
    lock = shelf.lock()
    report(shelf, started=time.time() - 1, phase="publish")
    lock.close()
    shelf.rebuild(files("a"))
    lock = shelf.lock()  # as if the rebuild had not quite ended
    status = status_of(shelf)
    status.reread()
    assert (status.is_rebuilding, condition_of(status)) == (True, ("fresh", False, False))
    lock.close()


def test_rebuild_in_this_process_is_seen_at_once(shelf: Shelf, status: ListStatus) -> None:
    progress = Progress(lambda written: None, None)
    status.begin(progress)
    assert condition_of(status) == ("fresh", True, False)
    report(shelf, phase="failed")  # an older file does not count during a rebuild in this process
    status.reread()
    assert status.report is progress.report
    status.end(progress.report)
    assert condition_of(status) == ("fresh", False, False)


def test_report_is_read_only_when_it_has_changed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    status = status_of(shelf)
    report(shelf, phase="finished")
    read = shelf.store.read_progress
    reads: list[str] = []

    def counted(name: str) -> dict[str, Any] | None:
        reads.append(name)
        return read(name)

    monkeypatch.setattr(shelf.store, "read_progress", counted)
    for _ in range(5):
        status.reread()
        status.reread_if_changed()
    assert len(reads) == 1
    report(shelf, phase="failed")
    status.reread_if_changed()
    assert (len(reads), status.report is not None and status.report.phase) == (2, "failed")
    os.unlink(shelf.folder / "files.progress")
    status.reread_if_changed()
    assert status.report is None


def test_value_is_not_served_as_list_of_the_same_name(shelf: Shelf) -> None:
    shelf.rebuild(lambda: 5, kind="value", key=None)
    assert condition_of(status_of(shelf)) == ("cold", True, True)
    assert not status_of(shelf).staleness.may_reuse(shelf.snapshot())
    assert condition_of(status_of(shelf, kind="value", key=None)) == ("fresh", False, False)


def test_damaged_list_is_stale_and_its_items_are_not_reused(shelf: Shelf, status: ListStatus) -> None:
    assert status.staleness.may_reuse(shelf.snapshot())
    status.staleness.note_damage(shelf.snapshot())
    assert condition_of(status) == ("stale", True, True)
    assert not status.staleness.may_reuse(shelf.snapshot())
    shelf.rebuild(files("a"), old=None)
    assert condition_of(status) == ("fresh", False, False)
