"""When deferred blueprints are loaded: in the background, by priority, and first what a request waits for.

One thread in each worker imports them, one after the other: two imports at once may meet in a circle of modules,
which Python breaks by handing out modules that are half made.  It starts with the keeper, so never before a fork,
and begins a moment later, so that the worker serves first.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
import traceback

from flask import Blueprint, Flask

from ..errors import DeclarationError
from ..host import threads
from ..settings import Settings
from ..status.pauses import pause_after
from .before_commands import load_for_commands
from .deferred import FAILED, LOADED, LOADING, PENDING, Deferred, Entry
from .gate import Gate
from .registering import register

log = logging.getLogger("flask_warmcache")
# Seconds; jittered, so that the workers of a server do not all read the same files in the same moment.
BEGIN_AFTER = (0.3, 0.8)
# Between two imports. Under gevent, where the thread is a greenlet, requests are answered only then.
PAUSE = 0.002
# The longest sleep; a wait without end is none that Python's conditions know.
IDLE = 3600.0


class Loader:
    """Loads one app's deferred blueprints, in this process."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._entries: list[Entry] = []
        self.unfinished: tuple[Entry, ...] = ()  # by priority
        self.prefixes: tuple[str, ...] = ()  # of the unfinished, for a quick look
        self._stopped = False
        self._gate = Gate(app, settings, self)
        self.after_fork()
        self._leave_commands = load_for_commands(app, self.load_all)

    def after_fork(self) -> None:
        """Forget the parent's thread, and what it was at."""
        self.changed = threading.Condition()  # guards the entries and _thread; told of every change
        self._one_at_a_time = threading.RLock()  # held while a blueprint is loaded
        self._importing: int | None = None  # the thread that loads one
        self._thread: threading.Thread | None = None
        self._gate.after_fork()
        for entry in self.unfinished:
            if entry.state == LOADING:
                entry.state = PENDING

    def add(self, declared: Deferred) -> None:
        """Take up one more blueprint, before the app serves.

        :raises DeclarationError: when it cannot be deferred in this app.
        """
        declared.check_for(self._app, self._settings.api_prefix)
        self._entries.append(Entry(declared, declared.stand_ins(self._app), declared.name))
        self._note_unfinished()

    def _note_unfinished(self) -> None:
        unfinished = [entry for entry in self._entries if entry.state != LOADED]
        unfinished.sort(key=lambda entry: -entry.declared.priority)
        self.unfinished = tuple(unfinished)
        self.prefixes = tuple(entry.declared.url_prefix for entry in unfinished)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every deferred blueprint, in the order of declaration."""
        return tuple(self._entries)

    def section(self) -> dict[str, object]:
        """What the stats of this worker show."""
        loaded, total = self.progress()
        return {
            "total": total,
            "loaded": loaded,
            "blueprints": [entry.section() for entry in self._entries],
        }

    def progress(self) -> tuple[int, int]:
        """How many are loaded, of how many."""
        return len(self._entries) - len(self.unfinished), len(self._entries)

    # The thread

    def start(self) -> None:
        """Have the thread running until all is loaded; called at every request, so it costs next to nothing."""
        if not self.unfinished or threads.in_child or self.is_running():
            return
        if not self._settings.enabled:
            self.load_all()  # as with register_blueprint, the first request finds everything
            return
        with self.changed:
            if self._stopped or self.is_running():
                return
            thread = threading.Thread(target=self._run, name="warmcache-blueprints", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                log.exception(
                    "warmcache.blueprints_not_started: no thread to be had; the next request tries again"
                )
                return
            self._thread = thread
        self._leave_commands()

    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def is_loading_here(self) -> bool:
        """Whether the calling thread is importing a blueprint at this moment."""
        return self._importing == threading.get_ident()

    def stop(self) -> None:
        """End the thread behind the blueprint that it is at; for tests."""
        with self.changed:
            self._stopped = True
            self.changed.notify_all()

    def _run(self) -> None:
        began, begin_at = time.monotonic(), time.monotonic() + random.uniform(*BEGIN_AFTER)
        _ = self._app.jinja_env  # made once: a request that makes one meanwhile would leave out our filters
        while (entry := self._next(begin_at)) is not None:
            # A module that changes the app itself would do so beside its requests: now Flask refuses that.
            self._app._got_first_request = True
            with threads.polite():
                self.load(entry)
            time.sleep(PAUSE)
        if not self.unfinished:
            log.info("warmcache.blueprints_loaded: %d in %.1f s", len(self._entries), time.monotonic() - began)

    def _next(self, begin_at: float) -> Entry | None:
        """The next one to load, when it is time for it; None at the end."""
        with self.changed:
            while self.unfinished and not self._stopped:
                now = time.monotonic()
                due = [entry for entry in self.unfinished if entry.is_due(now)]
                asked = [entry for entry in due if entry.asked_at is not None]
                if asked:
                    return min(asked, key=lambda entry: entry.asked_at or 0)
                if due and now >= begin_at:
                    return due[0]
                times = [entry.next_attempt for entry in self.unfinished if entry.state == FAILED]
                pause = (begin_at if due else min(times, default=now + 1)) - now
                self.changed.wait(min(max(0.01, pause), IDLE))
        return None

    # Loading

    def load_all(self) -> None:
        """Load, here and now, all that are due, by priority."""
        for entry in self.unfinished:
            self.load(entry)

    def load(self, entry: Entry) -> None:
        """Import and register one; whatever goes wrong is noted, logged and tried again later."""
        with self._one_at_a_time:
            with self.changed:
                if not entry.is_due(time.monotonic()):
                    return
                entry.state = LOADING
            self._importing = threading.get_ident()
            began = time.perf_counter()
            try:
                self._import_and_register(entry)
                self._note_success(entry, time.perf_counter() - began)
            except BaseException as error:
                self._note_failure(entry, error, time.perf_counter() - began)
                if not isinstance(error, (Exception, SystemExit)):
                    raise
            finally:
                self._importing = None

    def _import_and_register(self, entry: Entry) -> None:
        declared = entry.declared
        blueprint = declared.target.load()
        if not isinstance(blueprint, Blueprint):
            raise DeclarationError(
                f"{declared.target} is no blueprint but an object of {type(blueprint).__name__}; correct the "
                "first argument of defer_blueprint."
            )
        register(
            self._app,
            blueprint,
            url_prefix=declared.url_prefix,
            name=declared.name,
            endpoints=declared.endpoints,
            stand_ins=entry.stand_ins,
        )
        entry.name = declared.name or blueprint.name

    def _note_success(self, entry: Entry, seconds: float) -> None:
        declared = entry.declared
        log.info(
            "warmcache.blueprint_loaded: %s under %r in %.2f s", declared.target, declared.url_prefix, seconds
        )
        with self.changed:
            entry.state, entry.seconds = LOADED, seconds
            entry.error = entry.traceback = None
            self._note_unfinished()
            if not self.unfinished:
                self._gate.open()
            self.changed.notify_all()

    def _note_failure(self, entry: Entry, error: BaseException, seconds: float) -> None:
        declared = entry.declared
        pause = pause_after(entry.failures + 1, self._settings.retry_min, self._settings.retry_max)
        if isinstance(error, DeclarationError):
            pause = math.inf  # another attempt would fail as well, or hide what the first has left in an extension
        try:
            log.error(
                "warmcache.blueprint_failed: %s is not served under %r; %s",
                declared.target,
                declared.url_prefix,
                "it is not tried again" if pause == math.inf else f"next attempt in about {pause:.0f} s",
                exc_info=error,
            )
        finally:
            with self.changed:
                entry.state, entry.seconds, entry.asked_at = FAILED, seconds, None
                entry.failures = min(entry.failures + 1, 32)
                entry.next_attempt = time.monotonic() + pause
                entry.error, entry.traceback = type(error).__name__, "".join(traceback.format_exception(error))
                self.changed.notify_all()
