"""How the lists are: what ``/api/cache/stats`` and ``flask warmcache status`` show."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from .rebuild.progress import Report
from .rebuild.status import Condition, ListStatus


def list_section(status: ListStatus) -> dict[str, Any]:
    """One list's section: facts shared by all workers, without paths, pids or tracebacks."""
    status.look_if_changed()
    condition = status.condition()
    snapshot, report = condition.snapshot, status.report
    section: dict[str, Any] = {}
    if status.declaration.kind != "value":
        section[f"{status.declaration.unit}_count"] = 0 if snapshot is None else snapshot.count
    section |= {
        "age_seconds": None if snapshot is None else round(condition.age, 1),
        "is_populated": snapshot is not None,
        "rebuild_in_progress": status.is_rebuilding,
        "cache_rebuilding": condition.rebuilding,
        "state": condition.state,
        "complete": snapshot is not None and snapshot.complete,
        "generation": None if snapshot is None else snapshot.token,
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
