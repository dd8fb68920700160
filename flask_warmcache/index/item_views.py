"""One item in the views: which filters it passes, its sort keys and its search text.

Filters and sorts see an item as JSON gives it back, so that a rebuild that reuses an item and one that enriches
it again compute the same.  A function that fails on an item is reported.  It must not sink the list, so the item
does not pass that filter, or comes last in that order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from ..declaration import Item
from ..store import format as fmt
from .sort_order import NO_KEY, Key, ordered


def passes(name: str, function: Callable[[Item], object], item: Item, errors: Counter[str]) -> bool:
    """Return whether the item passes a filter."""
    try:
        return bool(function(item))
    except Exception as error:
        errors[f"filter {name}: {type(error).__name__}"] += 1
        return False


def sort_key(name: str, function: Callable[[Item], Any], item: Item, errors: Counter[str]) -> Key:
    """Return what the item is ordered by in a sort."""
    try:
        return ordered(function(item))
    except Exception as error:
        errors[f"sort {name}: {type(error).__name__}"] += 1
        return NO_KEY


def text_of(fields: Iterable[str], item: Item) -> bytes:
    """Return an item's line in the search text."""
    words = fmt.fold(" ".join(_words(item.get(field)) for field in fields))
    return words.encode("utf-8", "surrogatepass") + b"\n"


def _words(value: object) -> str:
    """Return a field as search reads it: text, numbers, and lists of these."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(_words(element) for element in value)
    return str(value)
