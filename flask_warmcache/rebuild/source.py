"""Which items exist now: what a list's source gives, checked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ..declare import Declaration, Item
from ..errors import RebuildError
from ..store.format import key_hash
from ..store.snapshot import Snapshot
from .progress import Progress

log = logging.getLogger("flask_warmcache")
# Each failed item is counted; only the first few are logged with their traceback.
LOGGED_FAILURES = 5


@dataclass(frozen=True)
class Tools:
    """What a job needs of the app, so that nothing in here must know Flask."""

    encode: Callable[[Any], bytes]  # an item as JSON, without a raw newline or tab
    context: Callable[[], AbstractContextManager[Any]]  # an app context
    breathe: Callable[[], None]  # lets requests have the interpreter; called between small steps


class Failures:
    """Counts the items of one rebuild that were left as they were or left out."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.count = 0

    def note(self, what: str, error: BaseException | None) -> None:
        """Count one, and log it unless there were several before."""
        self.count += 1
        if self.count <= LOGGED_FAILURES:
            log.warning(
                "warmcache.item_failed: %s of %r was left as it was or left out",
                what,
                self._name,
                exc_info=error,
                extra={"warmcache_list": self._name},
            )


def read_source(
    declaration: Declaration,
    upstream: Snapshot | None,
    tools: Tools,
    progress: Progress,
    failures: Failures,
) -> list[Item]:
    """Every source item, in order, the first of each key.

    :param upstream: for a list whose source is another list, that list's snapshot.
    :raises Exception: whatever the app's function raised, or a RebuildError when it gave no list of dicts.
    """
    with tools.context():
        produced = _call(declaration, upstream)
        if declaration.kind == "value":
            return [{"value": produced}]
        items: list[Item] = []
        seen: set[object] = set()
        for item in produced:
            tools.breathe()
            if not isinstance(item, dict):
                raise RebuildError(f"source of {declaration.name!r} gave a {type(item).__name__}; items are dicts")
            if declaration.key is None or _is_new_key(item, declaration.key, seen, failures):
                items.append(item)
                progress.advance(len(items))
    return items


def _call(declaration: Declaration, upstream: Snapshot | None) -> Any:
    if upstream is not None:
        return (upstream.item(position) for position in range(upstream.count))
    source = declaration.source
    assert source is not None  # the keeper does not start a list whose declaration has a problem
    produced = source()
    if declaration.kind != "value" and (
        isinstance(produced, (str, bytes, dict)) or not isinstance(produced, Iterable)
    ):
        raise RebuildError(f"source of {declaration.name!r} gave a {type(produced).__name__}, not a list of items")
    return produced


def _is_new_key(item: Item, field: str, seen: set[object], failures: Failures) -> bool:
    try:
        key = item[field]
        key_hash(key)
    except (KeyError, TypeError) as error:
        failures.note(f"an item whose key field {field!r} is missing or unfit", error)
        return False
    if key in seen:
        failures.note(f"a second item with the key {key!r}", None)
        return False
    seen.add(key)
    return True
