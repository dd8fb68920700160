"""Registering a blueprint on an app that serves: atomically for the other threads.

Flask refuses to register a blueprint after the first request, for good reasons: it changes containers in place
while requests iterate over them, and an error leaves half of the blueprint behind.  Here the thread that registers
sees copies of these containers, and an app that has not served yet; the other threads see the app as it was.  Once
the blueprint is complete and accepted, the copies replace the originals, the routes last.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flask import Blueprint, Flask
from werkzeug.routing import Map, Rule

from ..errors import DeclarationError
from .deferred import Deferred, covers

# Containers whose entries under the key None concern the whole app, and the decorator that adds such an entry.
APP_WIDE = {
    "before_request_funcs": "before_app_request",
    "after_request_funcs": "after_app_request",
    "teardown_request_funcs": "teardown_app_request",
    "template_context_processors": "app_context_processor",
    "url_value_preprocessors": "app_url_value_preprocessor",
    "url_default_functions": "app_url_defaults",
    "error_handler_spec": "app_errorhandler",
}
COPIED = (
    *APP_WIDE,
    "blueprints",
    "view_functions",
    "teardown_appcontext_funcs",
    "shell_context_processors",
    "url_build_error_handlers",
)


def register(app: Flask, blueprint: Blueprint, declared: Deferred, stand_ins: Collection[Rule]) -> None:
    """Register a blueprint as ``app.register_blueprint`` does, on an app that may be serving.

    :param stand_ins: rules of the app that the blueprint's own replace.
    :raises DeclarationError: when the blueprint would change requests outside its prefix, or lacks one of the
        declared endpoints; the app is then unchanged.
    """
    collected = _empty_like(app.url_map)
    staged: dict[str, Any] = {name: _copy(vars(app)[name]) for name in COPIED}
    before = {name: _copy(staged[name].get(None)) for name in APP_WIDE}
    staged |= {"url_map": collected, "_got_first_request": False}
    served = type(app)
    app.__class__ = _class_with_staged(served, staged)
    try:
        named = {} if declared.name is None else {"name": declared.name}
        app.register_blueprint(blueprint, url_prefix=declared.url_prefix, **named)
    finally:
        app.__class__ = served
    rules = list(collected.iter_rules())
    _check_app_wide(blueprint, before, staged)
    _check_rules(blueprint, declared.url_prefix, rules)
    _check_endpoints(declared, rules)
    url_map = _with_rules(app.url_map, stand_ins, rules)
    vars(app).update({name: staged[name] for name in COPIED})
    app.url_map = url_map  # last: from now on requests match the rules of what was just stored


def _copy(value: Any) -> Any:
    """Return a deep copy that shares the functions; requests may add to the original dict meanwhile."""
    if isinstance(value, dict):
        copied = {key: _copy(inner) for key, inner in value.copy().items()}
        return defaultdict(value.default_factory, copied) if isinstance(value, defaultdict) else copied
    return value.copy() if isinstance(value, list) else value


def _class_with_staged(served: type[Flask], staged: dict[str, Any]) -> type[Flask]:
    """Return a class whose attributes are the staged ones in this thread, and the app's own in the others.

    The app stays the same object, because extensions of a blueprint keep a reference to the app they are given.
    """
    thread = threading.get_ident()

    def attribute(name: str) -> property:
        def attributes(app: Flask) -> dict[str, Any]:
            return staged if threading.get_ident() == thread else vars(app)

        return property(
            lambda app: attributes(app)[name], lambda app, value: attributes(app).__setitem__(name, value)
        )

    names = {"__module__": served.__module__, "__qualname__": served.__qualname__}
    return type(served.__name__, (served,), {**names, **{name: attribute(name) for name in staged}})


# The routes


def _empty_like(url_map: Map) -> Map:
    """Return a Map with the same settings and converters, but without rules."""
    empty = type(url_map)(host_matching=url_map.host_matching)  # as Flask creates its own
    # The converters are shared: a blueprint may add one while it is registered.
    vars(empty).update({name: value for name, value in vars(url_map).items() if not name.startswith("_")})
    empty.merge_slashes = url_map.merge_slashes
    return empty


def _with_rules(url_map: Map, without: Collection[Rule], more: Iterable[Rule]) -> Map:
    """Return a new Map with the rules of this one and some more; threads may be iterating over this one.

    The Rule objects are shared and not compiled again.  Measured with 700 rules: 8 ms; copies would take 140 ms.
    """
    new = _empty_like(url_map)
    excluded = {id(rule) for rule in without}  # by identity: an equal rule may belong to another blueprint
    rules = [rule for rule in url_map.iter_rules() if id(rule) not in excluded]
    rules += more
    for rule in rules:
        vars(rule)["bind"] = _stay_bound
        try:
            new.add(rule)
        finally:
            del vars(rule)["bind"]
    new.update()  # sorts the rules now, and not in the first request
    for rule in rules:
        rule.map = new  # otherwise every earlier Map would stay in memory
    return new


def _stay_bound(url_map: Map, rebind: bool = False) -> None:
    """Replace ``Rule.bind``, which refuses a rule that already has a Map."""


# Refusals


def _check_app_wide(blueprint: Blueprint, before: Mapping[str, Any], staged: Mapping[str, Any]) -> None:
    for attribute, decorator in APP_WIDE.items():
        if staged[attribute].get(None) != before[attribute]:
            raise DeclarationError(
                f"Blueprint {blueprint.name!r} uses {decorator}, which is for the whole app and would not hold "
                "before the blueprint is loaded. Put that function where the app is made, or register this "
                "blueprint with app.register_blueprint."
            )


def _check_rules(blueprint: Blueprint, url_prefix: str, rules: Iterable[Rule]) -> None:
    for rule in rules:
        if not covers(url_prefix, rule.rule):
            raise DeclarationError(
                f"Blueprint {blueprint.name!r} adds {rule.rule!r}, which is not under {url_prefix!r} and would "
                "not be found before the blueprint is loaded. Add that route where the app is made."
            )


def _check_endpoints(declared: Deferred, rules: Iterable[Rule]) -> None:
    known = {(rule.endpoint, rule.rule) for rule in rules}
    for endpoint, rule in declared.endpoints.items():
        if (f"{declared.name}.{endpoint}", declared.url_prefix + rule) not in known:
            raise DeclarationError(
                f"The blueprint under {declared.url_prefix!r} has no endpoint {endpoint!r} at {rule!r}, as "
                "endpoints= of defer_blueprint says, so url_for has returned wrong addresses. Correct one of the "
                "two."
            )
