"""The database connections that all workers together may open."""

from __future__ import annotations

import gc
import sys
from typing import Any

from .finding import OK, WARNING, Report

# PostgreSQL's default is 100, of which three are kept for its administrators.
MOST_CONNECTIONS = 97


def check_pools(report: Report, workers: int, threads: int) -> None:
    """Note SQLAlchemy's engines in this process, which are those of every worker."""
    base = sys.modules.get("sqlalchemy.engine.base")
    if base is None:
        return
    engines = [thing for thing in gc.get_objects() if type(thing) is base.Engine]
    servers: dict[str, list[int]] = {}
    for engine in engines:
        most = _most(engine.pool)
        if engine.dialect.name != "sqlite" and most is not None:
            servers.setdefault(engine.url.render_as_string(hide_password=True), []).append(most)
    report.facts["pools"] = [
        {"url": url, "pools": len(sizes), "connections_per_worker": sum(sizes)} for url, sizes in servers.items()
    ]
    for url, sizes in servers.items():
        if len(sizes) > 1:
            report.add(
                "pools.several",
                WARNING,
                f"Each worker has {len(sizes)} pools of connections to {url}.",
                "Each opens connections of its own, up to its own limit.",
                "Make one engine where the app is made, and import it everywhere else.",
            )
        total = sum(sizes) * workers
        if total > MOST_CONNECTIONS:
            report.add(
                "pools.connections",
                WARNING,
                f"{workers} workers may open {total} connections to {url}.",
                f"PostgreSQL gives {MOST_CONNECTIONS} by default and refuses the rest; each takes memory there.",
                f"Lower pool_size and max_overflow; a worker with {threads} threads needs about {threads + 1}.",
            )
        else:
            report.add("pools.connections", OK, f"At most {total} connections to {url} from all workers.")


def _most(pool: Any) -> int | None:
    """How many connections a pool may open, or None when it keeps none or has no limit of that kind."""
    size, overflow = getattr(pool, "size", None), getattr(pool, "_max_overflow", None)
    if not callable(size) or not isinstance(overflow, int):
        return None
    return int(size()) + max(0, overflow)
