"""Routes of the app that have the path of one of ours, so that only one of the two ever answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, Rule

HOST = "warmcache_host"  # the argument of our routes that is their host, in apps with host_matching
OURS = "warmcache."  # our endpoints begin with this
PROBES = ("livez", "readyz", "startupz")  # answered in front of the app
ADDED = {"HEAD", "OPTIONS"}  # methods that Flask and Werkzeug add to a route


class Shadowed(NamedTuple):
    """A path of two routes, by their endpoints."""

    path: str
    answering: str
    shadowed: str


def shadowed_routes(app: Flask, prefix: str, names: Iterable[str]) -> list[Shadowed]:
    """Return the routes that never answer because another one does.

    :param prefix: of our routes.
    :param names: of the lists, which are part of our paths.
    """
    probes = {f"{prefix}/{name}": f"{OURS}{name}" for name in PROBES}
    chosen = list(names)
    found = set()
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith(prefix):
            continue
        is_ours = rule.endpoint.startswith(OURS)
        for path in _paths(rule, chosen):
            for method in (rule.methods or set()) - ADDED:
                answering = probes.get(path) if method == "GET" else None
                for adapter in _adapters(app, rule):
                    endpoint = answering or _endpoint(adapter, path, method)
                    if endpoint is not None and endpoint.startswith(OURS) != is_ours:
                        found.add(Shadowed(path, endpoint, rule.endpoint))
    return sorted(found)


def _paths(rule: Rule, names: list[str]) -> Iterator[str]:
    """Yield the paths of a rule without parts, or with the name of a list as its only part."""
    arguments = rule.arguments - {HOST}
    if not arguments:
        yield rule.rule
    elif len(arguments) == 1:
        (argument,) = arguments
        if rule.rule.count(f"<{argument}>"):
            yield from (rule.rule.replace(f"<{argument}>", name) for name in names)


def _adapters(app: Flask, rule: Rule) -> list[MapAdapter]:
    """Return what matches paths on the hosts of a rule: of ours, on every host that a rule names."""
    server = app.config["SERVER_NAME"] or "localhost"
    if not app.url_map.host_matching:
        return [app.url_map.bind(server, subdomain=rule.subdomain)]
    if HOST not in rule.arguments:
        return [app.url_map.bind(rule.host or server)]
    named = {other.host for other in app.url_map.iter_rules() if other.host and "<" not in other.host}
    return [app.url_map.bind(host) for host in {server, *named}]


def _endpoint(adapter: MapAdapter, path: str, method: str) -> str | None:
    """Return the endpoint that answers a path."""
    try:
        return str(adapter.match(path, method)[0])
    except HTTPException:
        return None
