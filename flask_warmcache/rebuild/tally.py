"""The clocks and counts of one rebuild."""

from __future__ import annotations

import time
from typing import Any

from ..declaration import Declaration
from ..status.progress import Progress
from ..store.snapshot import Snapshot
from .enrich import Enricher
from .outcome import Outcome
from .tools import Failures

# The durations of this many rebuilds are kept for the status page.
DURATIONS_KEPT = 20


class Tally:
    """Keeps the clocks and counts of one rebuild."""

    def __init__(
        self,
        declaration: Declaration,
        old: Snapshot | None,
        upstream: Snapshot | None,
        enricher: Enricher,
        failures: Failures,
        progress: Progress,
        code_started: int,
    ) -> None:
        """Start the clocks.

        :param old: the snapshot that the rebuild replaces.
        """
        self._declaration = declaration
        self._upstream = upstream
        self._earlier_durations = [] if old is None else old.header.get("durations", [])
        self._enricher = enricher
        self._failures = failures
        self._progress = progress
        self._code_started = code_started
        self._began, self._cpu_began = time.monotonic(), time.thread_time()
        self.unchanged = 0
        self.dropped = 0

    @property
    def _duration(self) -> float:
        """Seconds since the rebuild began, in whichever process that was.

        Without the time before a hand-over, a list that was handed over late would look quick, and its next
        rebuild would begin in a thread again.
        """
        return time.monotonic() - self._began + self._progress.report.worked

    @property
    def _reused(self) -> int:
        return self.unchanged + self._enricher.found

    def outcome(self, generation: int, count: int) -> Outcome:
        """Return what the rebuild did, once it has published."""
        return Outcome(
            generation=generation,
            count=count,
            reused=self._reused,
            enriched=self._enricher.enriched,
            failed=self._failures.count,
            dropped=self.dropped,
            duration=self._duration,
        )

    def header(self) -> dict[str, Any]:
        """Return what the index says about the rebuild."""
        worked_here, duration = time.monotonic() - self._began, round(self._duration, 3)
        return {
            "code_started": self._code_started,
            "cold": False,
            "is_value": self._declaration.kind == "value",
            "duration": duration,
            "durations": [*self._earlier_durations, duration][-DURATIONS_KEPT:],
            "cpu_share": round(min(1.0, (time.thread_time() - self._cpu_began) / max(worked_here, 1e-6)), 3),
            "upstream": self._upstream.generation if self._upstream else None,
            "reused": self._reused,
            "enriched": self._enricher.enriched,
            "failed_items": self._failures.count,
            "dropped": self.dropped,
        }
