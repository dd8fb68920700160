"""An app with one list, whose source and keeper the test controls."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from flask_warmcache import WarmCache
from flask_warmcache.declaration import Item
from flask_warmcache.keeper.keeper import Keeper
from flask_warmcache.state import AppState
from flask_warmcache.status.condition import ListStatus
from tests.support.waiting import until

from .world import files, make_app, state_of


class Shop:
    """An app with one list; the test sets its items or its error, and may block its source."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.app = make_app(folder, **config)
        self.warmcache = WarmCache(self.app)
        self.items: list[Item] = files("a")
        self.error: BaseException | None = None
        self.builds = 0
        self.gate = threading.Event()
        self.gate.set()
        self.list = self.warmcache.warm_list("files", key="path", source=self.source)

    def source(self) -> list[Item]:
        self.builds += 1
        self.gate.wait(20)
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
