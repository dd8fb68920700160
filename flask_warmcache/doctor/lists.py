"""How the lists get on with the server: who computes beside requests, and what is never fresh or never done."""

from __future__ import annotations

from typing import Any

from ..keeper.relay import COMPUTING, LONG
from ..settings import Settings
from ..status.condition import ListStatus
from .finding import FAULT, INFO, OK, WARNING, Report

BUSY_WORKER = 100.0  # requests a second that one worker may well answer


def check_list(
    report: Report,
    status: ListStatus,
    settings: Settings,
    child_problem: str | None,
    server: dict[str, Any] | None,
) -> None:
    """Note how one list's last rebuild fits.

    :param child_problem: why no child process can rebuild it, if so.
    :param server: the server's settings in force by name, if there is one.
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
            "What is shown is old, or nothing." if snapshot is not None else "Its pages show nothing.",
            f"See the log for warmcache.rebuild_failed, and try flask warmcache rebuild {name}.",
        )
    if snapshot is None or not snapshot.complete:
        if condition.state != "failed":
            report.add(
                "lists.cold",
                INFO,
                f"{name} was not built yet, so nothing is known of its rebuilds.",
                "Whether ttl and runner fit is told by how long a build takes, and how much of it computes.",
                f"Run the doctor again when it is built: by the server, or by flask warmcache rebuild {name}.",
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
            f"{name} computes for {duration * share:.1f} s in a thread of a worker.",
            "The worker's requests get the interpreter only in between.",
            "Set WARMCACHE_RUNNER=auto." if settings.runner == "thread" else "See runner.no_child.",
        )
    _check_ttl(report, status, duration)
    if duration > settings.build_timeout / 2:
        report.add(
            "lists.build_timeout",
            WARNING,
            f"{name} takes {duration:.0f} s of the {settings.build_timeout:.0f} that a rebuild may take.",
            "When the list grows, its rebuilds are ended before they are done.",
            "Raise WARMCACHE_BUILD_TIMEOUT.",
        )
    most = server["max_requests"] if server is not None else 0
    if in_thread and most and duration > LONG and most / duration < BUSY_WORKER:
        report.add(
            "lists.max_requests",
            WARNING,
            f"max_requests is {most}, and {name} takes {duration:.0f} s to build: a worker with more than "
            f"{most / duration:.0f} requests a second ends before that.",
            "The next worker goes on where it stopped, but the list is late, and a builder begins again.",
            "Raise max_requests, or let rebuilds run in a child: see the runner.",
        )


def _check_ttl(report: Report, status: ListStatus, duration: float) -> None:
    if duration < status.ttl / 2:
        return
    report.add(
        "lists.ttl",
        FAULT if duration >= status.ttl else WARNING,
        f"{status.name} is stale after {status.ttl:.0f} s, and takes {duration:.0f} s to build.",
        "It is being rebuilt nearly always, and hardly ever fresh.",
        f"Set ttl= to at least {max(1, round(duration * 5))}, or make the builder quicker: key= and enrich reuse "
        "what has not changed.",
    )
