"""Several threads that enrich items at the same time, for functions that wait for disks or networks."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .leftovers import Enriched
from .source import Pending
from .tools import Tools

Result = Enriched | Exception
Keep = Callable[[Sequence[Enriched]], None]
# The items of one call, and their results if these are known before the call.
Unit = tuple[list[Pending], list[Result] | None]
Done = tuple[list[Pending], list[Result]]
# For each thread, this many units wait in the queue.
AHEAD = 3
# This many units may be under way or done while an earlier one takes long.
HELD = 1000
# A rebuild that waits for its threads checks this often, in seconds, whether it must stop.
CHECK_EVERY = 0.1


@dataclass
class EnrichThreads:
    """Enriches units in several threads, and gives the results in order.

    The threads are daemon threads of our own, because a worker that stops waits for those of a ThreadPoolExecutor.
    """

    _list_name: str
    _workers: int
    _tools: Tools
    _enrich: Callable[[list[Pending]], list[Result]]

    def run(self, units: Iterator[Unit], keep: Keep) -> Generator[Done, None, None]:
        """Yield each unit with its results, in order.

        :param keep: called with finished items as soon as they are back in this thread.
        :raises BaseException: what ended a thread.
        """
        todo: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        back: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        for number in range(self._workers):
            name = f"warmcache-enrich-{self._list_name}-{number}"
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
                yield from _done_in_order(under_way)
                while todo.qsize() >= self._workers * AHEAD or len(under_way) >= HELD:
                    self._take_back(back, keep)
                    yield from _done_in_order(under_way)
            while under_way:
                self._take_back(back, keep)
                yield from _done_in_order(under_way)
        finally:
            while not todo.empty():  # no other thread puts anything in
                with suppress(queue.Empty):
                    todo.get_nowait()
            for _ in range(self._workers):
                todo.put(None)
            # The next rebuild finds what was finished while an earlier item took long.
            with suppress(queue.Empty, OSError):
                while True:
                    back.get_nowait().keep(keep)

    def _take_back(self, back: queue.SimpleQueue[_Task], keep: Keep) -> None:
        """Take the next finished unit, or return after a moment in which the rebuild may be told to stop."""
        try:
            task = back.get(timeout=CHECK_EVERY)
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


@dataclass
class _Task:
    """One unit on its way through a thread."""

    unit: list[Pending]
    results: list[Result] | None
    error: BaseException | None = None
    is_kept: bool = False

    def keep(self, keep: Keep) -> None:
        """Keep the finished items; called in the rebuild's thread."""
        keep(finished(self.results or []))
        self.is_kept = True


def _done_in_order(under_way: deque[_Task]) -> Iterator[Done]:
    """Remove and yield the units that are done, up to the first that is not."""
    while under_way and under_way[0].is_kept:
        task = under_way.popleft()
        yield task.unit, task.results or []


def finished(results: Iterable[Result]) -> list[Enriched]:
    """Return the results that are items and not errors."""
    return [result for result in results if isinstance(result, Enriched)]
