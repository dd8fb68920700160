"""A write: some keys are refreshed or discarded at once, without a rebuild, and every worker's next read sees it.

The app changes something and reports the keys.  The calling thread looks up their items, enriches them, and has
them published (write_queue.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
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
        """:param lookup: gives one source item by key, or None when there is none; or it takes a batch of keys."""
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
        :raises StoreError: when it could not be invalidated, either.
        :raises Exception: what ``lookup`` or ``enrich`` raised; nothing is published then.
        """
        seen = self._store.published_generation(self._name)
        given: dict[Key, Item | None] = {}
        for key_or_item in keys_or_items:
            if isinstance(key_or_item, dict):
                given[self._key_of(key_or_item)] = key_or_item
            else:
                fmt.key_hash(key_or_item)
                given[key_or_item] = None
        return self._publish(self._changes(given, seen))

    def discard(self, keys: Iterable[Key]) -> bool:
        """Remove the keys from the list, and publish.

        :returns: False when that could not be published in time; then the list is invalidated.
        :raises StoreError: when it could not be invalidated, either.
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
            self._publish(self._changes(dict.fromkeys(keys), seen), upstream_generations)
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

    def _changes(self, given: Mapping[Key, Item | None], seen: int) -> dict[Key, KeyChange]:
        """Return the new state of each key, after looking up and enriching as many at once as was declared.

        :param given: the source items by key; None is looked up.
        :param seen: the generation that was published before.
        """
        numbers = {key: next(self._numbers) for key, item in given.items() if item is not None}
        items, size = dict(given), self._declaration.lookup_batch or 1
        keys = [key for key, item in given.items() if item is None]
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            numbers |= {key: next(self._numbers) for key in part}
            items |= self._looked_up(part)
        enriched = self._enriched({key: item for key, item in items.items() if item is not None})
        return {
            key: KeyChange(enriched.get(key), seen, numbers[key], looked_up=item is None)
            for key, item in given.items()
        }

    def _looked_up(self, keys: list[Key]) -> dict[Key, Item | None]:
        lookup, name = self._lookup, self._name
        if lookup is None:
            raise DeclarationError(
                f"Warm list {name!r} has no lookup, so refresh({keys[0]!r}) cannot find the item. Declare one "
                f"with @{name}.lookup, or give the source item itself."
            )
        if self._declaration.lookup_batch is None:
            found: Any = [lookup(key) for key in keys]
        else:
            found = lookup(list(keys))
            if isinstance(found, (str, bytes, dict)) or not isinstance(found, Iterable):
                raise RebuildError(f"lookup of {name!r} gave a {type(found).__name__}, not a list of items")
        items: dict[Key, Item | None] = dict.fromkeys(keys)
        for item in found:
            if item is None:
                continue
            key = item.get(self._declaration.key or "") if isinstance(item, dict) else None
            if not isinstance(key, (str, int)) or items.get(key, item) is not None:
                asked = f"the key {keys[0]!r}" if len(keys) == 1 else f"one of the {len(keys)} keys, or gave two"
                raise RebuildError(f"lookup of {name!r} gave no item with {asked}")
            items[key] = item
        return items

    def _enriched(self, items: Mapping[Key, Item]) -> dict[Key, Enriched]:
        fingerprint = fingerprinter(self._declaration, self._tools.encode)
        enricher = Enricher(self._declaration, self._tools, Failures(self._name))
        pending = [Pending(item, key, None, fingerprint(item)) for key, item in items.items()]
        enriched: dict[Key, Enriched] = {}
        for key, result in zip(items, enricher.results(pending), strict=True):
            if isinstance(result, Exception):
                raise result
            enriched[key] = result
        return enriched

    def _publish(self, changes: dict[Key, KeyChange], upstream_generations: tuple[int, int] | None = None) -> bool:
        if not changes:
            return True
        request = self.queue.publish(changes, upstream_generations)
        for _ in range(LOOKUPS - 1):
            if not request.overwritten_keys:
                break
            # Make a new dict: the thread that publishes for us may still be iterating over the old one.
            seen = self._store.published_generation(self._name)
            changes = changes | self._changes(dict.fromkeys(request.overwritten_keys), seen)
            request = self.queue.publish(changes, upstream_generations)
        if not request.published:
            try:
                self._store.invalidate(self._name)
            except StoreError:
                message = "a write of %(list)r is lost until the next rebuild"
                events.error("warmcache.not_invalidated", message, True, list=self._name)
                raise
            return False
        if request.generations is not None:
            for follower in self.followers:
                follower._follow(changes, request.generations)
        return True
