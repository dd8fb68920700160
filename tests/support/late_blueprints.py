"""Write modules with blueprints for a test, and make apps that load them late."""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import WarmCache
from flask_warmcache.startup import loader
from flask_warmcache.startup.loader import Loader
from tests.support.apps import make_app, state_of
from tests.support.waiting import until

SIMPLE = """
from flask import Blueprint

bp = Blueprint("{name}", __name__)

@bp.get("/")
def index():
    return "{name}"

@bp.get("/<int:number>")
def one(number):
    return f"{name} {{number}}"
"""
# The import waits for a file, as the import of a large module waits for the disk.
SLOW = """
import os, time
bp.add_url_rule("/", "index", lambda: "there")
end = time.monotonic() + 30
while not os.path.exists({go!r}) and time.monotonic() < end:
    time.sleep(0.01)
"""


class LateShop:
    """An app for one test, and the folder from which it imports its late modules."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.set_up(**config)

    def set_up(self, **config: Any) -> None:
        """Replace the app by a new one with these settings."""
        self.app: Flask = make_app(self.folder, **config)
        self.warmcache = WarmCache(self.app)
        self.client = self.app.test_client()

    def write(self, name: str, text: str) -> str:
        """Write a module, and return the target for ``defer_blueprint``."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(text))
        return f"{name}:bp"

    def defer(self, target: str, **options: Any) -> None:
        """Defer a blueprint, at the module's name unless the options have another prefix."""
        prefix = f"/{target.partition(':')[0]}"
        self.warmcache.defer_blueprint(target, **{"url_prefix": prefix, **options})

    def bare(self, name: str, text: str = "") -> str:
        """Write a module with a blueprint without routes, followed by this text."""
        return self.write(name, f"from flask import Blueprint\nbp = Blueprint({name!r}, __name__)\n{text}\n")

    def slow(self, name: str, **options: Any) -> Path:
        """Write and defer a blueprint with one route, and return the file that its import waits for."""
        go = self.folder / f"go-{name}"
        self.defer(self.bare(name, SLOW.format(go=str(go))), **options)
        return go

    def simple(self, name: str) -> str:
        """Write a module with a blueprint that has two routes."""
        return self.write(name, SIMPLE.format(name=name))

    @property
    def loader(self) -> Loader:
        loader = state_of(self.app).blueprints
        assert loader is not None
        return loader

    def states(self) -> list[str]:
        """Return the state of every deferred blueprint in the order of declaration."""
        return [entry.state for entry in self.loader.entries]

    def start(self) -> None:
        """Start loading, as a server's hook does after its worker has loaded the app."""
        self.loader.start()

    def retry_now(self) -> None:
        """End the pauses after failures."""
        with self.loader.pending.changed:
            for entry in self.loader.entries:
                entry.next_attempt = 0
            self.loader.pending.changed.notify_all()

    def until_loaded(self) -> None:
        until(lambda: not self.loader.pending.unfinished, self.loader.section)


def forked(check: Callable[[], bool]) -> int:
    """Fork a child that exits with 0 if the check succeeds, and return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: a fork beside threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return pid


@pytest.fixture
def quick_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LateShop]:
    """Make an app that starts loading blueprints at once; its modules and its thread end with the test."""
    monkeypatch.setattr(loader, "BEGIN_AFTER", (0.0, 0.0))
    yield from shops(tmp_path, monkeypatch)


@pytest.fixture
def calm_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LateShop]:
    """Make an app that loads only requested blueprints."""
    monkeypatch.setattr(loader, "BEGIN_AFTER", (1000.0, 1000.0))
    yield from shops(tmp_path, monkeypatch)


def shops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LateShop]:
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)
    shop = LateShop(folder)
    yield shop
    if shop.app.extensions["warmcache"].blueprints is not None:
        shop.loader.stop()
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
