"""Finished items, and what comes out of a call of ``enrich``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .source import Pending


@dataclass(slots=True)
class Enriched:
    """One finished item."""

    fingerprint: bytes
    encoded: bytes
    place: tuple[int, int] | None  # where an interrupted rebuild has written it
    line_number: int = -1  # in the rebuild's data file


Result = Enriched | Exception
Keep = Callable[[Sequence[Enriched]], None]
# The items of one call, and their results if these are known before the call.
Unit = tuple[list[Pending], list[Result] | None]
Done = tuple[list[Pending], list[Result]]


def finished(results: Iterable[Result]) -> list[Enriched]:
    """Return the results that are items and not errors."""
    return [result for result in results if isinstance(result, Enriched)]
