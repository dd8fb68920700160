"""The order of sort keys.

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

from decimal import Decimal
from numbers import Real
from typing import Any

NUMBER, TEXT, SEQUENCE, OTHER, LAST = range(5)
# A kind, and what keys of this kind are compared by.
Key = tuple[int, Any]
NO_KEY: Key = (LAST, ())


def ordered(key: object) -> Key:
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
        return SEQUENCE, tuple([part for element in key for part in ordered(element)])
    if key != key or key < key:  # type: ignore[operator]
        raise ValueError(f"a {type(key).__name__} is not equal to itself")
    return OTHER, (f"{type(key).__module__}.{type(key).__qualname__}", key)
