"""One item in the views: which filters it passes, its sort keys and its search text.

Filters and sorts see an item as JSON gives it back, with its dates and decimals restored (exact.py), so that a
rebuild that reuses an item and one that enriches it again compute the same.  A function that fails on an item is
reported.  It must not sink the list, so the item does not pass that filter, or comes last in that order.

Where an item stands depends on its own key alone, so an item with an odd key moves no other.  Keys are ordered
by kind first, and within a kind as Python orders them:

1. numbers, with True as 1 and False as 0
2. text
3. tuples and lists, element by element in this same order
4. keys of any other type, by the name of the type
5. None, together with the items that have no key because the sort function failed or gave NaN

Items with equal keys keep source order.  A sort that is read backwards, as in ``sort=-name``, reverses all of
this, so that None comes first.

A snapshot that was sorted in another order must not be patched in this one: whoever changes this order changes
``SORT_ORDER`` in declaration.py, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from numbers import Real
from traceback import format_exception_only
from typing import Any

from ..declaration import Declaration, Item
from ..errors import named
from ..store import format as fmt

NUMBER, TEXT, SEQUENCE, OTHER, LAST = range(5)
# A kind, and what keys of this kind are compared by.
Key = tuple[int, Any]
NO_KEY: Key = (LAST, ())
# How an index describes what fails, such as "filter marked: KeyError": on how many items, the key of the first of
# them as text, if it is known, and the error's message.
Faults = Mapping[str, list[Any]]
MESSAGE_MAX = 200  # characters


class ViewErrors(Counter[str]):
    """What fails, and on how many items."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, tuple[str, Exception]] = {}  # the first item's key, and what happened to it

    def note(self, function: str, key: object, error: Exception) -> None:
        """Count a filter or sort that failed on an item."""
        what = f"{function}: {type(error).__name__}"
        self[what] += 1
        if what not in self.first:
            self.first[what] = shown(key), error

    def message(self, what: str) -> str:
        """Return what happened to the first item, for people."""
        # str() would not do: an app's exception may fail in its own __str__.
        return "".join(format_exception_only(self.first[what][1])).strip()[:MESSAGE_MAX]

    def added_to(self, before: Faults, gone: Counter[str], gone_keys: Collection[str]) -> Faults:
        """Return the faults of the next index.

        :param before: the faults of the index that was changed.
        :param gone: how many of them concern items that go.
        :param gone_keys: of these items, as text.
        """
        faults = {}
        for what in sorted({*before, *self}):
            count, key, message = before.get(what, [0, None, ""])
            if key in gone_keys:
                key = None
            if key is None and what in self.first:
                key, message = self.first[what][0], self.message(what)
            if count + self[what] > gone[what]:
                faults[what] = [count + self[what] - gone[what], key, message]
        return faults


def shown(key: object) -> str:
    """Return an item's key as a message shows it."""
    return named(key)[:MESSAGE_MAX]


def passes(declaration: Declaration, name: str, item: Item, errors: ViewErrors) -> bool:
    """Return whether the item passes a filter."""
    try:
        return bool(declaration.filters[name](item))
    except Exception as error:
        errors.note(f"filter {name}", item.get(declaration.key or ""), error)
        return False


def sort_key(declaration: Declaration, name: str, item: Item, errors: ViewErrors) -> Key:
    """Return what the item is ordered by in a sort."""
    try:
        return _ordered(declaration.sorts[name](item))
    except Exception as error:
        errors.note(f"sort {name}", item.get(declaration.key or ""), error)
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


def _ordered(key: object) -> Key:
    """Return a sort function's result in a form that can be compared with that of any other item.

    :raises Exception: when the result has no order.
    """
    if isinstance(key, str):
        return TEXT, key
    if isinstance(key, (int, float, Real, Decimal)):
        if key != key:
            raise ValueError("NaN is neither before nor after any number")
        return NUMBER, key
    if key is None:
        return NO_KEY
    if isinstance(key, (tuple, list)):
        # A flat tuple takes less memory than one of pairs.  It has the same order, since each element gives two.
        return SEQUENCE, tuple([part for element in key for part in _ordered(element)])
    if key != key or key < key:  # type: ignore[operator]
        raise ValueError(f"a {type(key).__name__} is not equal to itself")
    return OTHER, (f"{type(key).__module__}.{type(key).__qualname__}", key)
