"""WarmCache: declare lists, and wire them into an app."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flask import Flask

from .cli.group import group
from .declaration import Declaration, Default, Item, check_function, declare
from .errors import DeclarationError
from .lists.asynchronous import checked
from .lists.warm import Warm, current_state
from .lists.warm_list import WarmList
from .lists.warm_value import WarmValue, check_cold
from .registry import Registry
from .settings import KEY, Settings, settings_in
from .state import AppState
from .web.gate import Gate
from .web.permissions import Authorize, Permissions
from .web.routes import blueprint

Function = TypeVar("Function", bound=Callable[..., Any])


class WarmCache:
    """Warm lists for a Flask app: each is built once in the background and served to every worker at once.

    The extension holds the declarations.  What an app has at run time lives in ``app.extensions["warmcache"]``,
    so one WarmCache can serve several apps.
    """

    def __init__(self, app: Flask | None = None, **defaults: Any) -> None:
        """Create the extension, and initialise ``app`` if it is given.

        :param app: the app to initialise now; without it, call ``init_app`` later.
        :param defaults: settings in lower case without ``WARMCACHE_``, such as ``per_page=50``; the app's config
            overrides them.
        :raises SettingError: with ``app``, for an unknown or wrong setting, by name.
        """
        self._defaults = defaults
        self._registry = Registry()
        self._permissions = Permissions()
        self._states: weakref.WeakSet[AppState] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wire the extension into an app; start no thread, run no function and open no file.

        :raises SettingError: for an unknown or wrong ``WARMCACHE_*`` setting, by name.
        :raises RuntimeError: when the app has a WarmCache already.
        """
        if KEY in app.extensions:
            raise RuntimeError("This app already has a WarmCache. Import and use that one.")
        settings = Settings.from_config(app.config, **self._defaults | settings_in(os.environ))
        state = AppState(app, settings, self._registry)
        for deferred in self._registry.deferred:
            state.defer(deferred)
        app.extensions[KEY] = state
        self._states.add(state)
        Gate(state, settings.api_prefix)
        routes = blueprint(self._registry, self._permissions, settings.spread)
        app.register_blueprint(routes, url_prefix=settings.api_prefix)
        app.cli.add_command(group)

    # Declaring

    def warm_list(
        self,
        name: str,
        *,
        key: str | None = None,
        source: Callable[[], Iterable[Item] | Awaitable[Iterable[Item]] | AsyncIterable[Item]]
        | WarmList
        | None = None,
        enrich: Callable[[Item], Item | Awaitable[Item]] | None = None,
        lookup: Callable[[Any], Item | None | Awaitable[Item | None]] | None = None,
        unit: str = "item",
        ttl: float | None | Default = Default.TTL,
        filters: Mapping[str, Callable[[Item], object]] | None = None,
        sorts: Mapping[str, Callable[[Item], Any]] | None = None,
        search: Sequence[str] = (),
        counts: Sequence[str] = (),
        allow_all: bool = False,
        max_shrink: float | None = None,
    ) -> WarmList:
        """Declare a list; its functions are given here or with the decorators of the returned object.

        :param name: the list's name in files, URLs and stats: 1 to 64 of ``a-z 0-9 _ -``.
        :param key: the field that is unique for each item; its values are text or whole numbers.
        :param source: the cheap function that yields the items that exist now, or another list of this WarmCache.
        :param enrich: the expensive function that completes one item; without it the source items are the list.
        :param lookup: the function that returns one source item by key, or None; ``refresh`` calls it.
        :param unit: a noun for the JSON keys: ``file`` gives ``files``, ``total_files``, ``file_count``.
        :param ttl: seconds until a snapshot is stale, or None for never; by default ``WARMCACHE_DEFAULT_TTL``.
        :param filters: pure functions of an item by name; an item passes if its function returns a true value.
        :param sorts: pure functions of an item by name that return its sort key. ``sort=-name`` reverses.
        :param search: the fields that ``search=`` looks into.
        :param counts: filters whose size every answer contains, as in ``unmarked_count``.
        :param allow_all: whether ``per_page=0`` may ask for all items at once.
        :param max_shrink: the share of its items, 0 to 1, that a list of ten or more may lose in one rebuild; by
            default 0.5. One that would lose more fails: a share that is not mounted looks like an empty folder.
        :raises DeclarationError: for anything wrong, in this very call.
        """
        self._registry.check_name(name)
        declaration = declare(
            name, "list", key=key, unit=unit, ttl=ttl, filters=filters, sorts=sorts, search=search,
            counts=counts, allow_all=allow_all, max_shrink=max_shrink,
        )  # fmt: skip
        if isinstance(source, WarmList):
            if self._registry.lists.get(source.name) is not source:
                raise DeclarationError(
                    f"Warm list {name!r} has a source list {source.name!r} that another WarmCache declared."
                )
            declaration = declaration.with_functions(source_list=source.name)
            source = None
        roles = {"source": source, "enrich": enrich, "lookup": lookup}
        given = {role: checked(name, role, function) for role, function in roles.items() if function is not None}
        warm = WarmList(declaration.with_functions(**given), self._registry)
        self._registry.add(warm)
        return warm

    def builder(
        self,
        name: str,
        *,
        ttl: float | None | Default = Default.TTL,
        key: str | None = None,
        unit: str = "item",
        filters: Mapping[str, Callable[[Item], object]] | None = None,
        sorts: Mapping[str, Callable[[Item], Any]] | None = None,
        search: Sequence[str] = (),
        counts: Sequence[str] = (),
        allow_all: bool = False,
        max_shrink: float | None = None,
    ) -> Callable[[Function], Function]:
        """Declare a list made by one function, which returns or yields the finished items.

        The decorator returns the function unchanged; ``warmcache["name"]`` is the list. The parameters are those
        of ``warm_list``; only ``find`` needs ``key``.

        :raises DeclarationError: for anything wrong, in this very call.
        """
        self._registry.check_name(name)
        declaration = declare(
            name, "builder", key=key, unit=unit, ttl=ttl, filters=filters, sorts=sorts, search=search,
            counts=counts, allow_all=allow_all, max_shrink=max_shrink,
        )  # fmt: skip
        return self._decorator(WarmList, declaration)

    def value(
        self, name: str, *, ttl: float | None | Default = Default.TTL, cold: Any = None
    ) -> Callable[[Function], Function]:
        """Declare one JSON value made by one function; ``warmcache["name"].get()`` reads it.

        :param ttl: seconds until the value is stale, or None for never; by default ``WARMCACHE_DEFAULT_TTL``.
        :param cold: what is read while there is no value yet; like the value, it must be serialisable as JSON.
        :raises DeclarationError: for anything wrong, in this very call.
        """
        self._registry.check_name(name)
        declaration = declare(name, "value", ttl=ttl, cold=cold)
        check_cold(name, cold)
        return self._decorator(WarmValue, declaration)

    def _decorator(self, kind: type[Warm], declaration: Declaration) -> Callable[[Function], Function]:
        """Return the decorator of a function that makes the whole list or value."""

        def decorate(function: Function) -> Function:
            source = checked(declaration.name, declaration.kind, function)
            self._registry.add(kind(declaration.with_functions(source=source), self._registry))
            return function

        return decorate

    def stats_section(self, name: str) -> Callable[[Function], Function]:
        """Declare a section of ``GET /api/cache/stats``: a function that returns a dict.

        The function runs in the request that asks, at most once a second in each worker and in one thread at a
        time. Requests that arrive meanwhile get the previous section, or ``{"cache_rebuilding": true}`` if there
        is none. If the function raises, the section names the exception's class.

        :raises DeclarationError: for a name that is taken or malformed.
        """
        self._registry.check_name(name)

        def decorate(function: Function) -> Function:
            check_function(name, "stats section", function)
            self._registry.sections[name] = function
            return function

        return decorate

    def authorize(self, function: Authorize) -> Authorize:
        """Declare who may do more than read: a function of an action and a list's name that returns True or False.

        The actions are "rebuild" (``POST /api/cache/rebuild/NAME``) and "details" (error messages, folder and
        process on the status page, and all facts in the app's own sections; the name is None for what concerns all
        lists). The function runs in the request that asks, so it can use the app's own login. Without it, both are
        refused to everybody.

        :raises DeclarationError: when there is such a function already, or declarations are closed.
        """
        self._registry.require_open("authorize comes", "")
        self._permissions.declare(function)
        return function

    def once(self, name: str, *, timeout: float = 20.0, version: str | int = "") -> Callable[[Function], Function]:
        """Declare a one-time task: a function without arguments that one process runs once in each deployment.

        It runs inside an app context, in the background of a serving worker or by ``flask warmcache once``. A
        deployment is identified by ``WARMCACHE_RELEASE`` (without that setting, by the function's own code) and by
        ``version``. If the process dies before the task is done, another process starts the task again.

        :param name: the task's name in files and stats: 1 to 64 of ``a-z 0-9 _ -``.
        :param timeout: seconds after which the task is shown as late and the app as degraded; the task runs on.
        :param version: the version of code that the function calls, such as the models behind ``db.create_all()``.
        :raises DeclarationError: for anything wrong, in this very call.
        """
        from .startup.task import Task, check_name

        check_name(name)

        def decorate(function: Function) -> Function:
            task = Task(name, timeout, str(version), function)
            self._registry.add_task(task, lambda: current_state().tasks.section())
            return function

        return decorate

    def ensure(self, name: str, *, wait: float = 2.0) -> None:
        """Return once a one-time task is done; a view that needs the task calls this. Start the task if necessary.

        :param wait: seconds that this request may wait, at most 15.
        :raises TaskNotReadyError: when the task is not done by then, and at once when it is late or pauses after a
            failure; a view that does not catch it answers 503 with ``Retry-After`` and JSON.
        :raises DeclarationError: for a task that is not declared.
        """
        current_state(self._registry).tasks.ensure(name, wait)

    def defer_blueprint(
        self,
        target: str,
        *,
        url_prefix: str,
        priority: float = 0,
        name: str | None = None,
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        """Import and register a blueprint in the background once the app serves, or when a request needs it.

        A request that needs it earlier waits at most ``WARMCACHE_DEFER_WAIT`` seconds and is then answered with
        503, ``Retry-After`` and ``{"warming": true}``.

        :param target: the blueprint, as ``"pkg.module:bp"``.
        :param url_prefix: the path that all its routes are under, such as ``"/reports"``.
        :param priority: blueprints of higher priority are loaded first; equal ones in the order of declaration.
        :param name: registers the blueprint under another name than its own; ``endpoints`` requires it.
        :param endpoints: rules by endpoint, as ``{"index": "/"}``, that ``url_for`` knows before the import.
        :raises DeclarationError: for anything wrong that can be known without the import, in this very call.
        """
        from .startup.deferred import Deferred
        from .startup.later import Target

        rules = {} if endpoints is None else endpoints
        deferred = Deferred(Target.parse(target), url_prefix, priority, name, rules)
        self._registry.add_deferred(deferred, _blueprints_section)
        for state in list(self._states):
            state.defer(deferred)

    def lazy(self, target: str) -> Any:
        """Return a proxy for an object that is imported and built at its first use, once in a process.

        The thread that uses it first builds it, and the others wait. An error of the import or of the building is
        raised in the thread that uses the proxy. Until a pause has passed, which grows with each failure, further
        uses raise ``LazyNotReadyError``.

        :param target: the object, as ``"pkg.module:Service"``; a class or function is called without arguments,
            anything else is used as it is.
        :raises DeclarationError: when the text is not of that form.
        """
        from .startup.lazy import proxy

        return proxy(target)

    def __getitem__(self, name: str) -> Any:
        """Return the list or value of that name, such as one declared with ``builder`` or ``value``."""
        try:
            return self._registry.lists[name]
        except KeyError:
            known = ", ".join(self._registry.lists) or "none"
            raise DeclarationError(f"No warm list named {name!r}. Declared: {known}.") from None


def _blueprints_section() -> Mapping[str, Any]:
    blueprints = current_state().blueprints
    return {} if blueprints is None else blueprints.section()
