"""What JSON loses of an item: it has dates, times and decimals only as text, and most providers drop microseconds.

A fingerprint needs the exact values.  Filters and sorts get them again: an index says in which fields of its items
which kind of value was, and the JSON is read back as that.  Where that cannot be, the index says so, too:

- ``decimal``, ``date``, ``naive`` and ``aware`` (datetimes without and with a zone) are read back,
- ``naive~`` and ``aware~`` too, but without their fractions of seconds,
- ``text`` and ``mixed`` are not: the provider writes something else, or the field has values of several kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any

# Where a value is in an item: the keys of the dicts around it, and None for an element of a list.
Path = tuple[str | None, ...]
Kinds = Mapping[Path, str]
# A list whose items have such values in more places, under keys that differ from item to item, keeps text there.
PATHS_MAX = 100
MIXED, TEXT, TO_THE_SECOND = "mixed", "text", "~"
PLAIN = frozenset((str, int, float, bool, type(None)))


def exact_values(item: object) -> list[tuple[Path, date | time | Decimal]]:
    """Return where an item has dates, times and decimals, and which."""
    found: list[tuple[Path, date | time | Decimal]] = []
    _find(item, (), found)
    return found


def _find(value: Any, path: Path, found: list[tuple[Path, date | time | Decimal]]) -> None:
    # For most items the first comparison is all, and it takes a third of a microsecond.
    if isinstance(value, dict):
        if not PLAIN.issuperset(map(type, value.values())):
            for key, inner in value.items():
                if type(inner) not in PLAIN:
                    _find(inner, (*path, str(key)), found)
    elif isinstance(value, (list, tuple)):
        if not PLAIN.issuperset(map(type, value)):
            for inner in value:
                _find(inner, (*path, None), found)
    elif isinstance(value, (date, time, Decimal)):
        found.append((path, value))
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            _find(getattr(value, one.name), (*path, one.name), found)


def exact_text(item: object) -> bytes:
    """Return what a fingerprint needs besides the item's JSON: nothing, or its exact dates, times and decimals."""
    found = exact_values(item)
    if not found:
        return b""
    texts = (str(value) if isinstance(value, Decimal) else value.isoformat() for _, value in found)
    return "\0".join(("", *texts)).encode()


class KindFinder:
    """Finds out of which kinds the values of items are, and whether the app's JSON can be read back as these."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._known: dict[tuple[str, bool], str] = {}  # by kind, and whether there are fractions of seconds

    def kinds(self, item: object) -> Kinds | None:
        """Return the kinds of an item's values by their paths, or None if it has no such values."""
        found = exact_values(item)
        if not found:
            return None
        kinds: dict[Path, str] = {}
        for path, value in found:
            kind = self._kind(value)
            if kind is not None:
                add_kinds(kinds, {path: kind})
        return kinds

    def _kind(self, value: date | time | Decimal) -> str | None:
        if isinstance(value, datetime):
            kind = "naive" if value.tzinfo is None else "aware"
        else:
            kind = "decimal" if isinstance(value, Decimal) else "date" if isinstance(value, date) else TEXT
        known = kind, isinstance(value, datetime) and value.microsecond > 0
        if known not in self._known:
            self._known[known] = self._checked(kind, value)
        return self._known[known] or None

    def _checked(self, kind: str, value: Any) -> str:
        """Return the kind as an index says it, or nothing for what becomes a number, which has the same order."""
        try:
            written = json.loads(self._encode(value))
        except Exception:  # a source item may hold what only ``enrich`` makes JSON of
            return TEXT
        if isinstance(written, (int, float)):
            return ""
        read = parsed(written, kind)
        if read == value:
            return kind
        is_cut = isinstance(value, datetime) and read == value.replace(microsecond=0)
        return kind + TO_THE_SECOND if is_cut else TEXT


def add_kinds(kinds: dict[Path, str], more: Kinds) -> None:
    """Add the kinds of further items."""
    for path, kind in more.items():
        known = kinds.get(path)
        if known is None:
            if len(kinds) < PATHS_MAX:
                kinds[path] = kind
        elif known != kind:
            same = known.rstrip(TO_THE_SECOND) == kind.rstrip(TO_THE_SECOND)
            kinds[path] = kind.rstrip(TO_THE_SECOND) + TO_THE_SECOND if same else MIXED


def restore(item: Any, kinds: Kinds) -> Any:
    """Replace the text in a decoded item by the values that it was made of, and return the item."""
    for path, kind in kinds.items():
        if kind not in (MIXED, TEXT):
            item = _restored(item, path, kind.rstrip(TO_THE_SECOND))
    return item


def _restored(value: Any, path: Path, kind: str) -> Any:
    if not path:
        return parsed(value, kind)
    key, rest = path[0], path[1:]
    if key is None and isinstance(value, list):
        value[:] = [_restored(inner, rest, kind) for inner in value]
    elif key is not None and isinstance(value, dict) and key in value:
        value[key] = _restored(value[key], rest, kind)
    return value


def parsed(text: Any, kind: str) -> Any:
    """Return the value that JSON has as this text, or the text itself if it is none of this kind."""
    if not isinstance(text, str):
        return text
    try:
        if kind == "decimal":
            return Decimal(text)
        moment = (
            parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text.replace("Z", "+00:00"))
        )
    except (ValueError, TypeError, IndexError, InvalidOperation):
        return text
    if kind == "date":
        return moment.date()
    if kind == "naive":
        return moment.replace(tzinfo=None)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def packed(kinds: Kinds) -> list[list[str | None]]:
    """Return kinds as an index has them."""
    return [[kind, *path] for path, kind in kinds.items()]


def unpacked(entries: Iterable[list[Any]]) -> dict[Path, str]:
    """Return the kinds that an index has."""
    return {tuple(path): kind for kind, *path in entries}


def inexact(kinds: Kinds) -> dict[str, str]:
    """Return the fields that filters and sorts do not see as they were, each with the reason."""
    reasons = {
        MIXED: "its values are of several kinds, so filters and sorts see text",
        TEXT: "the app's JSON cannot be read back, so filters and sorts see what it has",
        TO_THE_SECOND: "the app's JSON has no fractions of seconds, so items of one second keep source order",
    }
    return {
        ".".join("*" if key is None else key for key in path): reasons[kind if kind in reasons else TO_THE_SECOND]
        for path, kind in kinds.items()
        if kind in (MIXED, TEXT) or kind.endswith(TO_THE_SECOND)
    }
