"""Pending items become enriched ones, in order: one by one, in batches, or in several threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from ..declaration import Declaration, Item
from ..errors import RebuildError, named
from ..index.exact import KindFinder
from ..store.format import key_hash
from .batch_size import BatchSize
from .enrich_threads import Done, EnrichThreads, Keep, Result, Unit, finished
from .leftovers import Enriched, Leftovers
from .source import Pending
from .tools import Failures, Tools

# Seconds that one app context lasts: long enough to share a database session, and short enough not to keep one
# open for a whole rebuild.
CONTEXT_SECONDS = 1.0
# Replaces a source item that was enriched, to free its memory.
NO_ITEM: Item = {}


class Enricher:
    """Calls ``enrich`` for pending items; one that fails does not sink the list."""

    def __init__(self, declaration: Declaration, tools: Tools, failures: Failures) -> None:
        self._declaration = declaration
        self._tools = tools
        self._failures = failures
        self._finder = KindFinder(tools.encode)
        self._batch = BatchSize(declaration.batch or 1)
        self.enriched = 0
        self.found = 0  # items that an interrupted rebuild had finished

    def run(
        self,
        pending: Sequence[Pending],
        leftovers: Leftovers,
        keep: Keep = lambda finished: None,
    ) -> Generator[Enriched | None, None, None]:
        """Yield each pending item's enriched version, or None when it failed, and release the source item.

        :param keep: called with finished items as soon as they are finished, which may be before an earlier
            item is; it is called in the thread that consumes the items.
        """
        declaration, units = self._declaration, self._units(pending, leftovers)
        if declaration.workers > 1:
            threads = EnrichThreads(declaration.name, declaration.workers, self._tools, self._enrich)
            units_done = threads.run(units, keep)
        else:
            units_done = self._one_by_one(units, keep)
        with closing(units_done):
            for unit, results in units_done:
                for item, result in zip(unit, results, strict=True):
                    item.item = NO_ITEM
                    yield self._counted(item, result)

    def results(self, pending: Sequence[Pending]) -> Iterator[Result]:
        """Yield each item's enriched version, or the error that it met; enrich them in this thread, in batches."""
        size = self._declaration.batch or 1
        for start in range(0, len(pending), size):
            yield from self._enrich(list(pending[start : start + size]))

    def _counted(self, pending: Pending, result: Result) -> Enriched | None:
        if isinstance(result, Exception):
            if pending.fingerprint is not None:  # otherwise it was noted when the fingerprint failed
                self._failures.note(f"the item {named(pending.key)}", result)
            return None
        if result.place is None:
            self.enriched += 1
        else:
            self.found += 1
        return result

    def _units(self, pending: Sequence[Pending], leftovers: Leftovers) -> Iterator[Unit]:
        unit: list[Pending] = []
        for item in pending:
            result: Result | None = None
            if item.fingerprint is None:
                result = RebuildError("it has no fingerprint")
            else:
                result = leftovers.find(item.fingerprint, self._declaration.key, item.key)
            if result is None:
                unit.append(item)
            if unit and (result is not None or len(unit) >= self._batch.size):
                yield unit, None
                unit = []
            if result is not None:
                yield [item], [result]
        if unit:
            yield unit, None

    def _one_by_one(self, units: Iterator[Unit], keep: Keep) -> Generator[Done, None, None]:
        following = next(units, None)
        while following is not None:
            context_ends = time.monotonic() + CONTEXT_SECONDS
            with self._tools.context():
                while following is not None:
                    unit, results = following
                    if results is None:
                        results = self._enrich(unit)
                    keep(finished(results))
                    yield unit, results
                    following = next(units, None)
                    if time.monotonic() >= context_ends:
                        break

    def _enrich(self, unit: list[Pending]) -> list[Result]:
        function = self._declaration.enrich
        try:
            with self._tools.time_limit(self._declaration.item_timeout):
                if function is None:
                    produced: Any = [pending.item for pending in unit]
                elif self._declaration.batch is None:
                    produced = [function(pending.item) for pending in unit]
                else:
                    began = time.monotonic()
                    produced = list(function([pending.item for pending in unit]))
                    self._batch.note(len(unit), time.monotonic() - began)
                    if len(produced) != len(unit):
                        raise RebuildError(
                            f"enrich returned {len(produced)} items for {len(unit)}; return one for each, in order"
                        )
        except Exception as error:
            if len(unit) == 1:
                return [error]
            # Enriching each item alone shows which of them fails.
            return [self._enrich([pending])[0] for pending in unit]
        return [self._checked(pending, item) for pending, item in zip(unit, produced, strict=True)]

    def _checked(self, pending: Pending, item: Item) -> Result:
        field, key = self._declaration.key, pending.key
        try:
            if not isinstance(item, dict):
                raise RebuildError(f"enrich returned {type(item).__name__} for {key!r}; return the completed dict")
            # 1.0 equals 1, but a look-up of 1 would not find it.
            if field is not None and key is not None and not _is_same_key(item.get(field), key):
                raise RebuildError(
                    f"enrich changed the key field {field!r} of {key!r}; leave it as source gave it"
                )
            encoded = self._tools.encode(item)
            return Enriched(pending.fingerprint or b"", encoded, None, kinds=self._finder.kinds(item))
        except Exception as error:
            return error


def _is_same_key(found: object, key: str | int) -> bool:
    return found == key and (type(found) is type(key) or key_hash(found) == key_hash(key))
