"""One attempt to publish a draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .writer import Draft


def _nothing() -> None:
    """Do nothing."""


@dataclass
class Publication:
    """A draft that is to replace the published index, and what comes before and after its rename."""

    draft: Draft
    base: int  # the generation that was published when the draft was begun, or 0
    append: Callable[[], bool]  # puts the data in place, under the publish lock; False when it cannot
    invalidation: str  # the last one that the draft takes into account; a later one marks the new index
    keeps_mark: bool = False  # whether a mark on the old index passes to the new one
    tidy: Callable[[], None] = _nothing  # called after the rename, under the publish lock
