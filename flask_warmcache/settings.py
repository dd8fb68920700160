"""The ``WARMCACHE_*`` settings: their names, types, defaults and limits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from . import events
from .errors import SettingError

PREFIX = "WARMCACHE_"
KEY = "warmcache"  # our name in app.extensions and in app.cli
SERVER_STARTED = PREFIX + "SERVER_STARTED"  # in the environment, but no setting: see host/server.py
SWITCHES = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
RUNNERS = ("thread", "process", "external", "auto")


@dataclass(frozen=True)
class Settings:
    """One app's settings, read once in ``init_app``; times are seconds, sizes are bytes."""

    dir: str | os.PathLike[str] | None = None  # the cache folder; for None see store/folder.py
    enabled: bool = True  # False: a list that is due is rebuilt in the request that reads it
    default_ttl: float | None = 300.0  # age at which a snapshot becomes stale, unless the list says otherwise
    per_page: int = 100  # items on a page, unless the request says
    max_per_page: int = 500  # the most a request may ask for
    max_all_bytes: int = 8_000_000  # the largest body of per_page=0 or -1, where a list allows it
    page_cache_bytes: int = 128_000  # how much each worker keeps of finished pages and search results
    search_budget: float = 0.05  # how long a search may run before it answers with what it has found
    allow_refresh: bool = True  # whether ?refresh=true asks for a rebuild
    refresh_interval: float = 10.0  # the least time between a snapshot and a ?refresh=true that replaces it
    runner: str = "auto"  # where rebuilds run: thread, process, external, or auto, which chooses one
    app: str | None = None  # what a child process imports: "module:app" or "module:factory('x')"
    build_timeout: float = 3600.0  # how long a rebuild in a child process may take
    max_shrink: float = 0.5  # the share of its items that a list may lose in a rebuild, unless it says otherwise
    spread: float = 0.0  # over how long pages spread their refreshes after a rebuild; 0: over one second
    retry_min: float = 2.0  # the first pause after a failed rebuild or task; it doubles with each failure
    retry_max: float = 300.0  # the longest pause after a failed rebuild or task
    # Names the deployment, by a commit for example: one-time tasks run once in each; if None, once for their code.
    # It may be a number, because from_prefixed_env() makes one of a commit id like 1234567 or 1234e56.
    release: str | float | None = None
    defer_wait: float = 2.0  # how long a request may wait for a deferred blueprint
    api_prefix: str = "/api/cache"  # where the blueprint is mounted
    ready_strict: bool = False  # whether readyz waits once until every list is there
    ready_deadline: float = 120.0  # how long after the start readyz and startupz may wait
    cache_control: str = "private, no-cache"  # Cache-Control of list answers

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, str(field.type), getattr(self, field.name))
        for name in ("search_budget", "build_timeout", "retry_min", "retry_max", "ready_deadline"):
            self._require(getattr(self, name) > 0, name, "a number of seconds above 0")
        ttl_fits = self.default_ttl is None or self.default_ttl > 0
        self._require(ttl_fits, "default_ttl", "a number of seconds above 0, or None")
        for name in ("per_page", "max_per_page", "max_all_bytes"):
            self._require(getattr(self, name) >= 1, name, "a whole number of at least 1")
        self._require(0 <= self.max_shrink <= 1, "max_shrink", "a share from 0 to 1")
        self._require(self.dir is None or os.fspath(self.dir) != "", "dir", "a folder's path")
        self._require(self.release != "", "release", "text that differs with each deployment, or None")
        self._require(self.page_cache_bytes >= 0, "page_cache_bytes", "a number of bytes, 0 for none")
        self._require(self.refresh_interval >= 0, "refresh_interval", "a number of seconds, 0 for none")
        self._require(0 <= self.spread <= 3600, "spread", "a number of seconds from 0 to 3600")
        self._require(self.defer_wait >= 0, "defer_wait", "a number of seconds, 0 for none")
        self._require(self.per_page <= self.max_per_page, "per_page", f"at most {PREFIX}MAX_PER_PAGE")
        self._require(self.runner in RUNNERS, "runner", f"one of {', '.join(RUNNERS)}")
        self._require(self.app is None or ":" in self.app, "app", "text like 'module:app' or 'module:factory()'")
        self._require(self.retry_max <= 3600, "retry_max", "at most 3600 seconds, an hour")
        self._require(self.retry_min <= self.retry_max, "retry_min", f"at most {PREFIX}RETRY_MAX")
        self._require(
            self.api_prefix.startswith("/") and not self.api_prefix.endswith("/"),
            "api_prefix",
            "a path like '/api/cache', with a slash at its start and none at its end",
        )
        self._require(
            self.cache_control.isprintable() and self.cache_control.isascii(),
            "cache_control",
            "one line of ASCII text, as an HTTP header needs it",
        )

    def _check_type(self, name: str, annotation: str, value: object) -> None:
        """Refuse a wrong type by name; ``True`` is not a number, and a whole number is accepted as a float."""
        kinds: dict[str, tuple[tuple[type, ...], str]] = {
            "bool": ((bool,), "True or False"),
            "int": ((int,), "a whole number"),
            "float": ((int, float), "a finite number of seconds"),
            "float | None": ((int, float, type(None)), "a number of seconds above 0, or None"),
            "str": ((str,), "text"),
            "str | float | None": ((str, int, float, type(None)), "text that differs with each deployment"),
            "str | None": ((str, type(None)), "text like 'module:app'"),
            "str | os.PathLike[str] | None": ((str, os.PathLike, type(None)), "a folder's path"),
        }
        types, meaning = kinds[annotation]
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if isinstance(value, float) and annotation == "float":
            fits = fits and math.isfinite(value)
        self._require(fits, name, meaning)

    def _require(self, fits: bool, name: str, meaning: str) -> None:
        if not fits:
            value = getattr(self, name)
            raise SettingError(f"{PREFIX}{name.upper()} must be {meaning}, not {value!r}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **defaults: Any) -> Settings:
        """Return the settings of an app; its config wins over ``defaults``.

        :param config: a Flask config, of which only the keys with our prefix are read.
        :param defaults: the keyword arguments of ``WarmCache``: names in lower case, without the prefix.
        :raises SettingError: for an unknown name or a wrong value, by name.
        """
        configured = {
            key.removeprefix(PREFIX).lower(): value for key, value in config.items() if key.startswith(PREFIX)
        }
        known = {field.name for field in fields(cls)}
        unknown = sorted((configured.keys() | defaults.keys()) - known)
        if unknown:
            raise SettingError(
                f"Unknown setting {PREFIX}{unknown[0].upper()}. "
                f"Known: {', '.join(PREFIX + name.upper() for name in sorted(known))}."
            )
        return cls(**{**defaults, **configured})


def settings_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in an environment by name, in their types; an empty variable counts as none.

    A text that is not of its setting's type stays text, which ``Settings`` refuses by name.
    """
    known = {PREFIX + field.name.upper(): field for field in fields(Settings)}
    # A warning and no error: Kubernetes sets such variables for a service that is named "warmcache".
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in {*known, SERVER_STARTED})
    if unknown:
        message = "the environment has %(names)s, which no setting is called; it is ignored"
        events.warning("warmcache.setting_unknown", message, names=", ".join(unknown))
    return {
        field.name: _typed(str(field.type), environ[variable])
        for variable, field in known.items()
        if environ.get(variable)
    }


def _typed(annotation: str, text: str) -> object:
    word = text.strip().lower()
    if annotation == "bool":
        return SWITCHES.get(word, text)
    if annotation == "float | None" and word == "none":
        return None
    try:
        return {"int": int, "float": float, "float | None": float}.get(annotation, str)(text)
    except ValueError:
        return text
