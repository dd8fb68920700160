"""Is a list cold, fresh or stale?  As told to a read, which never waits."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from flask_warmcache.status.condition import ListStatus
from flask_warmcache.status.progress import Progress

from .world import Shelf, declare, files

NOW = time.time


def status_of(shelf: Shelf, ttl: float = 300.0, problem: str | None = None, **given: Any) -> ListStatus:
    code_started = given.pop("code_started", 1)
    return ListStatus(declare(shelf.name, **given), shelf.store, ttl, problem, code_started)


def told(status: ListStatus) -> tuple[str, bool, bool]:
    """State, whether a newer one is being made, and whether somebody should start."""
    condition = status.condition()
    return condition.state, condition.rebuilding, condition.due


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock that ages are taken from."""
    now = NOW() + seconds
    monkeypatch.setattr(time, "time", lambda: now)


def report(shelf: Shelf, **fields: Any) -> None:
    shelf.store.prepare()
    shelf.store.write_progress(shelf.name, {"phase": "enrich", "started": time.time(), **fields})


def test_nothing_published_is_cold_and_owed(shelf: Shelf) -> None:
    assert told(status_of(shelf)) == ("cold", True, True)
    assert status_of(shelf).condition().snapshot is None


def test_a_new_list_is_fresh(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    condition = status_of(shelf).condition()
    assert (condition.state, condition.rebuilding, condition.due) == ("fresh", False, False)
    assert 0 <= condition.age < 60


def test_past_its_ttl_it_is_stale_and_still_served(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf, ttl=60)
    later(monkeypatch, 59)
    assert told(status) == ("fresh", False, False)
    later(monkeypatch, 61)
    assert told(status) == ("stale", True, True)
    assert status.condition().snapshot is not None
    assert status.condition().age == pytest.approx(61, abs=2)


def test_a_clock_set_back_a_little_changes_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    later(monkeypatch, -30)
    assert told(status) == ("fresh", False, False)
    assert status.condition().age == 0


def test_a_clock_set_back_far_costs_one_rebuild(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.rebuild(files("a"))
    old = shelf.snapshot().generation
    status = status_of(shelf)
    later(monkeypatch, -365 * 86400)
    assert told(status) == ("stale", True, True)
    assert status.condition().age == 0
    shelf.rebuild(files("b"))
    assert shelf.snapshot().generation > old
    assert told(status) == ("fresh", False, False)


def test_an_invalidated_list_is_stale_at_once(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    assert told(status) == ("fresh", False, False)
    shelf.store.invalidate(shelf.name)
    assert told(status) == ("stale", True, True)


def test_an_outdated_snapshot_is_stale_and_a_newer_one_is_not(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    first = shelf.snapshot()
    status = status_of(shelf)
    shelf.store.mark_stale(shelf.name, first)
    assert told(status) == ("stale", True, True)
    shelf.rebuild(files("b"))
    shelf.store.mark_stale(shelf.name, first)  # came too late: what it meant is gone
    assert told(status) == ("fresh", False, False)


def test_outdating_nothing_is_nothing(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    snapshot = shelf.snapshot()
    shelf.index.unlink()
    shelf.store.mark_stale(shelf.name, snapshot)
    assert not shelf.index.exists()


def test_another_declaration_is_stale(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    assert told(status_of(shelf, sorts={"name": len})) == ("stale", True, True)


def test_old_and_new_code_do_not_replace_each_other_for_ever(shelf: Shelf) -> None:
    shelf.rebuild(files("a"), sorts={"name": len}, code_started=9)
    older, newer = status_of(shelf, code_started=5), status_of(shelf, code_started=9, sorts={"name": len})
    assert newer.condition().due is False
    assert older.condition().due is False
    assert older.condition().state == "stale"


def test_what_older_code_began_before_this_server_is_stale_even_if_it_is_published_later(shelf: Shelf) -> None:
    def source() -> list[dict[str, Any]]:
        server.append(time.time_ns())  # it starts while the older one's child is at work
        return files("a")

    server: list[int] = []
    shelf.rebuild(source, code_started=1)
    status = status_of(shelf, code_started=server[0])
    assert told(status) == ("fresh", False, False), "a command shows it as it is"
    status.staleness.serve()
    assert told(status) == ("stale", True, True)
    shelf.rebuild(files("a"), code_started=1)
    assert told(status) == ("fresh", False, False), "begun since, by another process that looks after the list"


def test_a_clock_that_is_set_back_makes_what_this_server_built_no_older(shelf: Shelf) -> None:
    future = time.time_ns() + 3600 * 10**9
    shelf.rebuild(files("a"), code_started=future)
    status = status_of(shelf, code_started=future)
    status.staleness.serve()
    assert told(status) == ("fresh", False, False)


def test_a_list_with_a_problem_is_failed_and_never_due(shelf: Shelf) -> None:
    assert told(status_of(shelf, problem="no source")) == ("failed", False, False)
    shelf.rebuild(files("a"))
    later_status = status_of(shelf, ttl=0.000001, problem="no source")
    assert told(later_status) == ("failed", False, False)
    assert later_status.condition().snapshot is not None


def test_after_a_failure_it_is_failed_and_pauses(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    status = status_of(shelf)
    report(shelf, phase="failed", error="ValueError", failures=1, next_attempt_at=time.time() + 50)
    status.reread()
    assert told(status) == ("failed", True, False)
    later(monkeypatch, 51)
    assert told(status) == ("failed", True, True)


def test_a_failed_list_that_is_fresh_is_not_rebuilding(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    report(shelf, phase="failed", error="ValueError", failures=1, next_attempt_at=time.time() + 50)
    status.reread()
    assert told(status) == ("failed", False, False)
    shelf.store.invalidate(shelf.name)
    assert told(status) == ("failed", False, False)


def test_a_pause_from_before_the_clock_was_set_back_does_not_last_for_ever(shelf: Shelf) -> None:
    status = status_of(shelf)
    report(shelf, phase="failed", failures=1, next_attempt_at=time.time() + 10 * 365 * 86400)
    status.reread()
    assert told(status) == ("failed", True, True)


def test_another_process_at_work_is_seen_by_its_lock_and_report(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    lock = shelf.lock()
    report(shelf)
    status.reread()
    assert (status.is_rebuilding, told(status)) == (True, ("fresh", True, False))
    lock.close()
    status.reread()  # killed: the report still says "enrich"
    assert (status.is_rebuilding, told(status)) == (False, ("fresh", False, False))


def test_a_rebuild_that_has_just_published_is_not_making_a_newer_one(shelf: Shelf) -> None:
    lock = shelf.lock()
    report(shelf, started=time.time() - 1, phase="publish")
    lock.close()
    shelf.rebuild(files("a"))
    lock = shelf.lock()  # as if it had not got to its end
    status = status_of(shelf)
    status.reread()
    assert (status.is_rebuilding, told(status)) == (True, ("fresh", False, False))
    lock.close()


def test_ones_own_rebuild_is_seen_at_once(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    progress = Progress(lambda written: None, None)
    status.begin(progress)
    assert told(status) == ("fresh", True, False)
    report(shelf, phase="failed")  # an old file is no news beside one's own rebuild
    status.reread()
    assert status.report is progress.report
    status.end(progress.report)
    assert told(status) == ("fresh", False, False)


def test_a_report_is_read_when_it_changes_only(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_removed_index_is_served_from_memory_and_rebuilt(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    assert told(status) == ("fresh", False, False)
    shelf.index.unlink()
    assert told(status) == ("stale", True, True)


def test_a_cleared_list_is_cold(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    shelf.store.publish_cold(shelf.name)
    assert told(status) == ("cold", True, True)
    assert list(shelf.folder.glob("*.data")) == []


def test_a_value_of_the_same_name_is_no_list(shelf: Shelf) -> None:
    shelf.rebuild(lambda: 5, kind="value", key=None)
    assert told(status_of(shelf)) == ("cold", True, True)
    assert not status_of(shelf).staleness.may_reuse(shelf.snapshot())
    assert told(status_of(shelf, kind="value", key=None)) == ("fresh", False, False)


def test_an_unfinished_list_is_partial_and_owed(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    snapshot = status.reader.current()
    assert snapshot is not None
    snapshot.complete = False
    assert told(status) == ("partial", True, True)


def test_damage_makes_it_stale_and_its_items_unfit(shelf: Shelf) -> None:
    shelf.rebuild(files("a"))
    status = status_of(shelf)
    assert status.staleness.may_reuse(shelf.snapshot())
    status.staleness.note_damage(shelf.snapshot())
    assert told(status) == ("stale", True, True)
    assert not status.staleness.may_reuse(shelf.snapshot())
    shelf.rebuild(files("a"), old=None)
    assert told(status) == ("fresh", False, False)
