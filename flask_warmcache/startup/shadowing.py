"""Routes of the app that have the path of one of ours, so that only one of the two ever answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

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
                answering = answering or _endpoint(app, rule, path, method)
                if answering is not None and answering.startswith(OURS) != is_ours:
                    found.add(Shadowed(path, answering, rule.endpoint))
    return sorted(found)


def _paths(rule: Rule, names: list[str]) -> Iterator[str]:
    """Yield the paths of a rule without parts, or with the name of a list as its only part."""
    if not rule.arguments:
        yield rule.rule
    elif len(rule.arguments) == 1:
        (argument,) = rule.arguments
        if rule.rule.count(f"<{argument}>"):
            yield from (rule.rule.replace(f"<{argument}>", name) for name in names)


def _endpoint(app: Flask, rule: Rule, path: str, method: str) -> str | None:
    """Return the endpoint that answers a path on the host of a rule."""
    server = app.config["SERVER_NAME"] or "localhost"
    if app.url_map.host_matching:
        adapter = app.url_map.bind(rule.host or server)
    else:
        adapter = app.url_map.bind(server, subdomain=rule.subdomain)
    try:
        return str(adapter.match(path, method)[0])
    except HTTPException:
        return None
