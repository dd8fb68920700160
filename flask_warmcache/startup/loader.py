"""When deferred blueprints are loaded: in the background by priority, and first those that a request waits for.

One thread in each worker imports them one after the other.  If two threads imported modules that import each
other, Python would resolve the deadlock by returning partly initialised modules.  The thread starts with the
keeper, so never before a fork, and begins a moment later, so that the worker serves first.
"""

from __future__ import annotations

import math
import random
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import click
from flask import Blueprint, Flask, appcontext_pushed
from flask.cli import FlaskGroup, ScriptInfo, run_command

from .. import events
from ..errors import DeclarationError
from ..host import threads
from ..settings import KEY, Settings
from ..status.pauses import pause_after
from .deferred import FAILED, LOADED, LOADING, Deferred, Entry, Pending
from .gate import Gate
from .registering import register

# Seconds until the first import; jittered, so that a server's workers do not all read the same files at once.
BEGIN_AFTER = (0.3, 0.8)
# Seconds between two imports. Under gevent, where the thread is a greenlet, requests are answered only then.
PAUSE = 0.002
# The longest wait in seconds; a condition cannot wait for infinity.
IDLE = 3600.0


class Loader:
    """Loads one app's deferred blueprints, in this process."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self.pending = Pending()
        self.entries = self.pending.entries
        self._stopped = False
        self._loading = threading.RLock()  # held while a blueprint is loaded
        self._gate = Gate(app, settings, self.pending, self.load)
        self._leave_commands = _load_for_commands(app, self.load_all, excluded=KEY)

    def after_fork(self) -> None:
        """Reset the parent's thread and its locks."""
        self._loading = threading.RLock()
        self.pending.after_fork()
        self._gate.after_fork()

    def add(self, declared: Deferred) -> None:
        """Add a blueprint, before the app serves.

        :raises DeclarationError: when it cannot be deferred in this app.
        """
        declared.check_for(self._app, self._settings.api_prefix)
        self.entries.append(Entry(declared, declared.stand_ins(self._app), declared.name))
        self.pending.note_unfinished()

    def section(self) -> dict[str, object]:
        """Return the section of this worker's stats."""
        loaded, total = self.progress()
        return {"total": total, "loaded": loaded, "blueprints": [entry.section() for entry in self.entries]}

    def progress(self) -> tuple[int, int]:
        """Return how many blueprints are loaded, and how many there are."""
        total = len(self.entries)
        return total - len(self.pending.unfinished), total

    # The thread

    def start(self) -> None:
        """Start the thread unless it runs or everything is loaded; cheap, since every request calls it."""
        if not self.pending.unfinished or threads.in_child or self.pending.is_running():
            return
        if not self._settings.enabled:
            self.load_all()  # as after register_blueprint, the first request finds everything
            return
        with self.pending.changed:
            if self._stopped or self.pending.is_running():
                return
            thread = threading.Thread(target=self._run, name="warmcache-blueprints", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                events.error(
                    "warmcache.blueprints_not_started",
                    "no thread could be started; the next request tries again",
                    error=True,
                )
                return
            self.pending.thread = thread
        self._leave_commands()

    def stop(self) -> None:
        """End the thread after the blueprint that it is loading; for tests."""
        with self.pending.changed:
            self._stopped = True
            self.pending.changed.notify_all()

    def _run(self) -> None:
        began, begin_at = time.monotonic(), time.monotonic() + random.uniform(*BEGIN_AFTER)
        # Created once and now: an environment that a request creates meanwhile would lack a blueprint's filters.
        _ = self._app.jinja_env
        while (entry := self._next(begin_at)) is not None:
            # A module that changes the app itself would do so while requests run; with this flag Flask refuses it.
            self._app._got_first_request = True
            with threads.polite():
                self.load(entry)
            time.sleep(PAUSE)
        if not self.pending.unfinished:
            events.info(
                "warmcache.blueprints_loaded",
                "%(count)d in %(seconds).1f s",
                count=len(self.entries),
                seconds=time.monotonic() - began,
            )

    def _next(self, begin_at: float) -> Entry | None:
        """Wait until a blueprint is due and return it; return None when all are loaded or after ``stop``."""
        with self.pending.changed:
            while self.pending.unfinished and not self._stopped:
                now = time.monotonic()
                due = [entry for entry in self.pending.unfinished if entry.is_due(now)]
                asked = [entry for entry in due if entry.asked_at is not None]
                if asked:
                    return min(asked, key=lambda entry: entry.asked_at or 0)
                if due and now >= begin_at:
                    return due[0]
                times = [entry.next_attempt for entry in self.pending.unfinished if entry.state == FAILED]
                pause = (begin_at if due else min(times, default=now + 1)) - now
                self.pending.changed.wait(min(max(0.01, pause), IDLE))
        return None

    # Loading

    def load_all(self) -> None:
        """Load all that are due, by priority, in the calling thread."""
        for entry in self.pending.unfinished:
            self.load(entry)

    def load(self, entry: Entry) -> None:
        """Import and register a blueprint; an error is recorded and logged, and another attempt follows."""
        with self._loading:
            with self.pending.changed:
                if not entry.is_due(time.monotonic()):
                    return
                entry.state = LOADING
            self.pending.importing = threading.get_ident()
            began = time.perf_counter()
            try:
                self._import_and_register(entry)
                self._note_success(entry, time.perf_counter() - began)
            except BaseException as error:
                self._note_failure(entry, error, time.perf_counter() - began)
                if not isinstance(error, (Exception, SystemExit)):
                    raise
            finally:
                self.pending.importing = None

    def _import_and_register(self, entry: Entry) -> None:
        declared = entry.declared
        blueprint = declared.target.load()
        if not isinstance(blueprint, Blueprint):
            raise DeclarationError(
                f"{declared.target} is not a blueprint but an object of {type(blueprint).__name__}; correct the "
                "first argument of defer_blueprint."
            )
        register(self._app, blueprint, declared, entry.stand_ins)
        entry.name = declared.name or blueprint.name

    def _note_success(self, entry: Entry, seconds: float) -> None:
        declared = entry.declared
        events.info(
            "warmcache.blueprint_loaded",
            "%(target)s under %(prefix)r in %(seconds).2f s",
            target=declared.target,
            prefix=declared.url_prefix,
            seconds=seconds,
        )
        with self.pending.changed:
            entry.state, entry.seconds = LOADED, seconds
            entry.error = entry.traceback = None
            self.pending.note_unfinished()
            if not self.pending.unfinished:
                self._gate.open()
            self.pending.changed.notify_all()

    def _note_failure(self, entry: Entry, error: BaseException, seconds: float) -> None:
        declared = entry.declared
        pause = pause_after(entry.failures + 1, self._settings.retry_min, self._settings.retry_max)
        if isinstance(error, DeclarationError):
            pause = math.inf  # another attempt would fail too, or hide what the first one left in an extension
        try:
            events.error(
                "warmcache.blueprint_failed",
                "%(target)s is not served under %(prefix)r; %(outlook)s",
                error=error,
                target=declared.target,
                prefix=declared.url_prefix,
                outlook="it is not tried again" if pause == math.inf else f"next attempt in about {pause:.0f} s",
            )
        finally:
            with self.pending.changed:
                # The state comes last: the status page reads without the lock.
                entry.error, entry.traceback = type(error).__name__, "".join(traceback.format_exception(error))
                entry.failures = min(entry.failures + 1, 32)
                entry.next_attempt = time.monotonic() + pause
                entry.state, entry.seconds, entry.asked_at = FAILED, seconds, None
                self.pending.changed.notify_all()


def _load_for_commands(app: Flask, load_all: Callable[[], None], excluded: str) -> Callable[[], None]:
    """Call ``load_all`` before a command of ``flask`` runs, or is looked up in the app; return what ends that.

    Some commands need all routes or models.  ``flask run`` is excluded because it is a server.

    :param excluded: the name of a group of the app whose commands need no blueprint.
    """

    def pushed(sender: Flask, **_: Any) -> None:
        """Load everything if the app context that was just entered belongs to a command."""
        context = click.get_current_context(silent=True)
        if context is None or isinstance(context.command, FlaskGroup):
            return  # there is no command, or it is not known yet; it is then looked up in the app
        info = context.find_object(ScriptInfo)
        if info is None or getattr(info, "_loaded_app", None) is not app:
            return  # the app is still being made, and a blueprint may need it complete
        while context is not None:
            if context.command in (run_command, app.cli.commands.get(excluded)):
                return
            context = context.parent
        load_all()

    get_command, list_commands = app.cli.get_command, app.cli.list_commands

    def get_any_command(context: click.Context, name: str) -> click.Command | None:
        if name != excluded:
            load_all()
        return get_command(context, name)

    def list_all_commands(context: click.Context) -> list[str]:
        load_all()
        return list_commands(context)

    app.cli.get_command = get_any_command  # type: ignore[method-assign, assignment]
    app.cli.list_commands = list_all_commands  # type: ignore[method-assign, assignment]
    appcontext_pushed.connect(pushed, app)
    return lambda: appcontext_pushed.disconnect(pushed, app)
