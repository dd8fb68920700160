"""WarmCache: declare lists, and wire them into an app."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from .cli.group import group
from .declaration import NAME, Declaration, Item, Kind, check_function
from .errors import DeclarationError
from .lists.warm import Warm, current_state
from .lists.warm_list import WarmList
from .lists.warm_value import WarmValue
from .settings import KEY, Settings
from .state import AppState
from .web.permissions import Authorize, Permissions
from .web.routes import blueprint

if TYPE_CHECKING:
    from .startup.deferred import Deferred
    from .startup.task import Task

Section = Callable[[], Mapping[str, Any]]
Function = TypeVar("Function", bound=Callable[..., Any])
TASKS = "tasks"  # the section of the one-time tasks in the stats


class WarmCache:
    """Warm lists for a Flask app: each is built once in the background and served to every worker at once.

    Declarations live here; what an app has at run time lives in ``app.extensions["warmcache"]``, so one
    WarmCache can serve several apps.
    """

    def __init__(self, app: Flask | None = None, **defaults: Any) -> None:
        """
        :param app: initialised at once when given; else call ``init_app`` later.
        :param defaults: settings in lower case without ``WARMCACHE_``, as ``per_page=50``; the app's
            config wins over them.
        :raises SettingError: with ``app``, for an unknown or wrong setting, by name.
        """
        self._defaults = defaults
        self._lists: dict[str, Warm] = {}
        self._sections: dict[str, Section] = {}
        self._permissions = Permissions()
        self._once: dict[str, Task] = {}
        self._deferred: list[Deferred] = []
        self._states: weakref.WeakSet[AppState] = weakref.WeakSet()
        self._closed = False
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wire the extension into an app; does no work: no thread, no scan, no file is touched.

        :raises SettingError: for an unknown or wrong ``WARMCACHE_*`` setting, by name.
        :raises RuntimeError: when the app has a WarmCache already.
        """
        if KEY in app.extensions:
            raise RuntimeError("This app already has a WarmCache. Import and use that one.")
        settings = Settings.from_config(app.config, **self._defaults)
        state = AppState(app, settings, self._close, self._once)
        for declared in self._deferred:
            state.defer(declared)
        app.extensions[KEY] = state
        self._states.add(state)
        # In front of the app and not a before_request function, which Flask looks at twice for being a
        # coroutine: measured, 3 us of each request, of the lists' and of all others.
        app.wsgi_app = state.gate(app.wsgi_app)  # type: ignore[method-assign]
        routes = blueprint(self._sections, self._permissions, settings.spread)
        app.register_blueprint(routes, url_prefix=settings.api_prefix)
        state.probes.register(app, settings.api_prefix)
        app.cli.add_command(group)

    def _close(self) -> Iterable[Declaration]:
        self._closed = True
        return [warm.declaration for warm in self._lists.values()]

    # Declaring

    def warm_list(
        self,
        name: str,
        *,
        key: str | None = None,
        source: Callable[[], Iterable[Item]] | WarmList | None = None,
        enrich: Callable[[Item], Item] | None = None,
        lookup: Callable[[Any], Item | None] | None = None,
        unit: str = "item",
        ttl: float | None = None,
        filters: Mapping[str, Callable[[Item], object]] | None = None,
        sorts: Mapping[str, Callable[[Item], Any]] | None = None,
        search: Sequence[str] = (),
        counts: Sequence[str] = (),
        allow_all: bool = False,
        max_shrink: float | None = None,
    ) -> WarmList:
        """Declare a list; give its functions here or with the decorators of what is returned.

        :param name: of the list, in files, URLs and stats: 1 to 64 of ``a-z 0-9 _ -``.
        :param key: the field that is unique for each item; its values are text or whole numbers.
        :param source: the cheap function that says which items exist, or another list of this WarmCache.
        :param enrich: the expensive function that completes one item; without it the source items are the list.
        :param lookup: the function that gives one source item by key, or None; for ``refresh``.
        :param unit: one noun that names the JSON keys: ``file`` gives ``files``, ``total_files``, ``file_count``.
        :param ttl: seconds until a snapshot is stale; by default ``WARMCACHE_DEFAULT_TTL``.
        :param filters: names and pure functions of an item: does it pass?
        :param sorts: names and pure functions of an item: its sort key. ``-name`` reverses.
        :param search: the fields that ``search=`` looks into.
        :param counts: filters whose size stands in every answer, as ``unmarked_count``.
        :param allow_all: whether ``per_page=0`` may ask for all items at once.
        :param max_shrink: the share of its items, 0 to 1, that a list of ten or more may lose in one rebuild; past
            it the source is not believed, since a share that is not mounted looks like an empty folder. By
            default a half; 1 believes everything.
        :raises DeclarationError: for anything wrong, in this very call.
        """
        declaration = self._declaration(
            name, "list", key=key, unit=unit, ttl=ttl, filters=filters, sorts=sorts, search=search,
            counts=counts, allow_all=allow_all, max_shrink=max_shrink,
        )  # fmt: skip
        if isinstance(source, WarmList):
            if self._lists.get(source.name) is not source:
                raise DeclarationError(
                    f"Warm list {name!r} has a source list {source.name!r} that another WarmCache declared."
                )
            declaration = declaration.with_functions(source_list=source.name)
        elif source is not None:
            check_function(name, "source", source)
            declaration = declaration.with_functions(source=source)
        if enrich is not None:
            check_function(name, "enrich", enrich)
            declaration = declaration.with_functions(enrich=enrich)
        if lookup is not None:
            check_function(name, "lookup", lookup)
            declaration = declaration.with_functions(lookup=lookup)
        warm = WarmList(declaration, self._is_closed)
        self._add(warm)
        return warm

    def builder(
        self,
        name: str,
        *,
        ttl: float | None = None,
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

        The function is returned unchanged; read the list with ``warmcache["name"]``. Parameters are those of
        ``warm_list``; ``key`` is only needed for ``find``.

        :raises DeclarationError: for anything wrong, in this very call.
        """
        declaration = self._declaration(
            name, "builder", key=key, unit=unit, ttl=ttl, filters=filters, sorts=sorts, search=search,
            counts=counts, allow_all=allow_all, max_shrink=max_shrink,
        )  # fmt: skip

        def declare(function: Function) -> Function:
            check_function(name, "builder", function)
            self._add(WarmList(declaration.with_functions(source=function), self._is_closed))
            return function

        return declare

    def value(self, name: str, *, ttl: float | None = None, cold: Any = None) -> Callable[[Function], Function]:
        """Declare one JSON value made by one function; read it with ``warmcache["name"].get()``.

        :param cold: what is read while there is none yet; something that JSON can hold, like the value itself.
        :raises DeclarationError: for anything wrong, in this very call.
        """
        declaration = self._declaration(name, "value", ttl=ttl).with_functions(cold=cold)
        _check_cold(name, cold)

        def declare(function: Function) -> Function:
            check_function(name, "value", function)
            self._add(WarmValue(declaration.with_functions(source=function), self._is_closed))
            return function

        return declare

    def stats_section(self, name: str) -> Callable[[Function], Function]:
        """Declare a section of ``GET /api/cache/stats``: a function that returns a dict.

        It runs in the request that asks, at most once a second and never twice at once in each worker: who asks
        meanwhile gets the last section known, or ``{"cache_rebuilding": true}``.  What fails says so.

        :raises DeclarationError: for a name that is taken or cannot be one.
        """
        self._check_name(name)

        def declare(function: Function) -> Function:
            check_function(name, "stats section", function)
            self._sections[name] = function
            return function

        return declare

    def authorize(self, function: Authorize) -> Authorize:
        """Declare who may do more than read: a function of an action and a list's name that says True or False.

        The actions are "rebuild" (``POST /api/cache/rebuild/NAME``) and "details" (error messages, folder and
        process on the status page; the name is None for what concerns all lists). It runs in the request that
        asks, where it may look at the app's own login. Without it nobody may do either.

        :raises DeclarationError: when there is such a function already, or it comes too late.
        """
        if not callable(function):
            raise DeclarationError(f"authorize takes a function of an action and a list's name, not {function!r}.")
        if self._is_closed():
            raise DeclarationError("authorize comes too late: declarations closed at the app's first request.")
        if self._permissions.function is not None:
            raise DeclarationError(
                "This WarmCache has a function for authorize already; one decides for all lists."
            )
        self._permissions.function = function
        return function

    def once(self, name: str, *, timeout: float = 20.0, version: str | int = "") -> Callable[[Function], Function]:
        """Declare a one-time task: a function without arguments that one process runs once in each deployment.

        It runs in the background of a worker that serves, or by ``flask warmcache once``, inside an app context.
        A deployment is another when ``WARMCACHE_RELEASE`` is another or, without that setting, the function's own
        code; and when ``version`` is.  Where its process dies before it is done, another begins it again.

        :param name: of the task, in files and stats: 1 to 64 of ``a-z 0-9 _ -``.
        :param timeout: seconds after which it is shown as late, and the app as degraded; it is not stopped.
        :param version: of what the function does through others, such as the models behind ``db.create_all()``.
        :raises DeclarationError: for anything wrong, in this very call.
        """
        from .startup.task import Task, check_name

        check_name(name)

        def declare(function: Function) -> Function:
            task = Task(name, timeout, str(version), function)
            if self._is_closed():
                raise DeclarationError(
                    f"One-time task {name!r} is declared too late: declarations closed at the app's first request."
                )
            if name in self._once:
                raise DeclarationError(f"There is a one-time task named {name!r} already.")
            if not self._once:
                self._check_name(TASKS)
                self._sections[TASKS] = lambda: current_state().tasks.section()
            self._once[name] = task
            return function

        return declare

    def ensure(self, name: str, *, wait: float = 2.0) -> None:
        """Return when a one-time task is done, for a view that needs it; begin it, if nobody has.

        :param wait: seconds that this request may wait for it, at most 15.
        :raises TaskNotReadyError: when it is not done by then, and at once when it is late or pauses after a
            failure; as an answer, 503 with ``Retry-After`` and JSON.
        :raises DeclarationError: for a task that is not declared.
        """
        current_state().tasks.ensure(name, wait)

    # Parts of the app that load later

    def defer_blueprint(
        self,
        target: str,
        *,
        url_prefix: str,
        priority: float = 0,
        name: str | None = None,
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        """Register a blueprint later: in the background once the app serves, or when a request needs it.

        A request that comes first waits at most ``WARMCACHE_DEFER_WAIT`` seconds and is then told to come again:
        503, ``Retry-After``, ``{"warming": true}``.

        :param target: where the blueprint is, as ``"pkg.module:bp"``.
        :param url_prefix: the path that all its routes are under, as ``"/reports"``.
        :param priority: the higher, the earlier it is loaded; equal ones as they were declared.
        :param name: registers it under another name than its own; needed for ``endpoints``.
        :param endpoints: rules by endpoint, as ``{"index": "/"}``, which ``url_for`` knows before it is loaded.
        :raises DeclarationError: for anything wrong that can be known without the import, in this very call.
        """
        from .startup.deferred import Deferred
        from .startup.target import Target

        declared = Deferred(
            Target.parse(target), url_prefix, priority, name, {} if endpoints is None else endpoints
        )
        if self._is_closed():
            raise DeclarationError(
                f"{target!r} is deferred too late: declarations closed at the app's first request. Defer "
                "blueprints where the app is made."
            )
        declared.check_beside(self._deferred)
        if self._sections.get("blueprints") is not _blueprints_section:
            self.stats_section("blueprints")(_blueprints_section)
        for state in list(self._states):
            state.defer(declared)
        self._deferred.append(declared)

    def lazy(self, target: str) -> Any:
        """A stand-in for something that is imported and built at its first use, once in a process.

        The thread that uses it first builds it, the others wait.  What the import or the building raises goes to
        who used it; until a pause is over that grows with each failure, uses raise ``LazyNotReadyError``.

        :param target: where it is, as ``"pkg.module:Service"``; a class or function is called without arguments,
            anything else is taken as it is.
        :raises DeclarationError: when the text does not say what to import.
        """
        from werkzeug.local import LocalProxy

        from .startup.lazy import Lazy
        from .startup.target import Target

        return LocalProxy(Lazy(Target.parse(target)).get)

    def __getitem__(self, name: str) -> Any:
        """The list or value of that name; the way to what ``builder`` and ``value`` declared."""
        try:
            return self._lists[name]
        except KeyError:
            raise DeclarationError(
                f"No warm list named {name!r}. Declared: {', '.join(self._lists) or 'none'}."
            ) from None

    def _declaration(self, name: str, kind: Kind, **given: Any) -> Declaration:
        self._check_name(name)
        for views in ("filters", "sorts"):
            given[views] = given.get(views) if given.get(views) is not None else {}
        for fields in ("search", "counts"):
            value = given.get(fields, ())
            given[fields] = tuple(value) if isinstance(value, (list, tuple)) else value
        declaration = {"key": None, "unit": "item", **given}
        return Declaration(name=name, kind=kind, **declaration)

    def _check_name(self, name: str) -> None:
        if self._is_closed():
            raise DeclarationError(
                f"{name!r} is declared too late: declarations closed at the app's first request. Declare lists "
                "where the app is made."
            )
        if name in ("cache_rebuilding", "degraded") or not isinstance(name, str) or not NAME.match(name):
            raise DeclarationError(
                f"{name!r} cannot name a list: use 1 to 64 of the characters a-z, 0-9, '_' and '-'."
            )
        if name in self._lists or name in self._sections:
            raise DeclarationError(f"There is a warm list or stats section named {name!r} already.")

    def _add(self, warm: Warm) -> None:
        self._check_name(warm.name)  # again: a decorator may be applied much later than it was made
        self._lists[warm.name] = warm

    def _is_closed(self) -> bool:
        return self._closed


def _blueprints_section() -> Mapping[str, Any]:
    blueprints = current_state().blueprints
    return {} if blueprints is None else blueprints.section()


def _check_cold(name: str, cold: object) -> None:
    """Refuse what an answer could not show; which app will show it, and with what provider, is not known yet."""
    try:
        json.dumps(cold, default=DefaultJSONProvider.default, allow_nan=False)
    except Exception as error:
        raise DeclarationError(
            f"The cold= of warm value {name!r} cannot be written as JSON ({error}); give what the page shows "
            "while there is no value yet, as in cold=None."
        ) from error
