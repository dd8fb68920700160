"""``warmcache.lazy``: something that is imported and built when it is first used.

A failing import costs as much as one that succeeds, often more.  So it is not tried again with every use, but
after a pause that grows; until then each use is told at once that it fails.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import threading
import time
import weakref
from typing import Any

from flask import current_app
from werkzeug.local import LocalProxy

from ..settings import KEY, Settings
from ..status.pauses import pause_after
from .target import Target
from .unready import NotReadyError

log = logging.getLogger("flask_warmcache")
_all: weakref.WeakSet[Lazy] = weakref.WeakSet()


class LazyNotReadyError(NotReadyError):
    """What ``lazy`` stands for has failed, and is not tried again yet; in a view it becomes a 503 with JSON."""

    def __init__(self, target: Target, error: str, pause: float) -> None:
        """
        :param error: the class of what was raised.
        :param pause: seconds until the next attempt.
        """
        super().__init__(
            f"{target} could not be made ({error}) and is tried again in {pause:.1f} s; the log says why, under "
            "warmcache.lazy_failed.",
            max(1, math.ceil(pause)),
            {"warming": False, "error": f"This part of the app failed to load: {error}."},
        )
        self.target = str(target)


class Lazy:
    """Imports and builds one thing, once in a process, for the thread that comes first; the others wait for it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._value: Any = None
        self._is_built = False
        self._failures = 0
        self._error = ""  # the class of what the last attempt has raised
        self._next_attempt = 0.0  # monotonic clock
        self.after_fork()
        _all.add(self)

    def after_fork(self) -> None:
        """The thread that was building does not exist in the child of a fork; what was built does."""
        self._building = threading.RLock()  # guards what follows; reentrant, so that a circle can be told
        self._is_building = False

    def get(self) -> Any:
        """The thing itself.

        :raises Exception: whatever the import or the building raises.
        :raises LazyNotReadyError: for some time after that, when it is not tried again yet.
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
        pause = self._next_attempt - time.monotonic()
        if pause > 0:
            raise LazyNotReadyError(self._target, self._error, pause)
        self._is_building = True
        try:
            found = self._target.load()
            return found() if inspect.isclass(found) or inspect.isroutine(found) else found
        except Exception as error:
            self._note_failure(error)
            raise
        except SystemExit as end:
            self._note_failure(end)
            # Else it would end the worker that happens to use it.
            raise ImportError(f"{self._target} ends the process with sys.exit() while it is made.") from end
        finally:
            self._is_building = False

    def _note_failure(self, error: BaseException) -> None:
        settings = _settings()
        self._failures += 1
        self._error = type(error).__name__
        pause = pause_after(self._failures, settings.retry_min, settings.retry_max)
        self._next_attempt = time.monotonic() + pause
        log.error(
            "warmcache.lazy_failed: %s could not be made; it is not tried again for %.1f s",
            self._target,
            pause,
            exc_info=error,
        )


def _settings() -> Settings:
    """Those of the app that is at work; where none is, as in a script, the defaults."""
    state = current_app.extensions.get(KEY) if current_app else None
    return Settings() if state is None else state.settings


def _after_fork() -> None:
    for one in list(_all):
        one.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def proxy(target: str) -> Any:
    """Return a proxy for an object that is imported and built at its first use.

    :param target: the object, as ``"pkg.module:Service"``.
    :raises DeclarationError: when the text is not of that form.
    """
    return LocalProxy(Lazy(Target.parse(target)).get)
