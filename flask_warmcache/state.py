"""What one app has at run time: its store, its keeper, and the status and pager of each list.

No file is opened while the app loads.  The process that serves closes the declarations and creates the rest at the
app's first request, or when its server starts the keeper, whichever is earlier.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import time
import weakref
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from . import events
from .encoding import encoder
from .host import threads
from .host.server import server_started
from .keeper.children import Children, Location, locate
from .keeper.keeper import Keeper
from .keeper.rebuilder import Rebuilder
from .query.answers import Answers
from .query.page_cache import PageCache
from .query.pager import Pager
from .registry import Registry
from .settings import KEY, Settings
from .signals import announcer
from .startup.shadowing import Shadowed, shadowed_routes
from .status.condition import Condition, ListStatus
from .store.files import FileStore
from .store.folder import default_folder, folder_in
from .store.locks import load_lock_library, no_fork

if TYPE_CHECKING:
    from .rebuild.writes import Writes
    from .startup.deferred import Deferred
    from .startup.loader import Loader
    from .startup.tasks import Tasks

REMOVAL_TRIES = 5

# Every state of this process: a fork resets them, and gunicorn's worker hook starts them.
_states: weakref.WeakSet[AppState] = weakref.WeakSet()


class AppState:
    """One app's lists in this process."""

    def __init__(self, app: Flask, settings: Settings, registry: Registry) -> None:
        """:param registry: the declarations, which may grow until ``open`` closes them."""
        self.app = app
        self.settings = settings
        self.registry = registry
        registry.apps.add(app)
        self._made = time.time_ns()
        self._opening = threading.Lock()  # guards the one-time work of open(), and _writes
        self._opened = False
        self.is_started = False  # a keeper was started in this process
        self._serves = False
        self.store: FileStore
        self.rebuilder: Rebuilder
        self.keeper: Keeper
        self.cache: PageCache
        self.answers: Answers
        self.statuses: dict[str, ListStatus] = {}
        self.pagers: dict[str, Pager] = {}
        self._writes: dict[str, Writes] = {}
        self.blueprints: Loader | None = None  # of deferred blueprints, if there are any
        _states.add(self)

    def open(self) -> None:
        """Close the declarations and create what serves the lists; later calls return at once."""
        if self._opened:
            return
        with self._opening:
            if self._opened:
                return
            declared = {
                declaration.name: declaration
                if declaration.max_shrink is not None
                else declaration.with_functions(max_shrink=self.settings.max_shrink)
                for declaration in self.registry.close()
            }
            self.store = FileStore(self._folder())
            self._warn_of_a_shared_folder()
            self.cache = PageCache(self.settings.page_cache_bytes)
            self.answers = Answers(self.app, self.settings.cache_control)
            started = server_started(self._made)
            for name, declaration in declared.items():
                problem = declaration.problem(declared)
                if problem is not None:
                    # An exception while the app loads would end the whole server; a failed list does not.
                    events.error(
                        "warmcache.list_unusable",
                        "warm list %(list)r cannot be rebuilt: %(problem)s",
                        list=name,
                        problem=problem,
                    )
                ttl = declaration.ttl_or(self.settings.default_ttl)
                status = ListStatus(declaration, self.store, ttl, problem, started)
                self.statuses[name] = status
                self.pagers[name] = Pager(status, self.settings, self.cache)
            self.rebuilder = Rebuilder(
                self.statuses.values(),
                self.store,
                self.settings,
                encoder(self.app),
                self.app.app_context,
                announcer(self.app),
            )
            children = Children(self._locate, self.settings, self.store.folder, started)
            self.keeper = Keeper(self.rebuilder, children, self._tick_tasks)
            for status in self.statuses.values():
                status.reread()
            self._warn_of_shadowed_routes()
            self._opened = True

    @cached_property
    def tasks(self) -> Tasks:
        """The one-time tasks; their modules are loaded at the first use."""
        from .startup.tasks import Tasks

        return Tasks(self.app, self.registry.tasks, self.store, self.settings)

    def defer(self, declared: Deferred) -> None:
        """Add a deferred blueprint.

        :raises DeclarationError: when it cannot be deferred in this app.
        """
        if self.blueprints is None:
            from .startup.loader import Loader

            self.blueprints = Loader(self.app, self.settings)
        self.blueprints.add(declared)

    def writes_of(self, name: str) -> Writes:
        """Return what publishes the writes of a list with keys; its modules are loaded at the first write."""
        with self._opening:
            if not self._writes:
                with no_fork:  # see rebuilder.py
                    from .rebuild.followers import all_writes
                    from .rebuild.tools import Tools

                tools = Tools(encoder(self.app), self.app.app_context, breathe=lambda: None)
                self._writes = all_writes(self.statuses, self.store, tools)
            return self._writes[name]

    def start(self, serves: bool = True) -> None:
        """Start the keeper unless it runs; cheap, since every request calls it.

        :param serves: whether this process belongs to a server. A script that reads a list does not: it runs no
            one-time task, and no snapshot is stale because the script's code is newer.
        """
        if not self._opened:
            self.open()
        if self.settings.enabled and not threads.in_child:
            if serves and not self._serves:
                self._serves = True
                # With the runner external, the rebuilding process decides which snapshots are older than its code.
                if self.settings.runner != "external":
                    for status in self.statuses.values():
                        status.staleness.serve()
            if not serves:
                load_lock_library()
            self.keeper.ensure()
        self.is_started = True

    def start_serving(self) -> None:
        """Start what a process that serves requests needs; called before each of them.

        A test may have replaced this state. Its deferred blueprints are still those of the app.
        """
        if self.blueprints is not None:
            self.blueprints.start()
        self.app.extensions[KEY].start()

    def _tick_tasks(self) -> None:
        if self.registry.tasks and self._serves:
            self.tasks.tick()

    def startup_progress(self) -> dict[str, tuple[int, int]]:
        """Return the work of the start by name: how much of it is done, and how much there is."""
        counts = {}
        if self.blueprints is not None:
            counts["blueprints"] = self.blueprints.progress()
        if self._opened and self.registry.tasks:
            counts["tasks"] = self.tasks.progress()
        return counts

    def build_inline(self, status: ListStatus) -> Condition:
        """Return the list's condition, after rebuilding it in this thread if it is due; for ``enabled=False``."""
        self.keeper.due.note_stale(status)
        condition = status.condition()
        if condition.due:
            try:
                self.rebuilder.rebuild_now(status.name, only_if_due=True)
            except Exception:  # logged and counted already; the read uses the old snapshot, if any
                pass
            condition = status.condition()
        return condition

    def after_fork(self) -> None:
        """Reset what belongs to the parent's threads, which do not exist in the child of a fork."""
        self._opening = threading.Lock()
        self.is_started = self._serves = False
        if self.blueprints is not None:
            self.blueprints.after_fork()
        if self._opened:
            self.cache.after_fork()
            self.keeper.after_fork()
            if self.registry.tasks:
                self.tasks.after_fork()
            for writes in self._writes.values():
                writes.queue.after_fork()

    def _locate(self) -> Location | str:
        if self.settings.dir is None and self.app.testing:
            return "an app under test has a temporary cache folder"
        return locate(self.app, self.settings.app)

    def _folder(self) -> Path:
        if self.settings.dir is not None:
            return folder_in(Path(self.settings.dir).absolute())
        if self.app.testing:
            folder = tempfile.mkdtemp(prefix="warmcache-test-")
            atexit.register(self._remove, folder, os.getpid())
            return Path(folder)
        return default_folder(self.app.instance_path, self.app.name)

    def _warn_of_a_shared_folder(self) -> None:
        """Warn if two apps share a folder: one factory's apps for two customers would show each other's lists."""
        for other in list(_states):
            if other is not self and other._opened and other.store.folder == self.store.folder:
                events.warning(
                    "warmcache.folder_shared",
                    "two apps of this process, %(app)r and %(other_app)r, keep their lists in "
                    "%(folder)s, so lists of one name are one list; set WARMCACHE_DIR of each app to "
                    "separate them",
                    app=self.app.name,
                    other_app=other.app.name,
                    folder=self.store.folder,
                )
                return

    def shadowed_routes(self) -> list[Shadowed]:
        """Return the routes of ours or of the app that never answer, because the other one has the same path."""
        return shadowed_routes(self.app, self.settings.api_prefix, self.statuses)

    def _warn_of_shadowed_routes(self) -> None:
        for path, answering, shadowed in [] if threads.in_child else self.shadowed_routes():
            events.warning(
                "warmcache.route_shadowed",
                "%(path)s is answered by %(answering)r, and never by %(shadowed)r; rename the app's route, or set "
                "WARMCACHE_API_PREFIX",
                path=path,
                answering=answering,
                shadowed=shadowed,
            )

    def _remove(self, folder: str, pid: int) -> None:
        """Remove a temporary folder at exit, also if a rebuild is still writing to it."""
        if os.getpid() != pid:
            return
        self.keeper.stop()
        for _ in range(REMOVAL_TRIES):
            # A running rebuild may create a file while rmtree() runs. It finds no folder for the next one.
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                return


def start_keepers() -> None:
    """Start every app's keeper in this process, and the loading of its blueprints; for a server's worker hook."""
    for state in list(_states):
        state.start_serving()


def _after_fork() -> None:
    threads.after_fork()
    for state in list(_states):
        state.after_fork()


os.register_at_fork(after_in_child=_after_fork)
