"""How does a test do something again and again beside what it tests? In threads that end with a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

Self = TypeVar("Self", bound="Repeated")


class Repeated:
    """Take one turn after the other, in each of several threads, until the block ends."""

    def __init__(self, threads: int = 1) -> None:
        self.stopped = threading.Event()
        self._threads = [threading.Thread(target=self._repeat) for _ in range(threads)]

    def turn(self) -> None:
        raise NotImplementedError

    def _repeat(self) -> None:
        while not self.stopped.is_set():
            self.turn()

    def __enter__(self: Self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(60)


@contextmanager
def no_threads() -> Iterator[None]:
    """Let no thread start within the block."""

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        yield
