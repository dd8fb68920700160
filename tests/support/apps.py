"""How does a test make a small app, reach its state and move its keeper?"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flask import Flask

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.keeper.keeper import Keeper
from flask_warmcache.settings import KEY
from flask_warmcache.state import AppState
from flask_warmcache.status.condition import ListStatus
from tests.support.waiting import until

from .shelf import files


def make_app(folder: Path, **config: Any) -> Flask:
    """An app whose cache lies in the test's folder; settings in lower case, without prefix.

    After a failure it pauses for so long that no test on a slow machine sees the pause end.
    """
    app = Flask("shop", instance_path=str(folder / "instance"))
    settings = {"dir": str(folder / "cache"), "retry_min": 200.0, **config}
    app.config.update({f"WARMCACHE_{key.upper()}": value for key, value in settings.items()})
    return app


def state_of(app: Flask) -> AppState:
    """Return the app's state in this process, opened."""
    state: AppState = app.extensions[KEY]
    state.open()
    return state


def stop(keeper: Keeper) -> None:
    """Stop a keeper's thread and wait for it; a later request may start another."""
    thread = keeper._thread
    keeper.stop()
    if thread is not None:
        thread.join(120)
        assert not thread.is_alive(), "the keeper does not stop"
    keeper._rebuilder.locks.is_stopped = False


class Shop:
    """An app with one list; the test sets its items or its error, and may block its source."""

    NAMES: tuple[str, ...] = ("a",)
    OPTIONS: dict[str, Any] = {}  # of the list

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app = make_app(folder, **config)
        self.warmcache = WarmCache(self.app)
        self.items: list[Item] = files(*self.NAMES)
        self.error: BaseException | None = None
        self.builds = 0
        self.gate = threading.Event()
        self.gate.set()
        self.list = self.warmcache.warm_list("files", key="path", source=self.source, **self.OPTIONS)
        self.client = self.app.test_client()

    def source(self) -> list[Item]:
        self.builds += 1
        self.gate.wait(120)
        if self.error is not None:
            raise self.error
        return self.items

    @property
    def state(self) -> AppState:
        return state_of(self.app)

    @property
    def keeper(self) -> Keeper:
        return self.state.keeper

    @property
    def status(self) -> ListStatus:
        return self.state.statuses["files"]

    def tick(self) -> None:
        """Run one tick of the keeper, and wait for the rebuilds that it starts."""
        self.keeper.tick()
        until(lambda: not any(status.progress for status in self.state.statuses.values()))
        until(lambda: not any("-rebuild-" in thread.name for thread in threading.enumerate()))

    def names(self) -> list[str]:
        with self.app.app_context():
            return [item["path"] for item in self.list.get()]

    def rebuild(self, name: str = "files") -> None:
        with self.app.app_context():
            self.warmcache[name].rebuild_now()


class Site(Shop):
    """An app that serves one list at /files."""

    NAMES = ("a", "b", "c")
    OPTIONS = {
        "unit": "file",
        "filters": {"short": lambda item: item["size"] < 2},
        "sorts": {"name": lambda item: item["path"]},
        "counts": ("short",),
    }

    def __init__(self, folder: Path, **config: Any) -> None:
        super().__init__(folder, **config)
        self.app.add_url_rule("/files", "files", self.list.response)
