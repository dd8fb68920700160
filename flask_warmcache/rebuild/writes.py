"""A write: some keys are refreshed or discarded at once, without a rebuild, and every worker's next read sees it.

The app changes something and reports the keys.  The calling thread looks up their items, enriches them, and has
them published (write_queue.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from .. import events
from ..declaration import Declaration, Item
from ..errors import DeclarationError, RebuildError, StoreError
from ..store import format as fmt
from ..store.files import FileStore
from .enrich import Enricher
from .leftovers import Enriched
from .source import Pending, fingerprinter
from .tools import Failures, Tools
from .write_queue import Key, KeyChange, WriteQueue

# A key that others overwrite again and again is looked up this many times.  After that it is left to a rebuild.
LOOKUPS = 5


class Writes:
    """One list's writes in one process."""

    def __init__(
        self, declaration: Declaration, store: FileStore, tools: Tools, lookup: Callable[[Any], Item | None] | None
    ) -> None:
        """:param lookup: gives one source item by key, or None when there is none."""
        self._declaration = declaration
        self._lookup = lookup
        self.followers: list[Writes] = []  # of the lists that are made of this one
        self._name = declaration.name
        self._store = store
        self._tools = tools
        self._numbers = itertools.count()
        self.queue = WriteQueue(declaration, store)

    def refresh(self, keys_or_items: Iterable[Key | Item]) -> bool:
        """Look keys up, enrich their items, and publish them; an item is enriched without being looked up.

        :returns: False when they could not be published in time; then the list is invalidated.
        :raises Exception: what ``lookup`` or ``enrich`` raised; nothing is published then.
        """
        changes: dict[Key, KeyChange] = {}
        seen = self._store.published_generation(self._name)
        for key_or_item in keys_or_items:
            if isinstance(key_or_item, dict):
                key, number = self._key_of(key_or_item), next(self._numbers)
                changes[key] = KeyChange(self._enriched(key_or_item, key), seen, number, looked_up=False)
            else:
                fmt.key_hash(key_or_item)
                changes[key_or_item] = self._looked_up(key_or_item, seen)
        return self._publish(changes)

    def discard(self, keys: Iterable[Key]) -> bool:
        """Remove the keys from the list, and publish.

        :returns: False when that could not be published in time; then the list is invalidated.
        """
        seen = self._store.published_generation(self._name)
        changes: dict[Key, KeyChange] = {}
        for key in keys:
            fmt.key_hash(key)
            changes[key] = KeyChange(None, seen, next(self._numbers), looked_up=False)
        return self._publish(changes)

    def _follow(self, keys: Iterable[Key], upstream_generations: tuple[int, int]) -> None:
        """Refresh the keys that were just written in the source list, so that no rebuild is needed for them.

        A list that cannot follow (it is cold, for example) catches up at its next rebuild.

        :param upstream_generations: those of the source list before and after the write.
        """
        seen = self._store.published_generation(self._name)
        try:
            self._publish({key: self._looked_up(key, seen) for key in keys}, upstream_generations)
        except Exception:
            message = "a write of its source list is left to the next rebuild of %(list)r"
            events.error("warmcache.write_not_followed", message, True, list=self._name)

    def _key_of(self, item: Item) -> Key:
        field = self._declaration.key or ""
        try:
            key: Key = item[field]
            fmt.key_hash(key)
        except (KeyError, TypeError) as error:
            raise RebuildError(f"an item given to {self._name!r} has no usable key field {field!r}") from error
        return key

    def _looked_up(self, key: Key, seen: int) -> KeyChange:
        lookup = self._lookup
        if lookup is None:
            raise DeclarationError(
                f"Warm list {self._name!r} has no lookup, so refresh({key!r}) cannot find the item. Declare one "
                f"with @{self._name}.lookup, or give the source item itself."
            )
        number = next(self._numbers)
        item = lookup(key)
        if item is None:
            return KeyChange(None, seen, number, looked_up=True)
        if not isinstance(item, dict) or item.get(self._declaration.key or "") != key:
            raise RebuildError(f"lookup of {self._name!r} gave no item with the key {key!r}")
        return KeyChange(self._enriched(item, key), seen, number, looked_up=True)

    def _enriched(self, item: Item, key: Key) -> Enriched:
        fingerprint = fingerprinter(self._declaration, self._tools.encode)(item)
        enricher = Enricher(self._declaration, self._tools, Failures(self._name))
        result = enricher.one(Pending(item, key, None, fingerprint))
        if isinstance(result, Exception):
            raise result
        return result

    def _publish(self, changes: dict[Key, KeyChange], upstream_generations: tuple[int, int] | None = None) -> bool:
        if not changes:
            return True
        request = self.queue.publish(changes, upstream_generations)
        for _ in range(LOOKUPS - 1):
            if not request.overwritten_keys:
                break
            # Make a new dict: the thread that publishes for us may still be iterating over the old one.
            changes = changes | {
                key: self._looked_up(key, self._store.published_generation(self._name))
                for key in request.overwritten_keys
            }
            request = self.queue.publish(changes, upstream_generations)
        if not request.published:
            try:
                self._store.invalidate(self._name)
            except StoreError:
                message = "a write of %(list)r is lost until the next rebuild"
                events.error("warmcache.not_invalidated", message, True, list=self._name)
            return False
        if request.generations is not None:
            for follower in self.followers:
                follower._follow(changes, request.generations)
        return True
