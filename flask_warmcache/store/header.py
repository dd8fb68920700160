"""What the header of an index says: each field with its type and range, checked when a snapshot is opened.

A right checksum only shows that the header is what somebody wrote, and that may have been another version.  Other
code uses these fields without further checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import SnapshotError

Check = Callable[[Any], bool]
SLOTS_MAX = 1 << 32
WHOLE_MAX = 1 << 63  # also of a generation, which is a time in nanoseconds until the year 2262
SECONDS_MAX = 1e12


def _whole(least: int = 0, end: int = WHOLE_MAX) -> Check:
    return lambda value: type(value) is int and least <= value < end


def _one_of(*types: type) -> Check:
    return lambda value: type(value) in types


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < SECONDS_MAX  # false for NaN, too


def _data(value: Any) -> bool:
    return (
        type(value) is dict
        and type(value.get("file")) is str
        and type(value.get("id")) is str
        and _whole(1)(value.get("length"))
        and _whole()(value.get("checksum"))
    )


def _section(value: Any) -> bool:
    return type(value) is list and len(value) == 3 and all(map(_whole(), value))


def _fault(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 3
        and _whole(1)(value[0])
        and type(value[1]) in (str, type(None))
        and type(value[2]) is str
    )


def _kind(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) > 1
        and type(value[0]) is str
        and all(type(key) in (str, type(None)) for key in value)
    )


ALWAYS: Mapping[str, Check] = {
    "list": _one_of(str),
    "sections": lambda value: type(value) is dict and all(map(_section, value.values())),
    "generation": _whole(1),
    "published_at": _seconds,
    "count": _whole(0, SLOTS_MAX),
    "slots": _whole(0, SLOTS_MAX),
    "place_type": lambda value: value in ("I", "Q"),
    "filters": lambda value: type(value) is dict and all(map(_whole(0, SLOTS_MAX), value.values())),
    "complete": _one_of(bool),
    "cold": _one_of(bool),
    "is_value": _one_of(bool),
    "declaration": _one_of(str),
    "code_started": _whole(),
    "invalidation": _one_of(str),
    "upstream": lambda value: value is None or _whole()(value),
}
UNLESS_COLD: Mapping[str, Check] = {
    "data": _data,
    "started": _whole(),
    "live_bytes": _whole(),
    "duration": _seconds,
    **dict.fromkeys(("view_errors", "reused", "enriched", "failed_items", "dropped"), _whole(-WHOLE_MAX)),
}
# Readers of these have a value for an index that does not say them.
OPTIONAL: Mapping[str, Check] = {
    "rebuilt": _whole(1),
    "unsettled": _one_of(bool),
    "key": _one_of(str, type(None)),
    "cpu_share": lambda value: value is None or _seconds(value),
    "view_faults": lambda value: type(value) is dict and all(map(_fault, value.values())),
    "exact": lambda value: type(value) is list and all(map(_kind, value)),
    "durations": lambda value: type(value) is list and all(map(_seconds, value)),
}


def check_header(header: Any) -> dict[str, Any]:
    """Return the header of an index.

    :raises SnapshotError: when a field is missing, or has another type or range than it must have.
    """
    if type(header) is not dict:
        raise SnapshotError("the header of the index is no JSON object")
    required = ALWAYS if header.get("cold") is True else {**ALWAYS, **UNLESS_COLD}
    for name, is_right in required.items():
        if name not in header:
            raise SnapshotError(f"the header of the index has no {name}")
        if not is_right(header[name]):
            raise SnapshotError(f"the header of the index has a wrong {name}")
    for name, is_right in OPTIONAL.items():
        if name in header and not is_right(header[name]):
            raise SnapshotError(f"the header of the index has a wrong {name}")
    if header["count"] > header["slots"]:
        raise SnapshotError("the header of the index counts more items than slots")
    return header
