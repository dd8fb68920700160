"""The clocks and counts of one rebuild."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ..declaration import Declaration
from ..host import threads
from ..status.progress import Progress
from ..store.snapshot import Snapshot
from .enrich import Enricher
from .tools import Failures, Outcome

# The durations of this many rebuilds are kept for the status page.
DURATIONS_KEPT = 20


@dataclass
class Tally:
    """Keeps the clocks and counts of one rebuild, which begins now."""

    declaration: Declaration
    old: Snapshot | None  # the snapshot that the rebuild replaces
    upstream: Snapshot | None
    enricher: Enricher
    failures: Failures
    progress: Progress
    code_started: int
    unchanged: int = 0
    dropped: int = 0
    began: float = field(default_factory=time.monotonic)
    stopwatch: threads.Stopwatch = field(default_factory=threads.Stopwatch)

    def _duration(self) -> float:
        """Return the seconds since the rebuild began, in whichever process that was.

        Without the time before a hand-over, a list that was handed over late would look quick, and its next
        rebuild would begin in a thread again.
        """
        return time.monotonic() - self.began + self.progress.report.worked

    def outcome(self, generation: int, count: int) -> Outcome:
        """Return what the rebuild did, once it has published."""
        reused = self.unchanged + self.enricher.found
        enriched, failed = self.enricher.enriched, self.failures.count
        return Outcome(generation, count, reused, enriched, failed, self.dropped, self._duration())

    def header(self) -> dict[str, Any]:
        """Return what the index says about the rebuild."""
        duration = round(self._duration(), 3)
        computed, elapsed = self.stopwatch.elapsed()
        earlier = [] if self.old is None else self.old.header.get("durations", [])
        return {
            "code_started": self.code_started,
            "cold": False,
            "is_value": self.declaration.kind == "value",
            "duration": duration,
            "durations": [*earlier, duration][-DURATIONS_KEPT:],
            "cpu_share": round(computed / max(elapsed, 1e-6), 3),
            "upstream": self.upstream.generation if self.upstream else None,
            "reused": self.unchanged + self.enricher.found,
            "enriched": self.enricher.enriched,
            "failed_items": self.failures.count,
            "dropped": self.dropped,
        }
