"""Has the source suddenly lost many items?  An unmounted share looks like an empty folder."""

from __future__ import annotations

from ..declaration import Declaration
from ..errors import SourceShrunkError
from ..settings import Settings

# A shorter list may lose all its items without being suspected.
SUSPECT_FROM = 10


def check_shrink(declaration: Declaration, before: int, after: int) -> None:
    """Refuse a source that gave far fewer items than the list has.

    :param before: how many items the list has.
    :param after: how many items the source gave.
    :raises SourceShrunkError: when more items are gone than ``max_shrink`` allows.
    """
    max_shrink = Settings.max_shrink if declaration.max_shrink is None else declaration.max_shrink
    # The product is rounded, because 10 * (1 - 0.7) is 3.0000000000000004 in floating point.
    if before >= SUSPECT_FROM and after < round(before * (1 - max_shrink), 6):
        raise SourceShrunkError(
            f"source gave {after} items where the list has {before}; the list stays as it is. If they are "
            f"really gone, run 'flask warmcache clear {declaration.name}' once, or declare it with "
            "max_shrink=1."
        )
