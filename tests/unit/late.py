"""Blueprints in modules of their own, written for one test, and apps that load them late."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_warmcache import WarmCache
from flask_warmcache.startup import loader
from flask_warmcache.startup.loader import Loader
from tests.support.waiting import until

from .world import make_app, state_of

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
# Waits for a file, as an import of something large waits for the disk.
SLOW = """
import os, time
bp.add_url_rule("/", "index", lambda: "there")
end = time.monotonic() + 30
while not os.path.exists({go!r}) and time.monotonic() < end:
    time.sleep(0.01)
"""


class Shop:
    """An app of one test, and the folder that its late modules are imported from."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.set_up(**config)

    def set_up(self, **config: Any) -> None:
        """Begin with an app of these settings."""
        self.app: Flask = make_app(self.folder, **config)
        self.warmcache = WarmCache(self.app)
        self.client = self.app.test_client()

    def write(self, name: str, text: str) -> str:
        """Write a module; returns its blueprint as ``defer_blueprint`` wants it."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(text))
        return f"{name}:bp"

    def bare(self, name: str, text: str = "") -> str:
        """Write a module with a blueprint of no routes but those of this text."""
        return self.write(name, f"from flask import Blueprint\nbp = Blueprint({name!r}, __name__)\n{text}\n")

    def slow(self, name: str) -> Path:
        """Write a module with one route whose import waits for a file; returns which."""
        go = self.folder / f"go-{name}"
        self.bare(name, SLOW.format(go=str(go)))
        return go

    def simple(self, name: str) -> str:
        """Write a module with a blueprint of two routes."""
        return self.write(name, SIMPLE.format(name=name))

    @property
    def loader(self) -> Loader:
        found = state_of(self.app).blueprints
        assert found is not None
        return found

    def states(self) -> list[str]:
        """How every deferred blueprint is, in the order of their declarations."""
        return [entry.state for entry in self.loader.entries]

    def start(self) -> None:
        """What a server's hook does when its worker has loaded the app."""
        self.loader.start()

    def retry_now(self) -> None:
        """End the pauses after failures."""
        with self.loader.pending.changed:
            for entry in self.loader.entries:
                entry.next_attempt = 0
            self.loader.pending.changed.notify_all()

    def until_loaded(self) -> None:
        until(lambda: not self.loader.pending.unfinished, self.loader.section)


@pytest.fixture
def quick_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """An app whose blueprints begin to load at once; its modules and its thread end with the test."""
    monkeypatch.setattr(loader, "BEGIN_AFTER", (0.0, 0.0))
    yield from shops(tmp_path, monkeypatch)


@pytest.fixture
def calm_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """An app that loads only what is asked for."""
    monkeypatch.setattr(loader, "BEGIN_AFTER", (1000.0, 1000.0))
    yield from shops(tmp_path, monkeypatch)


def shops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)
    shop = Shop(folder)
    yield shop
    if shop.app.extensions["warmcache"].blueprints is not None:
        shop.loader.stop()
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
