"""What one rebuild did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What one rebuild did."""

    generation: int
    count: int
    reused: int
    enriched: int
    failed: int
    dropped: int  # items of the old snapshot that the source no longer gave
    duration: float
