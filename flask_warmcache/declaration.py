"""One list's declaration: its name, functions and views, checked in the call that declares them."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any, Literal

from .bytecode import digest_of
from .errors import DeclarationError

# The order of sort keys, which index/item_views.py describes.  It is part of the digest, since a snapshot that was
# sorted in another order cannot be patched.
SORT_ORDER = "order 3"
# The form of the search text, store/format.py:fold.  It is part of the digest for the same reason.
SEARCH_TEXT = "text 2"
Item = dict[str, Any]
Kind = Literal["list", "builder", "value"]

# Names become file names, URL parts and JSON keys.  They have no dot, so that "NAME." begins no other list's file.
NAME = re.compile(r"[a-z0-9_-]{1,64}\Z")
VIEW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
# A rebuild is background work: more threads than this would use up the database's connections.
WORKERS_MAX = 64
UNIT = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


class Default(Enum):
    """What stands for an option that a declaration leaves to the app's settings."""

    TTL = "WARMCACHE_DEFAULT_TTL"

    def __repr__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Declaration:
    """One list as its app declared it; immutable, so that a rebuild sees no later change."""

    name: str
    kind: Kind
    key: str | None
    unit: str
    ttl: float | None | Default  # None: a snapshot never becomes stale by its age
    source: Callable[[], Any] | None = None
    source_list: str | None = None
    enrich: Callable[..., Any] | None = None  # takes one item, or with ``batch`` a list of items
    lookup: Callable[[Any], Any] | None = None  # takes one key, or with ``lookup_batch`` a list of keys
    lookup_batch: int | None = None
    workers: int = 1
    batch: int | None = None
    item_timeout: float | None = None
    max_shrink: float | None = None
    fingerprint: tuple[str, ...] | Callable[[Item], object] | None = None
    version: str = ""
    filters: Mapping[str, Callable[[Item], object]] = field(default_factory=dict)
    sorts: Mapping[str, Callable[[Item], Any]] = field(default_factory=dict)
    search: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    allow_all: bool = False
    cold: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.match(self.name):
            raise DeclarationError(
                f"{self.name!r} cannot name a list: use 1 to 64 of the characters a-z, 0-9, '_' and '-'."
            )
        if self.kind == "list" and self.key is None:
            self._refuse("needs key=, the name of the field that is unique for each item, as in key='path'")
        if self.key is not None and not (isinstance(self.key, str) and self.key):
            self._refuse(f"has key={self.key!r}; key is the name of a field, as in key='path'")
        if not isinstance(self.unit, str) or not UNIT.match(self.unit):
            self._refuse(f"has unit={self.unit!r}; unit is one lower-case noun, as in unit='file'")
        if self.ttl not in (None, math.inf, Default.TTL) and not is_positive(self.ttl):
            self._refuse(f"has ttl={self.ttl!r}; ttl is a number of seconds above 0, or None for never")
        if not _is_whole(self.workers) or not 1 <= self.workers <= WORKERS_MAX:
            self._refuse(f"has workers={self.workers!r}; workers is a number of threads, 1 to {WORKERS_MAX}")
        if self.batch is not None and (not _is_whole(self.batch) or self.batch < 1):
            self._refuse(f"has batch={self.batch!r}; batch is the most items that enrich takes at once")
        if self.lookup_batch is not None and (not _is_whole(self.lookup_batch) or self.lookup_batch < 1):
            self._refuse(f"has lookup batch={self.lookup_batch!r}; it is the most keys that lookup takes at once")
        if self.item_timeout is not None and not is_positive(self.item_timeout):
            self._refuse(f"has item_timeout={self.item_timeout!r}; item_timeout is a number of seconds above 0")
        if self.max_shrink is not None and not (
            isinstance(self.max_shrink, (int, float)) and 0 <= self.max_shrink <= 1
        ):
            self._refuse(
                f"has max_shrink={self.max_shrink!r}; max_shrink is the share of items that may go, 0 to 1"
            )
        self._check_views("filters", self.filters)
        self._check_views("sorts", self.sorts)
        if "all" in self.filters:
            self._refuse("declares a filter 'all', which every list has already: it is the whole list")
        for what, names in (("search", self.search), ("counts", self.counts)):
            if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
                self._refuse(f"has {what}={names!r}; {what} is a tuple of names, as in ('name',)")
        unknown = [name for name in self.counts if name not in self.filters]
        if unknown:
            self._refuse(f"counts {unknown}, but its filters are {sorted(self.filters)}")
        reserved = {"page", "pages", "per_page", "total_pages", "cache_rebuilding", "search_complete"}
        if self.plural in reserved:
            self._refuse(f"has unit={self.unit!r}, whose plural is a key of every answer; choose another noun")

    def _check_views(self, what: str, views: Mapping[str, Callable[[Item], Any]]) -> None:
        if not isinstance(views, Mapping):
            self._refuse(f"has {what}={views!r}; give a dict of names and functions")
        for name, function in views.items():
            if not isinstance(name, str) or not VIEW_NAME.match(name):
                self._refuse(f"has {what} with the name {name!r}; use letters, digits, '_', '-' and '.'")
            if not callable(function):
                self._refuse(f"has {what}[{name!r}]={function!r}, which is not a function of an item")
            if asynchronous(function):
                self._refuse(
                    f"has {what}[{name!r}]={function!r}; it is called once for each item and cannot be async"
                )

    def _refuse(self, why: str) -> None:
        raise DeclarationError(f"Warm list {self.name!r} {why}.")

    @property
    def plural(self) -> str:
        """The unit's plural, as in ``files``: the JSON key of the items."""
        if re.search(r"[^aeiou]y$", self.unit):
            return self.unit[:-1] + "ies"
        return self.unit + ("es" if re.search(r"(s|x|z|ch|sh)$", self.unit) else "s")

    @cached_property
    def digest(self) -> str:
        """A digest that differs when two declarations would give the same items other views."""
        views = sorted(self.filters), list(self.sorts), self.search
        functions = [self.filters[name] for name in views[0]] + [self.sorts[name] for name in views[1]]
        forms = (SORT_ORDER if self.sorts else "") + (SEARCH_TEXT if self.search else "")
        return digest_of(functions, self.kind, self.key or "", self.version, repr(views) + forms)

    @property
    def code(self) -> str:
        """A digest that is equal in all processes that would make the same items."""
        functions = (self.source, self.enrich, self.lookup, self.fingerprint)
        return digest_of(filter(callable, functions), self.digest)

    def ttl_or(self, default: float | None) -> float:
        """Return the seconds until a snapshot is stale, which are infinite for never.

        :param default: the app's setting, for a declaration that says nothing.
        """
        ttl = default if isinstance(self.ttl, Default) else self.ttl
        return math.inf if ttl is None else ttl

    def problem(self, declared: Iterable[str]) -> str | None:
        """Return what is still missing when declarations close, or None."""
        if self.source_list is not None and self.source_list not in declared:
            return f"its source list {self.source_list!r} is not declared on the same WarmCache"
        if self.source is None and self.source_list is None:
            return f"it has no source; add one with @{self.name}.source, or give source=another_list"
        return None

    def with_functions(self, **functions: Any) -> Declaration:
        """Return this declaration with the functions and options of a decorator."""
        return replace(self, **functions)


def declare(name: str, kind: Kind, **options: Any) -> Declaration:
    """Return the declaration of a list or value, made of the arguments that a user gave.

    :raises DeclarationError: for anything wrong.
    """
    for views in ("filters", "sorts"):
        options[views] = options.get(views) if options.get(views) is not None else {}
    for fields in ("search", "counts"):
        value = options.get(fields, ())
        options[fields] = tuple(value) if isinstance(value, (list, tuple)) else value
    return Declaration(name=name, kind=kind, **{"key": None, "unit": "item", **options})


def check_function(name: str, role: str, function: object) -> None:
    """Raise DeclarationError unless this is a function or another callable object."""
    if not callable(function):
        raise DeclarationError(f"The {role} of warm list {name!r} must be a function, not {function!r}.")


def asynchronous(function: object) -> Literal["coroutine", "generator"] | None:
    """Return what a call of an async function or callable object gives, or None for any other."""
    while isinstance(function, functools.partial):
        function = function.func
    called = function, type(function).__call__
    if any(map(inspect.isasyncgenfunction, called)):
        return "generator"
    return "coroutine" if any(map(inspect.iscoroutinefunction, called)) else None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_positive(value: object) -> bool:
    """Return whether this is a number of seconds above 0, and finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
