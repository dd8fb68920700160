"""Whether each list fits the server: where its rebuilds compute, and whether they finish before ttl and limits."""

from __future__ import annotations

from typing import Any

from ..keeper.relay import COMPUTING, LONG
from ..settings import Settings
from ..status.condition import ListStatus
from .finding import FAULT, INFO, OK, WARNING, Report

BUSY_WORKER = 100.0  # requests per second that one worker may reach


def check_list(
    report: Report,
    status: ListStatus,
    settings: Settings,
    child_problem: str | None,
    server: dict[str, Any] | None,
) -> None:
    """Report whether the last rebuild of one list fits.

    :param child_problem: why no child process can rebuild it, if there is a reason.
    :param server: the settings in force in the running server by name, if there is one.
    """
    status.reread()
    condition, name = status.condition(), status.name
    snapshot = condition.snapshot
    facts = report.facts.setdefault("lists", {})[name] = {"state": condition.state, "ttl": status.ttl}
    if condition.state == "failed":
        error = status.problem or (status.report.error if status.report is not None else None)
        report.add(
            "lists.failed",
            FAULT,
            f"{name} cannot be rebuilt: {error}.",
            "Its pages show old items." if snapshot is not None else "Its pages show nothing.",
            f"Look for warmcache.rebuild_failed in the log, and try flask warmcache rebuild {name}.",
        )
    if snapshot is None or not snapshot.complete:
        if condition.state != "failed":
            report.add(
                "lists.cold",
                INFO,
                f"{name} has not been built yet, so nothing is known about its rebuilds.",
                "Whether ttl and runner fit depends on how long a build takes, and how much of that it computes.",
                f"Run the doctor again after the server or flask warmcache rebuild {name} has built it.",
            )
        return
    duration, share = snapshot.header["duration"], snapshot.header.get("cpu_share") or 0.0
    facts |= {"duration": duration, "cpu_share": share}
    if condition.state != "failed":
        report.add(
            "lists.built",
            OK,
            f"{name}: {condition.state}, built in {duration:.1f} s, {share:.0%} of it computing.",
        )
    in_thread = settings.runner == "thread" or (
        settings.runner in ("auto", "process") and child_problem is not None
    )
    if in_thread and duration > LONG and share > COMPUTING:
        report.add(
            "lists.computes_beside_requests",
            WARNING,
            f"Rebuilding {name} computes for {duration * share:.1f} s in a thread of a worker.",
            "The worker's requests have to share the interpreter with the rebuild.",
            "Set WARMCACHE_RUNNER=auto." if settings.runner == "thread" else "See runner.no_child.",
        )
    _check_ttl(report, status, duration)
    if duration > settings.build_timeout / 2:
        report.add(
            "lists.build_timeout",
            WARNING,
            f"{name} takes {duration:.0f} s of the {settings.build_timeout:.0f} s that a rebuild may take.",
            "When the list grows, its rebuilds are ended before they finish.",
            "Raise WARMCACHE_BUILD_TIMEOUT.",
        )
    max_requests = server["max_requests"] if server is not None else 0
    if in_thread and max_requests and duration > LONG and max_requests / duration < BUSY_WORKER:
        report.add(
            "lists.max_requests",
            WARNING,
            f"max_requests is {max_requests}, and {name} takes {duration:.0f} s to build: a worker with more than "
            f"{max_requests / duration:.0f} requests per second ends before that.",
            "The next worker resumes the rebuild, but the list is late, and a builder starts from scratch.",
            "Raise max_requests, or let rebuilds run in a child: see runner.no_child.",
        )


def _check_ttl(report: Report, status: ListStatus, duration: float) -> None:
    if duration < status.ttl / 2:
        return
    report.add(
        "lists.ttl",
        FAULT if duration >= status.ttl else WARNING,
        f"{status.name} is stale after {status.ttl:.0f} s, and takes {duration:.0f} s to build.",
        "It is rebuilt nearly all the time, and hardly ever fresh.",
        f"Set ttl= to at least {max(1, round(duration * 5))}, or make the builder faster: with key= and enrich "
        "unchanged items are reused.",
    )
