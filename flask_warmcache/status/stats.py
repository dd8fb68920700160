"""How the lists are: what ``/api/cache/stats`` and ``flask warmcache status`` show."""

from __future__ import annotations

import json
from collections.abc import Hashable
from datetime import datetime, timezone
from typing import Any

from .condition import Condition, ListStatus
from .progress import Report

# A pause after a failure may last minutes, and somebody may end it meanwhile.
LONGEST_POLL = 30.0


def list_section(status: ListStatus) -> dict[str, Any]:
    """One list's section: facts shared by all workers, without paths, pids or tracebacks."""
    status.reread_if_changed()
    condition = status.condition()
    age = None if condition.snapshot is None else round(condition.age, 1)
    return {"age_seconds": age, "poll_after_ms": _poll_after(status), **_lasting(status, condition)}


class EncodedSections:
    """The lists' sections as JSON; what has not changed since the last poll is not encoded again."""

    def __init__(self, spread: float) -> None:
        """:param spread: seconds over which pages shall spread their refreshes; 0 leaves it to the poller."""
        self.pacing = {"spread_ms": round(1000 * spread)} if spread else {}
        self._known: dict[str, tuple[Hashable, bytes]] = {}  # by list: all that the bytes are made of, and they

    def encoded(self, status: ListStatus) -> bytes:
        """What ``list_section`` tells, ready to be sent."""
        status.reread_if_changed()
        condition = status.condition()
        report = status.report
        made_of = (
            None if condition.snapshot is None else condition.snapshot.stamp,
            condition.state,
            condition.rebuilding,
            status.is_rebuilding,
            # The report of a rebuild in this process changes where it stands.
            report
            and (report.phase, report.done, report.total, report.rate, report.error, report.next_attempt_at),
        )
        known = self._known.get(status.name)
        if known is None or known[0] != made_of:
            known = self._known[status.name] = (
                made_of,
                json.dumps(_lasting(status, condition) | self.pacing).encode(),
            )
        # What time alone changes, as JSON has it: an encoder would take as long as all the rest.
        age = b"null" if condition.snapshot is None else b"%.1f" % condition.age
        poll_after = b"%d" % wait if (wait := _poll_after(status)) is not None else b"null"
        return b'{"age_seconds": %b, "poll_after_ms": %b, %b\n' % (age, poll_after, known[1][1:])


def _poll_after(status: ListStatus) -> int | None:
    """How long nothing will happen, where the poller cannot know it, in milliseconds.

    A rebuild that runs tells its progress, from which the poller makes its own rhythm.
    """
    if status.is_rebuilding or status.pause <= 0:
        return None
    return int(1000 * min(LONGEST_POLL, max(1.0, status.pause)))


def _lasting(status: ListStatus, condition: Condition) -> dict[str, Any]:
    """What a rebuild, a write or a failure changes."""
    snapshot, report = condition.snapshot, status.report
    section: dict[str, Any] = {}
    if status.declaration.kind != "value":
        section[f"{status.declaration.unit}_count"] = 0 if snapshot is None else snapshot.count
    section |= {
        "is_populated": snapshot is not None,
        "rebuild_in_progress": status.is_rebuilding,
        "cache_rebuilding": condition.rebuilding,
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
        "dropped_items": None if snapshot is None else snapshot.header["dropped"],
        "runner": status.runner(),
    }
    return section


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
    """A moment for programs, in UTC."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return ""  # a file's own figure, out of any calendar
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
