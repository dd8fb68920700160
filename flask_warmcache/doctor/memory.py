"""How much memory the server's processes use, and how much of it they share."""

from __future__ import annotations

import psutil

from ..host import resources
from .finding import OK, WARNING, Report
from .processes import Server

MIB = 1 << 20
NEARLY = 0.85  # of the limit


def check_memory(report: Report, server: Server, preload: bool) -> None:
    """Report the memory of each process. USS is its own, and PSS adds its part of what it shares."""
    sizes = {pid: size for pid in (server.pid, *server.workers) if (size := _size(pid)) is not None}
    report.facts["processes"] = [
        {"pid": pid, "is_master": pid == server.pid, "pss_bytes": pss, "uss_bytes": uss}
        for pid, (pss, uss) in sizes.items()
    ]
    workers = [sizes[pid] for pid in server.workers if pid in sizes]
    if not workers:
        report.add(
            "memory.unreadable",
            WARNING,
            "The memory of the server's processes cannot be read.",
            "It is not known whether there is enough memory for all workers.",
            "Run the doctor as the server's account.",
        )
        return
    total = sum(pss for pss, _ in sizes.values())
    limit = resources.memory()
    largest = max(uss for _, uss in workers)
    text = (
        f"{len(workers)} {'worker' if len(workers) == 1 else 'workers'} with {min(workers)[0] // MIB} to "
        f"{max(workers)[0] // MIB} MiB each (PSS), of which up to {largest // MIB} MiB are not shared (USS); all "
        f"processes together use {total // MIB} MiB"
    )
    if limit is not None:
        text += f" of the {limit // MIB} MiB that they may use"
    report.add("memory.workers", OK, f"{text}.")
    if limit is None:
        return
    advice = "Run fewer workers (WEB_CONCURRENCY)" + ("." if preload else ", or load the app once: preload_app.")
    if total > NEARLY * limit:
        report.add(
            "memory.nearly_full",
            WARNING,
            f"The server uses {total * 100 // limit} % of the memory that it may use.",
            'When no memory is left, the kernel kills a worker; gunicorn then logs "Perhaps out of memory?".',
            advice,
        )
    elif total + largest > limit:
        report.add(
            "memory.no_room_for_child",
            WARNING,
            "There is not enough memory for another copy of the app.",
            "A rebuild that computes stays in a thread of a worker, and slows its requests down.",
            advice,
        )


def _size(pid: int) -> tuple[int, int] | None:
    """Return PSS and USS in bytes."""
    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return None
    return getattr(memory, "pss", memory.uss), memory.uss  # only Linux knows PSS
