"""What the server's processes take of memory, and how much of it they share."""

from __future__ import annotations

from pathlib import Path

from ..host import resources
from .finding import OK, WARNING, Report
from .processes import Server

PROC = Path("/proc")
MIB = 1 << 20
NEARLY = 0.85  # of the limit


def check_memory(report: Report, server: Server, preload: bool) -> None:
    """Note what each process takes: PSS counts what is shared by its share, USS is its alone."""
    figures = {pid: sizes for pid in (server.pid, *server.workers) if (sizes := _sizes(pid)) is not None}
    report.facts["processes"] = [
        {"pid": pid, "is_master": pid == server.pid, "pss_bytes": pss, "uss_bytes": uss}
        for pid, (pss, uss) in figures.items()
    ]
    workers = [figures[pid] for pid in server.workers if pid in figures]
    if not workers:
        report.add(
            "memory.unreadable",
            WARNING,
            "The memory of the server's processes cannot be read.",
            "Whether it has room for its workers is not known.",
            "Run the doctor as the server's account.",
        )
        return
    total = sum(pss for pss, _ in figures.values())
    limit = resources.memory()
    largest = max(uss for _, uss in workers)
    said = (
        f"{len(workers)} {'worker' if len(workers) == 1 else 'workers'} with {min(workers)[0] // MIB} to "
        f"{max(workers)[0] // MIB} MiB each (PSS), up to {largest // MIB} MiB of it alone (USS); all processes "
        f"together {total // MIB} MiB"
    )
    if limit is not None:
        said += f" of the {limit // MIB} that they may use"
    report.add("memory.workers", OK, f"{said}.")
    if limit is None:
        return
    advice = "Run fewer workers (WEB_CONCURRENCY)" + ("." if preload else ", or load the app once: preload_app.")
    if total > NEARLY * limit:
        report.add(
            "memory.nearly_full",
            WARNING,
            f"The server takes {total * 100 // limit} % of the memory that it may use.",
            'The kernel kills a worker when it is used up; gunicorn then says "Perhaps out of memory?".',
            advice,
        )
    elif total + largest > limit:
        report.add(
            "memory.no_room_for_child",
            WARNING,
            "There is no room for another copy of the app.",
            "A rebuild that computes stays in a thread of a worker, and slows its requests down.",
            advice,
        )


def _sizes(pid: int) -> tuple[int, int] | None:
    """PSS and USS in bytes."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Pss"] * 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024
