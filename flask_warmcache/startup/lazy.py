"""``warmcache.lazy``: an object that is imported and built when it is first used.

A failing import costs as much as a successful one, often more.  It is therefore not retried at every use but after
a pause that grows with each failure; until then each use fails at once.
"""

from __future__ import annotations

import inspect
import math
import os
import threading
import time
import weakref
from typing import Any

from flask import current_app
from werkzeug.local import LocalProxy

from .. import events
from ..settings import KEY, Settings
from ..status.pauses import pause_after
from .later import NotReadyError, Target

_all: weakref.WeakSet[Lazy] = weakref.WeakSet()


class LazyNotReadyError(NotReadyError):
    """A lazy object could not be built, and the pause until the next attempt has not passed; a 503 with JSON."""

    def __init__(self, target: Target, error: str, pause: float) -> None:
        """:param error: the class name of the last exception; ``pause`` is in seconds."""
        super().__init__(
            f"{target} could not be built ({error}); the next attempt is in {pause:.1f} s. The log has the "
            "traceback, as warmcache.lazy_failed.",
            max(1, math.ceil(pause)),
            {"warming": False, "error": f"This part of the app failed to load: {error}."},
        )
        self.target = str(target)


class Lazy:
    """Imports and builds one object once in a process, in the thread that uses it first; other threads wait."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._value: Any = None
        self._is_built = False
        self._failures = 0
        self._error = ""  # class name of the last attempt's exception
        self._next_attempt = 0.0  # monotonic clock
        self.after_fork()
        _all.add(self)

    def after_fork(self) -> None:
        """Reset the lock, whose thread does not exist in the child of a fork; a built object stays."""
        self._building = threading.RLock()  # guards all attributes; reentrant, so that a cycle can be reported
        self._is_building = False

    def get(self) -> Any:
        """Return the object.

        :raises Exception: whatever the import or the constructor raises.
        :raises LazyNotReadyError: until the pause after such a failure has passed.
        """
        if not self._is_built:
            with self._building:
                if not self._is_built:
                    self._value = self._build()
                    self._is_built = True
        return self._value

    def _build(self) -> Any:
        if self._is_building:
            raise RuntimeError(f"{self._target} is used by its own constructor or import.")
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
            # Otherwise it would end the worker that uses the object first.
            raise ImportError(f"{self._target} calls sys.exit() while it is built.") from end
        finally:
            self._is_building = False

    def _note_failure(self, error: BaseException) -> None:
        settings = _settings()
        self._failures += 1
        self._error = type(error).__name__
        pause = pause_after(self._failures, settings.retry_min, settings.retry_max)
        self._next_attempt = time.monotonic() + pause
        events.error(
            "warmcache.lazy_failed",
            "%(target)s could not be built; the next attempt is in %(pause).1f s",
            error=error,
            target=self._target,
            pause=pause,
        )


def _settings() -> Settings:
    """Return the current app's settings, or the defaults where there is no app, as in a script."""
    state = current_app.extensions.get(KEY) if current_app else None
    return Settings() if state is None else state.settings


def _after_fork() -> None:
    for lazy in list(_all):
        lazy.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def proxy(target: str) -> Any:
    """Return a proxy for an object that is imported and built at its first use.

    :param target: the object, as ``"pkg.module:Service"``.
    :raises DeclarationError: when the text is not of that form.
    """
    return LocalProxy(Lazy(Target.parse(target)).get)
