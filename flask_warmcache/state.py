"""What one app has at run time: its store, its keeper, and the lists' status and pagers.

Nothing is opened while the app loads.  Declarations close, and the rest is made, at the app's first
request or when its server starts the keeper, whichever comes first; always in the process that serves.
"""

from __future__ import annotations

import atexit
import logging
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

from .declaration import Declaration
from .encoding import encoder
from .host import threads
from .host.server import server_started
from .keeper.children import Children
from .keeper.keeper import Keeper
from .keeper.location import Location, NoLocation, locate
from .query.answers import Answers
from .query.page_cache import PageCache
from .query.pager import Pager
from .registry import Registry
from .settings import KEY, Settings
from .signals import announcer
from .status.condition import Condition, ListStatus
from .store.files import FileStore
from .store.folder import default_folder
from .store.locks import no_fork

if TYPE_CHECKING:
    from .rebuild.writes import Writes
    from .startup.deferred import Deferred
    from .startup.loader import Loader
    from .startup.tasks import Tasks

log = logging.getLogger("flask_warmcache")
REMOVAL_TRIES = 5

# Every state of this process: what a fork resets, and what gunicorn's hook starts.
_states: weakref.WeakSet[AppState] = weakref.WeakSet()


class AppState:
    """One app's lists as they are in this process."""

    def __init__(self, app: Flask, settings: Settings, registry: Registry) -> None:
        """:param registry: what was declared, which may grow until ``open`` closes it."""
        self.app = app
        self.settings = settings
        self.registry = registry
        self._made = time.time_ns()
        self._opening = threading.Lock()  # guards the one-time work of open()
        self._opened = False
        self.is_started = False  # a keeper was started in this process
        self._serves = False
        self.store: FileStore
        self.keeper: Keeper
        self.cache: PageCache
        self.answers: Answers
        self.statuses: dict[str, ListStatus] = {}
        self.pagers: dict[str, Pager] = {}
        self._writes: dict[str, Writes] = {}
        self.blueprints: Loader | None = None  # of the deferred ones, if there are any
        _states.add(self)

    def open(self) -> None:
        """Close the declarations and make what serves them; later calls return at once."""
        if self._opened:
            return
        with self._opening:
            if self._opened:
                return
            declared = {
                one.name: one
                if one.max_shrink is not None
                else one.with_functions(max_shrink=self.settings.max_shrink)
                for one in self.registry.close()
            }
            self.store = FileStore(self._folder())
            self._warn_of_a_shared_folder()
            self.cache = PageCache(self.settings.page_cache_bytes)
            self.answers = Answers(self.app, self.settings.cache_control)
            started = server_started(self._made)
            for name, declaration in declared.items():
                problem = declaration.problem(declared)
                if problem is not None:
                    # An exception here would end the whole server while the app loads; a failed list does not.
                    log.error(
                        "warmcache.list_unusable: warm list %r cannot be rebuilt: %s",
                        name,
                        problem,
                        extra={"warmcache_list": name},
                    )
                ttl = declaration.ttl or self.settings.default_ttl
                status = ListStatus(declaration, self.store, ttl, problem, started)
                self.statuses[name] = status
                self.pagers[name] = Pager(status, self.settings, self.cache)
            self.keeper = Keeper(
                self.statuses.values(),
                self.store,
                self.settings,
                encoder(self.app),
                self.app.app_context,
                Children(self._locate, self.settings, self.store.folder, started),
                announcer(self.app),
                self._tick_tasks,
            )
            for status in self.statuses.values():
                status.reread()
            self._opened = True

    @cached_property
    def tasks(self) -> Tasks:
        """The one-time tasks; loaded only where there are any, or somebody asks for one."""
        from .startup.tasks import Tasks

        return Tasks(self.app, self.registry.tasks, self.store, self.settings)

    def defer(self, declared: Deferred) -> None:
        """Have a blueprint loaded later.

        :raises DeclarationError: when it cannot be deferred in this app.
        """
        if self.blueprints is None:
            from .startup.loader import Loader

            self.blueprints = Loader(self.app, self.settings)
        self.blueprints.add(declared)

    def writes_of(self, name: str) -> Writes:
        """What publishes writes of a list that has keys; made, and its modules loaded, at the first write."""
        with self._opening:
            if not self._writes:
                self._writes = self._all_writes()
            return self._writes[name]

    def _all_writes(self) -> dict[str, Writes]:
        with no_fork:  # see rebuilder.py
            from .rebuild.tools import Tools
            from .rebuild.writes import Writes, item_finder

        tools = Tools(encoder(self.app), self.app.app_context, breathe=lambda: None)
        every: dict[str, Writes] = {}
        for name, status in self.statuses.items():
            declaration = status.declaration
            if declaration.key is None:
                continue
            upstream = self._upstream_by_key(declaration)
            lookup = declaration.lookup
            if lookup is None and upstream is not None:
                lookup = item_finder(upstream.reader.current, declaration.key)
            every[name] = Writes(declaration, self.store, tools, lookup)
        for name, writes in every.items():
            upstream = self._upstream_by_key(self.statuses[name].declaration)
            if upstream is not None:
                every[upstream.name].followers.append(writes)
        return every

    def _upstream_by_key(self, declaration: Declaration) -> ListStatus | None:
        """The source list, if its items go by the same keys; else a key says nothing there."""
        upstream = self.statuses.get(declaration.source_list or "")
        return upstream if upstream is not None and upstream.declaration.key == declaration.key else None

    def start(self, serves: bool = True) -> None:
        """Have a keeper running in this process; called at every request, so it costs next to nothing.

        :param serves: whether this process is a server's; a script that reads a list is none, so it runs no
            one-time task, and nothing is too old for its code.
        """
        if not self._opened:
            self.open()
        if self.settings.enabled and not threads.in_child:
            if serves and not self._serves:
                self._serves = True
                # With the runner external, it is for who rebuilds to say what is too old for its code.
                if self.settings.runner != "external":
                    for status in self.statuses.values():
                        status.serve()
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
        """The list as it is, rebuilt first by the calling thread when it is due: what ``enabled=False`` means."""
        self.keeper.note_stale(status)
        condition = status.condition()
        if condition.due:
            try:
                self.keeper.rebuild_now(status.name, wanted=False)
            except Exception:  # logged and counted by the keeper; the read goes on with what there is
                pass
            condition = status.condition()
        return condition

    def after_fork(self) -> None:
        """Nothing of the parent's threads and locks exists in the child."""
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
                writes.after_fork()

    def _locate(self) -> Location:
        if self.settings.dir is None and self.app.testing:
            raise NoLocation("an app under test has a folder of its own")
        return locate(self.app, self.settings.app)

    def _folder(self) -> Path:
        if self.settings.dir is not None:
            return Path(self.settings.dir).absolute()
        if self.app.testing:
            folder = tempfile.mkdtemp(prefix="warmcache-test-")
            atexit.register(self._remove, folder, os.getpid())
            return Path(folder)
        return default_folder(self.app.instance_path, self.app.name)

    def _warn_of_a_shared_folder(self) -> None:
        """Two apps made by one factory, for two customers say, would show each other's lists."""
        for other in list(_states):
            if other is not self and other._opened and other.store.folder == self.store.folder:
                log.warning(
                    "warmcache.folder_shared: two apps of this process, %r and %r, keep their lists in %s, so "
                    "lists of one name are one list; set WARMCACHE_DIR of each if they are to differ",
                    self.app.name,
                    other.app.name,
                    self.store.folder,
                )
                return

    def _remove(self, folder: str, pid: int) -> None:
        """Remove a temporary folder at exit, and see that nobody makes it again."""
        if os.getpid() != pid:
            return
        self.keeper.stop()
        for _ in range(REMOVAL_TRIES):
            # A rebuild that runs may write a file behind our look at the folder; its next one finds no folder.
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                return


def start_keepers() -> None:
    """Start the keeper of every app in this process, and load its blueprints; for a server's worker hook."""
    for state in list(_states):
        state.start_serving()


def _after_fork() -> None:
    threads.after_fork()
    for state in list(_states):
        state.after_fork()


os.register_at_fork(after_in_child=_after_fork)
