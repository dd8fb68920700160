"""Where an app is: how another process imports the same one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from ..host.server import gunicorn_worker


class NoLocation(Exception):
    """Another process could not import this app; the message says why, briefly and without a path."""


@dataclass(frozen=True)
class Location:
    """How to import an app."""

    uri: str  # as gunicorn takes it: module:attribute or module:factory(arguments)
    folder: str  # the working folder to import it in
    served: bool = False  # whether importing the URI gives this very app, and not one that wraps it


def locate(app: Any, setting: str | None) -> Location:
    """Return where an app is: by its setting, else by gunicorn, else by the module attribute that holds it.

    :raises NoLocation: if none of these is known.
    """
    try:
        here = os.getcwd()
    except OSError:
        raise NoLocation("the working folder is gone") from None
    if setting is not None:
        return Location(setting, here)
    worker = gunicorn_worker()
    uri = getattr(getattr(worker, "app", None), "app_uri", None)
    if isinstance(uri, str) and worker.cfg.paste is None:
        return Location(uri, worker.cfg.chdir, served=getattr(worker, "wsgi", None) is app)
    found = _attribute_of(app)
    if found is None:
        raise NoLocation("no module attribute holds the app; set WARMCACHE_APP")
    return Location(found, here, served=True)


def _attribute_of(app: Any) -> str | None:
    """Find this very object in a module, its own one first; return ``module:attribute``."""
    own = getattr(app, "import_name", "")
    for name, module in sorted(list(sys.modules.items()), key=lambda item: item[0] != own):
        if name == "__main__":
            spec = getattr(module, "__spec__", None)
            if spec is None:
                continue  # a script: no other process can import it
            name = spec.name
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and attribute.isidentifier():
                return f"{name}:{attribute}"
    return None
