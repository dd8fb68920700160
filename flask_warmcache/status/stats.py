"""How the lists are: what ``/api/cache/stats`` and ``flask warmcache status`` show."""

from __future__ import annotations

import json
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any

from .condition import Condition, ListStatus
from .progress import Report

# A pause after a failure may last minutes, but a person may end it sooner.
LONGEST_POLL = 30.0


def list_section(status: ListStatus) -> dict[str, Any]:
    """Return one list's section: facts that all workers share, without paths, pids or tracebacks."""
    status.reread_if_changed()
    condition = status.condition()
    age = None if condition.snapshot is None else round(condition.age, 1)
    return {"age_seconds": age, "poll_after_ms": _poll_after(status), **_lasting(status, condition)}


class EncodedSections:
    """Encodes the lists' sections as JSON, and keeps what has not changed since the last poll."""

    def __init__(self, spread: float) -> None:
        """:param spread: seconds over which pages spread their refreshes; 0 leaves that to the poller."""
        self.pacing = {"spread_ms": round(1000 * spread)} if spread else {}
        self._known: dict[str, tuple[Hashable, bytes]] = {}  # by list: the facts, and their JSON

    def encoded(self, status: ListStatus) -> bytes:
        """Return the same as ``list_section``, as JSON."""
        status.reread_if_changed()
        condition = status.condition()
        report = status.report
        facts = (
            None if condition.snapshot is None else condition.snapshot.stamp,
            condition.state,
            condition.rebuilding,
            status.is_rebuilding,
            status.blockade.is_on(),
            # A rebuild in this process changes its report in place.
            report
            and (report.phase, report.done, report.total, report.rate, report.error, report.next_attempt_at),
        )
        known = self._known.get(status.name)
        if known is None or known[0] != facts:
            known = self._known[status.name] = (
                facts,
                json.dumps(_lasting(status, condition) | self.pacing).encode(),
            )
        # These two change with time alone. An encoder would take as long for them as all the rest takes.
        age = b"null" if condition.snapshot is None else b"%.1f" % condition.age
        poll_after = b"%d" % wait if (wait := _poll_after(status)) is not None else b"null"
        return b'{"age_seconds": %b, "poll_after_ms": %b, %b\n' % (age, poll_after, known[1][1:])


def _poll_after(status: ListStatus) -> int | None:
    """Return for how many milliseconds nothing will happen, if the poller cannot know that.

    While a rebuild runs, the poller chooses its own rhythm by the progress.
    """
    if status.is_rebuilding or status.pause <= 0:
        return None
    return int(1000 * min(LONGEST_POLL, max(1.0, status.pause)))


def _lasting(status: ListStatus, condition: Condition) -> dict[str, Any]:
    """Return the facts that change with a rebuild, a write or a failure, but not with time."""
    snapshot, report = condition.snapshot, status.report
    section: dict[str, Any] = {}
    if status.declaration.kind != "value":
        section[f"{status.declaration.unit}_count"] = 0 if snapshot is None else snapshot.count
    return section | {
        "is_populated": snapshot is not None,
        "rebuild_in_progress": status.is_rebuilding,
        "cache_rebuilding": condition.rebuilding,
        "lock_held": status.blockade.is_on(),
        "state": condition.state,
        "complete": snapshot is not None and snapshot.complete,
        "generation": None if snapshot is None else snapshot.shown_generation,
        "progress": _progress(report) if report and report.running and status.is_rebuilding else None,
        "last_success_at": None if snapshot is None or not snapshot.complete else iso(snapshot.published_at),
        "last_error": _last_error(status, condition),
        "last_duration_seconds": None if snapshot is None else snapshot.header["duration"],
        "next_attempt_at": iso(report.next_attempt_at) if report and report.next_attempt_at else None,
        "reused_items": None if snapshot is None else snapshot.header["reused"],
        "enriched_items": None if snapshot is None else snapshot.header["enriched"],
        "failed_items": None if snapshot is None else snapshot.header["failed_items"],
        "view_errors": None
        if snapshot is None
        else {what: fault[0] for what, fault in snapshot.view_faults.items()},
        "dropped_items": None if snapshot is None else snapshot.header["dropped"],
        "runner": status.runner(),
    }


def _progress(report: Report) -> dict[str, Any]:
    return {
        "phase": report.phase,
        "done": report.done,
        "total": report.total,
        "rate": report.rate,
        "eta_seconds": None if report.eta is None else round(report.eta, 1),
    }


def _last_error(status: ListStatus, condition: Condition) -> str | None:
    if status.problem is not None:
        return "DeclarationError"
    return status.report.error if status.report is not None and condition.state == "failed" else None


def iso(seconds: float) -> str:
    """Format a moment for programs, in UTC."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return ""  # a file may hold any number
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
