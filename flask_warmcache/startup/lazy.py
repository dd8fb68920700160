"""``warmcache.lazy``: something that is imported and built when it is first used."""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from typing import Any

from .target import Target

_all: weakref.WeakSet[Lazy] = weakref.WeakSet()


class Lazy:
    """Imports and builds one thing, once in a process, for the thread that comes first; the others wait for it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._value: Any = None
        self._is_built = False
        self.after_fork()
        _all.add(self)

    def after_fork(self) -> None:
        """The thread that was building does not exist in the child of a fork; what was built does."""
        self._building = threading.RLock()  # guards what follows; reentrant, so that a circle can be told
        self._is_building = False

    def get(self) -> Any:
        """The thing itself.

        :raises Exception: whatever the import or the building raises; the next use tries again.
        """
        if not self._is_built:
            with self._building:
                if not self._is_built:
                    self._value = self._build()
                    self._is_built = True
        return self._value

    def _build(self) -> Any:
        if self._is_building:
            raise RuntimeError(f"{self._target} is used while it is being built, by what builds it.")
        self._is_building = True
        try:
            found = self._target.load()
            return found() if inspect.isclass(found) or inspect.isroutine(found) else found
        finally:
            self._is_building = False


def _after_fork() -> None:
    for one in list(_all):
        one.after_fork()


os.register_at_fork(after_in_child=_after_fork)
