"""Pending items become enriched ones, in order: one by one, in batches, or in several threads."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from ..declaration import Declaration, Item
from ..errors import RebuildError
from ..store.format import key_hash
from .leftovers import Leftovers
from .source import Pending
from .tools import Failures, Tools, named

# What runs in one app context: long enough to share a database session, short enough not to keep one open for
# a whole rebuild.
CONTEXT_SECONDS = 1.0
# So many units for each thread wait to be begun,
AHEAD = 3
# and so many may be done or under way behind one that takes long.
HELD = 1000
# How soon, in seconds, a rebuild that waits for its threads sees that it is to stop.
LOOK_EVERY = 0.1


@dataclass(slots=True)
class Enriched:
    """One finished item."""

    fingerprint: bytes
    encoded: bytes
    place: tuple[int, int] | None  # where an interrupted rebuild has written it already
    line_number: int = -1  # in the rebuild's data file


LET_GO: Item = {}  # in place of a source item that was enriched
Result = Enriched | Exception
Keep = Callable[[Sequence[Enriched]], None]
_Unit = tuple[list[Pending], list[Result] | None]  # what is enriched in one call, or is there with its results
_Done = tuple[list[Pending], list[Result]]


class Enricher:
    """Calls ``enrich`` for what needs it; one item that fails does not sink the list."""

    def __init__(self, declaration: Declaration, tools: Tools, failures: Failures) -> None:
        self._declaration = declaration
        self._tools = tools
        self._failures = failures
        self.enriched = 0
        self.found = 0  # finished by an interrupted rebuild

    def run(
        self,
        pending: Sequence[Pending],
        leftovers: Leftovers,
        keep: Keep = lambda finished: None,
    ) -> Generator[Enriched | None, None, None]:
        """For each pending item its enriched version, or None when it failed; its source item is let go.

        :param keep: given what is finished as soon as it is, which may be before an earlier item; called in the
            thread that asks for the items.
        """
        units = self._units(pending, leftovers)
        threads = self._declaration.workers > 1
        with closing(self._in_threads(units, keep) if threads else self._one_by_one(units, keep)) as done:
            for unit, results in done:
                for one, result in zip(unit, results, strict=True):
                    one.item = LET_GO
                    yield self._counted(one, result)

    def one(self, pending: Pending) -> Result:
        """One item's enriched version, or why there is none."""
        return self._enrich([pending])[0]

    def _counted(self, one: Pending, result: Result) -> Enriched | None:
        if isinstance(result, Exception):
            if one.fingerprint is not None:  # else it has been noted
                self._failures.note(f"the item {named(one.key)}", result)
            return None
        if result.place is None:
            self.enriched += 1
        else:
            self.found += 1
        return result

    def _units(self, pending: Sequence[Pending], leftovers: Leftovers) -> Iterator[_Unit]:
        size = self._declaration.batch or 1
        unit: list[Pending] = []
        for one in pending:
            result: Result | None = None
            if one.fingerprint is None:
                result = RebuildError("it has no fingerprint")
            elif len(leftovers):
                found = leftovers.find(one.fingerprint, self._declaration.key, one.key)
                if found is not None:
                    result = Enriched(one.fingerprint, found[1], found[0])
            if result is not None:
                if unit:
                    yield unit, None
                    unit = []
                yield [one], [result]
                continue
            unit.append(one)
            if len(unit) == size:
                yield unit, None
                unit = []
        if unit:
            yield unit, None

    def _one_by_one(self, units: Iterator[_Unit], keep: Keep) -> Generator[_Done, None, None]:
        following = next(units, None)
        while following is not None:
            until = time.monotonic() + CONTEXT_SECONDS
            with self._tools.context():
                while following is not None:
                    unit, results = following
                    if results is None:
                        results = self._enrich(unit)
                    keep(_finished(results))
                    yield unit, results
                    following = next(units, None)
                    if time.monotonic() >= until:
                        break

    def _in_threads(self, units: Iterator[_Unit], keep: Keep) -> Generator[_Done, None, None]:
        """For functions that wait for others: several at once, results in order.

        Daemon threads of our own: those of a ThreadPoolExecutor keep a stopping worker until they are done.
        """
        workers = self._declaration.workers
        todo: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        back: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        for number in range(workers):
            name = f"warmcache-enrich-{self._declaration.name}-{number}"
            threading.Thread(target=self._work, args=(todo, back), name=name, daemon=True).start()
        under_way: deque[_Task] = deque()
        try:
            for unit, results in units:
                task = _Task(unit, results)
                under_way.append(task)
                if results is None:
                    todo.put(task)
                else:
                    task.keep(keep)
                yield from _in_order(under_way)
                while todo.qsize() >= workers * AHEAD or len(under_way) >= HELD:
                    self._take_back(back, keep)
                    yield from _in_order(under_way)
            while under_way:
                self._take_back(back, keep)
                yield from _in_order(under_way)
        finally:
            while not todo.empty():  # nobody else puts anything in
                with suppress(queue.Empty):
                    todo.get_nowait()
            for _ in range(workers):
                todo.put(None)
            # What was finished behind a slow one is there for the next rebuild, too.
            with suppress(queue.Empty, OSError):
                while True:
                    back.get_nowait().keep(keep)

    def _take_back(self, back: queue.SimpleQueue[_Task], keep: Keep) -> None:
        """Take the next unit that is done; until then the rebuild may be asked to stop."""
        try:
            task = back.get(timeout=LOOK_EVERY)
        except queue.Empty:
            self._tools.breathe()
            return
        task.keep(keep)
        if task.error is not None:
            raise task.error

    def _work(self, todo: queue.SimpleQueue[_Task | None], back: queue.SimpleQueue[_Task]) -> None:
        while (task := todo.get()) is not None:
            try:
                with self._tools.context():
                    task.results = self._enrich(task.unit)
            except BaseException as error:  # a sys.exit() in the app's code ends the rebuild, in its own thread
                task.error = error
            back.put(task)

    def _enrich(self, unit: list[Pending]) -> list[Result]:
        function = self._declaration.enrich
        try:
            with self._tools.time_limit(self._declaration.item_timeout):
                if function is None:
                    produced: Any = [one.item for one in unit]
                elif self._declaration.batch is None:
                    produced = [function(one.item) for one in unit]
                else:
                    produced = list(function([one.item for one in unit]))
                    if len(produced) != len(unit):
                        raise RebuildError(
                            f"enrich returned {len(produced)} items for {len(unit)}; return one for each, in order"
                        )
        except Exception as error:
            if len(unit) == 1:
                return [error]
            # Which one it was shows when each is tried alone.
            return [self._enrich([one])[0] for one in unit]
        return [self._checked(one, enriched) for one, enriched in zip(unit, produced, strict=True)]

    def _checked(self, one: Pending, enriched: Item) -> Result:
        field, key = self._declaration.key, one.key
        try:
            if not isinstance(enriched, dict):
                raise RebuildError(
                    f"enrich returned {type(enriched).__name__} for {key!r}; return the completed dict"
                )
            # 1.0 is equal to 1 and would not be found by it.
            if field is not None and key is not None and not _is_same(enriched.get(field), key):
                raise RebuildError(
                    f"enrich changed the key field {field!r} of {key!r}; leave it as source gave it"
                )
            return Enriched(one.fingerprint or b"", self._tools.encode(enriched), None)
        except Exception as error:
            return error


class _Task:
    """One unit on its way through a thread."""

    def __init__(self, unit: list[Pending], results: list[Result] | None) -> None:
        self.unit = unit
        self.results = results
        self.error: BaseException | None = None
        self.is_kept = False

    def keep(self, keep: Keep) -> None:
        """Back in the rebuild's thread, whether it went well or not."""
        keep(_finished(self.results or []))
        self.is_kept = True


def _in_order(under_way: deque[_Task]) -> Iterator[_Done]:
    """Those that are done, up to the first that is not."""
    while under_way and under_way[0].is_kept:
        task = under_way.popleft()
        yield task.unit, task.results or []


def _finished(results: Iterable[Result]) -> list[Enriched]:
    return [result for result in results if isinstance(result, Enriched)]


def _is_same(found: object, key: str | int) -> bool:
    return found == key and (type(found) is type(key) or key_hash(found) == key_hash(key))
